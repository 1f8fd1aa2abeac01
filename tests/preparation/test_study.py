from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milmer.config import Preparation, load_config
from milmer.datasets.deap import DeapStudy
from milmer.datasets.simulated import SimulationOptions, simulate_study
from milmer.errors import UserError
from milmer.preparation import prepare_study
from milmer.preparation.recording import _write_eeg
from milmer.store import Store

MILMER = Path(sys.executable).with_name("milmer")
SETTINGS = Preparation()


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simulated") / "study"
    options = SimulationOptions(subjects=2, trials=4, seconds=15, size=(320, 256), fps=20, seed=3)
    simulate_study(root, options, jobs=1)
    return root


@pytest.fixture(scope="session")
def store(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "store"
    prepared = prepare_study(DeapStudy(study), out, SETTINGS)
    assert prepared.done == 2 and not prepared.failed
    return out


def _copy(study: Path, tmp_path: Path) -> Path:
    root = tmp_path / "study"
    shutil.copytree(study, root, ignore=shutil.ignore_patterns("truth"))
    return root


def _files(store: Path) -> dict[str, bytes]:
    names = ("eeg.npy", "faces.bin", "trials.parquet", "faces.parquet")
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.name in names}


def test_labels_eeg_and_faces_of_a_trial_belong_together(study: Path, store: Path) -> None:
    """Video in presentation order, EEG and labels in Experiment_id order: each row must hold one and the same trial."""
    opened = Store(store)
    assert len(opened.trials) == 8 and opened.trials["has_eeg"].all() and opened.trials["has_face"].all()
    ratings = pd.read_csv(study / "metadata_csv/participant_ratings.csv")
    for row in opened.trials.itertuples():
        own = ratings[(ratings["Participant_id"] == int(row.subject[1:])) & (ratings["Trial"] == row.trial)].iloc[0]
        assert row.rating_valence == pytest.approx(own["Valence"], abs=0.01)
        with (study / f"data_preprocessed_python/{row.subject}.dat").open("rb") as stream:
            data = pickle.load(stream, encoding="latin1")["data"][int(own["Experiment_id"]) - 1]  # our own file
        mine = opened.eeg(row.Index)
        theirs = data[:32, 384:] * 1e-6
        theirs = theirs - theirs.mean(0)
        assert mine.shape == theirs.shape == (32, 12 * 128)
        correlation = np.corrcoef(mine.ravel(), theirs.ravel())[0, 1]
        assert correlation > 0.97, (row.subject, row.trial)
    assert (opened.trials["faces_found"] >= 0.95 * opened.trials["face_rows"]).all()
    assert (opened.trials["face_rows"] == 40).all()


def test_blinks_are_called_so_and_can_be_taken_out(study: Path, store: Path) -> None:
    opened = Store(store)
    assert all("eye blink" in opened.recording(k).components for k in opened.keys)
    assert "ICLabel off" in opened.recording("s01").reason
    with (study / "data_preprocessed_python/s01.dat").open("rb") as stream:
        data = pickle.load(stream, encoding="latin1")["data"]  # our own file
    ratings = pd.read_csv(study / "metadata_csv/participant_ratings.csv")
    rows = opened.trials[opened.trials["subject"] == "s01"]
    front = opened.recording("s01").names.index("Fp1")
    raw, cleaned, eog = [], [], []
    for row in rows.itertuples():
        own = ratings[(ratings["Participant_id"] == 1) & (ratings["Trial"] == row.trial)].iloc[0]
        eog.append(data[int(own["Experiment_id"]) - 1, 33, 384:])
        raw.append(opened.eeg(row.Index)[front])
        cleaned.append(opened.eeg(row.Index, reject=("eye blink",))[front])
    vertical = np.concatenate(eog)
    before = abs(np.corrcoef(np.concatenate(raw), vertical)[0, 1])
    after = abs(np.corrcoef(np.concatenate(cleaned), vertical)[0, 1])
    assert before > 0.2 and after < 0.5 * before, (before, after)


def test_jobs_change_nothing(study: Path, store: Path, tmp_path: Path) -> None:
    prepare_study(DeapStudy(study), tmp_path / "store", SETTINGS, jobs=2)
    assert _files(tmp_path / "store") == _files(store)


