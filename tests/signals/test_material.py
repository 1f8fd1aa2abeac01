"""Trials are read once and in order, and stretches are spread over all of them."""

from __future__ import annotations

import numpy as np

from milmer.config import EEGPreparation
from milmer.datasets.base import Signal
from milmer.signals.eeg import prepare_eeg
from milmer.signals.material import SAMPLES_A_PAIR, Stretches, enough_samples, filtered, plan_filters


def test_every_trial_is_read_once_and_in_order(make_head) -> None:
    head = make_head(trials=3, seconds=6.0)
    read: list[int] = []

    def promise(k: int):
        def load() -> Signal:
            read.append(k)
            return head.eeg[k]

        return load

    settings = EEGPreparation(ica="none")
    lazy = prepare_eeg([promise(k) for k in range(3)], settings)
    assert read == [0, 1, 2]
    for a, b in zip(lazy.trials, prepare_eeg(head.eeg, settings).trials, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stretches_are_evenly_spread_and_bounded_however_many_trials_come() -> None:
    found = Stretches(10.0, most=1000)
    for t in range(400):  # of 100 samples each: 40 times as many as are enough
        found.add(t, np.full((2, 100), t, dtype=np.float32), {"eog": np.full((1, 100), -t, dtype=np.float32)})
    kept = found.equal()
    assert len(kept) == 20
    assert {s.eeg.shape for s in kept} == {(2, 50)}
    assert np.all(np.diff([s.trial for s in kept]) > 10)
    assert kept[0].trial < 20
    assert kept[-1].trial > 380
    for s in kept:
        assert np.all(s.eeg == s.trial)
        assert np.all(s.guides["eog"] == -s.trial)


def test_a_very_short_first_trial_does_not_shorten_the_stretches_of_all() -> None:
    found = Stretches(10.0, most=1000)
    found.add(0, np.zeros((2, 3), dtype=np.float32), {})
    found.add(1, np.ones((2, 200), dtype=np.float32), {})
    assert {(s.trial, s.eeg.shape[1]) for s in found.equal()} == {(1, 50)}


def test_enough_is_at_least_thirty_points_for_each_pair_of_channels() -> None:
    assert SAMPLES_A_PAIR >= 30
    for n_channels in (4, 32, 64, 128):
        assert enough_samples(n_channels) >= 30 * n_channels**2


def test_all_forms_of_a_trial_are_as_if_made_alone(make_head) -> None:
    signal = make_head(rate=256.0, trials=1, seconds=8.0).eeg[0]
    plan, notes = plan_filters(256.0, EEGPreparation(), "", uses_iclabel=True)
    assert notes == []
    wanted = [(plan.band, plan.new_rate), (plan.look_band, plan.look_rate)]
    for a, one in zip(filtered(signal, plan, wanted), wanted, strict=True):
        np.testing.assert_array_equal(a, filtered(signal, plan, [one])[0])
