"""A small table of trials with files of two subjects, one of them without a video, one trial without EEG."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np

RATE = 200.0
NAMES = ("EEG Fp1-REF", "EEG T3", "EEG Cz", "HEOG", "ECG ECG")


def write_fif(path: Path, seconds: float = 20, rate: float = RATE) -> Path:
    """Write a recording whose values are (channel + 1) * 10 uV and noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(NAMES), round(seconds * rate))
    samples = np.arange(1, len(NAMES) + 1)[:, None] * 1e-5 + np.random.default_rng(1).normal(0, 1e-6, shape)  # (C, S)
    info = mne.create_info(list(NAMES), rate, "eeg", verbose="error")
    mne.io.RawArray(samples, info, verbose="error").save(path, overwrite=True, verbose="error")
    return path


def write_tiny(root: Path) -> Path:
    """Write a study for tests of all loaders; its video cannot be opened."""
    for subject in ("p1", "p2"):
        write_fif(root / "eeg" / f"{subject}_eeg.fif")
    (root / "v.mp4").write_bytes(b"not read here")
    rows = [
        "subject,trial,stimulus,eeg_path,eeg_start_s,eeg_stop_s,video_path,valence",
        "p1,1,a,eeg/p1_eeg.fif,0,4,v.mp4,3",
        "p1,2,b,eeg/p1_eeg.fif,5,11.5,,7.5",
        "p2,1,a,eeg/p2_eeg.fif,,,,1",
        "p2,2,b,,,,v.mp4,9",
    ]
    (root / "mine.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root / "mine.csv"
