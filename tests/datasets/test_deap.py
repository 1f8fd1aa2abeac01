"""DEAP's traps: two orders, a pickle, an axis that must not be confused with another."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.datasets.base import Recording
from milmer.datasets.deap import DeapStudy
from milmer.datasets.deap_files import EEG_NAMES
from milmer.datasets.deap_ratings import read_ratings
from milmer.errors import UserError
from milmer.signals.channels import clean_names

from .deap_fixture import RATE, coded, ratings, replace_in_line, table, write_dat, write_mat, write_study

ORDER = (3, 1, 4, 5, 2)


def refusal(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def check(root: Path) -> Recording:
    """Open the first recording as preparation does."""
    recording = DeapStudy(root).recordings()[0]
    assert recording.check is not None
    assert list(recording.check()) == []
    return recording


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(1, 7)))
def test_video_t_meets_the_signals_of_its_stimulus(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    root = write_study(tmp_path_factory.mktemp("deap") / "r", {4: order}, samples=4 * RATE)
    (recording,) = DeapStudy(root).recordings()
    assert [t.trial for t in recording.trials] == list(range(1, 7))
    labels = ratings(6, 4)
    for trial, e in zip(recording.trials, order, strict=True):
        assert trial.stimulus == f"e{e:02d}"
        assert trial.video is not None
        assert trial.video.name == f"s04_trial{trial.trial:02d}.avi"
        assert trial.eeg is not None
        assert np.all(np.floor(trial.eeg().samples * 10 + 1e-9) == e)  # the value's hundred thousands
        given_ = [trial.ratings[n] for n in ("valence", "arousal", "dominance", "liking")]
        assert given_ == pytest.approx(labels[e - 1])


def test_channels_and_time_stay_apart(tmp_path: Path) -> None:
    """Every value in its place: a reshape instead of an index would mix channels with time (PAPER section 2.3)."""
    recording = check(write_study(tmp_path / "deap", {1: ORDER}, samples=5 * RATE))
    whole = coded(5, 5 * RATE)  # (5, 40, S)
    for trial, e in zip(recording.trials, ORDER, strict=True):
        assert trial.eeg is not None
        assert trial.eog is not None
        eeg, eog = trial.eeg(), trial.eog()
        assert eeg.samples.shape == (32, 640)
        assert np.allclose(eeg.samples, whole[e - 1, :32] * 1e-6, rtol=0, atol=1e-15)
        assert np.allclose(eog.samples, whole[e - 1, 32:34] * 1e-6, rtol=0, atol=1e-15)
        assert (eeg.names, eog.names) == (EEG_NAMES, ("hEOG", "vEOG"))
        assert (eeg.rate, eeg.unit, eeg.pad_before, eeg.pad_after) == (128.0, "V", 3.0, 0.0)
        # Time in the values: the stimulus starts where the value's seconds say 3.
        assert eeg.samples[0, int(eeg.pad_before * eeg.rate)] * 1e6 % 1e3 == pytest.approx(3.0)


def test_peripheral_signals_with_units(tmp_path: Path) -> None:
    data = coded(5, 640)
    data[:, 39] = 33.5
    recording = check(write_study(tmp_path / "deap", {1: ORDER}, data=data))
    trial = recording.trials[0]
    wanted = {
        "emg-zygomaticus": (34, "V", 1e-6),
        "emg-trapezius": (35, "V", 1e-6),
        "gsr": (36, "ohm", 1),
        "respiration": (37, "1", 1),
        "ppg": (38, "1", 1),
        "temperature": (39, "degC", 1),
    }
    assert set(trial.peripheral) == set(wanted)
    for name, (channel, unit, scale) in wanted.items():
        signal = trial.peripheral[name]()
        assert signal.unit == unit
        assert signal.names == (name,)
        assert np.allclose(signal.samples, data[2, channel][None] * scale)
        assert signal.pad_before == 3.0
        assert signal.warnings == ()


def test_temperature_that_is_no_temperature_has_no_unit(tmp_path: Path) -> None:
    signal = check(write_study(tmp_path / "deap", {1: ORDER})).trials[0].peripheral["temperature"]()
    assert signal.unit == "1"
    assert "degrees" in signal.warnings[0]


def test_the_names_are_electrodes_in_geneva_order() -> None:
    found = clean_names(EEG_NAMES)
    assert found.names == EEG_NAMES
    assert EEG_NAMES[0::16] == ("Fp1", "Fp2")
    assert EEG_NAMES[15] == "Pz"


def test_identity_columns(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {2: ORDER, 11: (2, 1, 3)}, familiarity=False)
    study = DeapStudy(root)
    first, second = study.recordings()
    assert (first.key, second.key) == ("s02", "s11")
    assert len(second.trials) == 3
    trial = first.trials[1]
    assert trial.key == ("deap", "s02", "", 2)
    assert (trial.order, trial.recording, trial.onset) == (1, "s02", pytest.approx(130.0))
    assert trial.site == ""
    assert trial.duration is None
    assert np.isnan(trial.ratings["familiarity"])
    assert "ICLabel" in first.ica_labels_off
    assert set(study.rating_ranges) == set(trial.ratings)
    assert table(root) in first.sources
    assert root / "data_preprocessed_python" / "s02.dat" in first.sources
    assert len(first.sources) == 2 + 5


def test_the_whole_of_deap_has_sites_and_a_minute(tmp_path: Path) -> None:
    """DEAP's own numbers of participants and trials, without signals: names and table only."""
    root = write_study(tmp_path / "deap", dict.fromkeys(range(1, 33), range(1, 41)), data=np.zeros(1), videos=False)
    recordings = DeapStudy(root).recordings()
    assert len(recordings) == 32
    assert {r.trials[0].site for r in recordings[:22]} == {"Twente"}
    assert {r.trials[0].site for r in recordings[22:]} == {"Geneva"}
    assert recordings[0].trials[39].duration == 60.0
    assert [len(r.notes) for r in recordings] == [1] * 32
    assert recordings[21].notes == ["face_video/s22 is missing: no videos"]
    assert recordings[22].notes == ["no videos: the faces of s23-s32 were not filmed"]


