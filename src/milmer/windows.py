"""Windows and bags: an index over a store, computed in milliseconds; nothing here is ever written to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import UserError


def window_starts(duration: float, window: float, step: float) -> NDArray[np.float64]:
    """Start times (s) of the windows of a trial.

    The last window may be short; it is kept if at least half of it is there (its absent part is masked, not invented).
    """
    whole = int(np.floor((duration - window) / step + 1e-9)) + 1 if duration + 1e-9 >= window else 0
    starts: NDArray[np.float64] = np.arange(whole, dtype=np.float64) * step  # (n,)
    left = duration - whole * step
    if left + 1e-9 >= window / 2 and whole * step + 1e-9 < duration:
        starts = np.append(starts, whole * step)  # (n + 1,)
    return starts


def holds(trials: pd.DataFrame, modality: str) -> NDArray[np.bool_]:
    """Which trials have a modality; none of a store that has no column for it. (n_trials,)"""
    column = f"has_{modality}"
    return trials[column].to_numpy(dtype=bool) if column in trials else np.zeros(len(trials), dtype=bool)


def build_windows(
    trials: pd.DataFrame, window: float = 3.0, step: float | None = None, modalities: Sequence[str] = ("eeg", "face")
) -> pd.DataFrame:
    """Return one row a window, with all columns of its trial.

    Parameters
    ----------
    trials : DataFrame
        A store's `trials`.
    window, step : float
        Length and distance in seconds; without `step`, windows do not overlap.
    modalities : sequence of str
        ``eeg``, ``face``, ``gsr`` and so on: trials that have none of those named are left out.

    Returns
    -------
    DataFrame
        The trial's columns, and ``trial_row`` (row in `trials`), ``window`` (index in the trial), ``start`` and
        ``stop`` (s from the trial's start).

    Raises
    ------
    UserError
        If no window is left.
    """
    step = window if step is None else step
    has = np.zeros(len(trials), dtype=bool)
    for name in modalities:
        has |= holds(trials, name)
    rows, indexes, starts = [], [], []
    for row in np.flatnonzero(has):
        begin = window_starts(float(trials["duration"].iloc[row]), window, step)  # (n,)
        rows.append(np.full(len(begin), row))
        indexes.append(np.arange(len(begin)))
        starts.append(begin)
    if not rows or not sum(map(len, rows)):
        longest = trials["duration"].max() if len(trials) else 0.0
        raise UserError(
            f"no window of {window:g} s with {' or '.join(modalities)}: {len(trials)} trials, the longest "
            f"{longest:.1f} s; give a shorter data.window or other data.modalities"
        )
    index = np.concatenate(rows)  # (n_windows,)
    table = trials.iloc[index].reset_index(drop=True)
    start = np.concatenate(starts)  # (n_windows,)
    return table.assign(trial_row=index, window=np.concatenate(indexes), start=start, stop=start + window)


def choose_frames(times: NDArray[np.float64], start: float, stop: float, frames: int) -> NDArray[np.int64]:
    """Choose up to `frames` evenly spaced rows of a face track between `start` and `stop` seconds.

    Parameters
    ----------
    times : ndarray, shape (F,)
        Ascending times of a trial's face track.

    Returns
    -------
    ndarray of int64, shape (frames,)
        Rows into `times`; -1 where the track has no further frame.
    """
    first, last = np.searchsorted(times, [start - 1e-6, stop - 1e-6])
    rows = np.arange(first, last)  # (n,)
    if len(rows) > frames:
        rows = rows[np.round((np.arange(frames) + 0.5) * len(rows) / frames - 0.5).astype(int)]  # (frames,)
    return np.concatenate([rows, np.full(frames - len(rows), -1)]).astype(np.int64)  # (frames,)
