"""A table of which some subjects cannot be read: the others go on, and what is missing is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from milmer.config import Preparation
from milmer.datasets.table import TableStudy
from milmer.errors import UserError
from milmer.preparation import prepare_study
from milmer.store import Store

from .table_fixture import write_fif

HEADER = "subject,trial,stimulus,eeg_path,eeg_start_s,eeg_stop_s,video_path,video_start_s,valence,arousal"


def write_table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_fif(tmp_path / "eeg" / "a_eeg.fif")
    (tmp_path / "v.mp4").write_bytes(b"not read here")
    return tmp_path


def test_a_subject_that_cannot_be_read_does_not_stop_the_others(folder: Path) -> None:
    (folder / "eeg" / "b.edf").write_bytes(b"no recording")
    rows = ("p,1,a,eeg/b.edf,,,,,1,1", "q,1,a,eeg/a_eeg.fif,0,4,,,2,2", "r,1,a,eeg/a_eeg.fif,5,99,,,3,3")
    bad, good, beyond = TableStudy(write_table(folder / "t.csv", *rows)).recordings()
    assert [(r.key, len(r.trials)) for r in (bad, good, beyond)] == [("p", 0), ("q", 1), ("r", 0)]
    for recording, says in ((bad, r"line 2: .*b\.edf cannot be read"), (beyond, "line 4: eeg_stop_s is 99, but")):
        assert recording.check is not None
        with pytest.raises(UserError, match=says):
            recording.check()


def test_the_survey_says_which_rows_lack_what_others_have(folder: Path) -> None:
    study = TableStudy(
        write_table(
            folder / "t.csv",
            "p,1,a,eeg/a_eeg.fif,0,4,v.mp4,,1,1",
            "p,2,b,,,,v.mp4,5,2,2",
            "p,3,c,eeg/a_eeg.fif,5,9,,,,",
        )
    )
    assert study.survey() == [
        "1 of 3 rows have no EEG: line 3",
        "1 of 3 rows have no video: line 4",
        "1 of 3 rows have no rating or label: line 4",
    ]


def test_a_store_of_refused_recordings_says_why(folder: Path) -> None:
    (folder / "eeg" / "b.edf").write_bytes(b"no recording")
    study = TableStudy(write_table(folder / "t.csv", "p,1,a,eeg/b.edf,,,,,1,1"))
    assert list(prepare_study(study, folder / "store", Preparation()).failed) == ["p"]
    with pytest.raises(UserError, match=r"all of its recordings were refused, the first because of .*b\.edf"):
        Store(folder / "store")
