"""Small studies in SEED-IV's layout: a folder a session, files by date, a prefix a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from .seed_fixture import write_session


def write_study(root: Path, files: Mapping[str, str], *, films: Collection[int] = range(1, 25)) -> Path:
    """Write ``eeg_raw_data``: `files` has a prefix for each ``<session>/<subject>_<date>``, each 1e6 higher."""
    for k, (stem, prefix) in enumerate(files.items()):
        write_session(root / "eeg_raw_data" / f"{stem}.mat", films, prefix=prefix, start=k * 10**6)
    (root / "eeg_raw_data" / "ReadMe.txt").write_text("labels\n", encoding="utf-8")
    return root


def write_tiny(root: Path) -> Path:
    """Write a study for tests of all loaders."""
    return write_study(root, {"1/1_20160518": "cz", "2/1_20161125": "cz", "3/10_20151014": "ha"})
