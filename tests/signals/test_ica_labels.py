"""Heart, eyes and ICLabel: what was planted is found, and what was not is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.signal as sps

from milmer.config import EEGPreparation
from milmer.datasets.base import Signal
from milmer.datasets.simulated_eeg import simulate_raw
from milmer.datasets.simulated_heart import HeartTruth, add_heart
from milmer.errors import UserError
from milmer.signals import ica_labels as module
from milmer.signals.channels import electrode_positions
from milmer.signals.eeg import prepare_eeg
from milmer.signals.ica_labels import LABELS, locked, r_peaks

RATE = 200.0


@pytest.fixture(scope="module")
def heart() -> HeartTruth:
    return add_heart(simulate_raw(3, 1, 120.0, RATE), 3, volts=80e-6)


def test_r_peaks_are_where_beats_were_planted(heart: HeartTruth) -> None:
    band = sps.sosfiltfilt(sps.butter(2, (8.0, 20.0), "bandpass", fs=RATE, output="sos"), heart.ecg)
    for sign in (1, -1):  # the lead may be upside down
        (found,) = r_peaks(sign * band, RATE)
        away = np.abs(found[:, None] / RATE - heart.beats[None]).min(axis=1)
        assert np.mean(away < 0.02) > 0.97
        assert abs(len(found) - len(heart.beats)) <= 2


def test_what_is_locked_to_beats_is_told_from_what_is_not() -> None:
    rng = np.random.default_rng(0)
    beats = [np.arange(100, 4900, 100) for _ in range(4)]
    wave = np.exp(-0.5 * (np.arange(-20, 40) / 4.0) ** 2)  # (60,)
    sources = rng.normal(size=(4, 3, 5000))
    for x, own in zip(sources, beats, strict=True):
        x[2] = 0.1 * x[2]
        for i in own:
            x[1, i - 20 : i + 40] += 3 * wave
            x[2, i - 20 : i + 40] -= 3 * wave
    apart = np.var(3 * np.tile(np.concatenate([wave, np.zeros(40)]) - wave.sum() / 100, 48))
    none, some, nearly_all = locked(sources, beats, 20, 40)
    assert none < 0.1
    assert some == pytest.approx(np.sqrt(apart / (apart + 1)), abs=0.12)
    assert nearly_all > 0.85


def _with_heart(make_head, volts: float) -> tuple[list[Signal], list[Signal], np.ndarray]:
    """EEG, ECG and the field of a heart that beats in it, a slope from one lower side of the head to the other."""
    head = make_head(trials=2, seconds=40.0, pad=0.0)
    slope = electrode_positions(head.eeg[0].names) @ [-0.8, 0.25, -0.5]
    field = (slope - slope.mean()) / np.abs(slope - slope.mean()).max()
    eeg, ecg = [], []
    for k, (s, brain) in enumerate(zip(head.eeg, head.brain, strict=True)):
        t = np.arange(s.samples.shape[1]) / s.rate
        beats = np.cumsum(0.85 + 0.04 * np.random.default_rng(k).normal(size=46))
        away = t[:, None] - beats[beats < 39.5]
        scalp, chest = np.exp(-0.5 * (away / 0.014) ** 2), np.exp(-0.5 * (away / 0.01) ** 2)
        chest -= 0.3 * np.exp(-0.5 * ((away - 0.03) / 0.012) ** 2)
        eeg.append(replace(s, samples=brain - volts * field[:, None] * scalp.sum(axis=1)))
        ecg.append(replace(s, samples=1e-3 * chest.sum(axis=1)[None], names=("ecg",)))
    return eeg, ecg, field


def test_the_heart_is_found_with_an_ecg_and_goes(make_head) -> None:
    eeg, ecg, field = _with_heart(make_head, 100e-6)
    settings = EEGPreparation(ica_labels="eog")
    ica = prepare_eeg(eeg, settings, ecg=ecg, iclabel_off="cleaned").ica
    assert ica is not None
    assert ica.labelled_by == "frontal+ecg"
    assert ica.labels.count("heart beat") == 1
    found = ica.mixing[:, ica.labels.index("heart beat")]
    assert abs(np.corrcoef(found, field)[0, 1]) > 0.9
    left = ica.operator({"heart beat"}) @ field
    assert np.sum(left**2) < 0.1 * np.sum(field**2)
    # Beside an ECG whose beats are not this heart's, nothing recurs.
    wrong = [replace(s, samples=np.roll(s.samples[:, ::-1], 40, axis=1)) for s in ecg[::-1]]
    ica = prepare_eeg(eeg, settings, ecg=wrong, iclabel_off="cleaned").ica
    assert ica is not None
    assert "heart beat" not in ica.labels


def test_an_ecg_without_beats_says_nothing(make_head) -> None:
    eeg, ecg, _ = _with_heart(make_head, 100e-6)
    flat = [replace(s, samples=0 * s.samples) for s in ecg]
    prepared = prepare_eeg(eeg, EEGPreparation(ica_labels="eog"), ecg=flat, iclabel_off="cleaned")
    assert prepared.ica is not None
    assert "heart beat" not in prepared.ica.labels
    assert any("no heart beats looked for: 0 R peaks" in n for n in prepared.notes)


@pytest.mark.parametrize(("says", "wanted"), [("heart beat", "brain"), ("brain", "brain")])
def test_an_ecg_overrules_what_iclabel_takes_for_a_heart(make_head, monkeypatch, says: str, wanted: str) -> None:
    eeg, ecg, field = _with_heart(make_head, 100e-6)
    raw = [replace(s, samples=s.samples) for s in eeg]

    def guess(fitted, material) -> np.ndarray:  # says the same of every component; brain is its second choice
        chances = np.zeros((fitted.n_components_, len(LABELS)))
        chances[:, LABELS.index("brain")] = 0.4
        chances[:, LABELS.index(says)] = 0.6
        return chances

    monkeypatch.setattr(module, "_iclabel", guess)
    monkeypatch.setattr(module, "ICLABEL_RATE", 100.0)
    alone = prepare_eeg(raw, EEGPreparation()).ica
    beside = prepare_eeg(raw, EEGPreparation(), ecg=ecg).ica
    assert alone is not None
    assert beside is not None
    assert set(alone.labels) == {says}
    assert beside.labelled_by == "iclabel+ecg"
    heart = beside.labels.index("heart beat")
    assert abs(np.corrcoef(beside.mixing[:, heart], field)[0, 1]) > 0.9
    rest = [label for i, label in enumerate(beside.labels) if i != heart]
    assert rest.count(wanted) >= len(rest) - 1  # one may be between the two thresholds


def test_an_ecg_of_another_length_is_refused(make_head) -> None:
    eeg, ecg, _ = _with_heart(make_head, 100e-6)
    with pytest.raises(UserError, match="ECG of trial 2: found 5 samples at 128 Hz"):
        prepare_eeg(eeg, EEGPreparation(), ecg=[ecg[0], replace(ecg[1], samples=ecg[1].samples[:, :5])])