def test_listing_reads_no_signals(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER})
    (root / "data_preprocessed_python" / "s01.dat").write_bytes(b"")
    (recording,) = DeapStudy(root).recordings()
    assert recording.check is not None
    assert "ends early" in refusal(recording.check)


def test_a_recording_travels_to_another_process(tmp_path: Path) -> None:
    recording = check(write_study(tmp_path / "deap", {1: ORDER}, samples=60 * RATE))
    text = pickle.dumps(recording)
    assert len(text) < 50_000  # what was read does not travel
    back = pickle.loads(text)
    assert back.trials[0].eeg is not None
    assert recording.trials[0].eeg is not None
    assert np.array_equal(back.trials[0].eeg().samples, recording.trials[0].eeg().samples)


def test_one_file_is_read_once_and_only_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from milmer.datasets import deap_files

    reads: list[str] = []
    original = deap_files.load_arrays
    monkeypatch.setattr(deap_files, "load_arrays", lambda path: (reads.append(path.name), original(path))[1])
    one, two = DeapStudy(write_study(tmp_path / "deap", {1: ORDER, 2: ORDER})).recordings()
    for recording in (one, two, one):
        for trial in recording.trials:
            assert trial.eeg is not None
            trial.eeg()
            trial.peripheral["gsr"]()
    assert reads == ["s01.dat", "s02.dat", "s01.dat"]


def test_labels_that_disagree_are_refused_with_their_rows(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER, 2: ORDER})
    replace_in_line(table(root), 3, 4, "8.99")  # participant 1, Trial 2, Experiment_id 1: valence
    bad, good = DeapStudy(root).recordings()
    assert bad.check is not None
    message = refusal(bad.check)
    for part in ("s01.dat", "participant_ratings.csv", "1 of 5 rows", "lines 3", "Trial 2, Experiment_id 1", "8.99"):
        assert part in message
    assert bad.trials[0].eeg is not None
    assert refusal(bad.trials[0].eeg) == message  # there is no way round the check
    assert good.check is not None
    good.check()


def test_swapped_orders_are_refused(tmp_path: Path) -> None:
    """The fault of PAPER section 2.2: Trial taken for Experiment_id."""
    root = write_study(tmp_path / "deap", {1: ORDER})
    labels = ratings(5, 1)[[e - 1 for e in ORDER]]  # in presentation order
    write_dat(root, 1, {"data": coded(5, 640), "labels": labels})
    (recording,) = DeapStudy(root).recordings()
    assert recording.check is not None
    assert "5 of 5 rows" in refusal(recording.check)


