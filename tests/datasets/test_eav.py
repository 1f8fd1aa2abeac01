"""EAV's traps: time before channel, one of two variables, two ways to write a subject, videos by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milmer.datasets.base import Recording
from milmer.datasets.eav import CHANNELS, EavStudy
from milmer.errors import UserError
from milmer.signals.channels import clean_names

from .eav_fixture import ROWS, WORDS, coded, one_hot, video_name, write_subject
from .mat_fixture import write_mat


def refusal(recording: Recording) -> str:
    assert not recording.trials
    assert recording.check is not None
    with pytest.raises(UserError) as caught:
        recording.check()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_values_classes_blocks_and_videos(tmp_path: Path) -> None:
    write_subject(tmp_path, "subject10", 10)
    write_subject(tmp_path, "subject02__", 2, variable="seg", version="7.3")
    first, second = EavStudy(tmp_path).recordings()
    assert (first.key, second.key) == ("s02", "s10")
    for recording, number in ((first, 2), (second, 10)):
        whole = coded(len(ROWS), 1000, number * 1e6)  # (S, 30, T)
        for trial, row in zip(recording.trials, ROWS, strict=True):
            assert trial.eeg is not None
            signal = trial.eeg()
            assert np.allclose(signal.samples * 1e6, whole[:, :, trial.trial - 1].T, rtol=1e-9)
            assert (signal.rate, signal.unit, trial.duration) == (500.0, "V", 2.0)
            assert (trial.label, trial.block) == (WORDS[row // 2].lower(), ("listening", "speaking")[row % 2])
            assert trial.video is not None
            assert trial.video.name == video_name(trial.trial, row)
            assert trial.stimulus == ""
    assert clean_names(CHANNELS).names == CHANNELS
    assert not first.notes


def test_missing_videos_and_missing_eeg(tmp_path: Path) -> None:
    folder = write_subject(tmp_path, "subject1", 1)
    (folder / "Video" / video_name(3, ROWS[2])).unlink()
    (folder / "Video" / "011_Trial_11_Listening_Neutral.mp4").write_bytes(b"")
    bare = write_subject(tmp_path, "subject2", 2, videos=False)
    (bare / "EEG" / "subject2_eeg.mat").unlink()
    study = EavStudy(tmp_path)
    first, second = study.recordings()
    assert first.trials[2].video is None
    assert "no video of trial 3" in first.notes
    assert any("011_Trial_11" in n for n in first.notes)
    assert all(t.eeg is None and t.video is None and t.duration == 20.0 for t in second.trials)
    assert any("no EEG" in n for n in second.notes)
    assert any("no videos" in n for n in second.notes)
    lines = "\n".join(study.survey())
    assert "no folder of subject 3-42" in lines
    assert "s01: 10 trials, 200 are usual" in lines


def test_wrong_labels_refuse_their_recording_only(tmp_path: Path) -> None:
    write_subject(tmp_path, "subject1", 1)
    twice = one_hot(ROWS)
    twice[7, 3] = 1
    none = one_hot(ROWS)
    none[:, 5] = 0
    write_subject(tmp_path, "subject2", 2, label=twice)
    write_subject(tmp_path, "subject3", 3, label=none)
    write_subject(tmp_path, "subject4", 4, label=one_hot(ROWS).T)
    write_subject(tmp_path, "subject5", 5, label=np.vstack([one_hot(ROWS), one_hot(ROWS)[:1]]))
    missing = write_subject(tmp_path, "subject6", 6)
    (missing / "EEG" / "subject6_eeg_label.mat").unlink()
    good, *bad = EavStudy(tmp_path).recordings()
    assert len(good.trials) == len(ROWS)
    found = [refusal(r) for r in bad]
    assert "trial 4 has none or several" in found[0]
    assert "trial 6 has none or several" in found[1]
    assert "expected (10, 200)" in found[3]
    assert "subject6_eeg_label.mat is missing" in found[4]


def test_eeg_that_is_not_of_the_labels(tmp_path: Path) -> None:
    write_subject(tmp_path, "subject1", 1, data=coded(9, 1000))
    write_subject(tmp_path, "subject2", 2, data=coded(10, 1000).transpose(1, 0, 2))
    write_subject(tmp_path, "subject3", 3, variable="data")
    cut = write_subject(tmp_path, "subject4", 4) / "EEG" / "subject4_eeg.mat"
    cut.write_bytes(cut.read_bytes()[:300])
    first, second, third, fourth = (refusal(r) for r in EavStudy(tmp_path).recordings())
    assert "(1000, 30, 9), expected (samples, 30, 10)" in first
    assert "(30, 1000, 10)" in second
    assert "expected seg or seg1" in third
    assert str(cut) in fourth


def test_a_video_of_another_trial(tmp_path: Path) -> None:
    folder = write_subject(tmp_path, "subject1", 1)
    (folder / "Video" / video_name(3, ROWS[2])).rename(folder / "Video" / video_name(3, ROWS[2] + 1))
    (recording,) = EavStudy(tmp_path).recordings()
    assert "its label is listening, calmness" in refusal(recording)
    (folder / "Video" / video_name(3, ROWS[2] + 1)).rename(
        folder / "Video" / video_name(4, ROWS[3]).replace("_T", "_t")
    )
    (folder / "Video" / "004_Trial_02_Speaking_Calmness.mov").write_bytes(b"")
    (recording,) = EavStudy(tmp_path).recordings()
    assert "trial 4 is claimed by" in refusal(recording)


def test_two_folders_of_one_subject_and_other_folders(tmp_path: Path) -> None:
    write_subject(tmp_path / "EAV", "subject1", 1)
    with pytest.raises(UserError, match=r"give .*EAV instead"):
        EavStudy(tmp_path)
    with pytest.raises(UserError, match=r"give .*EAV instead"):
        EavStudy(tmp_path / "EAV" / "subject1")
    with pytest.raises(UserError, match="found nothing"):
        EavStudy(tmp_path / "no")
    write_subject(tmp_path / "EAV", "subject01", 1)
    with pytest.raises(UserError, match="subject 1 is claimed by subject01 too"):
        EavStudy(tmp_path / "EAV")


def test_two_files_and_two_variables_that_claim_the_same_trials(tmp_path: Path) -> None:
    inner = write_subject(tmp_path, "subject1", 1, videos=False) / "EEG"
    (inner / "subject01_eeg.mat").write_bytes((inner / "subject1_eeg.mat").read_bytes())
    (recording,) = EavStudy(tmp_path).recordings()
    assert "subject01_eeg.mat claims the same trials; move one away" in refusal(recording)
    (inner / "subject01_eeg.mat").unlink()
    write_mat(inner / "subject1_eeg.mat", {"seg": coded(10, 1000, 7e6), "seg1": coded(10, 1000, 1e6)})
    (recording,) = EavStudy(tmp_path).recordings()
    assert "subject1_eeg.mat: holds seg1 and seg; seg1 is read" in recording.notes
    assert recording.trials[0].eeg is not None
    assert recording.trials[0].eeg().samples[0, 0] == pytest.approx(1.01, abs=1e-6)
