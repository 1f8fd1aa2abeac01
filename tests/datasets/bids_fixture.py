"""A tiny EEG-BIDS dataset, written by MNE-BIDS itself, with events, ratings, body signals and traps."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

RATE = 200.0
EEG = ["Fp1", "Fp2", "Cz", "Pz", "O1", "O2", "T7", "T8"]
NAMES = [*EEG, "VEOG", "ECG", "PLETH", "EDA"]
KINDS = ["eeg"] * len(EEG) + ["eog", "ecg", "misc", "gsr"]
TRIALS = (("joy", 5.0, 8.0), ("fear", 20.0, 9.0), ("neutral", 36.0, 8.5))  # label, onset, seconds


def planted(subject: int, trial: int) -> float:
    """Amplitude (V) of the 10 Hz rhythm at Cz in a trial."""
    return (5 + 10 * trial + 3 * subject) * 1e-6


def raw_of(subject: int, seconds: float = 48.0) -> Any:
    rng = np.random.default_rng([subject])
    time = np.arange(round(seconds * RATE)) / RATE  # (S,)
    samples = rng.normal(0, 1e-6, (len(NAMES), len(time)))  # (C, S)
    for n, (_, onset, length) in enumerate(TRIALS):
        inside = (time >= onset) & (time < onset + length)  # (S,)
        samples[2, inside] += planted(subject, n) * np.sin(2 * np.pi * 10 * time[inside])
    samples[-1] = 2e-6 + 1e-7 * np.sin(time)  # (S,) siemens
    info = mne.create_info(NAMES, RATE, KINDS, verbose="error")
    info["line_freq"] = 50
    return mne.io.RawArray(samples, info, verbose="error")


def write_bids(root: Path, subjects: int = 2, format: str = "BrainVision", durations: bool = True) -> Path:
    """Write the dataset; without `durations` events are markers only."""
    from mne_bids import BIDSPath, write_raw_bids

    for s in range(1, subjects + 1):
        path = BIDSPath(subject=f"{s:02d}", task="film", datatype="eeg", root=root)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a montage that is not there
            write_raw_bids(raw_of(s), path, format=format, allow_preload=True, overwrite=True, verbose="error")
        folder = root / f"sub-{s:02d}" / "eeg"
        rows = [
            {"onset": onset, "duration": length if durations else 0, "trial_type": label, "value": n + 1}
            | {"stim_file": f"{label}.mp4", "valence": 3 + n, "note": "n/a" if n else "late", "arousal": "n/a"}
            for n, (label, onset, length) in enumerate(TRIALS)
        ]
        rows.append({"onset": 1, "duration": 0, "trial_type": "start", "value": 9, "stim_file": "n/a"})
        rows.append({"onset": 46, "duration": 30, "trial_type": "joy", "value": 1, "stim_file": "joy.mp4"})  # cut off
        table = pd.DataFrame(rows).fillna("n/a")
        stem = folder / f"sub-{s:02d}_task-film"
        table.to_csv(f"{stem}_events.tsv", sep="\t", index=False)
        Path(f"{stem}_events.json").write_text(json.dumps({"valence": {"Minimum": 1, "Maximum": 9}}))
        channels = pd.read_csv(f"{stem}_channels.tsv", sep="\t", dtype=str, keep_default_na=False)
        channels.loc[channels["name"] == "PLETH", "type"] = "PPG"
        channels.loc[channels["name"] == "O2", "status"] = "bad"
        channels.to_csv(f"{stem}_channels.tsv", sep="\t", index=False)
    people = pd.read_csv(root / "participants.tsv", sep="\t", dtype=str)
    people = pd.concat([people, people.tail(1).assign(participant_id="sub-77")])  # listed, not recorded
    people.to_csv(root / "participants.tsv", sep="\t", index=False)
    description = root / "dataset_description.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"Name": "Films & feelings (test)"}))
    return root


def write_tiny(root: Path) -> Path:
    """Write a study for tests of all loaders."""
    return write_bids(root / "study")
