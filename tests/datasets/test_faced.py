"""FACED's traps: a pickle, subjects from 0, films in another order than shown, mastoids among the channels."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from milmer.datasets.base import Recording
from milmer.datasets.faced import CHANNELS, LABELS, FacedStudy
from milmer.errors import UserError
from milmer.signals.channels import clean_names

from .faced_fixture import coded, write_study, write_subject


def refusal(recording: Recording) -> str:
    assert recording.trials[0].eeg is not None
    with pytest.raises(UserError) as caught:
        recording.trials[0].eeg()
    message = str(caught.value)
    assert "\n" not in message
    assert str(recording.sources[0]) in message
    return message


def test_values_and_labels(tmp_path: Path) -> None:
    first, last = FacedStudy(write_study(tmp_path, (0, 122))).recordings()
    assert (first.key, last.key) == ("sub000", "sub122")
    for recording, number in ((first, 0), (last, 122)):
        assert recording.check is not None
        assert list(recording.check()) == []
        assert [t.trial for t in recording.trials] == list(range(1, 29))
        whole = coded(number)  # (28, 32, 7500)
        for trial in recording.trials[::9]:
            assert trial.eeg is not None
            signal = trial.eeg()
            assert np.allclose(signal.samples * 1e6, whole[trial.trial - 1, :30], rtol=1e-6)
            assert (signal.rate, signal.unit, len(signal.names), trial.duration) == (250.0, "V", 30, 30.0)
            assert signal.warnings == ()
    classes = ("anger", "disgust", "fear", "sadness", "neutral")
    assert tuple(t.label for t in first.trials[:13:3]) == classes
    assert {(t.stimulus, t.label) for t in first.trials} == {(t.stimulus, t.label) for t in last.trials}
    assert "outside ICLabel's range" in first.ica_labels_off


def test_films_by_class() -> None:
    """Three films each, four that are neutral; unpleasant ones first, neutral ones 13-16."""
    assert len(LABELS) == 28
    assert sorted(LABELS.count(c) for c in set(LABELS)) == [3] * 8 + [4]
    assert {LABELS[k] for k in range(12, 16)} == {"neutral"}
    assert (LABELS[0], LABELS[11], LABELS[16], LABELS[27]) == ("anger", "sadness", "amusement", "tenderness")


def test_the_mastoids_are_no_electrodes() -> None:
    clean = clean_names(CHANNELS)
    assert set(clean.dropped) == {"A1", "A2"}
    assert clean.kept == list(range(30))


def test_nobody_takes_the_films_order_for_time(tmp_path: Path) -> None:
    (recording,) = FacedStudy(write_study(tmp_path, (5,))).recordings()
    assert {(t.order, t.onset) for t in recording.trials} == {(0, None)}


def test_damaged_and_foreign_files_refuse_their_recording_only(tmp_path: Path) -> None:
    root = write_study(tmp_path, (0, 1))
    cut = root / "Processed_data" / "sub001.pkl"
    cut.write_bytes(cut.read_bytes()[: 10**6])
    write_subject(root, 2, np.ones((28, 30, 7500), np.float32))
    write_subject(root, 3, {"data": np.ones(3)})
    write_subject(root, 4, np.array([print, len], dtype=object))
    study = FacedStudy(root)
    good, short, shape, kind, names = study.recordings()
    assert good.check is not None
    assert list(good.check()) == []
    assert "ends early" in refusal(short)
    assert short.check is not None
    with pytest.raises(UserError, match="ends early"):
        short.check()
    assert "found an array (28, 30, 7500), expected (28, 32, 7500)" in refusal(shape)
    assert "found a pickled dict, expected one numpy array" in refusal(kind)
    assert "nothing of it was run" in refusal(names)
    assert any("sub001.pkl has 1,000,000 bytes" in line for line in study.survey())


def test_what_is_missing_and_claimed_twice(tmp_path: Path) -> None:
    root = write_study(tmp_path, (0, 2))
    study = FacedStudy(root / "Processed_data")
    (root / "Processed_data" / "sub003_old.pkl").write_bytes(b"")
    lines = "\n".join(study.survey())
    assert "no file of subject 1, 3-122" in lines
    assert "sub003_old.pkl" in lines
    (root / "Processed_data" / "sub02.pkl").write_bytes(pickle.dumps(np.ones(3)))
    with pytest.raises(UserError, match=r"subject 2 is claimed by sub002\.pkl too"):
        study.recordings()


def test_one_file_in_memory(tmp_path: Path) -> None:
    study = FacedStudy(write_study(tmp_path, (0, 1, 2)))
    for recording in study.recordings():
        assert recording.trials[0].eeg is not None
        recording.trials[0].eeg()
    kept = study._opened._kept
    assert kept is not None
    assert kept[0].name == "sub002.pkl"
