"""A probe fast enough for thousands of fits: nearest neighbours and a linear rule, both blind to class sizes.

Neighbours see windows of one trial; the linear rule sees what a film leaves in everybody. Features are fixed before any
label is looked at, and labels are read at training rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError

if TYPE_CHECKING:
    from milmer.evaluation.protocols import Split

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

NAMES = ("neighbours", "linear")
DIMENSIONS = 48
SHRINKAGE = 0.1  # share of the mean variance in the linear rule's covariance
TEMPERATURE = 2.0  # of the neighbours' votes against the linear rule's answers


@dataclass(frozen=True)
class Probe:
    """Features made ready for many fits; see `make_probe`.

    Parameters
    ----------
    z : ndarray, shape (n, d)
        Principal components of unit variance.
    near : ndarray of float32, shape (n, n)
        Weight of each row's other rows as neighbours: one over the squared rank of their distance; 0 for itself.
    scale : ndarray, shape (d,)
        Deviation that each component had.
    """

    z: Floats
    near: Singles
    scale: Floats

    def averaged(self, units: ArrayLike, most: int = DIMENSIONS) -> Probe:
        """Return the probe of whole units (trials): the mean features of their rows; `units` as codes from 0, (n,)."""
        of = np.asarray(units, dtype=np.int64)
        counts = np.bincount(of)  # (U,)
        columns = [np.bincount(of, weights=c, minlength=counts.size) for c in (self.z * self.scale).T]
        mean = np.stack(columns, axis=1) / np.maximum(counts, 1)[:, None]  # (U, d)
        return make_probe(mean, max(1, min(most, counts.size // 4)))

    def predict(self, y: ArrayLike, train: Ints, test: Ints, k: int) -> Floats:
        """Fit both rules on the training rows and answer for the test rows.

        Parameters
        ----------
        y : array of int, shape (n,)
            Classes, read at `train` only; -1 rows are left out.
        train, test : ndarray of int
            Row numbers.
        k : int
            Number of classes; a class that training lacks gets probability 0.

        Returns
        -------
        ndarray, shape (2, n_test, k)
            Probabilities of the neighbours and of the linear rule.
        """
        labels = np.asarray(y, dtype=np.int64)
        train = train[labels[train] >= 0]
        hot = np.zeros((len(self.z), k))  # (n, k)
        hot[train, labels[train]] = 1.0
        counts = hot.sum(axis=0)  # (k,)
        present = counts > 0
        if not present.any():
            raise UserError("audit: a fold has no labelled training row; give other splits")
        share = np.divide(1.0, counts, out=np.zeros(k), where=present)  # (k,)
        votes = np.asarray(self.near[test] @ (hot * share).astype(np.float32), dtype=np.float64)  # (m, k)
        votes /= np.maximum(votes.sum(axis=1, keepdims=True), 1e-30)  # (m, k)
        z = self.z[train]  # (t, d)
        means = share[:, None] * (hot[train].T @ z)  # (k, d)
        within = z.T @ z - (means * counts[:, None]).T @ means  # (d, d)
        within /= max(int(counts.sum()) - int(present.sum()), 1)  # (d, d)
        d = within.shape[0]
        within = (1 - SHRINKAGE) * within + np.eye(d) * (SHRINKAGE * np.trace(within) / max(d, 1) + 1e-9)  # (d, d)
        weights = np.linalg.solve(within, means.T)  # (d, k)
        scores = self.z[test] @ weights - 0.5 * (means.T * weights).sum(axis=0)  # (m, k)
        scores[:, ~present] = -np.inf
        scores -= scores.max(axis=1, keepdims=True)  # (m, k)
        linear = np.exp(scores)  # (m, k)
        return np.stack([votes, linear / linear.sum(axis=1, keepdims=True)])  # (2, m, k)


def make_probe(features: ArrayLike, dimensions: int = DIMENSIONS, neighbours: bool = True) -> Probe:
    """Make features ready: principal components for the linear rule, the order of neighbours for the other.

    Parameters
    ----------
    features : array, shape (n, F)
        Standardised, without NaN.
    dimensions : int
        Most principal components.
    neighbours : bool
        False leaves the order of neighbours out (all weights 0).
    """
    values: Floats
    given: Floats = np.asarray(features, dtype=np.float64)  # (n, F)
    n = len(given)
    x: Floats = given - given.mean(axis=0)  # (n, F)
    if x.shape[1] <= n:
        values, vectors = np.linalg.eigh(x.T @ x / max(n, 1))  # (F,), (F, F)
        scores = x @ vectors[:, ::-1]  # (n, F)
        values = values[::-1]
    else:
        values, vectors = np.linalg.eigh(x @ x.T / n)  # (n,), (n, n)
        values = values[::-1]
        scores = vectors[:, ::-1] * np.sqrt(np.maximum(values, 0) * n)  # (n, n)
    kept = int(np.count_nonzero(values > 1e-10 * max(float(values.max(initial=0.0)), 1e-300)))
    kept = min(kept, dimensions)
    scores, values = scores[:, :kept], values[:kept]
    near = _neighbours(scores) if neighbours else np.zeros((n, n), dtype=np.float32)  # (n, n)
    return Probe(scores / np.sqrt(values), near, np.sqrt(values))


def _neighbours(scores: Floats) -> Singles:
    """Weights 1 / rank² of the rows nearest to each row, (n, n)."""
    n = len(scores)
    s = scores.astype(np.float32)  # (n, d)
    square = (s**2).sum(axis=1)  # (n,)
    weight = (1.0 / np.arange(1, n + 1, dtype=np.float64) ** 2).astype(np.float32)  # (n,)
    near = np.zeros((n, n), dtype=np.float32)  # (n, n)
    for begin in range(0, n, 512):
        mine = slice(begin, min(begin + 512, n))
        gap = square[None] - 2 * s[mine] @ s.T  # (b, n), squared distance but for a constant of the row
        gap[np.arange(gap.shape[0]), np.arange(mine.start, mine.stop)] = np.inf
        order = np.argsort(gap, axis=1)  # (b, n)
        np.put_along_axis(near[mine], order, np.broadcast_to(weight, order.shape), axis=1)  # (b, n)
    np.fill_diagonal(near, 0.0)
    return near


def predict_folds(probe: Probe, y: ArrayLike, splits: Sequence[Split], k: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Probabilities of every test row, and which rows were tested.

    Returns
    -------
    p : ndarray, shape (3, n, k)
        Of the neighbours, of the linear rule, and their geometric mean.
    tested : ndarray of bool, shape (n,)
    """
    n = len(probe.z)
    p = np.zeros((3, n, k))  # (3, n, k)
    tested = np.zeros(n, dtype=bool)
    for split in splits:
        found = probe.predict(y, split.train, split.test, k)  # (2, m, k)
        p[:2, split.test] = found
        p[2, split.test] = joined(found)
        tested[split.test] = True
    return p, tested


