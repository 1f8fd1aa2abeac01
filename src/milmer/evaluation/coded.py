"""Labelled rows of predictions as numbers, and what their folds' training rows held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milmer.evaluation.metrics import Floats, Ints
from milmer.evaluation.no_signal import Seen

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

PARTS = ("test", "validation")
CODES = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Coded:
    """Labelled rows of all parts, as numbers."""

    y: Ints
    part: Ints  # of CODES
    fold: Ints  # of seed and fold together
    seed: Ints
    person: Ints
    trial: Ints
    row: Ints
    stimulus: Ints
    ratings: dict[str, Floats]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Coded:
        """Number a table's labelled rows: what is missing of seed, study, session and stimulus counts as one."""
        seed = _codes(rows, ["seed"])
        trial = _codes(rows, ["study", "subject", "session", "trial"])
        within = [c for c in ("window", "start") if c in rows.columns][:1]
        row = _codes(rows, ["study", "subject", "session", "trial", *within]) if within else _counted(seed)
        stimulus = np.full(len(rows), -1, dtype=np.int64)
        if "stimulus" in rows.columns:
            at, names = _factorized(rows["stimulus"])
            named = np.array([bool(str(n).strip()) and n == n and n is not None for n in names], dtype=bool)
            stimulus = np.where(named[at], _codes(rows, ["study", "stimulus"]), -1)
        ratings = {}
        for c in rows.columns:
            if c.startswith("rating_"):
                values = np.asarray(rows[c].to_numpy(dtype=np.float64, na_value=np.nan))
                if np.isfinite(values).any():
                    ratings[c.removeprefix("rating_")] = values
        at, names = _factorized(rows["part"])
        return cls(
            rows["y_true"].to_numpy(dtype=np.int64),
            np.array([CODES.get(str(n), -1) for n in names], dtype=np.int64)[at],
            _codes(rows, ["seed", "fold"]),
            seed,
            _codes(rows, ["study", "subject"]),
            trial,
            row,
            stimulus,
            ratings,
        )

    def frequencies(self, rows: pd.DataFrame, k: int) -> Floats:
        """Class frequencies of each fold's training rows, (folds, k); NaN where they cannot be known.

        Where the table has no training rows they follow from the rest under protocols that test every row once and
        train on all that a fold neither tests nor validates.
        """
        folds = int(self.fold.max()) + 1
        counts = {
            part: np.bincount(self.fold[mine] * k + self.y[mine], minlength=folds * k).reshape(-1, k)
            for part in ("train", *PARTS)
            for mine in [self.part == CODES[part]]
        }  # (folds, k) each
        of_fold = np.full(folds, -1)
        of_fold[self.fold] = self.seed  # (folds,)
        whole = np.stack([counts["test"][of_fold == s].sum(axis=0) for s in range(int(self.seed.max()) + 1)])[of_fold]
        rest = whole - counts["test"] - counts["validation"]  # (folds, k)
        many = {part: of.sum(axis=1, keepdims=True) for part, of in counts.items()}  # (folds, 1) each
        complete = (many["test"] > 0) & (many["validation"] > 0) & self._pooled(rows)  # (folds, 1)
        found = np.where(many["train"] > 0, counts["train"], rest * complete)  # (folds, k)
        total = found.sum(axis=1, keepdims=True)  # (folds, 1)
        good = (total > 0) & (found.min(axis=1, keepdims=True) >= 0)  # (folds, 1)
        return np.asarray(np.where(good, found / np.maximum(total, 1), np.nan), dtype=np.float64)

    def _pooled(self, rows: pd.DataFrame) -> bool:
        """Whether every fold trains on all other rows, so that what it trained on follows from the others' tests."""
        named = set(rows["protocol"].unique().tolist()) if "protocol" in rows.columns else {"trial"}
        if not named <= {"trial", "subject", "window"}:
            return False
        tested = self.part == CODES["test"]
        if named == {"subject"} or not tested.any():
            return True
        pairs = np.unique(np.stack([self.fold[tested], self.person[tested]]), axis=1)  # (2, pairs)
        alone = bool((np.bincount(pairs[0])[np.unique(pairs[0])] == 1).all())
        return not alone or np.unique(pairs[1]).size == 1  # else a model for each subject alone

    def class_means(self, values: Floats, k: int) -> Floats:
        """Mean rating of each class among a fold's training rows, and of all of them, (folds, k + 1)."""
        folds = int(self.fold.max()) + 1
        mine = (self.part == CODES["train"]) & np.isfinite(values)
        at = self.fold[mine] * k + self.y[mine]
        sums = np.bincount(at, weights=values[mine], minlength=folds * k).reshape(-1, k)  # (folds, k)
        count = np.bincount(at, minlength=folds * k).reshape(-1, k)  # (folds, k)
        with np.errstate(invalid="ignore", divide="ignore"):
            overall = (sums.sum(axis=1) / count.sum(axis=1))[:, None]  # (folds, 1)
            return np.concatenate([np.where(count > 0, sums / count, overall), overall], axis=1)

    def seen(self) -> Seen:
        """Labelled training trials, each once a fold."""
        rows = np.flatnonzero(self.part == CODES["train"])
        _, first = np.unique(self.fold[rows] * (int(self.trial.max()) + 1) + self.trial[rows], return_index=True)
        mine = rows[first]
        ratings = {name: values[mine] for name, values in self.ratings.items()}
        return Seen(self.fold[mine], self.person[mine], self.stimulus[mine], self.y[mine], ratings)


def _codes(rows: pd.DataFrame, columns: Sequence[str]) -> Ints:
    """Number the distinct combinations of the columns that there are, shape (n_rows,)."""
    codes = np.zeros(len(rows), dtype=np.int64)
    for column in columns:
        if column in rows.columns:
            new, names = _factorized(rows[column])
            codes = renumbered(codes * len(names) + new) if codes.any() else new
    return renumbered(codes)


def _factorized(column: pd.Series[Any]) -> tuple[Ints, list[Any]]:
    """Number the values of a column, and name them."""
    codes, names = column.factorize(use_na_sentinel=False)
    return np.asarray(codes, dtype=np.int64), list(names)


def renumbered(codes: Ints) -> Ints:
    """Number the distinct codes that there are from 0, shape (n,)."""
    return np.asarray(np.unique(codes, return_inverse=True)[1], dtype=np.int64)


def _counted(seed: Ints) -> Ints:
    """Number the rows of each seed from 0: without a window's name, the same place is taken for the same window."""
    out = np.empty(seed.size, dtype=np.int64)
    for s in np.unique(seed):
        mine = np.flatnonzero(seed == s)
        out[mine] = np.arange(mine.size)
    return out


def subject_names(rows: pd.DataFrame) -> NDArray[np.object_]:
    """Return each row's subject, with its study in front where there are several, shape (n,)."""
    at, names = _factorized(rows["subject"])
    found = np.array([str(n) for n in names], dtype=object)[at]  # (n,)
    if "study" in rows.columns and rows["study"].nunique() > 1:
        at, studies = _factorized(rows["study"])
        found = np.array([f"{study}/" for study in studies], dtype=object)[at] + found
    return found
