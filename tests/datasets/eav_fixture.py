"""Small studies in EAV's layout: folders `subject1` and `subject02`, EEG with time first, classes as ones in rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .mat_fixture import write_mat

WORDS = ("Neutral", "Sadness", "Anger", "Happiness", "Calmness")
ROWS = (0, 1, 8, 9, 4, 5, 2, 3, 6, 7)  # of a subject's trials: listening and speaking take turns


def coded(trials: int, samples: int, start: float = 0.0) -> np.ndarray:
    """EEG (samples, 30, trials) in microvolts: `start` + trial (from 1) * 1e4 + channel * 100 + seconds."""
    trial = np.arange(1, trials + 1) * 1e4  # (T,)
    channel = np.arange(30)[:, None] * 100.0  # (30, 1)
    return start + np.arange(samples)[:, None, None] / 500 + channel + trial  # (S, 30, T)


def one_hot(rows: Sequence[int]) -> np.ndarray:
    """Labels (10, trials)."""
    label = np.zeros((10, len(rows)))
    label[list(rows), np.arange(len(rows))] = 1
    return label


def video_name(trial: int, row: int) -> str:
    """As the publisher has it: the first number is the trial's."""
    return f"{trial:03d}_Trial_{trial:02d}_{('Listening', 'Speaking')[row % 2]}_{WORDS[row // 2]}.mp4"


def write_subject(
    root: Path,
    folder: str,
    number: int,
    *,
    rows: Sequence[int] = ROWS,
    samples: int = 1000,
    variable: str = "seg1",
    version: str = "5",
    videos: bool = True,
    data: np.ndarray | None = None,
    label: np.ndarray | None = None,
) -> Path:
    """Write a subject; the folder's name and the files' need not write the number the same way."""
    inner = root / folder
    values = coded(len(rows), samples, number * 1e6) if data is None else data
    write_mat(inner / "EEG" / f"subject{number}_eeg.mat", {variable: values}, version)
    write_mat(inner / "EEG" / f"subject{number}_eeg_label.mat", {"label": one_hot(rows) if label is None else label})
    if videos:
        (inner / "Video").mkdir()
        for trial, row in enumerate(rows, start=1):
            (inner / "Video" / video_name(trial, row)).write_bytes(b"not read here")
    (inner / "Audio").mkdir()
    return inner


def write_tiny(root: Path) -> Path:
    """Write a study for tests of all loaders."""
    write_subject(root, "subject1", 1)
    write_subject(root, "subject02", 2, variable="seg")
    return root
