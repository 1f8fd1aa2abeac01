"""Dealing: which trial, stimulus or subject goes to which fold, so that folds are as even as they can be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Dealing is greedy; a few random starts even out what is left, where the table is small enough for it to matter.
_STARTS, _STARTS_UP_TO = 8, 3000

Ints = NDArray[np.int64]


def deal_groups(
    owner: Ints, groups: Ints, labels: Ints, folds: int, rng: np.random.Generator, *, mixed: bool = False
) -> Ints:
    """Deal groups of rows to folds, within each owner and class by class.

    Parameters
    ----------
    owner : ndarray of int64, shape (n_rows,)
        Who a row's group belongs to: the subject of a trial, the study of a stimulus.
    groups : ndarray of int64, shape (n_rows,)
        What stays whole. A group counts as of its rows' commonest class.
    labels : ndarray of int64, shape (n_rows,)
        Class of each row, from 0.
    folds : int
        At most as many as there are groups: then no fold stays empty.
    rng : numpy.random.Generator
        Where ties and starts come from.
    mixed : bool
        Groups hold rows of several classes: it is the *rows* of each class that are spread over all owners, not the
        groups by their commonest class.

    Returns
    -------
    ndarray of int64, shape (n_rows,)
        Fold of each row.
    """
    names, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    width = int(labels.max()) + 1
    votes = _votes(inverse, labels)
    label = votes.argmax(axis=1)
    weight = votes if mixed else np.eye(width, dtype=np.int64)[label]
    best, least = np.zeros(names.size, dtype=np.int64), np.inf
    for _ in range(_STARTS if names.size <= _STARTS_UP_TO else 1):
        fold_of = _deal(owner[first], label, weight, folds, rng)
        table = np.zeros((folds, width))
        np.add.at(table, fold_of, weight)
        cost = float((table**2).sum())  # least where each class is spread evenly over the folds
        if cost < least:
            best, least = fold_of, cost
    return np.asarray(best[inverse], dtype=np.int64)


def _deal(owner: Ints, label: Ints, weight: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Deal groups to folds, each to the emptiest fold by: owner and class, owner, class, all; ties at random.

    The first two criteria keep every class of an owner and every owner within one group of even. The third is how
    much a fold holds already of what the group would add: `weight`, of shape (n_groups, n_classes). A fold without
    any group is least by all four, so that no fold stays empty while there are groups to deal.
    """
    fold_of = np.empty(owner.size, dtype=np.int64)
    by_class = np.zeros((weight.shape[1], folds), dtype=np.int64)
    in_all = np.zeros(folds, dtype=np.int64)
    for one in rng.permutation(np.unique(owner)):
        mine = np.flatnonzero(owner == one)
        in_owner = np.zeros(folds, dtype=np.int64)
        for c in rng.permutation(np.unique(label[mine])):
            in_class = np.zeros(folds, dtype=np.int64)
            for group in rng.permutation(mine[label[mine] == c]):
                held = weight[group] @ by_class
                fold = np.lexsort((rng.random(folds), in_all, held, in_owner, in_class))[0]
                fold_of[group] = fold
                by_class[:, fold] += weight[group]
                for counts in (in_class, in_owner, in_all):
                    counts[fold] += 1
    return fold_of


def deal_subjects(people: Ints, trials: Ints, labels: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Deal whole subjects to folds: even numbers of subjects first, then even numbers of trials of each class.

    Parameters
    ----------
    people, trials, labels : ndarray of int64, shape (n_rows,)
        Subject, trial and class of each row. A trial counts once, as of its rows' commonest class.
    folds : int
        At most as many as there are subjects.
    rng : numpy.random.Generator
        Where ties and the order of subjects come from.

    Returns
    -------
    ndarray of int64, shape (n_rows,)
        Fold of each row.
    """
    names, inverse = np.unique(people, return_inverse=True)
    _, first, trial = np.unique(trials, return_index=True, return_inverse=True)
    votes = _votes(trial, labels)
    profile = np.zeros((names.size, votes.shape[1]), dtype=np.int64)  # trials of each class, a subject
    np.add.at(profile, (inverse[first], votes.argmax(axis=1)), 1)
    fold_of = np.empty(names.size, dtype=np.int64)
    sizes = np.zeros(folds, dtype=np.int64)
    table = np.zeros((folds, profile.shape[1]), dtype=np.int64)
    for person in rng.permutation(names.size):
        crowded = ((table + profile[person]) ** 2).sum(axis=1) - (table**2).sum(axis=1)
        fold = np.lexsort((rng.random(folds), crowded, sizes))[0]
        fold_of[person] = fold
        sizes[fold] += 1
        table[fold] += profile[person]
    return np.asarray(fold_of[inverse], dtype=np.int64)


def _votes(groups: Ints, labels: Ints) -> Ints:
    """Count the rows of each class in each group, shape (n_groups, n_classes)."""
    votes = np.zeros((int(groups.max()) + 1, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(votes, (groups, labels), 1)
    return votes
