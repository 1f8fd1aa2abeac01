"""What another toolkit's predictions are worth: the score over subjects, its dose of leak, the gain over no signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.evaluation import no_signal
from milmer.evaluation.audit import structure
from milmer.evaluation.audit.confounds import tail
from milmer.evaluation.intervals import mean_interval
from milmer.evaluation.statistics import relabelled

if TYPE_CHECKING:
    import pandas as pd

    from milmer.evaluation.audit.tables import Answers, Fold

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PERMUTATIONS = 999


@dataclass(frozen=True)
class Told:
    """Answers to labelled test rows.

    Parameters
    ----------
    row, fold, person, trial, answer, truth : ndarray of int64, shape (m,)
        Numbers; an answer of -1 is no class.
    shared : ndarray of bool, shape (m,)
        Whether the row's trial is in its fold's training or validation.
    names : sequence of str
        Of the folds.
    k : int
        Number of classes.
    """

    row: Ints
    fold: Ints
    person: Ints
    trial: Ints
    answer: Ints
    truth: Ints
    shared: Bools
    names: tuple[str, ...]
    k: int

    @staticmethod
    def of(rows: pd.DataFrame, folds: Sequence[Fold], answers: Answers, y: Ints, classes: Sequence[str]) -> Told:
        """Put answers, labels and identities side by side; rows without a label are left out."""
        lookup = {c: i for i, c in enumerate(classes)}
        answer = np.array([lookup.get(str(a), -1) for a in answers.answer], dtype=np.int64)  # (m,)
        if not (answer >= 0).any():
            got = sorted({str(a) for a in answers.answer})[:4]
            raise UserError(
                f"predictions: the answers are named {', '.join(got)}, the labels {', '.join(classes) or 'not at all'}"
                "; expected the same names: rename one of them"
            )
        known = np.flatnonzero(y[answers.row] >= 0)
        row, fold = answers.row[known], answers.fold[known]
        shared = np.zeros(len(known), dtype=np.bool_)  # (m,)
        for f in folds:
            parts = {"train": f.train, "validation": f.validation, "test": row[fold == f.fold]}
            shared[fold == f.fold] = structure.affected(rows, parts, "trial")
        codes = {}
        for kind in ("subject", "trial"):
            found = structure.unit_codes(rows, kind)
            if found is None:
                raise UserError(f"metadata: found no {kind}, expected one in each row; add it")
            codes[kind] = found
        return Told(
            row,
            fold,
            codes["subject"][row],
            codes["trial"][row],
            answer[known],
            y[row],
            shared,
            tuple(f.name for f in folds),
            len(classes),
        )

    @property
    def right(self) -> Floats:
        """1 where the answer is right, shape (m,)."""
        return np.asarray(self.answer == self.truth, dtype=np.float64)


def observed(told: Told, seed: int = 0, stimulus: Ints | None = None) -> dict[str, Any]:
    """Return the accuracy over subjects, with its interval, chance and p, and fold by fold.

    Chance: the answers held, labels permuted between the trials of each subject; between subjects where each has one
    class; with `stimulus`, shape (n_rows,), between stimuli, for all subjects alike (no film of the test was in
    training; -1 where one has no name, and then not).
    """
    own = _by_person(told, told.right)  # (n_people,)
    score = float(np.nanmean(own))
    low, high = (_finite(v) for v in mean_interval(own))
    _, first, unit = np.unique(told.trial, return_index=True, return_inverse=True)
    person = np.unique(told.person[first], return_inverse=True)[1]  # (T,)
    counts = np.zeros((first.size, told.k))  # (T, k): answers of each class in each trial
    given = told.answer >= 0
    np.add.at(counts, (unit[given], told.answer[given]), 1)
    size = np.bincount(unit)  # (T,)
    rng = np.random.default_rng([seed, 43])
    films = None if stimulus is None else stimulus[told.row]  # (m,)
    groups = None if films is None or (films < 0).any() else films[first]  # (T,)
    drawn, how = relabelled(told.truth[first], person, PERMUTATIONS, rng, groups)  # (P, T)
    of_person = np.bincount(person, size)  # (G,)
    null = np.array(
        [
            (np.bincount(person, counts[np.arange(first.size), row]) / of_person).mean()
            for row in (() if drawn is None else drawn)
        ]
    )  # (P,)
    folds = []
    for number, name in enumerate(told.names):
        mine = told.fold == number
        if mine.any():
            folds.append({"fold": name, "score": float(told.right[mine].mean()), "n": int(mine.sum())})
    return {
        "score": score,
        "low": low,
        "high": high,
        "chance": float(null.mean()) if null.size else None,
        "p": tail(score, null) if null.size else None,
        "n": int(own.size),
        "how": f"accuracy, a mean over subjects; chance: {how}",
        "folds": folds,
    }


def dose(told: Told) -> dict[str, Any] | None:
    """Compare test rows whose trial is in training with the others, paired by subject; None where all are alike."""
    one, other = _by_person(told, told.right, told.shared), _by_person(told, told.right, ~told.shared)  # (G,), (G,)
    both = np.isfinite(one) & np.isfinite(other)  # (G,)
    if not both.any():
        return None
    gap = one[both] - other[both]  # (g,)
    low, high = (_finite(v) for v in mean_interval(gap))
    return {
        "what": "test rows whose trial is in training, against the others (accuracy, paired by subject)",
        "one": float(one[both].mean()),
        "other": float(other[both].mean()),
        "difference": float(gap.mean()),
        "low": low,
        "high": high,
        "n": int(both.sum()),
    }


def without_signal(told: Told, rows: pd.DataFrame, folds: Sequence[Fold], y: Ints, k: int) -> dict[str, Any] | None:
    """Return what other subjects' training labels of the stimulus give, and the gain over it, paired by subject."""
    stimulus, trial = structure.unit_codes(rows, "stimulus"), structure.unit_codes(rows, "trial")
    person = structure.unit_codes(rows, "subject")
    if stimulus is None or trial is None or person is None:
        return None
    index, number = [], []
    for fold in folds:
        learnt = np.concatenate([fold.train, fold.validation])
        learnt = learnt[y[learnt] >= 0]
        _, first = np.unique(trial[learnt], return_index=True)
        index.append(learnt[first])
        number.append(np.full(first.size, fold.fold))
    row, of = np.concatenate(index), np.concatenate(number)
    seen = no_signal.Seen(of.astype(np.int64), person[row], stimulus[row], y[row], {})
    found = no_signal.answers(seen, told.fold, told.person, stimulus[told.row], k)
    if not found.known.any():
        return None
    plain = (found.p.argmax(axis=1) == told.truth).astype(np.float64)  # (m,)
    own, other = _by_person(told, told.right), _by_person(told, plain)  # (G,), (G,)
    gain = own - other  # (G,)
    low, high = (_finite(v) for v in mean_interval(gain))
    return {
        "score": float(other.mean()),
        "probe": float(own.mean()),
        "gain": float(gain.mean()),
        "low": low,
        "high": high,
        "n": int(own.size),
        "how": "accuracy of the predictions given, a mean over subjects; no signal: the class that other subjects' "
        "training trials gave the stimulus, where nobody did the commonest; interval over subjects",
    }


def _by_person(told: Told, values: Floats, where: Bools | None = None) -> Floats:
    """Mean of values of each subject's rows, shape (n_people,); NaN where the subject has none."""
    _, code = np.unique(told.person, return_inverse=True)
    weight = np.ones(code.size) if where is None else where.astype(np.float64)  # (m,)
    count = np.bincount(code, weight)  # (G,)
    total = np.bincount(code, weight * values)  # (G,)
    return np.asarray(np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))  # (G,)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
