"""Paired tests over people (or trials of one person): what two models' figures on the same units allow to say."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.evaluation.intervals import mean_interval

Floats = NDArray[np.float64]

EXACT_UP_TO = 16  # 2**16 sign patterns are counted in a millisecond
RANDOM_FLIPS = 20_000
DECIMALS = 12  # differences of means of the same few numbers are equal but for rounding


@dataclass(frozen=True)
class Paired:
    """What the differences of two runs over the same units say.

    Parameters
    ----------
    n : int
        Units where both runs have the figure.
    difference, low, high : float
        Mean of first less second and its Student t interval (NaN below 6 units).
    p, p_smallest, p_how : float, float, str
        Sign-flip permutation test, two-sided; the least p that so many units can give; how it was found.
    p_wilcoxon : float
        Wilcoxon signed-rank test, two-sided.
    d_z, rank_biserial : float
        Effect sizes: mean over standard deviation of the differences; matched-pairs rank-biserial correlation.
    wins, ties, losses : int
        Units on which the first run is better, equal, worse.
    """

    n: int
    difference: float
    low: float
    high: float
    p: float
    p_smallest: float
    p_how: str
    p_wilcoxon: float
    d_z: float
    rank_biserial: float
    wins: int
    ties: int
    losses: int


def paired(
    first: ArrayLike,
    second: ArrayLike,
    *,
    confidence: float = 0.95,
    less_is_better: bool = False,
    seed: int = 0,
) -> Paired:
    """Compare two runs' figures of the same units.

    Parameters
    ----------
    first, second : arrays, shape (n_units,)
        A figure of each unit (a subject) under each run; units where one is undefined (NaN) are left out.
    confidence : float
        Level of the interval.
    less_is_better : bool
        Whether the smaller figure wins.
    seed : int
        Seed of the random sign flips (more than 16 units).
    """
    d = np.round(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), DECIMALS)  # (n,)
    d = d[np.isfinite(d)]
    low, high = mean_interval(d, confidence)
    p, smallest, how = sign_flip(d, seed=seed)
    better = -d if less_is_better else d
    return Paired(
        n=int(d.size),
        difference=float(d.mean()) if d.size else float("nan"),
        low=low,
        high=high,
        p=p,
        p_smallest=smallest,
        p_how=how,
        p_wilcoxon=wilcoxon(d),
        d_z=cohen_dz(d),
        rank_biserial=rank_biserial(d),
        wins=int((better > 0).sum()),
        ties=int((d == 0).sum()),
        losses=int((better < 0).sum()),
    )


def sign_flip(differences: ArrayLike, *, seed: int = 0, resamples: int = RANDOM_FLIPS) -> tuple[float, float, str]:
    """Test that differences are as likely one way as the other: their signs are flipped unit by unit.

    The statistic is the absolute mean, so the test is two-sided. Up to 16 units all ``2**n`` patterns are counted;
    beyond, `resamples` random ones and the observed one (Phipson and Smyth 2010), so p is never zero.

    Parameters
    ----------
    differences : array, shape (n_units,)
        Finite differences.
    seed, resamples : int
        Of the random patterns.

    Returns
    -------
    p : float
        NaN without a unit.
    smallest : float
        The least p that this number of units can give.
    how : str
        In words.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not d.size:
        return float("nan"), float("nan"), "no unit has the figure"
    margin = 1e-10 * float(np.abs(d).sum())
    observed = abs(float(d.sum())) - margin
    if d.size <= EXACT_UP_TO:
        sums = d[:1]  # the first sign is held: a pattern and its mirror image have the same absolute sum
        for value in d[1:]:
            sums = np.concatenate([sums + value, sums - value])  # (2 ** units so far,)
        return float(np.mean(np.abs(sums) >= observed)), 2.0 ** (1 - d.size), f"all {2**d.size} sign flips"
    hits = int(np.count_nonzero(np.abs(_signs(seed, resamples, d.size) @ d) >= observed))
    return (1 + hits) / (1 + resamples), 1 / (1 + resamples), f"{resamples} random sign flips"


@functools.lru_cache(maxsize=2)  # every pair of runs and every figure asks for the same
def _signs(seed: int, resamples: int, n: int) -> Floats:
    drawn = np.random.default_rng([seed, n]).integers(0, 2, (resamples, n))  # (R, n)
    signs = np.asarray(1 - 2 * drawn, dtype=np.float64)  # (R, n)
    signs.flags.writeable = False
    return signs


