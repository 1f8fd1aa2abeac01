"""Intervals of pooled figures from few independent units: the jackknife, with Student's t.

A figure such as macro-F1 is made from all rows together, so its standard error is found by leaving out one unit
(a subject) at a time. A percentile bootstrap over 6 to 22 subjects covers too rarely; `docs/statistics.md` has both.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Scale = Literal["plain", "unit", "signed", "positive"]

FEWEST = 6  # an interval from fewer subjects (or trials, or stimuli) would say more than is known
_ENDS: dict[str, tuple[float, float]] = {
    "plain": (-np.inf, np.inf),
    "unit": (0.0, 1.0),
    "signed": (-1.0, 1.0),
    "positive": (0.0, np.inf),
}
_NONE = (float("nan"), float("nan"))


def scale_of(name: str) -> Scale:
    """Return the scale on which a figure's interval is made: the range it is bound to."""
    if name in ("cohen_kappa", "mcc", "ccc", "pearson"):
        return "signed"
    return "positive" if name in ("log_loss", "brier", "rmse") else "unit"


def variance(left_out: ArrayLike) -> float:
    """Return the jackknife's variance of a figure from its values with each unit left out, shape (G,)."""
    values = np.asarray(left_out, dtype=np.float64)  # (G,)
    if values.size < 2:
        return float("nan")
    return float((values.size - 1) / values.size * ((values - values.mean()) ** 2).sum())


def jackknife(
    value: float, left_out: ArrayLike, confidence: float = 0.95, scale: Scale = "plain"
) -> tuple[float, float]:
    """Return the interval of a pooled figure over the units that it was made from.

    Parameters
    ----------
    value : float
        The figure of all rows.
    left_out : array, shape (G,)
        The figure with each unit (subject) left out.
    confidence : float
        Level of the interval, such as 0.95.
    scale : {'plain', 'unit', 'signed', 'positive'}
        Range of the figure: any number, 0 to 1, -1 to 1, above 0. The interval of a bound figure is made on its
        logit (Fisher's z, logarithm) and taken back, which keeps it within the range and its coverage near a bound.
        Where the figure, or one with a unit left out, lies on a bound, it is made on the plain scale and cut off.

    Returns
    -------
    (low, high) : tuple of float
        NaN where a value is undefined, or there are fewer than 6 units.

    Notes
    -----
    Standard error ``sqrt((G - 1) / G * sum((left_out - mean)^2))``, Student's t with G - 1 degrees (B. Efron,
    R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 11).
    """
    values = np.asarray(left_out, dtype=np.float64)  # (G,)
    if values.size < FEWEST or not np.isfinite(value) or not np.isfinite(values).all():
        return _NONE
    centre, mine, used = _scaled(value, (values,), scale)
    return _around(centre, variance(mine[0]), values.size - 1, confidence, used, scale)


def two_way(
    value: float,
    left_subjects: ArrayLike,
    left_stimuli: ArrayLike,
    left_cells: ArrayLike,
    confidence: float = 0.95,
    scale: Scale = "plain",
) -> tuple[float, float]:
    """Return the interval of a pooled figure for claims about new subjects and new stimuli together.

    Parameters
    ----------
    value : float
        The figure of all rows.
    left_subjects, left_stimuli, left_cells : arrays, shapes (S,), (I,) and (cells,)
        The figure without each subject, each stimulus, each cell (what one subject answered to one stimulus).
    confidence, scale
        As for `jackknife`.

    Returns
    -------
    (low, high) : tuple of float
        NaN where a value is undefined, or there are fewer than 6 subjects or stimuli.

    Notes
    -----
    The variance is that over subjects, plus that over stimuli, less that over cells, which both of the first hold
    (A. C. Cameron, J. B. Gelbach, D. L. Miller, "Robust inference with multiway clustering", 2011); the degrees are
    Satterthwaite's, of the three. Where the sum is smaller than the larger of the one-way variances, that stands in
    its place with its own degrees.
    """
    of = tuple(np.asarray(v, dtype=np.float64) for v in (left_subjects, left_stimuli, left_cells))
    if min(of[0].size, of[1].size) < FEWEST or not np.isfinite(value) or not all(np.isfinite(v).all() for v in of):
        return _NONE
    centre, mine, used = _scaled(value, of, scale)
    found, free = two_way_variance(*mine)
    return _around(centre, found, free, confidence, used, scale)


