"""Figures of a facial-expression classifier on held-out pictures: of a backbone, not of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.evaluation.intervals import FEWEST, jackknife
from milmer.evaluation.metrics import Ints, confusion, from_confusion
from milmer.evaluation.statistics import left_tables

NAMES = ("accuracy", "balanced_accuracy", "macro_f1")
CONFIDENCE = 0.95


def expression_figures(
    y: Ints,
    prob: NDArray[np.floating],
    classes: Sequence[str],
    y_train: Ints,
    *,
    part: str,
    how: str,
    people: NDArray[np.str_] | None = None,
) -> tuple[list[dict[str, Any]], Ints]:
    """Return the figures of one part of a set, in the form of a run's metrics, and its confusion table.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
        True classes.
    prob : ndarray, shape (n, k)
        Probability of each class.
    classes : sequence of str, length k
    y_train : ndarray of int
        Classes of the training pictures: the commonest is the majority baseline's one answer.
    part, how : str
        ``validation`` or ``test``, and how it was held out.
    people : ndarray of str, shape (n,), optional
        Whom an interval leaves out one of; pictures where nobody is known.

    Returns
    -------
    figures : list of dict
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, each with ``low``, ``high`` (95 % jackknife, None
        below 6 people) and ``majority``.
    table : ndarray of int, shape (k, k)
        Pictures of a true class (rows) that were given a class (columns).
    """
    k = len(classes)
    answer = np.asarray(prob).argmax(axis=1)  # (n,)
    table = confusion(y, answer, k)  # (k, k)
    commonest = int(np.bincount(y_train, minlength=k).argmax())
    value = from_confusion(table[None], classes)
    trivial = from_confusion(confusion(y, np.full(len(y), commonest), k)[None], classes)
    if people is None:
        # Pictures of one cell of the table are alike: leaving out any of them gives the same figure.
        cell = np.flatnonzero(table.ravel())  # (cells,)
        left = from_confusion(table - np.eye(k * k, dtype=np.int64)[cell].reshape(-1, k, k), classes)
        left = {name: np.repeat(values, table.ravel()[cell]) for name, values in left.items()}  # (n,) each
        units, of_what = len(y), "pictures"
    else:
        names, person = np.unique(people, return_inverse=True)  # (G,), (n,)
        left = from_confusion(left_tables(y, answer, person, k), classes)  # (G,) each
        units, of_what = names.size, "people"
    how_found = f"jackknife over {units} {of_what}" if units >= FEWEST else f"none from {units} {of_what}"
    figures = []
    for name in NAMES:
        low, high = jackknife(float(value[name][0]), left[name], CONFIDENCE, "unit")
        figures.append(
            {
                "name": name,
                "level": "picture",
                "part": part,
                "protocol": how,
                "value": float(value[name][0]),
                "low": None if np.isnan(low) else low,
                "high": None if np.isnan(high) else high,
                "interval_how": how_found,
                "n": len(y),
                "majority": float(trivial[name][0]),
                "majority_how": f"always '{classes[commonest]}', the commonest in training",
            }
        )
    return figures, table
