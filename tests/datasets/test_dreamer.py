"""DREAMER: one nested file, two rates, baselines that are no part of the films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milmer.config import Preparation
from milmer.datasets import open_study
from milmer.datasets.dreamer import DreamerStudy
from milmer.errors import UserError
from milmer.preparation import prepare_study
from milmer.store import Store

from .dreamer_fixture import ELECTRODES, coded, content, write_study


def refusal(root: Path, whole: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        for recording in DreamerStudy(write_study(root, whole)).recordings():
            if recording.check is not None:
                recording.check()
    message = str(caught.value)
    assert "\n" not in message
    assert "DREAMER.mat" in message
    return message


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_every_value_is_where_it_was_put(tmp_path: Path, version: str) -> None:
    whole = content(2, 3)
    study = open_study("dreamer", write_study(tmp_path / "d", whole, version))
    recordings = study.recordings()
    assert [r.key for r in recordings] == ["s01", "s02"]
    for s, recording in enumerate(recordings, start=1):
        assert recording.ica_labels_off
        assert [t.trial for t in recording.trials] == [1, 2, 3]
        data = whole["Data"][0, s - 1]
        for f, trial in enumerate(recording.trials, start=1):
            assert (trial.subject, trial.stimulus, trial.video) == (f"s{s:02d}", f"film{f:02d}", None)
            assert trial.ratings == {
                k.lower(): data[f"Score{k}"][f - 1, 0] for k in ("Valence", "Arousal", "Dominance")
            }
            assert trial.eeg is not None
            eeg = trial.eeg()
            assert (eeg.names, eeg.rate, eeg.unit) == (ELECTRODES, 128.0, "V")
            assert (eeg.pad_before, eeg.pad_after) == (0, 0)
            assert np.allclose(eeg.samples, coded(s, f, 14, (2 + f) * 128, 128).T * 1e-6, rtol=0, atol=1e-15)
            assert trial.duration == 2 + f
            for c, name in enumerate(("ecg-1", "ecg-2")):
                ecg = trial.peripheral[name]()
                assert (ecg.rate, ecg.samples.shape) == (256.0, (1, (2 + f) * 256))
                assert np.array_equal(ecg.samples[0], coded(s, f, 2, (2 + f) * 256, 256)[:, c])


def test_one_subject_is_in_memory_at_a_time(tmp_path: Path) -> None:
    study = DreamerStudy(write_study(tmp_path))
    first, second = study.recordings()
    for recording in (first, second):
        for trial in recording.trials:
            assert trial.eeg is not None
            trial.eeg()
        kept = study._opened._kept
        assert kept is not None
        assert kept[0].name == str(int(recording.key[1:]) - 1)


def test_missing_films_are_told(tmp_path: Path) -> None:
    whole = content(2, 3)
    for kind in ("EEG", "ECG"):
        whole["Data"][0, 0][kind]["stimuli"][1, 0] = np.zeros((0, 0))
    study = DreamerStudy(write_study(tmp_path, whole))
    first, second = study.recordings()
    assert [t.trial for t in first.trials] == [1, 3]
    assert first.notes == ["film 2: empty, left out"]
    assert len(second.trials) == 3
    assert study.survey() == [f"s0{s}: {n} films, the publisher's file has 18" for s, n in ((1, 2), (2, 3))]


def test_lengths_that_disagree_are_noted(tmp_path: Path) -> None:
    whole = content(1, 2)
    ecg = whole["Data"][0, 0]["ECG"]["stimuli"]
    ecg[0, 0] = ecg[0, 0][: 256 * 1]
    (recording,) = DreamerStudy(write_study(tmp_path, whole)).recordings()
    assert recording.notes == ["film 1: EEG is 3.0 s long, ECG 1.0 s"]


def test_what_cannot_be_right_is_refused(tmp_path: Path) -> None:
    def changed(field: str, value: Any, at: str = "") -> dict[str, Any]:
        whole = content(1, 2)
        inner = whole["Data"][0, 0]
        if at:
            inner[at][field] = value
        elif field in inner:
            inner[field] = value
        else:
            whole[field] = value
        return whole

    scores = np.array([[3.0], [6.0]])
    assert "s01, film 2: ScoreArousal is 6.0, expected a number from 1 to 5" in refusal(
        tmp_path / "a", changed("ScoreArousal", scores)
    )
    assert "expected a number for each of 2 films" in refusal(tmp_path / "b", changed("ScoreArousal", scores[:1]))
    names = content()["EEG_Electrodes"].copy()
    names[0, 3] = "XX9"
    assert "EEG_Electrodes has 'XX9'" in refusal(tmp_path / "c", changed("EEG_Electrodes", names))
    films = content(1, 2)["Data"][0, 0]["EEG"]["stimuli"]
    films[1, 0] = films[1, 0].T
    assert "film 2: found EEG (14, 512), expected (samples, 14)" in refusal(
        tmp_path / "d", changed("stimuli", films, "EEG")
    )
    assert "no subjects in Data" in refusal(tmp_path / "e", {"Date": np.ones((1, 1))})


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected DREAMER\.mat"):
        DreamerStudy(tmp_path)
    path = write_study(tmp_path / "x") / "DREAMER.mat"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"DREAMER\.mat: not readable as a Matlab file"):
        DreamerStudy(path).recordings()


def test_it_becomes_a_store(tmp_path: Path) -> None:
    whole = content(2, 4, seconds=20.0)
    rng = np.random.default_rng(1)
    for s in range(2):
        for kind, size in (("EEG", 20.0), ("ECG", 300.0)):
            films = whole["Data"][0, s][kind]["stimuli"]
            for f in range(4):  # noise of the size of EEG on the DC level that the headset has
                films[f, 0] = 4200 + rng.normal(0, size, films[f, 0].shape)
    whole["Data"][0, 1]["EEG"]["stimuli"][2, 0] = np.zeros((0, 0))
    settings = Preparation.model_validate({"eeg": {"ica": "none"}})
    study = DreamerStudy(write_study(tmp_path / "study", whole))
    prepared = prepare_study(study, tmp_path / "store", settings)
    assert prepared.done == 2
    assert not prepared.failed
    store = Store(tmp_path / "store")
    assert list(store.trials["subject"]) == ["s01"] * 4 + ["s02"] * 4
    assert list(store.trials["trial"]) == [1, 2, 3, 4] * 2
    assert list(store.trials["has_eeg"]) == [True] * 6 + [False, True]
    assert list(store.trials["has_ecg"]) == [True] * 8
    assert not store.trials["has_face"].any()
    for row, trial in enumerate(t for r in study.recordings() for t in r.trials):
        assert store.trials["rating_arousal"][row] == trial.ratings["arousal"]
        assert store.trials["stimulus"][row] == trial.stimulus
        assert store.trials["duration"][row] == pytest.approx(20 + trial.trial, abs=0.02)
    assert store.eeg(0, 0.0, 3.0).shape == (14, 384)


def test_a_subject_that_cannot_be_right_does_not_stop_the_others(tmp_path: Path) -> None:
    whole = content(3, 2)
    whole["Data"][0, 1]["ScoreValence"] = np.array([[0.0], [6.0]])
    first, second, third = DreamerStudy(write_study(tmp_path, whole)).recordings()
    assert [len(r.trials) for r in (first, second, third)] == [2, 0, 2]
    assert second.key == "s02"
    with pytest.raises(UserError, match="s02, film 1: ScoreValence is 0"):
        assert second.check is not None
        second.check()