def two_way_variance(left_subjects: ArrayLike, left_stimuli: ArrayLike, left_cells: ArrayLike) -> tuple[float, float]:
    """Return the variance over subjects and stimuli, and its degrees of freedom; arguments as for `two_way`."""
    subjects, stimuli = np.asarray(left_subjects), np.asarray(left_stimuli)
    of_subjects, of_stimuli, of_cells = variance(subjects), variance(stimuli), variance(left_cells)
    free_subjects, free_stimuli = subjects.size - 1, stimuli.size - 1
    total = of_subjects + of_stimuli - of_cells
    largest = max((of_subjects, float(free_subjects)), (of_stimuli, float(free_stimuli)))
    if total <= largest[0]:
        return largest
    spread = (
        of_subjects**2 / free_subjects + of_stimuli**2 / free_stimuli + of_cells**2 / (free_subjects * free_stimuli)
    )
    return total, total**2 / spread


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean of independent values, one a subject; NaN below 6 of them."""
    own = np.asarray(values, dtype=np.float64)  # (n_subjects,)
    if own.size < FEWEST or not np.isfinite(own).all():
        return _NONE
    return _around(float(own.mean()), float(own.var(ddof=1) / own.size), own.size - 1, confidence, "plain", "plain")


def clustered_mean(values: ArrayLike, clusters: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a mean over rows that come in clusters (windows of a subject), by the jackknife.

    Parameters
    ----------
    values, clusters : arrays, shape (n_rows,)
        What is averaged, and the cluster of each row.
    confidence : float
        Level of the interval.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)  # (G,), (n,)
    sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64))  # (G,)
    counts = np.bincount(index)  # (G,)
    if names.size < FEWEST:
        return _NONE
    left = (sums.sum() - sums) / (counts.sum() - counts)  # (G,)
    return jackknife(float(sums.sum() / counts.sum()), left, confidence)


def quantile(free: float, tail: float) -> float:
    """Return what Student's t with `free` degrees exceeds with probability `tail`."""
    from scipy.special import stdtrit  # late: keeps `import milmer.evaluation` fast

    return float(-stdtrit(free, tail))


def _around(
    centre: float, spread: float, free: float, confidence: float, used: Scale, scale: Scale
) -> tuple[float, float]:
    reach = quantile(free, (1 - confidence) / 2) * float(np.sqrt(max(spread, 0.0)))
    ends = _from_scale(np.array([centre - reach, centre + reach]), used)
    low, high = np.clip(ends, *_ENDS[scale])
    return float(low), float(high)


def _scaled(value: float, left_out: tuple[Floats, ...], scale: Scale) -> tuple[float, tuple[Floats, ...], Scale]:
    """Return the values on the scale, and the scale used: the plain one where a value lies on a bound."""
    low, high = _ENDS[scale]
    inside = low < value < high and all(((low < v) & (v < high)).all() for v in left_out)
    used: Scale = scale if inside else "plain"
    return float(_to_scale(np.float64(value), used)), tuple(_to_scale(v, used) for v in left_out), used


def _to_scale(values: Floats | np.float64, scale: Scale) -> Floats:
    given = np.asarray(values, dtype=np.float64)
    if scale == "unit":
        return np.asarray(np.log(given) - np.log1p(-given))
    if scale == "signed":
        return np.asarray(np.arctanh(given))
    return np.asarray(np.log(given)) if scale == "positive" else given


def _from_scale(values: Floats, scale: Scale) -> Floats:
    if scale == "unit":
        return np.asarray(1 / (1 + np.exp(-np.clip(values, -700, 700))))
    if scale == "signed":
        return np.asarray(np.tanh(values))
    return np.asarray(np.exp(np.clip(values, -700, 700))) if scale == "positive" else values
