"""A small DREAMER.mat whose every value says where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .mat_fixture import cell, write_mat

ELECTRODES = ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4")


def coded(subject: int, film: int, channels: int, samples: int, rate: float) -> np.ndarray:
    """Return (samples, channels): subject * 1000 + film * 20 + channel, all from 1, and the time in s / 100."""
    values = subject * 1000 + film * 20 + np.arange(1, channels + 1)[None]  # (1, C)
    return values + np.arange(samples)[:, None] / rate / 100


def subject(number: int, films: int, seconds: float) -> dict[str, Any]:
    rng = np.random.default_rng(number)

    def signals(channels: int, rate: int, base: int) -> dict[str, Any]:
        # Films differ in length, as the publisher's do.
        stimuli = [coded(number, f, channels, round((seconds + f) * rate), rate) for f in range(1, films + 1)]
        rest = [np.full((base * rate, channels), -7.0) for _ in range(films)]
        return {"baseline": cell(*rest, column=True), "stimuli": cell(*stimuli, column=True)}

    return {
        "Age": "22",
        "Gender": "male",
        "EEG": signals(14, 128, 2),
        "ECG": signals(2, 256, 2),
        **{f"Score{k}": rng.integers(1, 6, (films, 1)).astype(float) for k in ("Valence", "Arousal", "Dominance")},
    }


def content(subjects: int = 2, films: int = 3, seconds: float = 2.0) -> dict[str, Any]:
    """What the file holds; change it before writing."""
    return {
        "Data": cell(*(subject(s, films, seconds) for s in range(1, subjects + 1))),
        "EEG_SamplingRate": np.array([[128.0]]),
        "ECG_SamplingRate": np.array([[256.0]]),
        "EEG_Electrodes": cell(*ELECTRODES),
        "noOfSubjects": np.array([[float(subjects)]]),
        "noOfVideoSequences": np.array([[float(films)]]),
        "Disclaimer": "While every care has been taken ...",
        "Provider": "University of the West of Scotland",
        "Version": "1.0.2",
        "Acknowledgement": "The authors would like to thank ...",
    }


def write_study(root: Path, whole: dict[str, Any] | None = None, version: str = "5") -> Path:
    write_mat(root / "DREAMER.mat", {"DREAMER": content() if whole is None else whole}, version)
    return root


def write_tiny(root: Path) -> Path:
    return write_study(root)
