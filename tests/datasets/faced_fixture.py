"""Small studies in FACED's layout: a pickled array a subject, counted from 0, whose values say where they belong."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path

import numpy as np


def coded(subject: int) -> np.ndarray:
    """EEG (28, 32, 7500) in microvolts: subject * 1e5 + film * 1e3 + channel * 30 + time in seconds; films from 1."""
    film = np.arange(1, 29)[:, None, None] * 1e3  # (28, 1, 1)
    channel = np.arange(32)[:, None] * 30.0  # (32, 1)
    return (subject * 1e5 + film + channel + np.arange(7500) / 250).astype(np.float32)  # (28, 32, 7500)


def write_subject(root: Path, subject: int, data: object = None, protocol: int = 4) -> Path:
    path = root / "Processed_data" / f"sub{subject:03d}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(coded(subject) if data is None else data, protocol=protocol))
    return path


def write_study(root: Path, subjects: Collection[int]) -> Path:
    for subject in subjects:
        write_subject(root, subject)
    return root


def write_tiny(root: Path) -> Path:
    """Write a study for tests of all loaders."""
    return write_study(root, (0, 122))