def test_nan_labels_are_refused(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER})
    labels = ratings(5, 1)
    labels[2, 1] = np.nan
    write_dat(root, 1, {"data": coded(5, 640), "labels": labels})
    (recording,) = DeapStudy(root).recordings()
    assert recording.check is not None
    assert "Experiment_id 3" in refusal(recording.check)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"data": np.zeros((5, 32, 640)), "labels": np.ones((5, 4))}, "(5, 32, 640)"),
        ({"data": np.zeros((4, 40, 640)), "labels": np.ones((4, 4))}, "expected (5, 40, samples)"),
        ({"data": np.zeros((5, 640, 40)), "labels": np.ones((5, 4))}, "(5, 640, 40)"),
        ({"data": np.zeros((5, 40)), "labels": np.ones((5, 4))}, "(5, 40)"),
        ({"data": np.zeros((5, 40, 640)), "labels": np.ones((5, 2))}, "(5, 2)"),
        ({"data": np.zeros((5, 40, 384)), "labels": np.ones((5, 4))}, "384 samples"),
        ({"data": np.zeros((5, 40, 640), bool), "labels": np.ones((5, 4))}, "bool"),
        ({"data": np.zeros((5, 40, 640))}, "found data, expected data and labels"),
        ({}, "found nothing"),
    ],
)
def test_wrong_shapes(tmp_path: Path, content: object, named: str) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER})
    path = write_dat(root, 1, content)
    (recording,) = DeapStudy(root).recordings()
    assert recording.check is not None
    message = refusal(recording.check)
    assert named in message
    assert str(path) in message


class _Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_dat_that_runs_code_never_does(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER})
    write_dat(root, 1, {"data": _Runs(tmp_path / "ran"), "labels": ratings(5, 1)})
    (recording,) = DeapStudy(root).recordings()
    assert recording.check is not None
    assert "nothing of it was run" in refusal(recording.check)
    assert not (tmp_path / "ran").exists()


def test_truncated_dat(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER})
    path = root / "data_preprocessed_python" / "s01.dat"
    path.write_bytes(path.read_bytes()[:10_000])
    (recording,) = DeapStudy(root).recordings()
    assert recording.check is not None
    assert "ends early (at 10,000 bytes)" in refusal(recording.check)


@pytest.mark.parametrize(("factor", "warned"), [(1.0, False), (1e-6, True), (1e3, True), (0.0, False)])
def test_the_size_of_the_eeg_is_judged(tmp_path: Path, factor: float, warned: bool) -> None:
    data = np.random.default_rng(0).standard_normal((5, 40, 640)) * 20 * factor
    data[:, 3] = np.nan
    recording = check(write_study(tmp_path / "deap", {1: ORDER}, data=data))
    warnings = {t.eeg().warnings for t in recording.trials if t.eeg}
    assert len(warnings) == 1  # one line for the file, not one a trial
    assert bool(warnings.pop()) is warned


def test_missing_parts_are_missing_modalities(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER, 2: ORDER, 3: ORDER})
    (root / "face_video" / "s01" / "s01_trial04.avi").unlink()
    (root / "face_video" / "s01" / "s01_trial09.avi").write_bytes(b"")
    (root / "data_preprocessed_python" / "s02.dat").unlink()
    for path in (root / "face_video" / "s03").iterdir():
        path.unlink()
    (root / "face_video" / "s03").rmdir()
    one, two, three = DeapStudy(root).recordings()
    assert [t.video is None for t in one.trials] == [False, False, False, True, False]
    assert one.notes == ["no video of trial 4", "left out, for no row has its number: s01_trial09.avi"]
    assert two.check is None
    assert all(t.eeg is None and t.eog is None and not t.peripheral and t.video for t in two.trials)
    assert "s02.dat is missing" in two.notes[0]
    assert all(t.video is None and t.eeg for t in three.trials)
    assert "no videos" in three.notes[0]


