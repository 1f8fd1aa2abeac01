from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.conftest import NAMES, RATE, make_store

from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.evaluation.evaluate import evaluate
from milmer.evaluation.guard import Budget, Guard, LeakError, cleaned, guard_ica
from milmer.evaluation.protocols import Split
from milmer.store import Store
from milmer.training.data import Bags
from milmer.training.operators import fold_operators, fold_settings, with_fold_operators
from milmer.training.reading import EEGReader, Stretch, read_operators
from milmer.training.stretches import cut, joined

QUICK = {
    "data.modalities": ["eeg"],
    "data.operators": "fold",
    "data.reject": ["eye blink"],
    "data.target": "arousal",
    "model.fusion.method": "bandpower-logistic",
    "evaluation.folds": 3,
    "evaluation.resamples": 100,
    "training.threads": 1,
}
BLINK = np.array([1.0, 0.9, 0.25, 0.25, 0.1, 0.1, 0.05, 0.05])  # (C,), from front to back


def config(**values: Any) -> Config:
    return load_config("demo", overrides=QUICK | {k.replace("__", "."): v for k, v in values.items()})


def blinking(path: Path, subjects: int = 3, trials: int = 6) -> Path:
    """A store whose EEG holds blinks of one topography, and no component that is labelled so."""
    make_store(path, subjects=subjects, trials=trials, seconds=12.0, face=False)
    for s in range(subjects):
        file = path / "recordings" / f"s{s + 1:02d}" / "eeg.npy"
        eeg = np.load(file)  # (C, S)
        rng = np.random.default_rng([9, s])
        wave = np.zeros(eeg.shape[1])
        for at in rng.integers(0, eeg.shape[1] - 64, eeg.shape[1] // 300):
            wave[at : at + 48] += 120e-6 * np.hanning(48)
        np.save(file, (eeg + BLINK[:, None] * wave).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blinking(tmp_path_factory.mktemp("blinking") / "store")


def split(table: pd.DataFrame) -> Split:
    """s03 is only tested; of the others trial 6 is, and 5 validates."""
    new, trial = (table["subject"] == "s03").to_numpy(), table["trial"].to_numpy()
    parts = (~new & (trial <= 4), ~new & (trial == 5), new | (trial == 6))
    return Split(0, *(np.flatnonzero(p) for p in parts))


def fitted(path: Path, **values: Any) -> tuple[Bags, Guard, Any]:
    asked = config(**values)
    bags = Bags(Store(path), asked.data)
    guard = Guard(split(bags.table), bags.table)
    return bags, guard, fold_operators(bags, guard, asked, 0)


def test_blinks_are_taken_out_and_of_new_people_by_what_was_learnt_on_others(store_path: Path) -> None:
    bags, guard, found = fitted(store_path)
    assert set(found.matrices) == {"s01", "s02", "s03"}
    for matrix in found.matrices.values():
        assert np.linalg.norm(matrix @ BLINK) < 0.3 * np.linalg.norm(BLINK)
        assert np.linalg.norm(matrix @ np.roll(BLINK, 4)) > 0.5 * np.linalg.norm(BLINK)
    assert not np.allclose(found.matrices["s01"], found.matrices["s02"])
    assert guard.log == [
        {"kind": "ica", "what": "operators of the fold", "rows": 32, "parts": {"train": 32}},
    ]
    assert "2 recordings" in found.notes[0] and found.notes[1].startswith("s03: no ICA of training trials of their own")
    read = bags.with_operators(found.matrices).reader.read(0)  # (C, S)
    np.testing.assert_allclose(read, found.matrices["s01"] @ bags.store.eeg(0), atol=1e-9)


def test_what_is_tested_changes_nothing(store_path: Path, tmp_path: Path) -> None:
    """Every test and validation trial is filled with what would ruin any fit that looked at it."""
    _, _, clean = fitted(store_path)
    shutil.copytree(store_path, tmp_path / "store")
    length = round(12 * RATE)
    for key in ("s01", "s02", "s03"):
        file = tmp_path / "store" / "recordings" / key / "eeg.npy"
        eeg = np.load(file)  # (C, S)
        first = 0 if key == "s03" else 4 * length
        eeg[:, first : first + length] = np.nan
        eeg[:, first + length :] *= 1e6
        np.save(file, eeg)
    _, _, poisoned = fitted(tmp_path / "store")
    for key, matrix in clean.matrices.items():
        np.testing.assert_array_equal(poisoned.matrices[key], matrix)


def test_the_guard_bites_where_a_test_row_is_read(store_path: Path) -> None:
    bags = Bags(Store(store_path), config().data)
    guard = Guard(split(bags.table), bags.table)
    view = guard.view("ica", bags)
    assert len(view.stretches(int(guard.split.train[0]))) == 1
    for rows in (guard.split.test, guard.split.validation):
        with pytest.raises(LeakError, match="a fit of kind 'ica' reads"):
            view.stretches(int(rows[0]))
    whole = Guard(split(bags.table), bags.table, Budget("unlabelled")).view("ica", bags)
    assert whole.stretches(int(guard.split.test[0]))


def test_the_budget_is_none_and_the_stores_own_operators_are_not_used(store_path: Path, tmp_path: Path) -> None:
    shutil.copytree(store_path, tmp_path / "store")
    store = Store(tmp_path / "store")
    asked = config(data__reject=["other"])  # the store has components of that kind
    assert cleaned(asked, store) == [] and guard_ica(asked, store, "auto") == "none"
    assert guard_ica(asked, store, "none") == "none"
    kept = config(data__reject=["other"], data__operators="stored")
    with pytest.raises(UserError, match="--operators fold"):
        guard_ica(kept, store, "none")


def test_eeg_is_not_read_before_the_operators_are_there(store_path: Path) -> None:
    bags = Bags(Store(store_path), config().data)
    with pytest.raises(UserError, match="before the fold's own operators were fitted"):
        bags.__getitems__([(0, 0)])
    nothing = EEGReader(bags.store, config(data__reject=[]).data)
    np.testing.assert_array_equal(nothing.read(0), bags.store.eeg(0))


def test_a_store_without_ica_takes_the_method_of_the_configuration(store_path: Path) -> None:
    store = Store(store_path)
    store.info["parameters"]["eeg"]["ica"] = "none"
    assert fold_settings(config(), store).ica == "picard"
    with pytest.raises(UserError, match=r"data.operators fold: .* was prepared without ICA"):
        fold_settings(config(preparation__eeg__ica="none"), store)


def test_operators_are_kept_and_taken_up_again(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config()
    bags = Bags(Store(store_path), asked.data)
    guard = Guard(split(bags.table), bags.table)
    made, notes = with_fold_operators(asked, bags, guard, tmp_path, resume=False, text="fold")
    assert set(read_operators(tmp_path)) == set(made.reader.operators or ())

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr("milmer.training.operators.fold_operators", never)
    other = Guard(split(bags.table), bags.table)
    again, same = with_fold_operators(asked, bags, other, tmp_path, resume=True, text="fold")
    assert same == notes and other.log == guard.log
    np.testing.assert_array_equal(again.reader.read(0), made.reader.read(0))
    seeded = config(evaluation__seed=5)
    with pytest.raises(AssertionError, match="fitted again"):
        with_fold_operators(seeded, bags, other, tmp_path, resume=True, text="fold")
    (tmp_path / "operators.npz").write_bytes(b"broken")
    with pytest.raises(AssertionError, match="fitted again"):
        with_fold_operators(asked, bags, other, tmp_path, resume=True, text="fold")


def test_an_evaluation_with_budget_none_runs_by_operators_of_its_folds(store_path: Path, tmp_path: Path) -> None:
    asked = config(evaluation__budget="none", evaluation__protocol="subject", evaluation__folds=None)
    run = tmp_path / "run"
    evaluate(Store(store_path), asked, run)
    table = pd.read_parquet(run / "predictions.parquet")
    assert set(table["budget"]) == {"none"} and np.isfinite(table["prob_high"]).all()
    record = json.loads((run / "run.json").read_text())
    entries = [g for g in record["guard"] if g["kind"] == "ica"]
    assert [(g["parts"], g["fits"]) for g in entries] == [("train", 3)]
    assert any("ICA of this fold's training trials" in n for n in record["notes"])
    assert set(read_operators(run / "folds" / "0")) == {"s01", "s02", "s03"}
    assert (run / "samples").is_dir()  # the report's pictures are read by the same operators
    assert not any("could not be written" in n for n in record["notes"])
    told = json.loads((run / "samples" / "samples.json").read_text())
    assert told["faults"] == []


def test_windows_of_a_trial_are_joined_where_they_touch() -> None:
    eeg = np.arange(200, dtype=np.float32).reshape(2, 100)  # (C, S)
    guides = {"eog": np.arange(100, dtype=np.float32)[None]}  # (G, S)

    def piece(row: int, start: int, stop: int) -> Stretch:
        return Stretch(row, start, eeg[:, start:stop], {"eog": guides["eog"][:, start:stop]})

    runs = joined([piece(1, 0, 10), piece(0, 40, 60), piece(0, 0, 20), piece(0, 10, 30), piece(0, 60, 70)])
    assert [(r.trial_row, r.begin, r.eeg.shape[1]) for r in runs] == [(0, 0, 30), (0, 40, 30), (1, 0, 10)]
    for run in runs:
        part = slice(run.begin, run.begin + run.eeg.shape[1])
        np.testing.assert_array_equal(run.eeg, eeg[:, part])
        np.testing.assert_array_equal(run.guides["eog"], guides["eog"][:, part])


def test_eog_beside_the_eeg_says_what_a_blink_is(store_path: Path, tmp_path: Path) -> None:
    """EOG that is kept with the store is read with each stretch, at the EEG's rate; a blink need not be in front."""
    shutil.copytree(store_path, tmp_path / "store")
    folder = tmp_path / "store" / "recordings" / "s01"
    length = round(12 * RATE)
    wave = np.sin(np.arange(6 * length // 2) / 64.0 * 2 * np.pi)  # 1 Hz at 64 Hz
    np.save(folder / "peripheral_eog-v.npy", wave.astype(np.float32))
    spans = {str(t + 1): [t * length // 2, (t + 1) * length // 2] for t in range(6)}
    told = json.loads((folder / "recording.json").read_text())
    told["recording"]["peripheral"] = {"eog-v": {"rate": 64.0, "unit": "V", "spans": spans}}
    (folder / "recording.json").write_text(json.dumps(told))
    stretch = EEGReader(Store(tmp_path / "store"), config().data).stretch(1, 3.0, 6.0)
    assert stretch.guides["eog"].shape == (1, 384) and stretch.eeg.shape == (len(NAMES), 384)
    expected = np.interp(np.arange(384) / RATE, np.arange(192) / 64.0, wave[length // 2 + 192 :][:192])
    assert np.corrcoef(stretch.guides["eog"][0, 20:-20], expected[20:-20])[0, 1] > 0.99


def test_an_eog_electrode_that_drifts_still_shows_its_blinks() -> None:
    """EOG is stored as recorded: its drift is many times a blink, and EEG beside it has none."""
    rng = np.random.default_rng(0)
    blinks = np.zeros(round(60 * RATE))  # (S,)
    for at in rng.integers(0, len(blinks) - 64, 18):
        blinks[at : at + 48] += 120e-6 * np.hanning(48)
    drift = 0.02 + 3e-4 * np.sin(2 * np.pi * 0.15 * np.arange(len(blinks)) / RATE)  # (S,)
    run = Stretch(0, 0, blinks[None].astype(np.float32), {"eog": (blinks + drift)[None].astype(np.float32)})
    eog = np.concatenate([guides["eog"][0] for _, guides in cut(run, 384, None, RATE)])  # (S,)
    eeg = np.concatenate([eeg[0] for eeg, _ in cut(run, 384, 1.0, RATE)])  # (S,)
    assert np.corrcoef(eog, eeg)[0, 1] > 0.6  # what makes a component a blink


def test_a_decomposition_is_not_shared_where_other_windows_were_left_out(tmp_path: Path) -> None:
    """The EEG of a window that swings too far is hidden, and the window stays for its skin conductance."""
    make_store(tmp_path / "store", subjects=1, trials=6, seconds=12.0, face=False, body=("gsr",))
    file = tmp_path / "store" / "recordings" / "s01" / "eeg.npy"
    eeg = np.load(file)  # (C, S)
    eeg[0, : round(3 * RATE)] += 1e-3 * np.hanning(round(3 * RATE))
    np.save(file, eeg)
    for uv in (None, 500.0):
        asked = config(data__modalities=["eeg", "gsr"], data__reject_uv=uv)
        bags = Bags(Store(tmp_path / "store"), asked.data)
        trial = bags.table["trial"].to_numpy()
        parts = (np.flatnonzero(p) for p in (trial <= 4, trial == 5, trial == 6))
        fold_operators(bags, Guard(Split(0, *parts), bags.table), asked, 0, kept=tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("*.npz"))) == 2


def masked(path: Path, key: str, channel: str) -> None:
    file = path / "recordings" / key / "recording.json"
    told = json.loads(file.read_text())
    told["recording"] |= {"masked": [channel], "bad": [channel]}
    file.write_text(json.dumps(told))


def test_a_stranger_who_lacks_an_electrode_is_cleaned_by_people_who_have_more_and_none_who_have_less(
    store_path: Path, tmp_path: Path
) -> None:
    shutil.copytree(store_path, tmp_path / "store")
    masked(tmp_path / "store", "s03", "C3")
    _, _, found = fitted(tmp_path / "store")
    matrix, at = found.matrices["s03"], NAMES.index("C3")
    np.testing.assert_array_equal(matrix[at], np.eye(len(NAMES))[at])
    np.testing.assert_array_equal(matrix[:, at], np.eye(len(NAMES))[at])
    rest = np.where(np.arange(len(NAMES)) == at, 0.0, BLINK)  # (C,)
    assert np.linalg.norm(matrix @ rest) < 0.3 * np.linalg.norm(rest)
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(store_path, tmp_path / "store")
    for key in ("s01", "s02"):
        masked(tmp_path / "store", key, "C3")
    _, _, found = fitted(tmp_path / "store")
    assert set(found.matrices) == {"s01", "s02"} and "s03: nothing to fit an ICA on" in found.notes[-1]


def test_one_loud_person_is_not_all_that_a_stranger_is_cleaned_by(store_path: Path, tmp_path: Path) -> None:
    """s02 has no blinks, and a thousand times the size of s01, who has."""
    shutil.copytree(store_path, tmp_path / "store")
    file = tmp_path / "store" / "recordings" / "s02" / "eeg.npy"
    np.save(file, np.random.default_rng(0).normal(0, 1e-2, np.load(file).shape).astype(np.float32))
    _, _, found = fitted(tmp_path / "store")
    assert np.linalg.norm(found.matrices["s03"] @ BLINK) < 0.3 * np.linalg.norm(BLINK)
