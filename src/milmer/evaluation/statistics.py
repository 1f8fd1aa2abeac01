"""Figures with each cluster left out, and under permuted labels: pure numpy, every random step from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.evaluation.metrics import BINS, Statistics, row_losses, top_label

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TOLERANCE = 1.25  # trials whose lengths differ by no more may exchange labels


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
        # Sorting random keys shuffles all rows at once, faster than shuffling each.
        order = rng.random((permutations, mine.size), dtype=np.float32).argsort(axis=1)  # (R, u)
        out[:, mine] = label[mine][order]  # (R, u)
    return out


def exchanged_alike(
    labels: ArrayLike, strata: ArrayLike, groups: ArrayLike, permutations: int, rng: np.random.Generator
) -> Ints:
    """Shuffle labels within each stratum so that all strata exchange their groups (stimuli) in the same way.

    Where everybody saw the same stimuli, a stimulus gets the labels that another one has, whoever saw it: what the
    answers to a stimulus have in common over people, and its labels, stays together. So it is stimuli that are
    exchanged, as many as there are, and not as many trials. Where people saw different ones, the exchange is as alike
    as their lists allow: both lists are put in one random order each, the same for everybody.

    Parameters
    ----------
    labels, strata, groups : arrays, shape (n_units,)
        Label of each unit (a trial), what it may be exchanged within (its subject), and what goes together (its
        stimulus).
    permutations : int
        Number of shuffles.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray of int64, shape (permutations, n_units)
    """
    label, stratum = np.asarray(labels, dtype=np.int64), np.asarray(strata)
    names, group = np.unique(np.asarray(groups), return_inverse=True)  # (G,), (U,)
    from_, to = (rng.random((permutations, names.size), dtype=np.float32) for _ in range(2))  # (R, G), (R, G)
    out = np.empty((permutations, label.size), dtype=np.int64)  # (R, U)
    for name in np.unique(stratum):
        mine = np.flatnonzero(stratum == name)
        sources, places = (keys[:, group[mine]].argsort(axis=1, kind="stable") for keys in (from_, to))  # (R, u)
        np.put_along_axis(out, mine[places], label[mine][sources], axis=1)
    return out


def relabelled(
    labels: ArrayLike,
    strata: ArrayLike,
    permutations: int,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[Ints | None, str]:
    """Shuffle the labels of units by what is independent of each other, and say how.

    Parameters
    ----------
    labels, strata : arrays, shape (n_units,)
        Label of each unit (a trial), and its subject.
    permutations : int
        Number of shuffles.
    rng : Generator
        Source of randomness.
    groups : array, shape (n_units,), optional
        The stimulus of each unit, where none was in training: see `exchanged_alike`.
    lengths : array, shape (n_units,), optional
        How many rows each unit has: only units of about equal length change labels, see `alike_in_length`.
    tolerance : float
        How unequal they may be.

    Returns
    -------
    labels : ndarray of int64, shape (permutations, n_units), or None
        None where nothing can be exchanged. Where each subject has one class, whole subjects change classes: their
        trials are one observation of it.
    how : str
        That in words.
    """
    label, stratum = np.asarray(labels, dtype=np.int64), np.asarray(strata)
    if exchangeable(label, stratum):
        alike = stratum if lengths is None else alike_in_length(label, stratum, lengths, tolerance, groups)
        if alike is None:
            return None, "none: a subject's trials of different classes differ in length"
        some = "" if alike is stratum else " of about equal length"
        if groups is None:
            found = permuted_labels(label, alike, permutations, rng)  # (R, U)
            return found, f"labels permuted between a subject's trials{some}"
        found = exchanged_alike(label, alike, groups, permutations, rng)  # (R, U)
        return found, f"labels permuted between stimuli{some}, for all subjects alike"
    _, first, person = np.unique(stratum, return_index=True, return_inverse=True)  # (S,), (U,)
    if np.unique(label).size < 2:
        return None, "none: all trials have one class"
    one = np.zeros(first.size, dtype=np.int64)  # (S,)
    rows = None if lengths is None else np.bincount(person, weights=np.asarray(lengths))  # (S,)
    among = one if rows is None else alike_in_length(label[first], one, rows, tolerance)
    if among is None:
        return None, "none: subjects of different classes differ in how much there is of them"
    some = "" if among is one else " with about as much"
    of_person = permuted_labels(label[first], among, permutations, rng)  # (R, S)
    return of_person[:, person], f"labels permuted between subjects{some} (each has one class)"


def alike_in_length(
    labels: ArrayLike, strata: ArrayLike, lengths: ArrayLike, tolerance: float, groups: ArrayLike | None = None
) -> Ints | None:
    """Split strata so that what may be exchanged is of about equal length.

    Where classes differ in how long their trials are, exchanging labels changes how many windows a class has, and an
    answer that never changes looks better than chance for that alone.

    Parameters
    ----------
    labels, strata : arrays, shape (n_units,)
        Label of each unit, and what it may be exchanged within.
    lengths : array, shape (n_units,)
        How many rows each unit has.
    tolerance : float
        The longest of a stratum is at most that many times its shortest; 1 asks for equal lengths.
    groups : array, shape (n_units,), optional
        What is exchanged for all strata alike (stimuli): these are first split by their median length.

    Returns
    -------
    ndarray of int64, shape (n_units,), or None
        Numbers of the strata; `strata` itself where that splits nothing. None where fewer than half of the units that
        could change labels still can.
    """
    label, stratum, length = np.asarray(labels), np.asarray(strata), np.asarray(lengths, dtype=np.float64)
    if length.max(initial=0) <= tolerance * length.min(initial=np.inf):
        return stratum
    within = stratum
    if groups is not None:
        names, group = np.unique(np.asarray(groups), return_inverse=True)  # (G,), (U,)
        median = np.array([np.median(length[group == g]) for g in range(names.size)])  # (G,)
        within = _paired(stratum, _split(median, np.zeros(names.size), tolerance)[group])  # (U,)
    alike = _split(length, within, tolerance)  # (U,)
    if np.unique(alike).size == np.unique(stratum).size:
        return stratum
    return (
        alike if 2 * _free(label, alike).sum() >= _free(label, stratum).sum() and exchangeable(label, alike) else None
    )


def _split(length: Floats, strata: NDArray[Any], tolerance: float) -> Ints:
    """Number, within each stratum from the shortest on, what is at most `tolerance` times as long as its first."""
    out = np.zeros(length.size, dtype=np.int64)  # (U,)
    number = -1
    for name in np.unique(strata):
        mine = np.flatnonzero(strata == name)
        shortest = -1.0
        for unit in mine[np.argsort(length[mine], kind="stable")]:
            if shortest < 0 or length[unit] > tolerance * shortest:
                shortest, number = length[unit], number + 1
            out[unit] = number
    return out


def _paired(one: NDArray[Any], other: NDArray[Any]) -> Ints:
    """Number the pairs that there are, (U,)."""
    return np.asarray(np.unique(np.stack([one, other]), axis=1, return_inverse=True)[1], dtype=np.int64).ravel()


def _free(label: NDArray[Any], stratum: NDArray[Any]) -> NDArray[np.bool_]:
    """Which units are in a stratum of two labels or more, (U,)."""
    pairs = np.unique(np.stack([stratum, label]), axis=1)  # (2, pairs)
    names, count = np.unique(pairs[0], return_counts=True)
    return np.asarray(np.isin(stratum, names[count > 1]))


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


def places(p: Floats) -> Ints:
    """Return the place of each score among the distinct ones of its class, (n, k): all that areas depend on."""
    return np.stack([np.unique(column, return_inverse=True)[1] for column in p.T], axis=1).astype(np.int64)  # (n, k)


def left_out(y: Ints, p: Floats, cluster: Ints, levels: Ints | None = None) -> Statistics:
    """Return the sums with each cluster left out: what the jackknife is made from.

    Parameters
    ----------
    y, p : arrays, shapes (n,) and (n, k)
        Truth and probabilities, as from `milmer.evaluation.metrics.checked`.
    cluster : ndarray of int, shape (n,)
        Cluster of each row, 0 to G-1.
    levels : ndarray of int, shape (n, k), optional
        As from `places`, where several sets of clusters share it.

    Returns
    -------
    Statistics
        With R = G. Sums follow by subtraction; the areas from how many pairs each cluster takes part in.
    """
    k, count = p.shape[1], int(cluster.max()) + 1
    log_loss, brier = row_losses(p)  # (n, k), (n, k)
    answer, place, sure = top_label(p)  # (n,), (n,), (n,)
    rows, level = np.arange(y.size), places(p) if levels is None else levels  # (n,), (n, k)
    cells = left_tables(y, answer, cluster, k)  # (G, k, k)
    at = cluster * BINS + place  # (n,)
    confidence = np.bincount(at, weights=sure, minlength=count * BINS).reshape(count, BINS)  # (G, BINS)
    right = np.bincount(at, weights=answer == y, minlength=count * BINS).reshape(count, BINS)  # (G, BINS)
    losses = np.bincount(cluster, weights=log_loss[rows, y], minlength=count)  # (G,)
    scores = np.bincount(cluster, weights=brier[rows, y], minlength=count)  # (G,)
    bins = np.stack([confidence, right], axis=-1)  # (G, BINS, 2)
    return Statistics(
        cells,
        losses.sum() - losses,
        scores.sum() - scores,
        bins.sum(axis=0) - bins,
        np.stack([_left_auc(level[:, c], y == c, cluster, count) for c in range(k)], axis=1),  # (G, k)
    )


def left_tables(y: Ints, answer: Ints, cluster: Ints, k: int) -> Floats:
    """Return the confusion tables with each cluster left out, shape (G, k, k)."""
    count = int(cluster.max()) + 1
    cells = np.bincount(cluster * k * k + y * k + answer, minlength=count * k * k).reshape(count, k, k)
    return np.asarray(cells.sum(axis=0) - cells, dtype=np.float64)  # (G, k, k)


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


def _left_auc(level: Ints, positive: NDArray[np.bool_], cluster: Ints, count: int) -> Floats:
    """Area under the ROC curve with each cluster left out, (G,), from scores' places; NaN where a side is empty.

    Pairs of a positive and a negative that the positive wins (a tie counting half) follow from counts at each place.
    Without a cluster all pairs go that it holds a side of; those that it holds both of would go twice, and come back.
    """
    up = np.bincount(cluster[positive], minlength=count).astype(np.float64)  # (G,)
    down = np.bincount(cluster[~positive], minlength=count).astype(np.float64)  # (G,)
    won = np.where(positive, _below(level, ~positive), positive.sum() - _below(level, positive))  # (n,)
    of = np.bincount(cluster, weights=won, minlength=count)  # (G,), pairs within a cluster twice
    # Places cluster after cluster: below a row are its own cluster's and all of earlier ones, which are taken off.
    _, place = np.unique(cluster * (int(level.max()) + 1) + level, return_inverse=True)  # (n,)
    within = _below(place, ~positive) - (np.cumsum(down) - down)[cluster]  # (n,)
    both = np.bincount(cluster[positive], weights=within[positive], minlength=count)  # (G,)
    total = won[positive].sum() - of + both  # (G,)
    pairs = (up.sum() - up) * (down.sum() - down)  # (G,)
    area: Floats = np.divide(total, pairs, out=np.full(count, np.nan), where=pairs > 0)  # (G,)
    return area


def _below(level: Ints, among: NDArray[np.bool_]) -> Floats:
    """How many of `among` lie at a lower place than each row, those at the same one counting half, (n,)."""
    here = np.bincount(level[among], minlength=int(level.max()) + 1)  # (places,)
    return np.asarray((np.cumsum(here) - here / 2)[level], dtype=np.float64)
