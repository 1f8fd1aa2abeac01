"""Stretches of trials, joined where windows touch and cut to one length: what a fold's components are fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.training.reading import Stretch

LOWEST = 1.0  # Hz: slower drifts would be the largest components
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Equal stretches of a recording's training trials: EEG (E, C, L), EOG and ECG (E, G, L)."""

    eeg: Floats
    guides: dict[str, Floats]


def joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Join stretches of one trial that touch or overlap."""
    runs: list[Stretch] = []
    pending: list[Stretch] = []

    def close() -> None:
        if not pending:
            return
        first, at, eeg = pending[0], pending[0].begin, []
        kinds = set.intersection(*({(k, len(x)) for k, x in s.guides.items()} for s in pending))
        guides: dict[str, list[NDArray[np.float32]]] = {k: [] for k, _ in sorted(kinds)}
        for s in pending:
            skip = at - s.begin
            eeg.append(s.eeg[:, skip:])  # (C, S)
            for k, pieces in guides.items():
                pieces.append(s.guides[k][:, skip:])  # (G, S)
            at = max(at, s.begin + s.eeg.shape[1])
        whole = {k: np.concatenate(v, axis=1) for k, v in guides.items()}  # (G, S) each
        runs.append(Stretch(first.trial_row, first.begin, np.concatenate(eeg, axis=1), whole))

    end = 0
    for s in sorted(stretches, key=lambda s: (s.trial_row, s.begin)):
        if pending and (s.trial_row != pending[-1].trial_row or s.begin > end):
            close()
            pending = []
        end = max(end, s.begin + s.eeg.shape[1]) if pending else s.begin + s.eeg.shape[1]
        pending.append(s)
    close()
    return runs


def cut(
    run: Stretch, size: int, low: float | None, rate: float
) -> list[tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]]:
    """Cut a run into stretches of `size` samples, EEG high-passed at `low` Hz where that is not None.

    Guides always are, at `LOWEST`: they are stored as recorded, and an electrode's drift is larger than a blink.
    """
    eeg: NDArray[Any] = run.eeg  # (C, S)
    guides: dict[str, NDArray[Any]] = run.guides  # (G, S) each
    if eeg.shape[1] >= size:
        from milmer.signals.filters import bandpass

        eeg = eeg if low is None else bandpass(eeg.astype(np.float64), rate, low, None)  # (C, S)
        level = {k: np.median(x, axis=1, keepdims=True) for k, x in guides.items()}  # (G, 1) each
        guides = {k: bandpass((x - level[k]).astype(np.float64), rate, LOWEST, None) for k, x in guides.items()}
    starts = range(0, eeg.shape[1] - size + 1, size)
    return [(eeg[:, i : i + size], {k: x[:, i : i + size] for k, x in guides.items()}) for i in starts]


def thinned(sample: Sample, most: int) -> Sample:
    """Keep at most `most` stretches, evenly spread."""
    if len(sample.eeg) <= most:
        return sample
    kept = np.linspace(0, len(sample.eeg) - 1, most).astype(int)  # (most,)
    return Sample(sample.eeg[kept], {k: x[kept] for k, x in sample.guides.items()})


def even(guide: Floats) -> Floats:
    """Give every channel of a guide (E, G, L) a spread of 1."""
    return np.asarray(guide / np.maximum(guide.std(axis=(0, 2), keepdims=True), 1e-12))
