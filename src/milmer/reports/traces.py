"""The EEG of an example window as a small picture: a few channels under each other."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

MOST_CHANNELS = 8
MOST_POINTS = 420  # a line; of more samples, each stretch is drawn by its lowest and highest
WIDE, LEFT, STEP = 640, 44, 24


def eeg_traces(names: tuple[str, ...], eeg: NDArray[np.float64], rate: float) -> Markup:
    """Draw up to `MOST_CHANNELS` channels, evenly taken from all, on one scale; empty where there is no EEG.

    Parameters
    ----------
    names : tuple of str, length C
    eeg : ndarray, shape (C, S)
        Volts.
    rate : float
        Samples a second.
    """
    if not len(eeg) or eeg.shape[1] < 2:
        return Markup("")
    few = min(len(eeg), MOST_CHANNELS)
    shown = np.round((np.arange(few) + 0.5) * len(eeg) / few - 0.5).astype(int)  # (few,)
    volts = eeg[shown] - np.median(eeg[shown], axis=1, keepdims=True)  # (few, S)
    swing_uv = 1e6 * float(np.quantile(np.abs(volts), 0.99))
    scale_uv = next((s for s in (5, 10, 20, 50, 100, 200, 500, 1000, 2000) if s >= 1.4 * swing_uv), 5000)
    seconds = eeg.shape[1] / rate
    said = f"EEG, {few} of {len(eeg)} channels over {seconds:.1f} s; lines are {scale_uv} µV apart"
    high = STEP * few + 8
    head = f'<svg viewBox="0 0 {WIDE} {high}" role="img" aria-label="{said}"><title>{said}</title>'
    parts = ['<figure class="traces">', head]
    for i, line in enumerate(volts):
        middle = 4 + STEP * (i + 0.5)
        x, y = _thinned(line)
        across = LEFT + (WIDE - LEFT) * x / (eeg.shape[1] - 1)  # (n,)
        down = middle - np.clip(y * 1e6 / scale_uv, -1.2, 1.2) * STEP  # (n,)
        points = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(across, down, strict=True))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDE}" y1="{middle}" y2="{middle}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{middle + 4}" class="end">{escape(names[shown[i]])}</text>')
        parts.append(f'<polyline points="{points}"/>')
    return Markup("".join(parts) + f"</svg><figcaption>{said}.</figcaption></figure>")


def _thinned(line: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return places and values of a line of at most `MOST_POINTS`, that keeps its lows and highs."""
    n = len(line)
    if n <= MOST_POINTS:
        return np.arange(n, dtype=np.float64), line
    parts = np.array_split(np.arange(n), MOST_POINTS // 2)
    keep = np.array([i for p in parts for i in sorted({int(p[line[p].argmin()]), int(p[line[p].argmax()])})])
    return keep.astype(np.float64), line[keep]
