"""A user's own table: spans, names, units and every mistake that a table can hold."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest

from milmer.datasets.base import Signal, Trial
from milmer.datasets.table import TableStudy
from milmer.errors import UserError

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / ".samples"
EEGMAT = ROOT.parent / "shared" / "data" / "eegmat"
RATE = 100.0
HEADER = "subject,trial,stimulus,eeg_path,eeg_start_s,eeg_stop_s,video_path,video_start_s,valence,arousal"
NAMES = ("EEG Fp1-REF", "EEG T3", "EEG A2-A1", "HEOG", "EEG Cz", "ECG ECG")


def coded(names: int, samples: int) -> np.ndarray:
    """Values (C, S) of EEG's size: (channel + 1) * 10 uV + the sample's number in nanovolts."""
    return (np.arange(1, names + 1)[:, None] * 1e-5) + np.arange(samples)[None] * 1e-9  # (C, S)


def write_fif(path: Path, names: tuple[str, ...] = NAMES, seconds: float = 20, scale: float = 1.0, **info: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = mne.create_info(list(names), info.pop("rate", RATE), info.pop("kinds", "eeg"))
    made["bads"] = info.pop("bads", [])
    data = info.pop("data", None)
    if data is None:
        data = coded(len(names), int(seconds * made["sfreq"])) * scale
    mne.io.RawArray(data, made, verbose="error").save(path, fmt="double", overwrite=True, verbose="error")
    return path


def write_table(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        for recording in TableStudy(path).recordings():
            if recording.check is not None:
                recording.check()
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def read(trial: Trial) -> Signal:
    assert trial.eeg is not None
    return trial.eeg()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_fif(tmp_path / "eeg" / "a_eeg.fif")
    (tmp_path / "v.mp4").write_bytes(b"not read here")
    return tmp_path


def test_a_span_is_cut_with_what_lies_beside_it(folder: Path) -> None:
    table = write_table(
        folder / "mine.csv",
        "p1,1,film a,eeg/a_eeg.fif,0,4,v.mp4,1.5,3,7.5",
        "p1,2,film b,eeg/a_eeg.fif,5.5,10,,,,2",
        "p1,3,film c,eeg/a_eeg.fif,15,,v.mp4,,4,4",
    )
    study = TableStudy(table)
    (recording,) = study.recordings()
    assert study.name == "mine"
    assert study.rating_ranges == {"valence": (1.0, 9.0), "arousal": (1.0, 9.0)}
    whole = coded(len(NAMES), 2000)[[0, 1, 4]]  # (3, S): Fp1, T3, Cz
    for trial, (begin, first, last, end) in zip(
        recording.trials, [(0, 0, 400, 700), (250, 550, 1000, 1300), (1200, 1500, 2000, 2000)], strict=True
    ):
        signal = read(trial)
        assert signal.names == ("Fp1", "T7", "Cz")
        assert np.allclose(signal.samples, whole[:, begin:end], rtol=0, atol=1e-15)
        assert signal.pad_before == pytest.approx((first - begin) / RATE)
        assert signal.pad_after == pytest.approx((end - last) / RATE)
        assert trial.duration == pytest.approx((last - first) / RATE)
        assert trial.onset == pytest.approx(first / RATE)
        assert (signal.rate, signal.unit) == (RATE, "V")
    one, two, three = recording.trials
    assert (one.video, one.video_start) == (folder / "v.mp4", 1.5)
    assert two.video is None
    assert three.video_start == 0.0
    assert np.isnan(two.ratings["valence"])
    assert two.ratings["arousal"] == 2.0
    assert [t.order for t in recording.trials] == [0, 1, 2]
    assert {t.recording for t in recording.trials} == {"a_eeg.fif"}
    assert recording.sources == [table, folder / "eeg" / "a_eeg.fif", folder / "v.mp4"]


def test_other_channels_are_reported_and_used(folder: Path) -> None:
    (recording,) = TableStudy(
        write_table(folder / "t.csv", "p1,1,a,eeg/a_eeg.fif,2,4,,,1,1", "p1,2,a,eeg/a_eeg.fif,4,6,,,1,1")
    ).recordings()
    trial = recording.trials[0]
    whole = coded(len(NAMES), 2000)
    (line,) = read(trial).warnings
    assert "'EEG A2-A1' between two references" in line
    assert "'HEOG' eye (EOG)" in line
    assert "'ECG ECG' heart (ECG)" in line
    assert trial.eog is not None
    assert trial.eog().names == ("HEOG",)
    assert np.allclose(trial.eog().samples, whole[[3], :700], rtol=0, atol=1e-15)
    assert trial.eog().samples.shape[1] == read(trial).samples.shape[1]
    assert np.allclose(trial.peripheral["ecg"]().samples, whole[[5], :700], rtol=0, atol=1e-15)


def test_kinds_of_the_format_count_too(tmp_path: Path) -> None:
    names = ("Cz", "Pz", "EXG1", "left", "C3", "C4")
    write_fif(tmp_path / "a_eeg.fif", names, kinds=["eeg", "eeg", "eog", "ecg", "misc", "eeg"], bads=["Pz"])
    (recording,) = TableStudy(write_table(tmp_path / "t.csv", "p,1,a,a_eeg.fif,,,,,1,1")).recordings()
    trial = recording.trials[0]
    assert read(trial).names == ("Cz", "Pz", "C4")
    assert np.allclose(read(trial).samples[2, 0], 6e-5)  # C4 stays C4 where a channel before it is left out
    assert trial.eog is not None
    assert trial.eog().names == ("EXG1",)
    assert trial.peripheral["ecg"]().names == ("ecg",)
    first, second = read(trial).warnings
    assert "'C3' of kind misc" in first
    assert "marked as bad in the file: Pz" in second


def test_identity_columns_and_sessions(folder: Path) -> None:
    header = "site,subject,session,recording,block,order,trial,stimulus,eeg_path,eeg_stop_s,label,rating_calm,liking"
    table = write_table(
        folder / "t.csv",
        "lab,01,am,r1,b1,4,7,x,eeg/a_eeg.fif,3,happy,5,1",
        "lab,01,pm,,,,7,x,eeg/a_eeg.fif,3,none,,2",
        "lab,../01,,,,,1,x,eeg/a_eeg.fif,3,sad,1,3",
        "lab,A,,,,,1,x,eeg/a_eeg.fif,3,sad,1,3",
        "lab,a,,,,,1,x,eeg/a_eeg.fif,3,sad,1,3",
        header=header,
    )
    recordings = TableStudy(table, name="own").recordings()
    assert [r.key for r in recordings] == ["01_ses-am", "01_ses-pm", "-01", "A", "a-2"]
    trial = recordings[0].trials[0]
    assert trial.key == ("own", "01", "am", 7)
    assert (trial.site, trial.recording, trial.block, trial.order, trial.label) == ("lab", "r1", "b1", 4, "happy")
    assert trial.ratings == {"calm": 5.0, "liking": 1.0}
    assert recordings[1].trials[0].label == "none"  # a class may be called so
    assert np.isnan(recordings[1].trials[0].ratings["calm"])


def test_parquet_and_semicolons_say_the_same(folder: Path) -> None:
    rows = {
        "subject": [1, 2],
        "trial": [1, 1],
        "stimulus": ["a", "b"],
        "eeg_path": ["eeg/a_eeg.fif", None],
        "eeg_stop_s": [4, None],
        "video_path": [None, "v.mp4"],
        "valence": [2.5, None],
        "order": [3, None],
    }
    frame = pd.DataFrame(rows)
    frame.to_parquet(folder / "t.parquet")
    frame.to_csv(folder / "t.csv", sep=";", index=False)
    frame.to_csv(folder / "i.csv")  # with pandas' own row numbers, a column without a name
    for name in ("t.parquet", "t.csv", "i.csv"):
        study = TableStudy(folder / name)
        assert list(study.rating_ranges) == ["valence"]
        one, two = study.recordings()
        assert (one.key, two.key) == ("1", "2")
        assert (one.trials[0].duration, one.trials[0].order) == (4.0, 3)
        assert one.trials[0].ratings["valence"] == 2.5
        assert two.trials[0].eeg is None
        assert two.trials[0].video == folder / "v.mp4"
        assert np.isnan(two.trials[0].ratings["valence"])


def test_a_study_without_eeg(folder: Path) -> None:
    table = write_table(
        folder / "t.csv",
        "p,1,a,v.mp4,0,12,x",
        "p,2,a,v.mp4,12,,y",
        header="subject,trial,stimulus,video_path,video_start_s,duration_s,label",
    )
    (recording,) = TableStudy(table).recordings()
    assert [t.duration for t in recording.trials] == [12.0, None]
    assert all(t.eeg is None and t.onset is None and t.recording == "v.mp4" for t in recording.trials)


def test_files_that_differ_keep_the_electrodes_of_all(tmp_path: Path) -> None:
    write_fif(tmp_path / "a" / "x_eeg.fif", ("Fz", "Cz", "Pz", "EOG"))
    write_fif(tmp_path / "b" / "x_eeg.fif", ("Pz", "Oz", "Fz"))
    table = write_table(tmp_path / "t.csv", "p,1,s,a/x_eeg.fif,,,,,1,1", "p,2,s,b/x_eeg.fif,,,,,1,1")
    (recording,) = TableStudy(table).recordings()
    signals = [read(t) for t in recording.trials]
    assert [s.names for s in signals] == [("Fz", "Pz")] * 2
    assert signals[0].samples[:, 0] == pytest.approx([1e-5, 3e-5])
    assert signals[1].samples[:, 0] == pytest.approx([3e-5, 1e-5])
    assert recording.notes == ["EEG files differ: the 2 electrodes of all are kept, left out: Cz, Oz"]
    assert all(t.eog is None for t in recording.trials)
    assert len({t.recording for t in recording.trials}) == 2  # the same name in two folders is two recordings
    write_fif(tmp_path / "b" / "x_eeg.fif", ("Oz", "O1"))
    assert "share no electrode" in refusal(table)
    write_fif(tmp_path / "b" / "x_eeg.fif", ("Cz", "Pz"), rate=200.0)
    assert "differ in rate" in refusal(table)


@pytest.mark.parametrize(("scale", "said"), [(1.0, ""), (1e6, "microvolts declared as volts"), (1e-6, "scaled twice")])
def test_the_unit_is_judged_by_size(tmp_path: Path, scale: float, said: str) -> None:
    data = np.random.default_rng(0).standard_normal((2, 2000)) * 2e-5 * scale
    write_fif(tmp_path / "a_eeg.fif", ("Fz", "Cz"), data=data)
    table = write_table(tmp_path / "t.csv", "p,1,a,a_eeg.fif,0,9,,,1,1", "p,2,a,a_eeg.fif,10,20,,,1,1")
    (recording,) = TableStudy(table).recordings()
    found = {read(t).warnings for t in recording.trials}
    assert len(found) == 1  # both trials say the same line
    (warnings,) = found
    assert (said in warnings[0]) if said else warnings == ()


def test_a_recording_travels_to_another_process(folder: Path) -> None:
    (recording,) = TableStudy(write_table(folder / "t.csv", "p,1,a,eeg/a_eeg.fif,1,4,,,1,1")).recordings()
    before = read(recording.trials[0])
    text = pickle.dumps(recording)
    assert len(text) < 10_000
    assert np.array_equal(read(pickle.loads(text).trials[0]).samples, before.samples)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("p,1,a,eeg/b_eeg.fif,0,4,,,1,1", "line 3: eeg_path {folder}/eeg/b_eeg.fif is not there"),
        ("p,1,a,eeg/a_eeg.fif,0,4,w.mp4,,1,1", "line 3: video_path {folder}/w.mp4 is not there"),
        ("p,1,a,eeg/a_eeg.fif,0,4,eeg,,1,1", "line 3: video_path {folder}/eeg is a folder"),
        ("p,1,a,,,,,,1,1", "line 3: has neither eeg_path nor video_path"),
        ("p,1,a,eeg/a_eeg.fif,4,4,,,1,1", "line 3: eeg_stop_s 4 is not after eeg_start_s 4"),
        ("p,1,a,eeg/a_eeg.fif,,0,,,1,1", "line 3: eeg_stop_s 0 is not after eeg_start_s 0"),
        ("p,1,a,eeg/a_eeg.fif,20,,,,1,1", "line 3: eeg_start_s is 20, but {folder}/eeg/a_eeg.fif is 20 s long"),
        ("p,1,a,eeg/a_eeg.fif,0,20.5,,,1,1", "line 3: eeg_stop_s is 20.5, but"),
        ("p,1,a,eeg/a_eeg.fif,-1,4,,,1,1", "line 3: eeg_start_s is '-1', expected a number of at least 0"),
        ("p,1,a,eeg/a_eeg.fif,0,soon,,,1,1", "line 3: eeg_stop_s is 'soon', expected a number"),
        ("p,1,a,eeg/a_eeg.fif,0,4,,,high,1", "line 3: valence is 'high', expected a number or nothing; call"),
        ("p,1,a,eeg/a_eeg.fif,0,4,,,inf,1", "line 3: valence is 'inf'"),
        ("p,1.5,a,eeg/a_eeg.fif,0,4,,,1,1", "line 3: trial is '1.5', expected a whole number"),
        ("p,0,a,eeg/a_eeg.fif,0,4,,,1,1", "line 3: trial is '0', expected a number of at least 1"),
        ("p,,a,eeg/a_eeg.fif,0,4,,,1,1", "line 3: trial is empty"),
        ("p,nan,a,eeg/a_eeg.fif,0,4,,,1,1", "line 3: trial is 'nan'"),
        (",1,a,eeg/a_eeg.fif,0,4,,,1,1", "line 3: subject is empty"),
        ("q,1,b,eeg/a_eeg.fif,0,4,,,1,1", "line 3: subject q, trial 1 is in line 2 too"),
        ("p,1,a,eeg/a_eeg.fif,0,4,,,1,1,9", "not readable as a table"),
    ],
)
def test_a_row_that_cannot_be_right(folder: Path, row: str, named: str) -> None:
    table = write_table(folder / "t.csv", "q,1,a,eeg/a_eeg.fif,0,4,v.mp4,,1,1", row)
    assert named.format(folder=folder) in refusal(table)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("subjekt,trial,stimulus,eeg_path,valence", "has no column subject (did you mean 'subjekt'?)"),
        ("subject,Trial,stimulus,eeg_path,valence", "has no column trial (did you mean 'Trial'?)"),
        ("subject,trial,stimulus,eeg_file,valence", "has no column eeg_path or video_path (did you mean 'eeg_file'?)"),
        ("subject,trial,stimulus,eeg_path,valance", "unknown column valance (did you mean 'valence'?)"),
        ("subject,trial,stimulus,eeg_path,labels", "unknown column labels (did you mean 'label'?)"),
        ("subject,trial,stimulus,eeg_path,wait_s", "unknown column wait_s"),
        ("subject,trial,stimulus,eeg_path,eeg_path", "has column eeg_path twice"),
        ("subject,trial,stimulus,eeg_path,site", "found neither a rating (such as valence) nor a label"),
    ],
)
def test_a_header_that_cannot_be_right(folder: Path, header: str, named: str) -> None:
    assert named in refusal(write_table(folder / "t.csv", "p,1,a,eeg/a_eeg.fif,5", header=header))


def test_columns_of_text_and_columns_of_nothing(folder: Path) -> None:
    header = "subject,trial,stimulus,eeg_path,label,remark"
    assert "remark is 'tired', expected a number or nothing; call a column of classes label, remove others" in refusal(
        write_table(folder / "t.csv", "p,1,a,eeg/a_eeg.fif,x,tired", header=header)
    )
    study = TableStudy(write_table(folder / "t.csv", "p,1,a,eeg/a_eeg.fif,x,", header=header))
    assert study.rating_ranges == {}
    both = "subject,trial,stimulus,eeg_path,valence,rating_valence"
    assert "are the same" in refusal(write_table(folder / "t.csv", "p,1,a,eeg/a_eeg.fif,1,2", header=both))


def test_tables_that_are_none(tmp_path: Path) -> None:
    assert "no such table" in refusal(tmp_path / "t.csv")
    assert "found no rows" in refusal(write_table(tmp_path / "t.csv"))
    assert "found no rows" in refusal(write_table(tmp_path / "t.csv", "", ",,,,,,,,,"))
    for name, content in (("e.csv", b""), ("b.csv", b"\xff\xfe\x9d,\n"), ("p.parquet", b"PAR1 no")):
        (tmp_path / name).write_bytes(content)
        assert "expected CSV (UTF-8) or Parquet" in refusal(tmp_path / name)
    (tmp_path / "d.csv").mkdir()
    assert "not readable" in refusal(tmp_path / "d.csv")


def test_eeg_files_that_are_none(tmp_path: Path) -> None:
    row = "p,1,a,{},,,,,1,1"
    for name, content in (("a.edf", b""), ("b.edf", b"0" * 5000), ("c.xyz", b"?"), ("d_eeg.fif", b"\0" * 99)):
        (tmp_path / name).write_bytes(content)
        message = refusal(write_table(tmp_path / "t.csv", row.format(name)))
        assert f"line 2: {tmp_path / name} cannot be read by MNE" in message
    write_fif(tmp_path / "e_eeg.fif", ("E1", "E2", "A1"))
    message = refusal(write_table(tmp_path / "t.csv", row.format("e_eeg.fif")))
    assert "no electrode of the 10-05 system; found E1, E2, A1" in message


def test_a_file_that_breaks_after_listing(folder: Path) -> None:
    (recording,) = TableStudy(write_table(folder / "t.csv", "p,1,a,eeg/a_eeg.fif,1,4,,,1,1")).recordings()
    (folder / "eeg" / "a_eeg.fif").write_bytes(b"")
    with pytest.raises(UserError, match=r"a_eeg\.fif: cannot be read by MNE"):
        read(recording.trials[0])


def test_a_real_edf_of_64_channels(tmp_path: Path) -> None:
    path = SAMPLES / "S001R02.edf"
    (recording,) = TableStudy(write_table(tmp_path / "t.csv", f"p,1,eyes,{path},10,20,,,5,5")).recordings()
    signal = read(recording.trials[0])
    assert signal.samples.shape == (64, 16 * 160)
    assert signal.names[21] == "Fp1"
    assert signal.warnings == ()
    raw = mne.io.read_raw(path, preload=False, verbose="error")
    assert np.array_equal(signal.samples, raw.get_data(start=7 * 160, stop=23 * 160))


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("eegmat_table", ROOT / "examples" / "eegmat_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Not fetched by `make install`: a clone on its own has no folder of this name beside it.
@pytest.mark.skipif(not EEGMAT.is_dir(), reason="the eegmat recordings are not beside this checkout")
def test_eegmat_through_its_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = tmp_path / "data"
    some.mkdir()
    for name in ("Subject00_1.edf", "Subject00_2.edf"):
        (some / name).symlink_to((EEGMAT / name).resolve())
    out = tmp_path / "tables" / "eegmat.csv"
    monkeypatch.setattr(sys, "argv", ["eegmat_table.py", str(some), str(out)])
    _example().main()
    (recording,) = TableStudy(out).recordings()
    assert [t.label for t in recording.trials] == ["rest", "arithmetic"]
    for trial in recording.trials:
        signal = read(trial)
        assert trial.duration == 60.0
        assert len(signal.names) == 19
        assert {"T7", "T8", "P7", "P8", "Fp1", "Cz"} <= set(signal.names)
        assert signal.rate == 500.0
        (line,) = signal.warnings
        assert "'EEG A2-A1' between two references" in line
        assert "'ECG ECG' heart" in line
        assert set(trial.peripheral) == {"ecg"}
        assert signal.pad_after == 1.0
    assert [read(t).pad_before for t in recording.trials] == [3.0, 1.0]
    whole = _example().rows(some, out, whole=True)
    assert [(r["eeg_start_s"], r["label"]) for r in whole] == [("", "rest"), ("", "arithmetic")]


def test_stimuli_need_no_name(folder: Path) -> None:
    table = write_table(folder / "t.csv", "p,1,v.mp4,x", header="subject,trial,video_path,label")
    (recording,) = TableStudy(table).recordings()
    assert [t.stimulus for t in recording.trials] == [""]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (("p,1,eeg/a_eeg.fif,0,3,12",), "valence is 12, expected 1 to 9"),
        (("p,1,eeg/a_eeg.fif,0,3,0",), "valence is 0, expected 1 to 9"),
        (("p,1,eeg/a_eeg.fif,0,3,2", "p,2,eeg/a_eeg.fif,0,3,8"), "is the same stretch of .* as in line 2"),
    ],
)
def test_ratings_out_of_range_and_stretches_given_twice(folder: Path, rows: tuple[str, ...], says: str) -> None:
    table = write_table(folder / "t.csv", *rows, header="subject,trial,eeg_path,eeg_start_s,eeg_stop_s,valence")
    with pytest.raises(UserError, match=says) as caught:
        TableStudy(table)
    assert "line" in str(caught.value) and "\n" not in str(caught.value)


def test_a_scale_of_its_own(folder: Path) -> None:
    table = write_table(folder / "t.csv", "p,1,eeg/a_eeg.fif,72", header="subject,trial,eeg_path,valence")
    assert TableStudy(table, rating_range=(0.0, 100.0)).rating_ranges == {"valence": (0.0, 100.0)}
