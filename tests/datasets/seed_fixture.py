"""Small studies in SEED's layout whose every value says where it belongs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from .mat_fixture import write_mat

RATE = 200
CHANNELS = 62
LABELS = (1, 0, -1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 0, 1, -1)


def seconds(film: int) -> int:
    """Films differ in length."""
    return 2 + film % 2


def coded(film: int, start: int = 0) -> np.ndarray:
    """EEG (62, samples) in microvolts: `start` + film * 1e4 + channel * 100 + time in seconds; films from 1."""
    time = np.arange(seconds(film) * RATE) / RATE  # (S,)
    return start + film * 1e4 + np.arange(CHANNELS)[:, None] * 100 + time  # (62, S)


def write_session(
    path: Path,
    films: Collection[int],
    *,
    prefix: str = "djc",
    version: str = "5",
    start: int = 0,
    more: Mapping[str, object] | None = None,
) -> Path:
    """Write one session's films; every file has a prefix of its own."""
    content = {f"{prefix}_eeg{n}".lstrip("_"): coded(n, start) for n in films}
    return write_mat(path, content | dict(more or {}), version)


def write_study(
    root: Path,
    files: Mapping[str, str],
    *,
    labels: Sequence[int] | None = LABELS,
    films: Collection[int] = range(1, 16),
) -> Path:
    """Write ``Preprocessed_EEG``: `files` has a prefix for each ``<subject>_<date>``, each 1e6 higher."""
    folder = root / "Preprocessed_EEG"
    folder.mkdir(parents=True)
    for k, (stem, prefix) in enumerate(files.items()):
        write_session(folder / f"{stem}.mat", films, prefix=prefix, start=k * 10**6)
    if labels is not None:
        write_mat(folder / "label.mat", {"label": np.array([labels], dtype=float)})
    (folder / "readme.txt").write_text("films and labels\n", encoding="utf-8")
    return root


def write_tiny(root: Path) -> Path:
    """Write a study for tests of all loaders."""
    return write_study(root, {"1_20131027": "djc", "1_20131030": "djc", "2_20140404": "jl_x"})