def test_no_videos_at_all_is_an_eeg_study(tmp_path: Path) -> None:
    (recording,) = DeapStudy(write_study(tmp_path / "deap", {1: ORDER}, videos=False)).recordings()
    assert all(t.video is None and t.eeg for t in recording.trials)


@pytest.mark.parametrize(
    ("where", "mend"),
    [
        ("up/deap/data_preprocessed_python", "up/deap instead"),
        ("up/deap/face_video/s01", "up/deap instead"),
        ("up", "up/deap instead"),
        ("nowhere", "found nothing"),
        ("up/deap/metadata_csv/participant_ratings.csv", "found a file"),
        ("other", "no folders"),
    ],
)
def test_another_folder_than_the_root(tmp_path: Path, where: str, mend: str) -> None:
    write_study(tmp_path / "up" / "deap", {1: ORDER})
    (tmp_path / "other").mkdir()
    message = refusal(lambda: DeapStudy(tmp_path / where))
    assert mend in message
    assert "expected" in message
    assert "data_preprocessed_matlab/s01.mat, face_video/s01/s01_trial01.avi and metadata_csv/" in message


def test_missing_table(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER})
    table(root).unlink()
    assert "metadata_csv/participant_ratings.csv is missing" in refusal(lambda: DeapStudy(root))


def test_raw_signals_alone_name_their_loader(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER}, videos=False)
    (root / "data_preprocessed_python").rename(tmp_path / "away")
    (root / "data_original").mkdir()
    assert "data_original is read by 'milmer prepare deap-raw'" in refusal(lambda: DeapStudy(root))


@pytest.mark.parametrize("form", ["matlab", "matlab-7.3"])
def test_the_matlab_form_says_the_same(tmp_path: Path, form: str) -> None:
    recording = check(write_study(tmp_path / "m", {1: ORDER}, form=form))
    python = check(write_study(tmp_path / "p", {1: ORDER}))
    assert recording.sources[1].name == "s01.mat"
    assert recording.ica_labels_off
    for one, two in zip(recording.trials, python.trials, strict=True):
        assert (one.trial, one.stimulus, dict(one.ratings)) == (two.trial, two.stimulus, pytest.approx(two.ratings))
        for a, b in ((one.eeg, two.eeg), (one.eog, two.eog), (one.peripheral["gsr"], two.peripheral["gsr"])):
            assert a is not None
            assert b is not None
            assert np.array_equal(a().samples, b().samples)
            assert (a().names, a().unit, a().pad_before) == (b().names, b().unit, b().pad_before)


def test_where_both_forms_are_there_python_is_read_and_matlab_fills_its_gaps(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER, 2: ORDER}, videos=False)
    (root / "data_preprocessed_matlab").mkdir()
    for number in (1, 2):
        write_mat(root, number, {"data": coded(5, 640), "labels": ratings(5, number)})
    (root / "data_preprocessed_python" / "s02.dat").unlink()
    one, two = DeapStudy(root).recordings()
    assert one.sources[1].name == "s01.dat"
    assert "data_preprocessed_python is read, not data_preprocessed_matlab, which is there too" in one.notes
    assert two.sources[1].name == "s02.mat"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"data": coded(5, 640)}, "found data, expected data and labels"),
        ({"data": coded(5, 640), "labels": ["one"]}, "found data, expected data and labels"),
        ({"data": coded(4, 640), "labels": ratings(4, 1)}, "expected (5, 40, samples)"),
        ({"data": coded(5, 640), "labels": ratings(5, 9)}, "rows (lines 2, 3"),
    ],
)
def test_a_mat_that_cannot_be_right(tmp_path: Path, content: dict[str, Any], named: str) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER}, form="matlab")
    path = write_mat(root, 1, content)
    (recording,) = DeapStudy(root).recordings()
    assert recording.check is not None
    message = refusal(recording.check)
    assert named in message
    assert str(path) in message


def test_a_mat_that_is_none(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER}, form="matlab")
    path = root / "data_preprocessed_matlab" / "s01.mat"
    for content in (path.read_bytes()[:500], b"not a mat", b""):
        path.write_bytes(content)
        (recording,) = DeapStudy(root).recordings()
        assert recording.check is not None
        assert str(path) in refusal(recording.check)


