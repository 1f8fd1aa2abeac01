"""DEAP's recordings: two sites, three names of the channel with the events, trials as they were shown."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milmer.datasets.base import Recording
from milmer.datasets.deap_files import EEG_NAMES
from milmer.datasets.deap_raw import DeapRawStudy
from milmer.errors import UserError

from .deap_fixture import ratings, replace_in_line, table
from .deap_raw_fixture import GAIN, GENEVA, RATE, TWENTE, planted, write_raw_study, write_recording

ORDER = (3, 1, 4, 2)


def refusal(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def study_of(root: Path, *participants: int) -> DeapRawStudy:
    return DeapRawStudy(write_raw_study(root, dict.fromkeys(participants, ORDER)))


def check(recording: Recording) -> list[str]:
    assert recording.check is not None
    return list(recording.check())


@pytest.mark.parametrize("participant", [1, 23, 24, 28, 29])
def test_every_trial_electrode_and_moment_is_in_its_place(tmp_path: Path, participant: int) -> None:
    """Both orders of electrodes; Status, no name, two without names; with and without the amplifier's state."""
    (recording,) = study_of(tmp_path / "raw", participant).recordings()
    assert check(recording) == []
    assert recording.ica_labels_off == ""
    labels = ratings(4, participant)
    for trial, e in zip(recording.trials, ORDER, strict=True):
        assert trial.key == ("deap-raw", f"s{participant:02d}", "", trial.trial)
        assert trial.stimulus == f"e{e:02d}"
        assert [trial.ratings[n] for n in ("valence", "arousal", "dominance", "liking")] == pytest.approx(labels[e - 1])
        assert trial.eeg is not None
        eeg = trial.eeg()
        assert (eeg.names, eeg.rate, eeg.unit, eeg.pad_before, eeg.pad_after) == (EEG_NAMES, 16.0, "V", 5.0, 3.0)
        assert eeg.samples.shape == (32, 68 * RATE)
        seconds = np.arange(68 * RATE) / RATE - 5  # (S,)
        for row, name in zip(eeg.samples, eeg.names, strict=True):
            assert np.allclose(row * 1e6, planted(name, trial.trial) + seconds, rtol=0, atol=GAIN)
        assert (trial.video is not None) is (participant <= 22)


@pytest.mark.parametrize("participant", [1, 29])
def test_eyes_and_muscles_are_differences_of_two_electrodes(tmp_path: Path, participant: int) -> None:
    (recording,) = study_of(tmp_path / "raw", participant).recordings()
    trial = recording.trials[2]
    assert trial.eog is not None
    eog = trial.eog()
    seconds = np.arange(68 * RATE) / RATE - 5  # (S,)
    # EXG2 and EXG6 are negative: what is left minus right, a sum by mistake would be near zero.
    assert np.allclose(eog.samples[0] * 1e6, planted("EXG1", 3) - planted("EXG2", 3), atol=3 * GAIN)
    assert np.allclose(eog.samples[1] * 1e6, planted("EXG3", 3) - planted("EXG4", 3), atol=3 * GAIN)
    assert (eog.names, eog.unit) == (("hEOG", "vEOG"), "V")
    zygomaticus = trial.peripheral["emg-zygomaticus"]()
    assert np.allclose(zygomaticus.samples[0] * 1e6, planted("EXG5", 3) - planted("EXG6", 3), atol=3 * GAIN)
    trapezius = trial.peripheral["emg-trapezius"]()
    assert np.allclose(trapezius.samples[0] * 1e6, planted("EXG7", 3) - planted("EXG8", 3), atol=3 * GAIN)
    for kind, channel in (("respiration", "Resp"), ("ppg", "Plet"), ("temperature", "Temp")):
        signal = trial.peripheral[kind]()
        assert np.allclose(signal.samples[0], planted(channel, 3) + seconds, atol=GAIN)
        assert (signal.unit, signal.names, signal.pad_before) == ("1", (kind,), 5.0)


@pytest.mark.parametrize(("participant", "value", "ohm"), [(2, 5000.0, 2e5), (29, 2e5, 2e5)])
def test_skin_is_in_ohm_whichever_site(tmp_path: Path, participant: int, value: float, ohm: float) -> None:
    study = study_of(tmp_path / "raw", participant)
    write_recording(study.root, participant, 4, gsr=value)
    signal = study.recordings()[0].trials[0].peripheral["gsr"]()
    assert signal.unit == "ohm"
    assert np.allclose(signal.samples, ohm, rtol=1e-4)
    assert signal.warnings == ()


def test_no_conductance_is_missing_not_infinite(tmp_path: Path) -> None:
    study = study_of(tmp_path / "raw", 1)
    write_recording(study.root, 1, 4, gsr=-3.0)
    signal = study.recordings()[0].trials[0].peripheral["gsr"]()
    assert np.isnan(signal.samples).all()
    assert "taken as missing" in signal.warnings[0]