def joined(p: Floats) -> Floats:
    """Geometric mean of both rules' probabilities, (2, m, k) -> (m, k): the surer one counts more."""
    logs = np.log(p + 1e-4)  # (2, m, k)
    both = np.exp(TEMPERATURE * logs[0] + logs[1])  # (m, k)
    return np.asarray(both / both.sum(axis=1, keepdims=True))


def recalls(y: ArrayLike, answer: ArrayLike, group: ArrayLike, groups: int, k: int) -> tuple[Floats, Floats]:
    """Mean recall of each group's classes, and what guessing gives it.

    Parameters
    ----------
    y, answer, group : arrays of int, shape (m,)
        Truth, answer and group (person) of each row.
    groups, k : int
        How many of each.

    Returns
    -------
    score, chance : ndarray, shape (groups,)
        NaN where a group has fewer than two classes: one class alone says nothing.
    """
    cell = np.asarray(group) * k + np.asarray(y)  # (m,)
    count = np.bincount(cell, minlength=groups * k).reshape(groups, k)  # (G, k)
    right = np.bincount(cell, weights=np.asarray(answer) == np.asarray(y), minlength=groups * k).reshape(groups, k)
    there = (count > 0).sum(axis=1)  # (G,)
    recall = np.divide(right, count, out=np.zeros((groups, k)), where=count > 0)  # (G, k)
    enough = there >= 2
    score = np.where(enough, recall.sum(axis=1) / np.maximum(there, 1), np.nan)  # (G,)
    return score, np.where(enough, 1.0 / np.maximum(there, 1), np.nan)