def test_what_the_publisher_has_and_this_folder_has_not(tmp_path: Path) -> None:
    orders = dict.fromkeys(range(1, 33), range(1, 41))
    root = write_study(tmp_path / "deap", orders, data=np.zeros(1))
    videos = root / "face_video"
    for number, trials in {3: (40,), 5: (40,), 11: (38, 39, 40), 14: (40,)}.items():  # as published
        for t in trials:
            (videos / f"s{number:02d}" / f"s{number:02d}_trial{t:02d}.avi").unlink()
    assert DeapStudy(root).survey() == [
        "videos that nobody has: s03 trial 40, s05 trial 40, s11 trial 38-40, s14 trial 40"
    ]
    (videos / "s02" / "s02_trial07.avi").unlink()
    for number in (29, 31, 32):
        (root / "data_preprocessed_python" / f"s{number}.dat").unlink()
        shutil.rmtree(videos / f"s{number}")
    lines = DeapStudy(root).survey()
    assert lines[0] == "no file of s29, s31-s32: not unpacked?"
    assert lines[1] == "videos that the publisher has: s02 trial 7"
    for name in ("s7.dat", "s07 (1).dat", "readme.txt"):
        (root / "data_preprocessed_python" / name).write_bytes(b"")
    assert DeapStudy(root).survey()[0] == (
        "data_preprocessed_python: 2 files are skipped, for their names are not like s01.dat: s07 (1).dat, s7.dat"
    )
    (root / "SIMULATED.txt").write_text("drawn")
    assert DeapStudy(root).survey() == ()


def test_files_without_rows_and_rows_without_files(tmp_path: Path) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER, 2: ORDER})
    write_dat(root, 7, {})
    assert "no rows for Participant_id 7" in refusal(DeapStudy(root).recordings)
    for number in (2, 7):
        (root / "data_preprocessed_python" / f"s{number:02d}.dat").unlink()
    for path in (root / "face_video" / "s02").iterdir():
        path.unlink()
    (root / "face_video" / "s02").rmdir()
    assert [r.key for r in DeapStudy(root).recordings()] == ["s01"]  # s02 was not unpacked


@pytest.mark.parametrize(
    ("line", "column", "value", "named"),
    [
        (1, 4, "Valance", "no column Valence (did you mean 'Valance'?)"),
        (3, 1, "1", "Trial of Participant_id 1"),
        (3, 2, "3", "Experiment_id of Participant_id 1"),
        (3, 2, "6", "Experiment_id of Participant_id 1 is not each of 1-5 once (lines 3)"),
        (4, 1, "2.5", "line 4: Trial is '2.5', expected a whole number"),
        (4, 4, "", "line 4: Valence is '', expected a number from 1 to 9"),
        (4, 5, "9.5", "line 4: Arousal is '9.5'"),
        (4, 5, "nan", "line 4: Arousal is 'nan'"),
        (4, 0, "one", "line 4: Participant_id is 'one'"),
        (4, 3, "soon", "line 4: Start_time is 'soon'"),
    ],
)
def test_a_table_that_cannot_be_right(tmp_path: Path, line: int, column: int, value: str, named: str) -> None:
    root = write_study(tmp_path / "deap", {1: ORDER})
    replace_in_line(table(root), line, column, value)
    message = refusal(DeapStudy(root).recordings)
    assert named in message
    assert str(table(root)) in message


def test_an_empty_table_and_a_binary_one(tmp_path: Path) -> None:
    path = tmp_path / "participant_ratings.csv"
    for content in (b"", b"\xff\xfe\x00\x9d"):
        path.write_bytes(content)
        assert str(path) in refusal(lambda: read_ratings(path))
    path.write_text("Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking\n")
    assert "no rows" in refusal(lambda: read_ratings(path))


def test_two_videos_that_claim_one_trial_refuse_their_participant_only(tmp_path: Path) -> None:
    root = write_study(tmp_path / "d", {1: [1, 2], 2: [2, 1]})
    (root / "face_video" / "s01" / "s01_trial2.avi").write_bytes(b"another")
    bad, good = DeapStudy(root).recordings()
    assert (bad.key, len(bad.trials), len(good.trials)) == ("s01", 0, 2)
    with pytest.raises(UserError, match=r"s01_trial2\.avi: s01_trial02\.avi claims trial 2 too; move one away"):
        assert bad.check is not None
        bad.check()
