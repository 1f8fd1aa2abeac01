"""Small studies in SEED-V's layout: Neuroscan files, written byte by byte, whose values say where they belong.

The rate is lower than the publisher's 1000 Hz, so that a session of 56 minutes takes megabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from milmer.datasets.seed_common import CHANNELS

RATE = 10
SECONDS = 3370  # past the last film of session 1
# The publisher's order: the mastoids among the others, the eye channels last.
NAMES = (*CHANNELS[:32], "M1", *CHANNELS[32:41], "M2", *CHANNELS[41:], "VEO", "HEO")


def write_cnt(
    path: Path, *, seconds: float = SECONDS, rate: int = RATE, names: Sequence[str] = NAMES, start: int = 0
) -> Path:
    """Write a Neuroscan file of 32-bit numbers, one a microvolt: `start` + channel * 1e5 + second."""
    count = round(seconds * rate)
    header = bytearray(900)
    header[0:12] = b"Version 3.0\0"
    header[225:235] = b"08/04/18\0\0"
    header[235:247] = b"10:00:00\0\0\0\0"
    struct.pack_into("<H", header, 370, len(names))
    struct.pack_into("<H", header, 376, rate)
    struct.pack_into("<i", header, 864, count)
    struct.pack_into("<i", header, 886, 900 + 75 * len(names) + 4 * count * len(names))  # where the events are
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        for k, name in enumerate(names):
            electrode = bytearray(75)
            electrode[: len(name)] = name.encode("ascii")
            angle = 2 * np.pi * k / len(names)
            struct.pack_into("<ff", electrode, 19, 100 + 50 * np.cos(angle), 100 + 50 * np.sin(angle))  # on a circle
            struct.pack_into("<f", electrode, 59, 204.8)  # with the next, a microvolt a step
            struct.pack_into("<f", electrode, 71, 1.0)
            file.write(electrode)
        second = np.arange(count) // rate  # (S,)
        file.write((start + second[:, None] + np.arange(len(names)) * 10**5).astype("<i4").tobytes())
        file.write(struct.pack("<Bll", 1, 0, 0)[:9])  # a table without events
    return path


def write_study(root: Path, files: Mapping[str, float]) -> Path:
    """Write ``EEG_raw``: `files` has the length in seconds for each ``<subject>_<session>_<date>``."""
    for k, (stem, length) in enumerate(files.items()):
        write_cnt(root / "EEG_raw" / f"{stem}.cnt", seconds=length, start=k * 10**7)
    return root


def write_tiny(root: Path) -> Path:
    """Write a study for tests of all loaders."""
    return write_study(root, {"1_1_20180804": SECONDS, "1_2_20180810": 2900.0, "10_3_20180626": 700.0})
