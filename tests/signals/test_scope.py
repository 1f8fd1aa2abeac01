"""A decomposition for each trial, and what trials are too short or too poor for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from milmer.config import EEGPreparation, Preparation
from milmer.datasets.base import Recording, Trial
from milmer.preparation.recording import prepare_recording
from milmer.signals.eeg import prepare_eeg

ALONE = EEGPreparation(ica_scope="trial")


def _corr(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(np.corrcoef(a, b)[0, 1]))


def test_each_trial_has_components_of_its_own_and_its_blinks_go(make_head) -> None:
    head = make_head(trials=2, seconds=40.0)
    prepared = prepare_eeg(head.eeg, ALONE, eog=head.eog, iclabel_off="cleaned")
    assert prepared.ica is None
    assert sorted(prepared.ica_of) == [0, 1]
    assert not np.allclose(prepared.ica_of[0].unmixing[0], prepared.ica_of[1].unmixing[0])
    for t, ica in prepared.ica_of.items():
        assert ica.labelled_by == "eog"
        front = prepared.names.index("Fp1")
        dirty, clean = prepared.trials[t], ica.operator({"eye blink"}) @ prepared.trials[t]
        assert _corr(dirty[front], head.blink[t]) > 0.7
        assert _corr(clean[front], head.blink[t]) < 0.25 * _corr(dirty[front], head.blink[t])
    said = [n for n in prepared.notes if n.startswith("every trial: ICA: ")]
    assert len(said) == 1  # once, and not once a trial


def test_components_of_a_trial_live_in_the_space_of_its_own_repair(make_head) -> None:
    head = make_head(trials=12, seconds=20.0)
    head.eeg[4].samples[9] = 0.0
    prepared = prepare_eeg(head.eeg[:11], ALONE, eog=head.eog[:11], iclabel_off="cleaned")
    assert prepared.bad == []
    for t in (0, 4):
        ica = prepared.ica_of[t]
        np.testing.assert_allclose(ica.mixing.sum(axis=0), 0, atol=1e-6 * np.abs(ica.mixing).max())  # average reference
    repaired = prepared.ica_of[4]
    # An interpolated channel is a sum of the others: so are its maps, whatever the components.
    others = np.delete(repaired.mixing, 9, axis=0)
    weights, *_ = np.linalg.lstsq(prepared.trials[4][np.arange(32) != 9].T, prepared.trials[4][9], rcond=None)
    np.testing.assert_allclose(weights @ others, repaired.mixing[9], atol=1e-3 * np.abs(repaired.mixing).max())


def test_trials_of_a_second_have_no_components_and_say_so(make_head) -> None:
    head = make_head(trials=3, seconds=1.0, pad=0.0)
    alone = prepare_eeg(head.eeg, ALONE)
    assert alone.ica_of == {}
    assert any(n.startswith("every trial: no ICA: 1.0 s of signal") for n in alone.notes)
    assert [t.shape for t in alone.trials] == [(32, 128)] * 3
    assert all(np.isfinite(t).all() for t in alone.trials)


@pytest.mark.parametrize("scope", ["recording", "trial"])
def test_gaps_flat_channels_and_few_channels_are_lived_with(make_head, scope: str) -> None:
    settings = EEGPreparation(ica_scope=scope)
    head = make_head(trials=2, seconds=20.0)
    gap = head.eeg[0].samples.copy()
    gap[4, 500:540] = np.nan
    gap[7] = 1e-5
    prepared = prepare_eeg([replace(head.eeg[0], samples=gap), head.eeg[1]], settings)
    assert all(np.isfinite(t).all() for t in prepared.trials)
    assert any("missing samples bridged in FC5: 40 in all" in n for n in prepared.notes)
    assert any("is missing or flat: interpolated" in n for n in prepared.notes)
    few = make_head(trials=2, seconds=20.0, names=["Fp1", "Cz", "Oz"])
    prepared = prepare_eeg(few.eeg, settings)
    assert prepared.ica is None
    assert prepared.ica_of == {}
    assert any("no ICA: 3 usable channels" in n for n in prepared.notes)


def test_components_of_each_trial_are_written_under_its_number(make_head, tmp_path: Path) -> None:
    head = make_head(trials=3, seconds=25.0)
    head.eeg[1].samples[:] = np.nan  # no EEG, no components
    trials = [
        Trial("s", "1", number, "film", eeg=lambda k=k: head.eeg[k], eog=lambda k=k: head.eog[k])
        for k, number in enumerate((4, 7, 2))
    ]
    settings = Preparation(eeg=ALONE, body=False)
    prepare_recording(Recording("s01", trials, [], "cleaned"), tmp_path, settings, lambda what: None)
    folder = tmp_path / "recordings" / "s01"
    assert sorted(p.name for p in folder.glob("ica*")) == ["ica_t2.npz", "ica_t4.npz"]
    about = json.loads((folder / "recording.json").read_text())["recording"]
    alone = prepare_eeg(head.eeg, ALONE, eog=head.eog, iclabel_off="cleaned")
    labels, of = [], []
    for k, number in ((0, 4), (2, 2)):
        with np.load(folder / f"ica_t{number}.npz") as found:
            np.testing.assert_array_equal(found["unmixing"], alone.ica_of[k].unmixing)
            np.testing.assert_array_equal(found["mixing"], alone.ica_of[k].mixing)
            assert tuple(found["labels"]) == alone.ica_of[k].labels
        labels += list(alone.ica_of[k].labels)
        of += [number] * len(alone.ica_of[k].labels)
    assert about["components"] == labels
    assert about["component_trials"] == of
    assert about["labelled_by"] == "eog"
    assert len(about["component_scores"]) == len(labels)