def wilcoxon(differences: ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test (scipy's; units without a difference are dropped)."""
    d = np.asarray(differences, dtype=np.float64)
    if not d.size:
        return float("nan")
    if not d.any():
        return 1.0
    from scipy.stats import wilcoxon as test  # late: half a second

    return float(test(d[d != 0]).pvalue)


def cohen_dz(differences: ArrayLike) -> float:
    """Return the mean of the differences over their standard deviation; NaN where they do not vary."""
    d = np.asarray(differences, dtype=np.float64)
    spread = float(d.std(ddof=1)) if d.size > 1 else 0.0
    return float(d.mean()) / spread if spread > 1e-12 else float("nan")


def rank_biserial(differences: ArrayLike) -> float:
    """Return the matched-pairs rank-biserial correlation, -1 to 1: (ranks of gains - ranks of losses) / all ranks.

    Source: D. S. Kerby, "The simple difference formula", 2014. 0 where nothing differs, NaN without a unit.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not d.size:
        return float("nan")
    d = d[d != 0]
    if not d.size:
        return 0.0
    ranks = midranks(np.abs(d)[None])[0]  # (n,)
    return float((ranks * np.sign(d)).sum() / ranks.sum())


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values for their number by Holm's step-down method (1979); undefined ones stay out and undefined.

    Parameters
    ----------
    p_values : array, shape (m,)

    Returns
    -------
    ndarray of float64, shape (m,)
        Reject where it is at most alpha: the chance of any false alarm is then at most alpha.
    """
    p = np.asarray(p_values, dtype=np.float64)
    out = np.full(p.shape, np.nan)  # (m,)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]  # (k,)
    steps = p[order] * np.arange(order.size, 0, -1)  # (k,)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if order.size else steps
    return out


def midranks(values: ArrayLike) -> Floats:
    """Rank each row from 1 (smallest), equal values sharing their mean rank, shape (n, k)."""
    x = np.asarray(values, dtype=np.float64)  # (n, k)
    below = (x[:, None, :] < x[:, :, None]).sum(axis=2)  # (n, k)
    equal = (x[:, None, :] == x[:, :, None]).sum(axis=2)  # (n, k)
    return np.asarray(below + (equal + 1) / 2, dtype=np.float64)


def friedman(
    values: ArrayLike, *, less_is_better: bool = False, seed: int = 0, resamples: int = RANDOM_FLIPS
) -> tuple[Floats, float]:
    """Rank runs within each unit, and test that their average ranks are alike.

    Friedman's statistic, its p from `resamples` random orders of the runs within each unit: the chi-squared
    approximation is off for few units.

    Parameters
    ----------
    values : array, shape (n_units, n_runs)
        A figure; units with an undefined one are left out.
    less_is_better : bool
        Whether the smallest figure has rank 1, not the largest.
    seed, resamples : int
        Of the random orders.

    Returns
    -------
    ranks : ndarray, shape (n_runs,)
        Average ranks, 1 the best.
    p : float
        NaN for fewer than three runs or two units.
    """
    x = np.round(np.asarray(values, dtype=np.float64), DECIMALS)  # (n, k)
    x = x[np.isfinite(x).all(axis=1)]
    n, k = x.shape
    if not n:
        return np.full(k, np.nan), float("nan")
    ranks = midranks(x if less_is_better else -x)  # (n, k)
    mean = ranks.mean(axis=0)  # (k,)
    if k < 3 or n < 2:
        return mean, float("nan")
    observed = float(((mean - (k + 1) / 2) ** 2).sum())
    rng = np.random.default_rng([seed, n, k])
    hits = 0
    for done in range(0, resamples, 2000):  # in parts: 2 000 x 32 x 12 numbers at a time
        size = min(2000, resamples - done)
        orders = rng.permuted(np.broadcast_to(ranks, (size, n, k)), axis=2).mean(axis=1)  # (r, k)
        hits += int((((orders - (k + 1) / 2) ** 2).sum(axis=1) >= observed - 1e-10).sum())
    return mean, (1 + hits) / (1 + resamples)


def joined(ranks: Floats, separated: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """Return the groups that a rank plot joins: runs next to one another by rank, no two of them separated.

    Parameters
    ----------
    ranks : ndarray, shape (k,)
        Average ranks.
    separated : ndarray of bool, shape (k, k)
        Symmetric: whether the pair's corrected test is significant.

    Returns
    -------
    list of tuple of int
        Run numbers of each group by rank, two or more each, none within another.
    """
    order: Sequence[int] = np.argsort(ranks, kind="stable").tolist()
    found: list[tuple[int, ...]] = []
    reach = 0
    for begin in range(len(order)):
        end = begin + 1
        while end < len(order) and not any(separated[order[end], other] for other in order[begin:end]):
            end += 1
        if end - begin > 1 and end > reach:
            found.append(tuple(order[begin:end]))
            reach = end
    return found
