"""AMIGOS: arousal before valence, a baseline before every video, trials that are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milmer.datasets.amigos import EMOTIONS, AmigosStudy
from milmer.datasets.base import Recording
from milmer.errors import UserError

from .amigos_fixture import IDS, coded, content, rated, samples_of, write_subject, write_tiny


def one(root: Path, what: dict[str, Any]) -> list[Recording]:
    write_subject(root, 3, what)
    return list(AmigosStudy(root).recordings())


def refused(root: Path, what: dict[str, Any]) -> str:
    """The subject is refused when its recording is checked, and only it."""
    first = one(root, what)[0]
    assert first.check is not None
    with pytest.raises(UserError) as caught:
        first.check()
    message = str(caught.value)
    assert "\n" not in message
    assert "Data_Preprocessed_P03.mat" in message
    return message


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_every_value_is_where_it_was_put(tmp_path: Path, version: str) -> None:
    write_subject(tmp_path, 2, version=version)
    short, long = AmigosStudy(tmp_path).recordings()
    assert [r.key for r in (short, long)] == ["p02_ses-short", "p02_ses-long"]
    assert [t.trial for t in short.trials] == list(range(1, 17))
    assert [t.trial for t in long.trials] == [17, 18, 19, 20]
    for recording in (short, long):
        assert recording.ica_labels_off
        assert recording.check is not None
        assert list(recording.check()) == []
        for trial in recording.trials:
            number = trial.trial
            values = rated(2, number)[0]
            assert trial.stimulus == IDS[number - 1]
            assert trial.block == trial.session == ("short" if number <= 16 else "long")
            assert trial.ratings["arousal"] == values[0]  # arousal comes first
            assert trial.ratings["valence"] == values[1]
            assert trial.ratings["familiarity"] == values[4]
            assert trial.label == ("" if number % 5 == 0 else EMOTIONS[number % 7])
            assert trial.eeg is not None
            assert trial.ecg is not None
            eeg, wanted = trial.eeg(), coded(2, number, samples_of(number)).T  # (17, S)
            assert (eeg.rate, eeg.unit, eeg.pad_before, eeg.pad_after) == (128.0, "V", 5.0, 0.0)
            assert np.allclose(eeg.samples, wanted[:14] * 1e-6, rtol=0, atol=1e-15)
            assert np.array_equal(trial.ecg().samples, wanted[14:16])
            for row, name in enumerate(("ecg-right", "ecg-left", "gsr"), start=14):
                signal = trial.peripheral[name]()
                assert np.array_equal(signal.samples, wanted[row : row + 1])
                assert (signal.unit, signal.pad_before) == ("1", 5.0)


def test_sessions_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    write_subject(tmp_path, 2)
    study = AmigosStudy(tmp_path)
    for recording in study.recordings():
        for trial in recording.trials[:2]:
            assert trial.eeg is not None
            trial.eeg()
        kept = study._opened._kept
        assert kept is not None
        assert kept[0].name == recording.trials[0].session
        read = [k + 1 for k, item in enumerate(kept[1]) if isinstance(item, np.ndarray)]
        assert read == [t.trial for t in recording.trials]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    study = AmigosStudy(write_tiny(tmp_path))
    assert [r.key for r in study.recordings()] == ["p01_ses-short", "p01_ses-long", "p08_ses-short"]
    lines = study.survey()
    assert "no file of subject 2-7, 9-40, of 40" in lines
    assert "p08: left out, for no rating: trial 17-20" in lines
    assert not any(line.startswith("p01") for line in lines)


def test_trials_without_signals_or_ratings(tmp_path: Path) -> None:
    what = content(3)
    what["joined_data"][0, 4] = np.zeros((0, 0))  # rated, not recorded
    what["joined_data"][0, 6] = np.full((6 * 128, 17), np.nan)
    what["labels_selfassessment"][0, 8] = np.full((1, 12), np.nan)  # recorded, not rated
    nested = np.empty((1, 1), dtype=object)
    nested[0, 0] = rated(3, 11)
    what["labels_selfassessment"][0, 10] = nested
    short = one(tmp_path, what)[0]
    assert [t.trial for t in short.trials] == [t for t in range(1, 17) if t != 9]
    assert short.check is not None
    assert list(short.check()) == ["trial 5: rated, but joined_data has nothing of it: no EEG"]
    by_number = {t.trial: t for t in short.trials}
    for number in (5, 7):
        eeg = by_number[number].eeg
        assert eeg is not None
        assert np.isnan(eeg().samples).all()
    assert by_number[11].ratings["arousal"] == rated(3, 11)[0, 0]


def test_what_cannot_be_right_is_refused(tmp_path: Path) -> None:
    def changed(name: str, place: int, value: Any) -> dict[str, Any]:
        what = content(3)
        what[name][0, place] = value
        return what

    outside = rated(3, 2).copy()
    outside[0, 1] = 9.5
    wrong = changed("labels_selfassessment", 1, outside)
    assert "trial 2: valence is 9.5, expected a number from 1 to 9" in refused(tmp_path / "a", wrong)
    wrong = changed("joined_data", 2, np.ones((17, 900)))
    assert "trial 3: found joined_data (17, 900), expected (samples, 17)" in refused(tmp_path / "b", wrong)
    wrong = changed("joined_data", 2, np.ones((500, 17)))
    assert "5 s of baseline and at least 1 s" in refused(tmp_path / "c", wrong)
    wrong = changed("labels_selfassessment", 2, np.ones((1, 4)))
    assert "trial 3: found labels_selfassessment (4,), expected 12 numbers" in refused(tmp_path / "d", wrong)
    wrong = content(3)
    wrong["joineddata"] = wrong.pop("joined_data")
    assert "has no variable joined_data" in refused(tmp_path / "e", wrong)
    path = write_subject(tmp_path / "f", 3)
    path.write_bytes(path.read_bytes()[:4000])
    write_subject(tmp_path / "f", 4)
    damaged, *others = AmigosStudy(tmp_path / "f").recordings()
    assert damaged.check is not None
    with pytest.raises(UserError, match=r"P03\.mat: not readable as a Matlab file"):
        damaged.check()
    assert [r.key for r in others] == ["p04_ses-short", "p04_ses-long"]


def test_two_files_of_one_subject_and_packed_files(tmp_path: Path) -> None:
    write_subject(tmp_path, 7)
    write_subject(tmp_path / "again", 7)
    with pytest.raises(UserError, match="are both of subject 7; move one away"):
        AmigosStudy(tmp_path)
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "Data_Preprocessed_P01.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"found Data_Preprocessed_P01\.zip, expected .*; unpack them there"):
        AmigosStudy(tmp_path / "zips")


def test_videos_without_names_are_called_by_place(tmp_path: Path) -> None:
    what = content(3)
    del what["VideoIDs"]
    short = one(tmp_path, what)[0]
    assert [t.stimulus for t in short.trials[:2]] == ["v01", "v02"]
    assert "stimuli are called by their place" in short.notes[0]
