"""Figures of a facial-expression classifier on held-out pictures: of a backbone, not of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.evaluation.metrics import Ints, confusion, from_confusion
from milmer.evaluation.statistics import cluster_weights, interval

NAMES = ("accuracy", "balanced_accuracy", "macro_f1")
RESAMPLES, CONFIDENCE = 1000, 0.95


def expression_figures(
    y: Ints,
    prob: NDArray[np.floating],
    classes: Sequence[str],
    y_train: Ints,
    *,
    part: str,
    how: str,
    people: NDArray[np.str_] | None = None,
    seed: int = 0,
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
        Whom the bootstrap resamples; pictures where nobody is known.
    seed : int

    Returns
    -------
    figures : list of dict
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, each with ``low``, ``high`` (95 % bootstrap, None where
        there is nothing to resample) and ``majority``.
    table : ndarray of int, shape (k, k)
        Pictures of a true class (rows) that were given a class (columns).
    """
    k = len(classes)
    answer = np.asarray(prob).argmax(axis=1)  # (n,)
    table = confusion(y, answer, k)  # (k, k)
    commonest = int(np.bincount(y_train, minlength=k).argmax())
    value = from_confusion(table[None], classes)
    trivial = from_confusion(confusion(y, np.full(len(y), commonest), k)[None], classes)
    rng = np.random.default_rng([seed, 44])
    if people is None:
        # Pictures drawn with replacement are a multinomial over the table's cells: no need to draw each.
        drawn: NDArray[Any] = rng.multinomial(len(y), table.ravel() / len(y), size=RESAMPLES)  # (R, k·k)
        clusters, of_what = len(y), "pictures"
    else:
        names, person = np.unique(people, return_inverse=True)  # (G,), (n,)
        cells = np.bincount(person * k * k + y * k + answer, minlength=names.size * k * k)  # (G·k·k,)
        weights = cluster_weights(np.zeros(names.size, dtype=np.int64), RESAMPLES, rng)  # (R, G)
        drawn = weights @ cells.reshape(names.size, k * k)  # (R, k·k)
        clusters, of_what = names.size, "people"
    resampled = from_confusion(drawn.reshape(-1, k, k), classes)
    figures = []
    for name in NAMES:
        low, high = interval(resampled[name], CONFIDENCE, clusters) if clusters > 1 else (None, None)
        figures.append(
            {
                "name": name,
                "level": "picture",
                "part": part,
                "protocol": how,
                "value": float(value[name][0]),
                "low": low,
                "high": high,
                "interval_how": f"{RESAMPLES} bootstrap resamples of {of_what}",
                "n": len(y),
                "majority": float(trivial[name][0]),
                "majority_how": f"always '{classes[commonest]}', the commonest in training",
            }
        )
    return figures, table
