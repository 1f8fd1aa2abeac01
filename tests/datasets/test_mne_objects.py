"""What MNE-Python has in memory becomes a study, and comes out of the store as it went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest

from milmer.config import EEGPreparation, Preparation
from milmer.datasets.mne_objects import MneStudy
from milmer.errors import UserError
from milmer.preparation import prepare_study
from milmer.store import Store

RATE = 200.0
NAMES = ["EEG Fp1", "Fz", "Cz", "T3", "Pz", "O1", "O2", "C4", "HEOG", "Trigger"]
PLAIN = Preparation(eeg=EEGPreparation(ica="none", line_freq=None, bad_channels=False))


def raw_of(seed: int, seconds: float = 30.0, names: list[str] = NAMES) -> Any:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE  # (S,)
    samples = rng.normal(0, 3e-6, (len(names), len(time)))  # (C, S)
    samples[2] += 3e-5 * np.sin(2 * np.pi * 10 * time) * (time > 15)  # Cz has a rhythm in the second half
    return mne.io.RawArray(samples, mne.create_info(names, RATE, "eeg", verbose="error"), verbose="error")


def table(**changes: Any) -> pd.DataFrame:
    rows = {
        "subject": ["a", "a", "b", "b"],
        "trial": [1, 2, 1, 2],
        "start_s": [2.0, 17.0] * 2,
        "stop_s": [12.0, 27.0] * 2,
        "stimulus": ["x", "y"] * 2,
        "label": ["rest", "task"] * 2,
        "valence": [2.0, 8.0, np.nan, 7.0],
    }
    return pd.DataFrame(rows | changes)


def test_raws_become_a_store(tmp_path: Path) -> None:
    study = MneStudy({"a": raw_of(1), "b": raw_of(2)}, table(), name="lab")
    prepare_study(study, tmp_path / "store", PLAIN)
    store = Store(tmp_path / "store")
    assert store.name == "lab"
    assert store.trials["label"].to_list() == ["rest", "task"] * 2
    assert store.trials["rating_valence"].fillna(-1).to_list() == [2.0, 8.0, -1.0, 7.0]
    assert store.recording("a").names == ("Fp1", "Fz", "Cz", "T7", "Pz", "O1", "O2", "C4")
    power = [np.var(store.to_raw(i).get_data(picks=["Cz"])) for i in range(4)]
    assert power[1] > 5 * power[0] and power[3] > 5 * power[2]  # the trials are cut where the table says


def test_epochs_are_trials_and_their_baseline_is_padding(tmp_path: Path) -> None:
    events = np.array([[600, 0, 1], [1800, 0, 2], [3400, 0, 1]])
    raw = raw_of(3, names=NAMES[:8])
    epochs = mne.Epochs(raw, events, {"calm": 1, "glad": 2}, -1.0, 5.0, baseline=None, preload=True, verbose="error")
    epochs.metadata = pd.DataFrame({"arousal": [3.0, 6.0, 4.0], "stimulus": ["f1", "f2", "f3"]})
    study = MneStudy({("p1", "2"): epochs}, rating_ranges={"arousal": (1.0, 7.0)})
    (recording,) = study.recordings()
    signal = recording.trials[0].eeg()  # type: ignore[misc]  # there is EEG
    assert signal.pad_before == pytest.approx(1.0) and signal.pad_after == 0
    assert [t.label for t in recording.trials] == ["calm", "glad", "calm"]
    assert study.rating_ranges == {"arousal": (1.0, 7.0)}
    prepare_study(study, tmp_path / "store", PLAIN)
    store = Store(tmp_path / "store")
    assert store.trials["duration"].to_list() == pytest.approx([5.005] * 3)
    assert store.keys == ["p1_ses-2"]


def test_other_samples_are_prepared_anew(tmp_path: Path) -> None:
    prepare_study(MneStudy({"a": raw_of(1), "b": raw_of(2)}, table()), tmp_path / "store", PLAIN)
    again = prepare_study(MneStudy({"a": raw_of(1), "b": raw_of(5)}, table()), tmp_path / "store", PLAIN)
    assert (again.kept, again.done) == (1, 1)


@pytest.mark.parametrize(
    ("recorded", "trials", "says"),
    [
        ({"a": raw_of(1)}, None, "needs trials"),
        ({"a": raw_of(1)}, table(), "subject 'b' has no recording"),
        ({"a": raw_of(1), "b": raw_of(2)}, table(stop_s=[12.0, 99.0] * 2), "is 30 s long"),
        ({"a": raw_of(1), "b": raw_of(2)}, table(trial=[1, 1, 1, 2]), "trial 1 is there twice"),
        ({"a": raw_of(1), "b": raw_of(2)}, table().rename(columns={"start_s": "start"}), "start_s"),
        ({"a": raw_of(1), "b": raw_of(2, names=["one", "two", "three"])}, table(), "10-05"),
        ({"a": raw_of(1)}, table().rename(columns={"subject": "subjekt"}), "subject"),
        ({}, None, "found nothing, expected a Raw or Epochs"),
        ({"a": "a.edf"}, table(), r"subject 'a': found str, expected mne\.io\.Raw or mne\.Epochs"),
        ({"a": raw_of(1), "b": raw_of(2)}, table(valence=[2.0, 77.0, 1.0, 9.0]), "trial 2 has valence 77, expected"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(recorded: Any, trials: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        MneStudy(recorded, trials)
    assert "\n" not in str(caught.value)
