from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_store

from milmer.errors import UserError
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE
from milmer.store import Store, join_trials


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
