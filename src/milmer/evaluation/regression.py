"""Figures of continuous ratings: concordance, error and correlation, from sums over rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def regression(truth: ArrayLike, answer: ArrayLike) -> dict[str, float]:
    """Return the figures of continuous answers.

    Parameters
    ----------
    truth, answer : arrays, shape (n,)
        Ratings given and ratings predicted, in the units of the rating.

    Returns
    -------
    dict of str to float
        ``ccc`` (L. I.-K. Lin 1989: ``2 cov / (var + var + (difference of means)^2)``, with divisor n), ``rmse`` and
        ``pearson``; NaN where undefined (a constant truth or answer for the correlation).

    Raises
    ------
    UserError
        If the shapes disagree, there is no row or a value is not finite.
    """
    y, x = np.asarray(truth, dtype=np.float64), np.asarray(answer, dtype=np.float64)  # (n,), (n,)
    if y.ndim != 1 or y.shape != x.shape or not y.size:
        raise UserError(f"ratings: found shapes {y.shape} and {x.shape}, expected two of the same (n,), n at least 1")
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise UserError("ratings: found values that are not numbers, expected none; leave trials without a rating out")
    found = from_moments(moments(y, x, np.zeros(y.size, dtype=np.int64), float(y.mean())))
    return {name: float(values[0]) for name, values in found.items()}


def moments(truth: Floats, answer: Floats, cluster: Ints, centre: float) -> Floats:
    """Return sums over the rows of each cluster: n, y, x, y², x², xy, about a centre; shape (G, 6).

    The figures do not depend on the centre; one near the mean keeps the sums' precision.
    """
    y, x = truth - centre, answer - centre  # (n,), (n,)
    count = int(cluster.max()) + 1
    columns = (np.ones_like(y), y, x, y * y, x * x, x * y)
    return np.stack([np.bincount(cluster, weights=c, minlength=count) for c in columns], axis=1)  # (G, 6)


def from_moments(sums: Floats) -> dict[str, Floats]:
    """Return the figures from sums (R, 6) as of `moments`, each of shape (R,)."""
    n = sums[:, 0]  # (R,)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_y, mean_x, square_y, square_x, product = (sums[:, i] / n for i in range(1, 6))  # (R,) each
        var_y, var_x = square_y - mean_y**2, square_x - mean_x**2  # (R,), (R,)
        both = product - mean_y * mean_x  # (R,)
        error = square_y + square_x - 2 * product  # (R,)
        # A constant has a variance of rounding: it counts as none.
        still = (var_y <= 1e-12 * (1 + square_y)) | (var_x <= 1e-12 * (1 + square_x))  # (R,)
        below = var_y + var_x + (mean_y - mean_x) ** 2  # (R,)
        ccc = np.where(below > 1e-12, 2 * both / below, np.nan)  # (R,)
        pearson = np.where(still, np.nan, both / np.sqrt(np.maximum(var_y * var_x, 0)))  # (R,)
    return {"ccc": ccc, "rmse": np.sqrt(np.maximum(error, 0)), "pearson": np.clip(pearson, -1, 1)}
