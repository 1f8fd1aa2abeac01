"""Probability calibration: one temperature a fold, fitted on its validation trials; reliability before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError
from milmer.evaluation.metrics import BINS, checked
from milmer.evaluation.predictions import fold_keys, trial_level

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

Floats = NDArray[np.float64]

LOWEST, HIGHEST = 0.1, 10.0  # temperatures beyond say that there was too little to fit one
FEWEST_TRIALS = 6


def fit_temperature(y: ArrayLike, p: ArrayLike) -> float:
    """Return the temperature that makes the log-loss of ``softmax(log(p) / T)`` least.

    Parameters
    ----------
    y : array of int, shape (n,)
        True classes of validation trials.
    p : array, shape (n, k)
        Their probabilities.

    Returns
    -------
    float
        Between 0.1 and 10; above 1 makes answers less sure. 1 where nothing can be fitted: fewer than 6 trials, one
        class, or every trial right (the loss then falls without end).

    Raises
    ------
    UserError
        If the shapes disagree or values are out of range.

    Notes
    -----
    C. Guo and others, "On calibration of modern neural networks", 2017, section 4.2. In 1 / T the loss is convex, so
    its slope is bisected: no step size, no starting point.
    """
    if not np.size(y):
        return 1.0
    truth, prob = checked(y, p, np.shape(p)[1])  # (n,), (n, k)
    right = bool((prob.argmax(axis=1) == truth).all())
    if truth.size < FEWEST_TRIALS or np.unique(truth).size < 2 or right:
        return 1.0
    logits = _logs(prob)  # (n, k)
    if np.ptp(logits, axis=1).max() < 1e-9:  # every answer is the same shrug: no temperature changes it
        return 1.0
    own = logits[np.arange(truth.size), truth].mean()

    def slope(beta: float) -> float:
        return float((_softmax(logits * beta) * logits).sum(axis=1).mean() - own)

    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope(low) >= 0:
        return HIGHEST
    if slope(high) <= 0:
        return LOWEST
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))


def tempered(p: ArrayLike, temperature: float | Floats) -> Floats:
    """Return probabilities (n, k) at a temperature, one for all or one a row (n, 1): ``softmax(log(p) / T)``."""
    return _softmax(_logs(np.asarray(p, dtype=np.float64)) / temperature)


def temperatures(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[tuple[int, int], float]:
    """Return the temperature of every seed and fold, fitted on that fold's validation trials only.

    1 where a fold has no validation trial with a label.
    """
    judged = predictions[predictions["part"].isin(("validation", "test")) & (predictions["y_true"] >= 0)]
    return _fitted(trial_level(judged, classes), classes)


def calibrated(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the trial rows of the parts validation and test with calibrated probabilities.

    Parameters
    ----------
    predictions : DataFrame
        Rows of predictions.parquet.
    classes : sequence of str
        Names in index order.

    Returns
    -------
    DataFrame
        As of `milmer.evaluation.predictions.trial_level`, labelled rows only, the probabilities at the fold's
        temperature, which stands in the column ``temperature``. The answers are the same as before.
    """
    judged = predictions[predictions["part"].isin(("validation", "test")) & (predictions["y_true"] >= 0)]
    trials = trial_level(judged, classes)
    fitted = _fitted(trials, classes)
    prob = [f"prob_{name}" for name in classes]
    own = np.array([fitted[key] for key in fold_keys(trials)], dtype=np.float64)  # (n,)
    after = tempered(trials[prob].to_numpy(dtype=np.float64), own[:, None]) if len(trials) else None
    return (
        trials.assign(temperature=own)
        if after is None
        else trials.assign(temperature=own, **dict(zip(prob, after.T, strict=True)))
    )


def _fitted(trials: pd.DataFrame, classes: Sequence[str]) -> dict[tuple[int, int], float]:
    keys = fold_keys(trials)
    prob = trials[[f"prob_{name}" for name in classes]].to_numpy(dtype=np.float64)  # (n, k)
    y, held = trials["y_true"].to_numpy(dtype=np.int64), (trials["part"] == "validation").to_numpy()  # (n,), (n,)
    rows: dict[tuple[int, int], list[int]] = {key: [] for key in keys}
    for at in np.flatnonzero(held).tolist():
        rows[keys[at]].append(at)
    return {key: fit_temperature(y[mine], prob[mine]) for key, mine in rows.items()}


@dataclass(frozen=True)
class Bin:
    """Answers of one range of confidence: ends, how many, their mean confidence and the share that was right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(y: ArrayLike, p: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Return a reliability diagram's bins of top-label confidence that hold an answer.

    Parameters
    ----------
    y : array of int, shape (n,)
        True classes.
    p : array, shape (n, k)
        Probabilities, before or after `tempered`.
    bins : int
        How many bins of equal width, lower edges excluded.

    Notes
    -----
    The mean of ``|accuracy - confidence|``, weighted by ``n``, is the expected calibration error of
    `milmer.evaluation.metrics.classification` where `bins` is its number of bins.
    """
    if bins < 1:
        raise UserError(f"reliability: found {bins} bins, expected at least 1")
    truth, prob = checked(y, p, np.shape(p)[1])  # (n,), (n, k)
    answer, sure = prob.argmax(axis=1), prob.max(axis=1)  # (n,), (n,)
    place = np.clip(np.ceil(np.round(sure * bins, 9)).astype(np.int64) - 1, 0, bins - 1)  # (n,)
    out = []
    for b in np.unique(place).tolist():
        mine = place == b  # (n,)
        right = float((answer == truth)[mine].mean())
        out.append(Bin(b / bins, (b + 1) / bins, int(mine.sum()), float(sure[mine].mean()), right))
    return out


def _logs(p: Floats) -> Floats:
    return np.log(np.clip(p, np.finfo(np.float64).eps, 1.0))  # (n, k)


def _softmax(z: Floats) -> Floats:
    e = np.exp(z - z.max(axis=1, keepdims=True))  # (n, k)
    return np.asarray(e / e.sum(axis=1, keepdims=True))
