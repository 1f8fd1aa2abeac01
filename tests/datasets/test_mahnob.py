"""MAHNOB-HCI: a clip within its recording, files beside each other by name, sessions that nobody rated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milmer.datasets.base import Recording
from milmer.datasets.mahnob import MahnobStudy
from milmer.errors import UserError

from .deap_raw_fixture import GENEVA
from .mahnob_hci_fixture import (
    RATE,
    clip_seconds,
    planted,
    write_recording,
    write_session,
    write_tiny,
    write_xml,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("mahnob"))


def refused(recording: Recording) -> str:
    assert recording.check is not None
    with pytest.raises(UserError) as caught:
        recording.check()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_value_is_where_it_was_put(root: Path) -> None:
    recordings = MahnobStudy(root).recordings()
    assert [r.key for r in recordings] == ["s01", "s02"]
    for s, recording in enumerate(recordings, start=1):
        assert [t.trial for t in recording.trials] == [1, 2]  # not in the order of the ids
        for trial in recording.trials:
            number, seconds = trial.trial, clip_seconds(trial.trial)
            assert trial.stimulus == f"{50 + number}.avi"
            assert trial.label == ("neutral", "joy", "amusement", "anxiety")[number % 4]
            assert trial.ratings == {
                "arousal": 1 + number % 9,
                "valence": 1 + (number + s) % 9,
                "dominance": 1 + (number + 3) % 9,
                "predictability": 9 - number % 9,
            }
            assert trial.eeg is not None
            assert trial.ecg is not None
            eeg = trial.eeg()
            assert (eeg.names, eeg.rate, eeg.unit) == (tuple(GENEVA), RATE, "V")
            assert (eeg.pad_before, eeg.pad_after) == (5.0, 5.0)
            assert eeg.samples.shape == (32, (seconds + 10) * RATE)
            start = round(eeg.pad_before * RATE)
            for row, name in enumerate(GENEVA):  # one step of the file is 0.03 uV
                assert eeg.samples[row, start] * 1e6 == pytest.approx(planted(name, s, number), abs=0.04)
            assert eeg.samples[0, start + RATE] - eeg.samples[0, start] == pytest.approx(1e-6, abs=0.08e-6)
            heart = trial.ecg()
            assert heart.samples.shape == (1, eeg.samples.shape[1])
            wanted = planted("EXG2", s, number) - planted("EXG1", s, number)
            assert np.allclose(heart.samples * 1e6, wanted, atol=0.08)
            for name, channel, unit, scale in (
                ("ecg-right", "EXG1", "V", 1e-6),
                ("ecg-left", "EXG2", "V", 1e-6),
                ("ecg-abdomen", "EXG3", "V", 1e-6),
                ("gsr", "GSR1", "ohm", 1.0),
                ("respiration", "Resp", "1", 1.0),
                ("temperature", "Temp", "1", 1.0),  # planted values are no temperature of a skin
            ):
                signal = trial.peripheral[name]()
                assert (signal.unit, signal.names) == (unit, (name,))
                assert signal.samples[0, start] / scale == pytest.approx(planted(channel, s, number), abs=0.04)
            video = trial.video
            assert (video is None) == (s == 2 and number == 2)
            assert video is None or "_C1 trigger _C_" in video.name
            assert trial.video_start == 0


def test_what_is_skipped_and_missing_is_told(root: Path) -> None:
    study = MahnobStudy(root / "Sessions")  # the folder itself will do
    lines = study.survey()
    assert lines[0] == "of 27 subjects there are rated sessions of 1-2 only"
    assert lines[1] == "4 sessions are skipped, for they have no feltArsl (neutral clips, tagging)"
    assert "s01: 2 rated sessions, the publisher has 20" in lines
    first, second = study.recordings()
    assert "session 134: no video of the face (C1 trigger)" in second.notes
    assert any("first frame" in note for note in first.notes)
    assert first.check is not None
    assert list(first.check()) == []


def test_video_and_clip_that_disagree_are_noted(tmp_path: Path) -> None:
    write_session(tmp_path, 2, 1, 1, video=1.5)
    write_session(tmp_path, 4, 1, 2, video=0.5)
    (recording,) = MahnobStudy(tmp_path).recordings()
    assert recording.check is not None
    assert list(recording.check()) == ["session 2: the video is 4.5 s long, the clip by Status 3.0 s"]


def test_files_are_found_without_tracks_and_with_other_spaces(tmp_path: Path) -> None:
    folder = write_session(tmp_path, 2, 1, 1, named=False)
    (video,) = folder.glob("*C1 trigger*")
    (folder / f"._{video.name}").write_bytes(b"left by a copy on macOS")
    other = write_session(tmp_path, 4, 1, 2)
    (spaced,) = other.glob("*C1 trigger*")
    moved = spaced.rename(other / spaced.name.replace(" ", ""))
    (recording,) = MahnobStudy(tmp_path).recordings()
    assert [t.video for t in recording.trials] == [video, moved]


def test_one_long_mark_is_a_clip_too(tmp_path: Path) -> None:
    folder = write_session(tmp_path, 2, 1, 1, video=None)
    (bdf,) = folder.glob("*.bdf")
    write_recording(bdf, 1, 1, marks=(), held=True)
    (recording,) = MahnobStudy(tmp_path).recordings()
    eeg = recording.trials[0].eeg
    assert eeg is not None
    assert eeg().samples.shape[1] == (clip_seconds(1) + 10) * RATE


def test_more_marks_after_the_clip_do_no_harm_and_rates_come_from_the_header(tmp_path: Path) -> None:
    folder = write_session(tmp_path, 2, 1, 1, video=None)
    (bdf,) = folder.glob("*.bdf")
    write_recording(bdf, 1, 1, marks=(0, 3, 10), rate=128)
    (recording,) = MahnobStudy(tmp_path).recordings()
    eeg = recording.trials[0].eeg
    assert eeg is not None
    assert (eeg().rate, eeg().samples.shape[1]) == (128, 13 * 128)


def test_a_session_without_bdf_keeps_its_face(tmp_path: Path) -> None:
    folder = write_session(tmp_path, 2, 1, 2)
    write_session(tmp_path, 4, 1, 1)
    next(folder.glob("*.bdf")).unlink()
    (recording,) = MahnobStudy(tmp_path).recordings()
    assert "session 2: no BDF: no EEG and no body signals" in recording.notes
    assert "session 2: no BDF gives its trial's number: counted as trial 2" in recording.notes
    trial = recording.trials[1]
    assert (trial.eeg, trial.ecg, dict(trial.peripheral)) == (None, None, {})
    assert trial.duration == pytest.approx(clip_seconds(2))


def test_what_cannot_be_right_is_refused(tmp_path: Path) -> None:
    def case(name: str, **attributes: object) -> Path:
        return write_session(tmp_path / name, 2, 1, 1, video=None, **attributes)

    def first(name: str) -> Recording:
        return MahnobStudy(tmp_path / name).recordings()[0]

    case("range", feltArsl=10)
    assert "session.xml: feltArsl is 10, expected a number from 1 to 9" in refused(first("range"))
    folder = case("marks")
    (bdf,) = folder.glob("*.bdf")
    write_recording(bdf, 1, 1, marks=(0,))
    assert "found 1 marks in Status, expected one at the clip's start and one at its end" in refused(first("marks"))
    write_recording(bdf, 1, 1, without=("EXG3", "Oz"))
    notes = first("marks").notes
    assert "not all of the BDF files have ecg-abdomen: left out" in notes
    assert "not all of the BDF files have Oz: left out" in notes
    write_recording(bdf, 1, 1, without=GENEVA)
    assert "expected electrodes such as Fp1" in refused(first("marks"))
    bdf.write_bytes(bdf.read_bytes()[:-5000])
    assert "but its header says" in refused(first("marks"))
    case("twice")
    write_session(tmp_path / "twice", 9, 1, 1, video=None)
    assert "sessions 2 and 9 are both trial 1 of s01" in refused(first("twice"))
    folder = case("whose")
    write_xml(folder, 5, feltArsl=3)
    assert "is of subject 5, but" in refused(first("whose"))
    folder = case("two")
    (bdf,) = folder.glob("*.bdf")
    bdf.rename(folder / "Part_1_S_Trial3_emotion.bdf")
    write_recording(folder / "Part_1_S_Trial4_emotion.bdf", 1, 4)
    assert "both claim to be its BDF" in refused(first("two"))
    (case("xml") / "session.xml").write_text("<session feltArsl='3'", encoding="utf-8")
    assert "session.xml: not readable as XML" in refused(first("xml"))
    (tmp_path / "xml/Sessions/2/session.xml").write_text("<?xml version='1.0' encoding='UTF-q'?><session/>")
    assert "session.xml: not readable as XML (unknown encoding" in refused(first("xml"))
    case("rates")
    other = write_session(tmp_path / "rates", 4, 1, 2, video=None)
    write_recording(next(other.glob("*.bdf")), 1, 2, rate=32)
    assert "files differ in rate" in refused(first("rates"))


def test_a_damaged_session_leaves_the_others(tmp_path: Path) -> None:
    write_session(tmp_path, 2, 1, 1, video=None)
    (write_session(tmp_path, 132, 2, 1, video=None) / "session.xml").write_text("<", encoding="utf-8")
    good, damaged = MahnobStudy(tmp_path).recordings()
    assert (good.key, damaged.key) == ("s01", "session-132")
    assert "not readable as XML" in refused(damaged)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected Sessions/<id>/session"):
        MahnobStudy(tmp_path)
    (tmp_path / "Sessions").mkdir()
    with pytest.raises(UserError, match="found no session with feltArsl"):
        MahnobStudy(tmp_path).recordings()


def test_a_video_of_another_participant(tmp_path: Path) -> None:
    folder = write_session(tmp_path, 2, 1, 1, named=False)
    write_session(tmp_path, 9, 3, 1, video=None)
    (video,) = (p for p in folder.iterdir() if "C1 trigger" in p.name)
    video.rename(folder / video.name.replace("P1-", "P12-"))
    good, bad = MahnobStudy(tmp_path).recordings()
    assert (good.key, len(good.trials)) == ("s03", 1)
    assert "is of participant 12" in refused(bad)


def test_a_damaged_bdf_costs_its_film_only(tmp_path: Path) -> None:
    write_session(tmp_path, 2, 1, 1, video=None)
    (bdf,) = write_session(tmp_path, 4, 1, 2, video=None).glob("*.bdf")
    bdf.write_bytes(bdf.read_bytes()[:-5000])
    good, bad = MahnobStudy(tmp_path).recordings()
    assert (good.key, [t.trial for t in good.trials]) == ("s01", [1])
    assert bad.key == "session-4"
    assert "but its header says" in refused(bad)


def test_a_video_of_another_film_is_said(tmp_path: Path) -> None:
    folder = write_session(tmp_path, 2, 1, 1, named=False)
    assert not [n for n in MahnobStudy(tmp_path).recordings()[0].notes if "section" in n]
    (video,) = (p for p in folder.iterdir() if "C1 trigger" in p.name)
    video.rename(folder / video.name.replace("Section_2", "Section_14"))
    notes = MahnobStudy(tmp_path).recordings()[0].notes
    assert "session 2: the video is section 14, usual is 2 for the BDF's trial 1: are they of one trial?" in notes