def test_the_unit_of_the_skin_goes_by_the_order_of_the_electrodes(tmp_path: Path) -> None:
    study = study_of(tmp_path / "raw", 1)
    write_recording(study.root, 1, 4, order=GENEVA, gsr=2e5)
    (recording,) = study.recordings()
    assert "Geneva's order" in check(recording)[0]
    assert np.allclose(recording.trials[0].peripheral["gsr"]().samples, 2e5, rtol=1e-4)
    write_recording(study.root, 1, 4, order=[*TWENTE[1:], TWENTE[0]])
    (recording,) = DeapRawStudy(study.root).recordings()
    signal = recording.trials[0].peripheral["gsr"]()
    assert signal.unit == "1"
    assert "neither site's order" in signal.warnings[0]


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"starts": 3}, "found 3 events of code 4 (a film starts), expected 4 for the 4 rows"),
        ({"starts": 5}, "found 5 events of code 4"),
        ({"codes": False}, "found 0 events of code 4"),
        ({"stimulus": []}, "has no channel Status, nor one without a name; found Erg2, Resp, Plet, Temp"),
        ({"without": ["Cz", "O2"]}, "has no electrode Cz, O2"),
        ({"tail": -30}, "ends 36.0 s after its last film starts, expected 60 s"),
    ],
)
def test_one_subject_is_refused_with_numbers(tmp_path: Path, how: dict[str, Any], named: str) -> None:
    study = study_of(tmp_path / "raw", 1, 2)
    path = write_recording(study.root, 1, 4, **how)
    bad, good = study.recordings()
    message = refusal(bad.check)
    assert named in message
    assert str(path) in message
    assert bad.trials[0].eeg is not None
    assert refusal(bad.trials[0].eeg) == message
    assert check(good) == []


def test_films_that_start_when_the_table_does_not_say_so_are_told(tmp_path: Path) -> None:
    study = study_of(tmp_path / "raw", 1)
    replace_in_line(table(study.root), 3, 3, "1600000")  # trial 2, 8 s later than its event
    (recording,) = study.recordings()
    (line,) = check(recording)
    assert "film 1-2 starts up to 6 s away from the table's Start_time" in line
    replace_in_line(table(study.root), 3, 3, "1525000")  # half a second: another clock
    assert check(DeapRawStudy(study.root).recordings()[0]) == []


def test_a_truncated_file_and_one_that_is_none(tmp_path: Path) -> None:
    study = study_of(tmp_path / "raw", 1)
    path = study.root / "data_original" / "s01.bdf"
    path.write_bytes(path.read_bytes()[:-5000])
    assert "but its header says" in refusal(study.recordings()[0].check)
    path.write_bytes(b"no recording")
    assert "no BDF" in refusal(study.recordings()[0].check)


def test_a_channel_that_is_not_there_is_a_missing_signal(tmp_path: Path) -> None:
    study = study_of(tmp_path / "raw", 1)
    write_recording(study.root, 1, 4, without=["EXG2", "EXG7", "GSR1"])
    (recording,) = study.recordings()
    assert "s01.bdf has no channel EXG2, EXG7, GSR1" in recording.notes
    trial = recording.trials[0]
    assert trial.eog is None
    assert set(trial.peripheral) == {"emg-zygomaticus", "respiration", "ppg", "temperature"}


def test_videos_that_nobody_has(tmp_path: Path) -> None:
    root = write_raw_study(tmp_path / "raw", {3: ORDER})
    (root / "face_video" / "s03" / "s03_trial04.avi").unlink()
    (recording,) = DeapRawStudy(root).recordings()
    assert [t.video is None for t in recording.trials] == [False, False, False, True]
    assert recording.notes == ["no video of trial 4"]


def test_a_stretch_is_read_and_not_the_file(tmp_path: Path) -> None:
    (recording,) = study_of(tmp_path / "raw", 1).recordings()
    assert len(pickle.dumps(recording)) < 50_000
    back = pickle.loads(pickle.dumps(recording))
    assert back.trials[3].eeg().samples.shape == (32, 68 * RATE)
    held = recording.check.opened._kept  # type: ignore[union-attr]  # the fixture's own loader
    assert held is None


def test_another_folder_names_the_form_it_has(tmp_path: Path) -> None:
    root = write_raw_study(tmp_path / "raw", {1: ORDER})
    (root / "data_original").rename(root / "data_preprocessed_python")
    assert "is read by 'milmer prepare deap'" in refusal(lambda: DeapRawStudy(root))
    assert "expected a folder with data_original/s01.bdf" in refusal(lambda: DeapRawStudy(tmp_path / "nowhere"))