def test_a_second_call_keeps_what_is_there(study: Path, store: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (store / "recordings").rglob("*")}
    again = prepare_study(DeapStudy(study), store, SETTINGS)
    assert (again.done, again.kept) == (0, 2)
    assert {p: p.stat().st_mtime_ns for p in (store / "recordings").rglob("*")} == before


def test_simulating_again_makes_no_recording_stale(study: Path, store: Path) -> None:
    options = SimulationOptions(subjects=2, trials=4, seconds=15, size=(320, 256), fps=20, seed=3)
    simulate_study(study, options, jobs=1)
    again = prepare_study(DeapStudy(study), store, SETTINGS)
    assert (again.done, again.kept) == (0, 2)


def test_a_store_of_other_parameters_is_refused_with_both_values(study: Path, store: Path) -> None:
    other = load_config(overrides=["preparation.eeg.band=[4,45]"]).preparation
    with pytest.raises(UserError, match=r"eeg\.band \[1\.0, 50\.0\], asked for \[4\.0, 45\.0\]"):
        prepare_study(DeapStudy(study), store, other)


def test_a_store_of_a_version_that_knew_less_is_refused_by_its_reason(study: Path, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "old"
    shutil.copytree(store, out)
    info = json.loads((out / "study.json").read_text())
    del info["parameters"]["body"], info["parameters"]["face"]["skin"]
    (out / "study.json").write_text(json.dumps(info | {"parameters_hash": "of then"}))
    told = r"earlier version of milmer, which had no preparation\.body, preparation\.face\.skin; .* give another --out"
    with pytest.raises(UserError, match=told):
        prepare_study(DeapStudy(study), out, SETTINGS)


def test_a_store_that_nothing_came_into_takes_other_parameters(study: Path, tmp_path: Path) -> None:
    refused = load_config(overrides=["preparation.eeg.ica_labels=iclabel"]).preparation
    assert set(prepare_study(DeapStudy(study), tmp_path / "store", refused).failed) == {"s01", "s02"}
    assert prepare_study(DeapStudy(study), tmp_path / "store", SETTINGS).done == 2
    with pytest.raises(UserError, match="was made with"):
        prepare_study(DeapStudy(study), tmp_path / "store", refused)


def test_a_folder_that_is_no_store_is_left_alone(study: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("dear diary")
    with pytest.raises(UserError, match="files that are no store"):
        prepare_study(DeapStudy(study), tmp_path, SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def _truncate(root: Path) -> None:
    file = root / "data_preprocessed_python/s02.dat"
    file.write_bytes(file.read_bytes()[:5000])


def _run_code(root: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {root / 'harm'}",)

    (root / "data_preprocessed_python/s02.dat").write_bytes(pickle.dumps({"data": Harm(), "labels": 0}, 2))


def _reshape(root: Path) -> None:
    content = {"data": np.zeros((4, 39, 1920)), "labels": np.zeros((4, 4))}
    (root / "data_preprocessed_python/s02.dat").write_bytes(pickle.dumps(content, 2))


def _relabel(root: Path) -> None:
    file = root / "metadata_csv/participant_ratings.csv"
    table = pd.read_csv(file)
    table.loc[(table["Participant_id"] == 2) & (table["Trial"] == 3), "Valence"] += 1
    table.to_csv(file, index=False)


def _empty_video(root: Path) -> None:
    (root / "face_video/s02/s02_trial02.avi").write_bytes(b"")


def _corrupt_video(root: Path) -> None:
    (root / "face_video/s02/s02_trial02.avi").write_bytes(b"RIFF" + bytes(3000))


@pytest.mark.parametrize(
    ("harm", "file"),
    [
        (_truncate, "s02.dat"),
        (_run_code, "s02.dat"),
        (_reshape, "s02.dat"),
        (_relabel, "s02"),
        (_empty_video, "s02_trial02.avi"),
        (_corrupt_video, "s02_trial02.avi"),
    ],
)
def test_a_bad_subject_is_refused_in_a_line_and_the_others_kept(
    harm: object, file: str, study: Path, tmp_path: Path
) -> None:
    root = _copy(study, tmp_path)
    assert callable(harm)
    harm(root)
    out = tmp_path / "store"
    found = subprocess.run(
        [MILMER, "prepare", "deap", root, "--out", out, "--ica", "none"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    (line,) = [x for x in found.stderr.splitlines() if x.startswith("milmer:")]
    assert file in line and "Traceback" not in found.stderr
    assert not (root / "harm").exists()  # nothing in a pickle ever runs
    opened = Store(out)
    assert opened.keys == ["s01"] and opened.trials["has_face"].all()
    assert list(opened.info["failed"]) == ["s02"] and not opened.info["complete"]
    assert all(not fault for _, fault in opened.verify())
    shutil.rmtree(root)  # mended
    shutil.copytree(study, root)
    for name in ("data_preprocessed_python/s01.dat", "metadata_csv/participant_ratings.csv"):
        shutil.copy2(study / name, root / name)
    again = prepare_study(DeapStudy(root), out, load_config(overrides=["preparation.eeg.ica=none"]).preparation)
    assert not again.failed and Store(out).keys == ["s01", "s02"] and Store(out).info["complete"]


def test_missing_parts_are_masked_and_said(study: Path, tmp_path: Path) -> None:
    root = _copy(study, tmp_path)
    (root / "face_video/s01/s01_trial02.avi").unlink()
    shutil.rmtree(root / "face_video/s02")
    plain = load_config(overrides=["preparation.eeg.ica=none"]).preparation
    prepared = prepare_study(DeapStudy(root), tmp_path / "store", plain)
    trials = Store(tmp_path / "store").trials
    assert not prepared.failed
    assert trials[~trials["has_face"]][["subject", "trial"]].to_numpy().tolist() == [["s01", 2]] + [
        ["s02", t] for t in (1, 2, 3, 4)
    ]
    assert trials["has_eeg"].all()


def test_flat_and_missing_samples_are_repaired_and_reported(study: Path, tmp_path: Path) -> None:
    root = _copy(study, tmp_path)
    file = root / "data_preprocessed_python/s01.dat"
    with file.open("rb") as stream:
        content = pickle.load(stream, encoding="latin1")  # our own file
    content["data"][:, 8] = 0.0  # CP5 is flat
    content["data"][2, 4, 800:820] = np.nan  # a gap of 0.16 s at FC5
    file.write_bytes(pickle.dumps(content, 2))
    plain = load_config(overrides=["preparation.eeg.ica=none"]).preparation
    prepared = prepare_study(DeapStudy(root), tmp_path / "store", plain)
    opened = Store(tmp_path / "store")
    assert opened.recording("s01").bad == ("CP5",)
    assert any("FC5" in n for n in prepared.notes["s01"])
    for row in range(4):
        assert np.isfinite(opened.eeg(row)).all() and opened.eeg(row)[8].std() > 1e-6


def test_kill_9_loses_at_most_the_recording_in_hand(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    command = [MILMER, "prepare", "deap", study, "--out", out, "--ica", "none"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = out / "recordings/s01/recording.json"
    while not first.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = first.stat().st_mtime_ns
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert first.stat().st_mtime_ns == written
    assert "(1 were there)" in found.stdout or "(2 were there)" in found.stdout
    assert sorted(p.name for p in (out / "recordings").iterdir()) == ["s01", "s02"]
    assert json.loads((out / "study.json").read_text())["complete"]


def test_eeg_is_written_as_a_stream_so_that_a_full_disk_is_an_error_not_a_death(tmp_path: Path) -> None:
    """Through a memory map the process dies of SIGBUS; as a stream the write fails and says why."""
    trials = [np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((3, 2), dtype=np.float32)]
    _write_eeg(tmp_path / "eeg.npy", trials, ["a", "b", "c"])
    assert np.array_equal(np.load(tmp_path / "eeg.npy", mmap_mode="r"), np.hstack(trials))
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="space"):
            _write_eeg(Path("/dev/full"), trials, ["a", "b", "c"])


def _die(*_: object) -> None:
    os._exit(9)


def test_a_worker_that_is_killed_ends_in_a_line(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milmer.preparation.study._in_worker", _die)
    with pytest.raises(UserError, match="a process was killed, perhaps for want of memory; run again with --jobs 1"):
        prepare_study(DeapStudy(study), tmp_path / "store", SETTINGS, jobs=2)
