"""Small AMIGOS files whose every value says where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .mat_fixture import cell, write_mat

RATE = 128
IDS = (
    "10",
    "13",
    "138",
    "18",
    "19",
    "20",
    "23",
    "30",
    "31",
    "34",
    "36",
    "4",
    "5",
    "58",
    "80",
    "9",
    "N1",
    "P1",
    "B1",
    "U1",
)


def coded(subject: int, trial: int, samples: int) -> np.ndarray:
    """Return (samples, 17): subject * 500 + trial * 20 + column, all from 1, and the time in s / 1000."""
    values = subject * 500 + trial * 20 + np.arange(1, 18)[None]  # (1, 17)
    return values + np.arange(samples)[:, None] / RATE / 1000


def samples_of(trial: int) -> int:
    """A baseline of 5 s and 1 s or more; long videos are longer."""
    return (5 + 1 + trial % 2 + 2 * (trial > 16)) * RATE


def rated(subject: int, trial: int) -> np.ndarray:
    """Twelve self-assessments; one emotion is chosen, two where the trial is a multiple of 5."""
    rng = np.random.default_rng([subject, trial])
    values = np.concatenate([rng.integers(100, 901, 5) / 100, np.zeros(7)])  # (12,)
    values[5 + trial % 7] = 1
    if trial % 5 == 0:
        values[5 + (trial + 1) % 7] = 1
    return values[None]


def content(subject: int, *, longs: bool = True) -> dict[str, Any]:
    """What a file holds; change it before writing. Without `longs` the places of the long videos are empty."""
    signals, labels, external = [], [], []
    for trial in range(1, 21):
        there = longs or trial <= 16
        signals.append(coded(subject, trial, samples_of(trial)) if there else np.zeros((0, 0)))
        labels.append(rated(subject, trial) if there else np.zeros((0, 0)))
        external.append(np.zeros((3, 3)))
    return {
        "VideoIDs": cell(*IDS),
        "joined_data": cell(*signals),
        "labels_ext_annotation": cell(*external),
        "labels_selfassessment": cell(*labels),
    }


def write_subject(root: Path, number: int, what: dict[str, Any] | None = None, version: str = "5") -> Path:
    return write_mat(root / f"Data_Preprocessed_P{number:02d}.mat", what or content(number), version)


def write_tiny(root: Path) -> Path:
    """Two subjects, the second without long videos and in the newer format."""
    write_subject(root, 1)
    write_subject(root / "Data_Preprocessed_P08", 8, content(8, longs=False), "7.3")
    return root
