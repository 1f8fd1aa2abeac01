"""SEED-IV's traps: other films and labels in every session, folders by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milmer.datasets.seed_iv import LABELS, SeedIVStudy
from milmer.errors import UserError

from .seed_fixture import coded, write_session
from .seed_iv_fixture import write_study

# As the publisher's ReadMe prints them: neutral 0, sad 1, fear 2, happy 3.
SECOND = "2,1,3,0,0,2,0,2,3,3,2,3,2,0,1,1,2,1,0,3,0,1,3,1"
WORDS = ("neutral", "sad", "fear", "happy")


def test_values_and_labels_by_session(tmp_path: Path) -> None:
    study = SeedIVStudy(write_study(tmp_path, {"3/1_20150508": "cz", "2/1_20150507": "cz", "2/14_20151205": "wll"}))
    recordings = study.recordings()
    assert [r.key for r in recordings] == ["s01_ses-2", "s01_ses-3", "s14_ses-2"]
    for recording, start in zip(recordings, (1, 0, 2), strict=True):
        assert len(recording.trials) == 24
        for trial in recording.trials[::5]:
            assert trial.eeg is not None
            assert np.allclose(trial.eeg().samples[:57], coded(trial.trial, start * 10**6)[:57] * 1e-6, atol=1e-12)
            assert trial.stimulus == f"ses{trial.session}-film{trial.trial:02d}"
    assert [t.label for t in recordings[0].trials] == [WORDS[int(c)] for c in SECOND.split(",")]
    assert [t.label for t in recordings[1].trials] != [t.label for t in recordings[0].trials]


def test_every_session_has_each_class_six_times() -> None:
    for codes in LABELS.values():
        assert [codes.count(c) for c in range(4)] == [6, 6, 6, 6]


def test_what_is_missing_is_said_and_two_files_are_refused(tmp_path: Path) -> None:
    root = write_study(tmp_path, {"1/1_20160518": "cz", "3/2_20150920": "lk"}, films=range(1, 24))
    study = SeedIVStudy(root)
    first, _ = study.recordings()
    assert any("no EEG of film 24" in n for n in first.notes)
    lines = "\n".join(study.survey())
    assert "no files of subject 3-15" in lines
    assert "subject 1: no file of session 2-3" in lines
    write_session(root / "eeg_raw_data" / "1" / "1_20160519.mat", (1,))
    with pytest.raises(UserError, match=r"subject 1, session 1 is claimed by 1_20160518\.mat too"):
        study.recordings()
