from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_store

from milmer import console
from milmer.config import Data, Preparation
from milmer.datasets.base import Recording, Signal, Trial
from milmer.datasets.simulated_eeg import simulate_trial
from milmer.errors import UserError
from milmer.inspection import inspect_store
from milmer.preparation.body import write_peripheral
from milmer.preparation.recording import prepare_recording
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE
from milmer.store import SCHEMA, Store, join_trials
from milmer.store_join import JoinedStore
from milmer.store_writing import finish_store


def plant(store: Path, key: str, kind: str, trials: dict[int, np.ndarray]) -> None:
    """Put (P, S) of some trials of a kind into a store, as preparation does."""
    folder = store / "recordings" / key
    np.save(folder / f"body_{kind}.npy", np.concatenate(list(trials.values()), axis=1))
    spans, at = {}, 0
    for trial, samples in trials.items():
        spans[str(trial)] = [at, at + samples.shape[1]]
        at += samples.shape[1]
    about = json.loads((folder / "recording.json").read_text())
    about["recording"].setdefault("body", {})[kind] = {"channels": BODY_CHANNELS[kind], "rate": 32.0, "spans": spans}
    (folder / "recording.json").write_text(json.dumps(about))


def test_a_window_of_a_trial_is_read_back(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", subjects=2, trials=3, face=False)
    made = {t: (1000 * t + np.arange(2 * 384).reshape(2, 384)).astype(np.float32) for t in (1, 3)}  # (P, S) each
    plant(path, "s02", "gsr", made)
    store = Store(path)
    assert store.body_kinds("s01") == ()
    assert store.body_kinds("s02") == ("gsr",)
    row = int(np.flatnonzero((store.trials["subject"] == "s02") & (store.trials["trial"] == 3))[0])
    found = store.body(row, "gsr", 3.0, 6.0)
    assert found.dtype == np.float32
    assert np.array_equal(found, made[3][:, 96:192])
    assert np.array_equal(store.body(row, "gsr"), made[3])
    assert store.body(row, "gsr", 11.0, 14.0).shape == (2, 32)  # the trial ends at 12 s
    missing = store.body(row - 1, "gsr", 3.0, 6.0)
    assert missing.shape == (2, 96) and np.isnan(missing).all()
    assert store.body(0, "emg").shape == (2, round(12 * BODY_RATE))
    with pytest.raises(UserError, match="no body signal 'eda'"):
        store.body(row, "eda")


def test_what_a_recording_lacks_is_false_in_the_table() -> None:
    joined = join_trials([pd.DataFrame({"has_eeg": [True], "has_gsr": [True]}), pd.DataFrame({"has_eeg": [False]})])
    assert joined["has_gsr"].tolist() == [True, False]
    assert joined.dtypes.tolist() == [bool, bool]


NAMES = {"emg-a": (34, "V", 1e-6), "gsr": (36, "ohm", 1.0), "respiration": (37, "1", 1.0), "ppg": (38, "1", 1.0)}


def recording(source: Path, *, level: bool = True) -> tuple[Recording, list[np.ndarray]]:
    """Three simulated trials of 20 s after 3 s of baseline, the second without a pulse; and their beats."""
    trials, beats = [], []
    for number in (1, 2, 3):
        truth = simulate_trial(0, 1, number, 23, place=0.0)
        beats.append(truth.beats)
        peripheral = {}
        for name, (row, unit, scale) in NAMES.items():
            x = truth.samples[row : row + 1] * scale  # (1, S)
            if name == "gsr" and not level and number == 1:
                x = x - x.mean()
            if name == "ppg" and number == 2:
                x = np.full_like(x, 7.0)
            peripheral[name] = lambda x=x, n=name, u=unit: Signal(x, (n,), 128.0, u, pad_before=3.0)
        eyes = truth.samples[32:34] * 1e-6  # (2, S)
        trials.append(
            Trial(
                study="made",
                subject="s01",
                trial=number,
                stimulus=f"e{number}",
                duration=20.0,
                eog=lambda x=eyes: Signal(x, ("vEOG", "hEOG"), 128.0, pad_before=3.0),
                peripheral=peripheral,
            )
        )
    return Recording("s01", trials, [source]), beats


def prepared(tmp_path: Path, settings: Preparation, *, level: bool = True) -> tuple[Store, list[np.ndarray], list[str]]:
    source = tmp_path / "source"
    source.write_text("x")
    made, beats = recording(source, level=level)
    out = tmp_path / "store"
    (out / "recordings").mkdir(parents=True)
    notes = prepare_recording(made, out, settings, lambda _: None)
    info = {"schema": SCHEMA, "study": "made", "parameters": settings.model_dump(mode="json"), "parameters_hash": ""}
    finish_store(out, info, ["s01"], {})
    return Store(out), beats, notes


def test_body_signals_of_a_recording_are_stored_trial_by_trial(tmp_path: Path) -> None:
    store, beats, notes = prepared(tmp_path, Preparation())
    assert store.body_kinds("s01") == ("gsr", "ppg", "respiration", "emg", "eog")
    assert store.trials["has_ppg"].tolist() == [True, False, True]
    assert store.trials["has_gsr"].all() and "has_ecg" not in store.trials
    assert notes == ["ppg: flat (trial 2)"]
    for row in (0, 2):
        inside = beats[row][(beats[row] > 0) & (beats[row] < 20)]
        wanted = 60 * (len(inside) - 1) / np.ptp(inside)
        pulse = store.body(row, "ppg")
        assert pulse.shape == (2, 640)
        assert abs(60 * pulse[1].mean() - wanted) < 1
        assert np.array_equal(store.body(row, "ppg", 6.0, 9.0), pulse[:, 192:288])
    assert np.isnan(store.body(1, "ppg")).all() and store.body(1, "ppg").shape == (2, 640)
    assert np.isfinite(store.body(1, "emg")[0]).all() and np.isnan(store.body(1, "emg")[1]).all()
    about = store.recording("s01").body["ppg"]
    assert 60 * about["quality"]["heart_rate"] == pytest.approx(82, abs=6)
    assert about["channels"] == ["pulse", "heart_rate"]


def test_the_eyes_beside_the_eeg_are_stored_as_recorded_and_cleaned(tmp_path: Path) -> None:
    store, _, _ = prepared(tmp_path, Preparation())
    truth = simulate_trial(0, 1, 2, 23, place=0.0)
    np.testing.assert_allclose(store.peripheral(1, "eog-h"), truth.samples[33, 384:] * 1e-6, rtol=1e-5)  # as named
    assert np.corrcoef(store.body(1, "eog")[1], truth.samples[32, 384::4])[0, 1] > 0.85


def test_a_heart_beside_the_eeg_is_a_body_signal_too(tmp_path: Path) -> None:
    times = np.arange(23 * 128) / 128 - 3
    beats = np.arange(-3, 21, 0.8)  # 75 a minute
    ecg = np.exp(-0.5 * (np.abs(times[:, None] - beats).min(axis=1) / 0.012) ** 2) * 1e-3  # (S,)
    both = Signal(np.stack([ecg, 0 * ecg]), ("ECG1", "ECG2"), 128.0, pad_before=3.0)
    made = Recording("s01", [Trial("made", "s01", 1, "e1", duration=20.0, ecg=lambda: both)], [])
    about = write_peripheral(made, tmp_path, lambda lazy, _: lazy(), [], clean=True, line_freq=None)
    assert sorted(about["peripheral"]) == ["ecg", "ecg-2"]
    assert 60 * about["body"]["ecg"]["quality"]["heart_rate"] == pytest.approx(75, abs=1)


def test_without_body_only_what_was_recorded_is_stored(tmp_path: Path) -> None:
    store, _, _ = prepared(tmp_path, Preparation(body=False))
    assert store.body_kinds("s01") == ()
    assert not [c for c in store.trials if c in ("has_gsr", "has_ppg")]
    assert store.peripheral(0, "ppg").shape == (2560,)


def test_one_trial_without_its_level_speaks_for_the_recording(tmp_path: Path) -> None:
    store, _, notes = prepared(tmp_path, Preparation(), level=False)
    assert all(np.isnan(store.body(row, "gsr")[0]).all() for row in range(3))
    assert all(np.isfinite(store.body(row, "gsr")[1]).all() for row in range(3))
    assert any(n.startswith("gsr: ") and n.endswith("(every trial)") for n in notes)


def test_inspect_counts_body_signals_and_notes_odd_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, _, _ = prepared(tmp_path, Preparation())
    found = inspect_store(store, Data())
    assert found.body == {"gsr": 3, "ppg": 2, "respiration": 3, "emg": 3, "eog": 3}
    assert found.rates["heart_rate"] == pytest.approx(82, abs=6)
    assert found.rates["respiration_rate"] == pytest.approx(15, abs=4)
    assert not any("a minute" in n for n in found.notes)
    console.show_inspection(found, tmp_path)
    assert "body: trials with gsr 3, ppg 2, respiration 3, emg 3, eog 3; heart rate 8" in capsys.readouterr().out
    file = store.folder("s01") / "recording.json"
    about = json.loads(file.read_text())
    about["recording"]["body"]["ppg"]["quality"]["heart_rate"] = 4.0
    file.write_text(json.dumps(about))
    notes = inspect_store(Store(store.path), Data()).notes
    assert any(n.startswith("s01: heart rate 240 a minute by ppg, expected 40-180") for n in notes)


def test_two_stores_read_as_one_give_each_its_own(tmp_path: Path) -> None:
    first, _, _ = prepared(tmp_path, Preparation())
    other = make_store(tmp_path / "other", subjects=1, trials=2, face=False)
    planted = np.arange(2 * 384, dtype=np.float32).reshape(2, 384)  # (P, S)
    plant(other, "s01", "ppg", {2: planted})
    table = pd.read_parquet(first.path / "trials.parquet")
    table.assign(rating_valence=5.0).to_parquet(first.path / "trials.parquet")
    joined = JoinedStore(Store(first.path), Store(other))
    assert joined.body_kinds(joined.keys[0]) == first.body_kinds("s01")
    assert joined.body_kinds(joined.keys[1]) == ("ppg",)
    assert np.array_equal(joined.body(0, "ppg", 3.0, 6.0), first.body(0, "ppg", 3.0, 6.0))
    assert np.array_equal(joined.body(4, "ppg", 3.0, 6.0), planted[:, 96:192])
    assert joined.trials["has_gsr"].tolist() == [True, True, True, False, False]
