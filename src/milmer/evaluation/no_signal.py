"""The predictor that uses no signal at all: what other subjects' training trials said of a stimulus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """Labelled training trials, each once a fold.

    Parameters
    ----------
    fold, person, stimulus : ndarray of int64, shape (m,)
        Numbers; a stimulus of -1 has no name, and helps nobody.
    y : ndarray of int64, shape (m,)
        Classes.
    ratings : mapping of str to ndarray, shape (m,)
        Ratings by name, NaN where there is none.
    """

    fold: Ints
    person: Ints
    stimulus: Ints
    y: Ints
    ratings: Mapping[str, Floats]


@dataclass(frozen=True)
class Answers:
    """What the predictor answers, without looking at a signal.

    Parameters
    ----------
    p : ndarray, shape (n, k)
        Class probabilities.
    known : ndarray of bool, shape (n,)
        Whether another subject of the fold's training saw the stimulus; where not, the answer is the class
        frequencies of the training trials.
    ratings : mapping of str to ndarray, shape (n,)
        The mean rating; where nobody gave one, that of all training trials.
    """

    p: Floats
    known: NDArray[np.bool_]
    ratings: Mapping[str, Floats]


def answers(seen: Seen, fold: Ints, person: Ints, stimulus: Ints, k: int) -> Answers:
    """Answer rows by what other subjects' training trials of the same fold said of their stimulus.

    Parameters
    ----------
    seen : Seen
        Training trials.
    fold, person, stimulus : ndarray of int64, shape (n,)
        Of the rows to answer, numbered as in `seen`.
    k : int
        Number of classes.

    Notes
    -----
    A class has the share ``(count + prior) / (n + 1)`` of the n trials of other subjects, with the prior its frequency
    among the fold's training trials: one trial's worth of not knowing.
    """
    n = fold.size
    classes = np.eye(k)[seen.y]  # (m, k)
    prior = _folds(seen, classes, fold)  # (n, k)
    sums, count = _others(seen, classes, fold, person, stimulus)  # (n, k), (n,)
    known = count > 0  # (n,)
    p = np.where(known[:, None], (sums + prior) / (count[:, None] + 1), prior)  # (n, k)
    ratings: dict[str, Floats] = {}
    for name, values in seen.ratings.items():
        has = np.isfinite(values)  # (m,)
        columns = np.stack([np.where(has, values, 0.0), has], axis=1)  # (m, 2)
        mine, _ = _others(seen, columns, fold, person, stimulus)  # (n, 2)
        mean = _folds(seen, columns, fold)  # (n, 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratings[name] = np.where(mine[:, 1] > 0, mine[:, 0] / mine[:, 1], mean[:, 0] / mean[:, 1])  # (n,)
    return Answers(p if seen.y.size else np.full((n, k), np.nan), known, ratings)


def _others(seen: Seen, values: Floats, fold: Ints, person: Ints, stimulus: Ints) -> tuple[Floats, Floats]:
    """Sum `values` (m, v) over training trials of the row's fold and stimulus, its own subject's left out."""
    named = seen.stimulus >= 0  # (m,)
    columns = np.concatenate([values, np.ones((values.shape[0], 1))], axis=1)[named]  # (m', v + 1)
    all_ = _looked_up((seen.fold[named], seen.stimulus[named]), columns, (fold, stimulus))
    own = _looked_up((seen.fold[named], seen.stimulus[named], seen.person[named]), columns, (fold, stimulus, person))
    found = all_ - own  # (n, v + 1)
    return found[:, :-1], found[:, -1]


def _folds(seen: Seen, values: Floats, fold: Ints) -> Floats:
    """Mean of `values` (m, v) over the training trials of each row's fold, (n, v); NaN where it has none."""
    columns = np.concatenate([values, np.ones((values.shape[0], 1))], axis=1)  # (m, v + 1)
    sums = _looked_up((seen.fold,), columns, (fold,))  # (n, v + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, :-1] / sums[:, -1:])


def _looked_up(keys: tuple[Ints, ...], columns: Floats, asked: tuple[Ints, ...]) -> Floats:
    """Sum columns (m, v) by key, and return the sums of the keys asked for, (n, v); 0 where there is none."""
    mine, theirs = np.zeros_like(keys[0]), np.zeros_like(asked[0])
    for one, other in zip(keys, asked, strict=True):
        # +1: a stimulus without a name is -1 among the rows asked for, and must meet no other key.
        size = 2 + max(int(one.max(initial=0)), int(other.max(initial=0)))
        mine, theirs = mine * size + one + 1, theirs * size + other + 1
    names, at = np.unique(mine, return_inverse=True)
    if not names.size:
        return np.zeros((theirs.size, columns.shape[1]))
    sums = np.stack([np.bincount(at, weights=c, minlength=names.size) for c in columns.T], axis=1)  # (keys, v)
    place = np.minimum(np.searchsorted(names, theirs), names.size - 1)  # (n,)
    return np.where((names[place] == theirs)[:, None], sums[place], 0.0)
