"""Bootstrap over clusters and permutation of labels: pure numpy, every random step from an explicit seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.evaluation.metrics import BINS, Statistics, row_losses, top_label

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def cluster_weights(strata: ArrayLike, resamples: int, rng: np.random.Generator) -> Floats:
    """Draw how often each cluster is in each resample: clusters with replacement within their stratum.

    A figure of a resample is then a weighted sum over clusters: one matrix product for all resamples at once.

    Parameters
    ----------
    strata : array of int, shape (n_clusters,)
        Stratum of each cluster: all the same to resample over all clusters, the subject of each trial to resample
        trials within subjects.
    resamples : int
        Number of resamples.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray of float64, shape (resamples, n_clusters)
        Counts; within a stratum each row sums to the number of its clusters.
    """
    stratum = np.asarray(strata)
    weights = np.empty((resamples, stratum.size))  # (R, G)
    for name in np.unique(stratum):
        mine = np.flatnonzero(stratum == name)
        weights[:, mine] = rng.multinomial(mine.size, np.full(mine.size, 1 / mine.size), size=resamples)  # (R, g)
    return weights


def expanded_levels(confidence: float, clusters: int, strata: int = 1) -> tuple[float, float]:
    """Return the two quantiles of the bootstrap that make a `confidence` interval from few clusters.

    The plain percentiles (0.025, 0.975) are too narrow twice over: a resample varies too little by the factor
    ``sqrt((n - 1) / n)``, and normal quantiles stand where Student's belong. Both are mended by moving the quantiles
    out (T. Hesterberg, "What teachers should know about the bootstrap", 2015, "expanded percentile interval").
    With strata, ``n - 1`` becomes clusters less strata.

    Raises
    ------
    ValueError
        If there are not more clusters than strata: nothing varies then.
    """
    free = clusters - strata
    if free < 1:
        raise ValueError(f"{clusters} clusters in {strata} strata leave nothing to resample")
    from scipy.special import ndtr, stdtrit  # late: keeps `import milmer.evaluation` fast

    outer = float(ndtr(np.sqrt(clusters / free) * stdtrit(free, (1 - confidence) / 2)))
    return outer, 1 - outer


def interval(resampled: ArrayLike, confidence: float, clusters: int, strata: int = 1) -> tuple[float, float]:
    """Return the expanded percentile interval of a figure.

    Parameters
    ----------
    resampled : array, shape (resamples,)
        The figure in each resample; undefined ones (NaN) are left out.
    confidence : float
        Level of the interval, such as 0.95.
    clusters, strata : int
        How many clusters were resampled, within how many strata.

    Returns
    -------
    (low, high) : tuple of float
        NaN where no resample had a defined figure.
    """
    values = np.asarray(resampled, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(values, expanded_levels(confidence, clusters, strata))
    return float(low), float(high)


def bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of a mean over rows that come in clusters (windows of a subject): the clusters are resampled.

    Parameters
    ----------
    values : array, shape (n_rows,)
        What is averaged, such as 1 where a window was classified rightly.
    clusters : array, shape (n_rows,)
        Cluster of each row, such as its subject.
    resamples, confidence, seed
        Number of resamples, level of the interval, seed.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64))  # (G,)
    counts = np.bincount(index)  # (G,)
    weights = cluster_weights(np.zeros(names.size, dtype=np.int64), resamples, np.random.default_rng([seed]))  # (R, G)
    return interval((weights @ sums) / (weights @ counts), confidence, names.size)


def permuted_labels(labels: ArrayLike, strata: ArrayLike, permutations: int, rng: np.random.Generator) -> Ints:
    """Shuffle labels within each stratum, many times.

    Parameters
    ----------
    labels, strata : arrays, shape (n_units,)
        Label of each unit (a trial) and what it may be exchanged within (its subject).
    permutations : int
        Number of shuffles.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray of int64, shape (permutations, n_units)
    """
    label, stratum = np.asarray(labels, dtype=np.int64), np.asarray(strata)
    out = np.empty((permutations, label.size), dtype=np.int64)  # (R, U)
    for name in np.unique(stratum):
        mine = np.flatnonzero(stratum == name)
        out[:, mine] = rng.permuted(np.tile(label[mine], (permutations, 1)), axis=1)  # (R, u)
    return out


def exchangeable(labels: ArrayLike, strata: ArrayLike) -> bool:
    """Whether shuffling within strata can change anything: some stratum holds two different labels."""
    pairs = np.unique(np.stack([np.asarray(strata), np.asarray(labels)]), axis=1)
    return bool(pairs.shape[1] > np.unique(pairs[0]).size)


def p_value(value: float, null: ArrayLike, greater: bool = True) -> float:
    """Return ``(1 + #{null at least as good}) / (1 + n)``, one-sided: never zero, valid for any n.

    Undefined null values are left out; an undefined `value` or an empty null gives NaN. A margin of 1e-12 takes
    rounding for equality.
    """
    values = np.asarray(null, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size or not np.isfinite(value):
        return float("nan")
    as_good = values >= value - 1e-12 if greater else values <= value + 1e-12
    return float((1 + np.count_nonzero(as_good)) / (1 + values.size))


def chance_level(null: ArrayLike, greater: bool = True, alpha: float = 0.05) -> tuple[float, float]:
    """Return the mean of a null and the limit that a figure passes by chance with probability `alpha`.

    The limit is the ``1 - alpha`` quantile, or the `alpha` quantile where less is better. NaN for an empty null.
    """
    values = np.asarray(null, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return float("nan"), float("nan")
    return float(values.mean()), float(np.quantile(values, 1 - alpha if greater else alpha))


def bootstrap_statistics(y: Ints, p: Floats, cluster: Ints, weights: Floats) -> Statistics:
    """Return the sums of every resample of clusters.

    Parameters
    ----------
    y, p : arrays, shapes (n,) and (n, k)
        Truth and probabilities, as from `milmer.evaluation.metrics.checked`.
    cluster : ndarray of int, shape (n,)
        Cluster of each row, 0 to G-1.
    weights : ndarray, shape (R, G)
        As from `cluster_weights`.
    """
    k, count = p.shape[1], weights.shape[1]
    log_loss, brier = row_losses(p)  # (n, k), (n, k)
    answer, place, sure = top_label(p)  # (n,), (n,), (n,)
    rows = np.arange(y.size)
    cells = np.bincount(cluster * k * k + y * k + answer, minlength=count * k * k).reshape(count, -1)  # (G, k*k)
    at = cluster * BINS + place  # (n,)
    confidence = np.bincount(at, weights=sure, minlength=count * BINS).reshape(count, BINS)  # (G, BINS)
    right = np.bincount(at, weights=answer == y, minlength=count * BINS).reshape(count, BINS)  # (G, BINS)
    areas = np.stack([_weighted_auc(p[:, c], y == c, cluster, weights) for c in range(k)], axis=1)  # (R, k)
    return Statistics(
        (weights @ cells).reshape(-1, k, k),  # (R, k, k)
        weights @ np.bincount(cluster, weights=log_loss[rows, y], minlength=count),  # (R,)
        weights @ np.bincount(cluster, weights=brier[rows, y], minlength=count),  # (R,)
        np.stack([weights @ confidence, weights @ right], axis=-1),  # (R, BINS, 2)
        areas,
    )


def permutation_statistics(p: Floats, unit: Ints, labels: Ints) -> Statistics:
    """Return the sums under every relabelling of units, the predictions held.

    Parameters
    ----------
    p : ndarray, shape (n, k)
        Probabilities.
    unit : ndarray of int, shape (n,)
        Unit (trial) of each row, 0 to U-1: all rows of a unit carry its label.
    labels : ndarray of int, shape (R, U)
        Labels of the units, as from `permuted_labels`.
    """
    k, count = p.shape[1], labels.shape[1]
    log_loss, brier = row_losses(p)  # (n, k), (n, k)
    answer, place, sure = top_label(p)  # (n,), (n,), (n,)
    right = np.bincount((unit * k + answer) * BINS + place, minlength=count * k * BINS)  # (U * k * BINS,)
    right = right.reshape(count, k, BINS)  # (U, k, BINS)
    size = np.bincount(unit, minlength=count)  # (U,)
    tables = np.empty((labels.shape[0], k, k))  # (R, k, k)
    losses = np.zeros((labels.shape[0], 2))  # (R, 2)
    hits = np.zeros((labels.shape[0], BINS))  # (R, BINS)
    areas = np.empty((labels.shape[0], k))  # (R, k)
    for c in range(k):
        mine = (labels == c).astype(np.float64)  # (R, U)
        sums = [np.bincount(unit, weights=v, minlength=count) for v in (log_loss[:, c], brier[:, c], _ranks(p[:, c]))]
        features = np.column_stack([right.sum(axis=2), right[:, c], *sums, size])  # (U, k + BINS + 4)
        totals = mine @ features  # (R, k + BINS + 4)
        tables[:, c] = totals[:, :k]  # (R, k)
        hits += totals[:, k : k + BINS]  # (R, BINS)
        losses += totals[:, k + BINS : k + BINS + 2]  # (R, 2)
        ranks, positive = totals[:, -2], totals[:, -1]  # (R,), (R,)
        pairs = positive * (size.sum() - positive)  # (R,)
        above = ranks - positive * (positive + 1) / 2  # (R,)
        areas[:, c] = np.divide(above, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)  # (R,)
    confidence = np.bincount(place, weights=sure, minlength=BINS)  # (BINS,)
    bins = np.stack([np.broadcast_to(confidence, hits.shape), hits], axis=-1)  # (R, BINS, 2)
    return Statistics(tables, losses[:, 0], losses[:, 1], bins, areas)


def _ranks(values: Floats) -> Floats:
    """Rank values from 1, equal ones sharing their mean rank, (n,)."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # (distinct,)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)


def _weighted_auc(score: Floats, positive: NDArray[np.bool_], cluster: Ints, weights: Floats) -> Floats:
    """Area under the ROC curve in every resample of clusters, (R,); NaN where a side is empty.

    The pairs won by cluster g's positives over cluster h's negatives form a matrix M; in a resample with weights w
    the area is ``w M w`` over the number of pairs, so that no resample is ever sorted.
    """
    count = weights.shape[1]
    up, up_of = score[positive], cluster[positive]  # (n+,), (n+,)
    won = np.zeros((count, count), dtype=np.float32)  # (G, G)
    down, down_of = score[~positive], cluster[~positive]  # (n-,), (n-,)
    order = np.lexsort((down, down_of))  # (n-,)
    ends = np.cumsum(np.bincount(down_of, minlength=count))  # (G,)
    for h, end in enumerate(ends):
        below = down[order[(ends[h - 1] if h else 0) : end]]  # (n- of h,), ascending
        if below.size:
            pairs = (np.searchsorted(below, up, "left") + np.searchsorted(below, up, "right")) / 2  # (n+,)
            won[:, h] = np.bincount(up_of, weights=pairs, minlength=count)  # (G,)
    total = np.einsum("rg,rg->r", weights.astype(np.float32) @ won, weights)  # (R,)
    possible = (weights @ np.bincount(up_of, minlength=count)) * (weights @ np.bincount(down_of, minlength=count))
    area: Floats = np.divide(total, possible, out=np.full(total.shape, np.nan), where=possible > 0)  # (R,)
    return area
