"""Figures of merit in plain numpy, by scikit-learn's definitions, fast enough for thousands of resamples.

Everything here is a sum over rows, or a ratio of such sums. `Statistics` holds the sums, of one table or of many
resamples at once (a leading axis R); `from_statistics` makes the figures from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PRINCIPAL = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "cohen_kappa",
    "mcc",
    "auroc",
    "log_loss",
    "brier",
    "ece",
)
LESS_IS_BETTER = frozenset({"log_loss", "brier", "ece", "rmse"})
BINS = 15


@dataclass(frozen=True)
class Statistics:
    """Sums over rows that all figures follow from; R resamples, k classes.

    Parameters
    ----------
    confusion : ndarray, shape (R, k, k)
        Number of rows of a true class (first) that were given a class (second).
    log_loss, brier : ndarray, shape (R,)
        Sums over the rows.
    bins : ndarray, shape (R, BINS, 2)
        Of each bin of top-label confidence: the summed confidence, and how many answers were right.
    auroc : ndarray, shape (R, k)
        Area under the ROC curve of each class against the rest, NaN where a side is empty.
    """

    confusion: Floats
    log_loss: Floats
    brier: Floats
    bins: Floats
    auroc: Floats


def classification(y_true: ArrayLike, prob: ArrayLike, classes: Sequence[str]) -> dict[str, float]:
    """Return every figure of one set of predictions.

    Parameters
    ----------
    y_true : array of int, shape (n,)
        True classes, 0 to k-1.
    prob : array, shape (n, k)
        Probability of each class; the answer is the most probable one (the first at a tie).
    classes : sequence of str, length k
        Names in index order, for the per-class figures.

    Returns
    -------
    dict of str to float
        ``accuracy``, ``balanced_accuracy`` (mean recall of the classes that occur), ``macro_f1`` (over all k classes,
        0 where a class has neither truth nor answer), ``cohen_kappa``, ``mcc``, ``auroc`` (one against the rest,
        macro; of the second class for two), ``log_loss`` (nats), ``brier`` (summed over classes, halved for two),
        ``ece`` (top label, 15 bins of equal width), and ``precision/``, ``recall/``, ``f1/`` with each class's name.
        NaN where a figure is undefined (kappa with one class in truth and answers, AUROC without a class).

    Raises
    ------
    UserError
        If the shapes disagree or a class is out of range.

    Notes
    -----
    Definitions are those of scikit-learn 1.5 to 1.9 with ``labels=range(k)`` and ``zero_division=0``; the calibration
    error is that of Guo et al. 2017, equation 3.
    """
    y, p = checked(y_true, prob, len(classes))
    figures = from_statistics(statistics_of(y, p), classes)
    return {name: float(values[0]) for name, values in figures.items()}


def checked(y_true: ArrayLike, prob: ArrayLike, k: int) -> tuple[Ints, Floats]:
    """Return truth (n,) and probabilities (n, k) as arrays, or raise `UserError` where they do not fit."""
    y, p = np.asarray(y_true, dtype=np.int64), np.asarray(prob, dtype=np.float64)  # (n,), (n, k)
    if y.ndim != 1 or p.shape != (y.size, k):
        raise UserError(
            f"predictions: found truth of shape {y.shape} and probabilities of shape {p.shape}, "
            f"expected (n,) and (n, {k})"
        )
    if not y.size:
        raise UserError("predictions: found no row, expected at least one with a label")
    if y.min() < 0 or y.max() >= k:
        raise UserError(f"predictions: found classes {y.min()} to {y.max()}, expected 0 to {k - 1}; drop unlabelled")
    if not np.isfinite(p).all():
        raise UserError(
            f"predictions: found {np.count_nonzero(~np.isfinite(p).all(axis=1))} rows with probabilities that are "
            "not numbers, expected none; the model diverged (lower training.lr)"
        )
    return y, p


def confusion(y_true: ArrayLike, y_pred: ArrayLike, k: int) -> Ints:
    """Count rows by true class (rows) and given class (columns), shape (k, k)."""
    cell = np.asarray(y_true, dtype=np.int64) * k + np.asarray(y_pred, dtype=np.int64)  # (n,)
    return np.bincount(cell, minlength=k * k).reshape(k, k).astype(np.int64)  # (k, k)


def statistics_of(y: Ints, p: Floats) -> Statistics:
    """Return the sums of one table, with R = 1; `y` (n,) and `p` (n, k) as from `checked`."""
    k = p.shape[1]
    log_loss, brier = row_losses(p)  # (n, k), (n, k)
    answer, place, sure = top_label(p)  # (n,), (n,), (n,)
    rows = np.arange(y.size)
    bins = np.stack(
        [
            np.bincount(place, weights=sure, minlength=BINS),
            np.bincount(place, weights=answer == y, minlength=BINS),
        ],
        axis=-1,
    ).astype(np.float64)  # (BINS, 2)
    areas = np.array([_auc(p[y == c, c], p[y != c, c]) for c in range(k)])  # (k,)
    return Statistics(
        confusion(y, answer, k)[None].astype(np.float64),  # (1, k, k)
        log_loss[rows, y].sum(keepdims=True),  # (1,)
        brier[rows, y].sum(keepdims=True),  # (1,)
        bins[None],  # (1, BINS, 2)
        areas[None],  # (1, k)
    )


def from_statistics(sums: Statistics, classes: Sequence[str]) -> dict[str, Floats]:
    """Return every figure of `classification` from sums, each of shape (R,)."""
    figures = from_confusion(sums.confusion, classes)
    n = sums.confusion.sum(axis=(1, 2))  # (R,)
    # For two classes both areas are the same number; scikit-learn takes the second class.
    areas = sums.auroc[:, 1] if sums.auroc.shape[1] == 2 else sums.auroc.mean(axis=1)  # (R,)
    figures["auroc"] = areas
    figures["log_loss"] = _ratio(sums.log_loss, n)
    figures["brier"] = _ratio(sums.brier, n)
    figures["ece"] = _ratio(np.abs(sums.bins[..., 0] - sums.bins[..., 1]).sum(axis=1), n)  # (R,)
    return figures


def from_confusion(tables: ArrayLike, classes: Sequence[str]) -> dict[str, Floats]:
    """Return the figures that need only confusion tables (R, k, k), each of shape (R,)."""
    table = np.asarray(tables, dtype=np.float64)  # (R, k, k)
    hits = np.diagonal(table, axis1=1, axis2=2)  # (R, k)
    truth, given, n = table.sum(axis=2), table.sum(axis=1), table.sum(axis=(1, 2))  # (R, k), (R, k), (R,)
    recall, precision = _ratio(hits, truth, 0.0), _ratio(hits, given, 0.0)  # (R, k), (R, k)
    f1 = _ratio(2 * hits, truth + given, 0.0)  # (R, k)
    right = _ratio(hits.sum(axis=1), n)  # (R,)
    expected = _ratio((truth * given).sum(axis=1), n**2)  # (R,)
    covariance = hits.sum(axis=1) * n - (truth * given).sum(axis=1)  # (R,)
    spread = (n**2 - (truth**2).sum(axis=1)) * (n**2 - (given**2).sum(axis=1))  # (R,)
    figures = {
        "accuracy": right,
        "balanced_accuracy": _ratio(recall.sum(axis=1), (truth > 0).sum(axis=1)),
        "macro_f1": f1.mean(axis=1),
        "cohen_kappa": _ratio(right - expected, 1 - expected),
        "mcc": _ratio(covariance, np.sqrt(spread), 0.0),
    }
    for c, name in enumerate(classes):
        figures[f"precision/{name}"] = precision[:, c]
        figures[f"recall/{name}"] = recall[:, c]
        figures[f"f1/{name}"] = f1[:, c]
    return figures


def row_losses(p: Floats) -> tuple[Floats, Floats]:
    """Return log-loss and Brier score of each row, had each class been the true one: two arrays (n, k)."""
    eps = np.finfo(np.float64).eps
    log_loss = -np.log(np.clip(p, eps, 1 - eps))  # (n, k)
    brier = (p**2).sum(axis=1, keepdims=True) - 2 * p + 1  # (n, k)
    return log_loss, brier / 2 if p.shape[1] == 2 else brier


def top_label(p: Floats) -> tuple[Ints, Ints, Floats]:
    """Return the answer, the bin of its confidence (lower edge excluded) and the confidence of each row, (n,) each."""
    answer = p.argmax(axis=1)  # (n,)
    sure = np.take_along_axis(p, answer[:, None], axis=1)[:, 0]  # (n,)
    # Rounding first, so that 0.2 * 15 = 3.0000000000000004 stays in the bin that ends at 0.2.
    place = np.clip(np.ceil(np.round(sure * BINS, 9)).astype(np.int64) - 1, 0, BINS - 1)  # (n,)
    return answer, place, sure


def _auc(positive: Floats, negative: Floats) -> float:
    """Probability that a positive scores above a negative, a tie counting half (Mann-Whitney)."""
    if not positive.size or not negative.size:
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.sum() / 2 / positive.size / negative.size)


def _ratio(above: ArrayLike, below: ArrayLike, otherwise: float = float("nan")) -> Floats:
    """Divide, with `otherwise` where the divisor is zero; a divisor within rounding of zero counts as zero."""
    a, b = np.broadcast_arrays(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))
    result: Floats = np.divide(a, b, out=np.full(a.shape, otherwise), where=np.abs(b) > 1e-14)
    return result
