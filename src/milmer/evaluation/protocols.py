"""Protocols: who may learn from whom. Splits over a metadata table, also as scikit-learn splitters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError, nearest

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

PROTOCOLS = ("trial", "subject", "window")
LEAKY = frozenset({"window"})
DEFAULT_FOLDS = 5
# One fold tests, the next validates: with fewer than three nothing is left to train on.
FEWEST_FOLDS = 3
# Dealing is greedy; a few random starts even out what is left, where the table is small enough for it to matter.
_STARTS, _STARTS_UP_TO = 8, 3000

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One fold: row numbers of its three parts.

    Parameters
    ----------
    fold : int
        Number of the fold, from 0.
    train, validation, test : ndarray of int64
        Row numbers into the table, ascending and disjoint. Rows without a label (-1) are in no part.
    notes : tuple of str
        What a reader must know about this fold, one line each (a class that a part lacks).
    """

    fold: int
    train: Ints
    validation: Ints
    test: Ints
    notes: tuple[str, ...] = ()


def display_name(protocol: str) -> str:
    """Return the name to show: a leaky protocol is called leaky wherever it appears."""
    return f"{protocol} (leaky)" if protocol in LEAKY else protocol


def person_codes(rows: pd.DataFrame | Mapping[str, Any]) -> Ints:
    """Number the people of a table, shape (n_rows,): the same study and subject, the same number."""
    return _codes(rows, ("study", "subject"))


def trial_codes(rows: pd.DataFrame | Mapping[str, Any]) -> Ints:
    """Number the trials of a table, shape (n_rows,): the same study, subject, session and trial, the same number."""
    return _codes(rows, ("study", "subject", "session", "trial"))


def make_splits(
    rows: pd.DataFrame | Mapping[str, Any],
    y: ArrayLike,
    protocol: str = "trial",
    folds: int | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> list[Split]:
    """Split the rows of a table into train, validation and test, once a fold.

    Every labelled row is tested in exactly one fold; fold ``k + 1`` validates where fold ``k`` tests.

    ``trial``
        Pooled over subjects. Each subject's trials are dealt over the folds class by class, so that every class of
        every subject, every subject and every class over all is spread as evenly as can be. A trial is never on two
        sides. (With plain grouping a held-out trial makes its own class rarer in training, and an honest null falls
        well below ``1 / classes``.)
    ``subject``
        One subject a fold, or `folds` groups of subjects of even size and even classes.
    ``window``
        Random windows, the paper's. **Leaky**: windows of one trial are on all sides. For comparison only.

    Parameters
    ----------
    rows : DataFrame or mapping of columns, n_rows long
        Columns ``subject`` and ``trial``, and where there are any ``study`` and ``session``.
    y : array of int, shape (n_rows,)
        Class of each row, -1 where it has none.
    protocol : {'trial', 'subject', 'window'}
        Who may learn from whom.
    folds : int, optional
        At least 3. Without it 5, or one a subject for ``subject``.
    seed : int
        The same seed and table give the same split, in whatever order the rows come (not for ``window``).
    classes : sequence of str, optional
        Names of the classes for the notes.

    Returns
    -------
    list of Split

    Raises
    ------
    UserError
        If a column is missing, or there are too few subjects, trials, classes or folds.
    """
    if protocol not in PROTOCOLS:
        raise UserError(
            f"protocol '{protocol}': found no such protocol, expected {', '.join(PROTOCOLS)}"
            f"{nearest(protocol, PROTOCOLS)}"
        )
    labels = np.asarray(y, dtype=np.int64)
    people = person_codes(rows)
    if labels.shape != people.shape:
        raise UserError(f"labels: found shape {labels.shape}, expected one a row of the table, {people.shape}")
    if folds is not None and folds < FEWEST_FOLDS:
        raise UserError(
            f"folds: found {folds}, expected at least {FEWEST_FOLDS}, since one fold tests, one validates and the "
            "rest train; set evaluation.folds"
        )
    known = np.flatnonzero(labels >= 0)
    if np.unique(labels[known]).size < 2:
        found = [_class_name(c, classes) for c in np.unique(labels[known]).tolist()]
        raise UserError(
            f"labels: found {'only the class ' + found[0] if found else 'no labelled row'}, expected at least two "
            "classes; choose another data.target or data.threshold"
        )
    rng = np.random.default_rng([seed, PROTOCOLS.index(protocol)])
    if protocol == "subject":
        of_row, count = _subject_folds(people[known], trial_codes(rows)[known], labels[known], folds, rng)
    else:
        groups = trial_codes(rows)[known] if protocol == "trial" else np.arange(known.size)
        count = folds or DEFAULT_FOLDS
        of_row = _dealt_folds(people[known], groups, labels[known], count, protocol, rng)
    return [_split(k, count, known, of_row, labels, classes) for k in range(count)]


def _split(k: int, count: int, known: Ints, of_row: Ints, labels: Ints, classes: Sequence[str] | None) -> Split:
    held = (k + 1) % count
    parts = {
        "train": known[(of_row != k) & (of_row != held)],
        "validation": known[of_row == held],
        "test": known[of_row == k],
    }
    notes = []
    for part, rows in parts.items():
        missing = np.setdiff1d(labels[known], labels[rows])
        if missing.size:
            names = ", ".join(_class_name(c, classes) for c in missing.tolist())
            notes.append(f"fold {k}: {part} has no {'trial' if part != 'train' else 'example'} of {names}")
    return Split(k, parts["train"], parts["validation"], parts["test"], tuple(notes))


def _dealt_folds(people: Ints, groups: Ints, labels: Ints, folds: int, protocol: str, rng: np.random.Generator) -> Ints:
    """Fold of each row, where `groups` (trials, or single windows) are dealt within each subject."""
    names, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    unit = {"trial": "trials", "window": "windows"}[protocol]
    if names.size < folds:
        raise UserError(
            f"protocol '{protocol}': found {names.size} labelled {unit}, expected at least {folds}, one a fold; "
            "add recordings or lower evaluation.folds"
        )
    width = int(labels.max()) + 1
    votes = np.zeros((names.size, width), dtype=np.int64)
    np.add.at(votes, (inverse, labels), 1)
    owner, label = people[first], votes.argmax(axis=1)
    best, least = np.zeros(names.size, dtype=np.int64), np.inf
    for _ in range(_STARTS if names.size <= _STARTS_UP_TO else 1):
        fold_of = _deal(owner, label, folds, rng)
        table = np.zeros((width, folds))
        np.add.at(table, (label, fold_of), 1)
        cost = float((table**2).sum())  # least where each class is spread evenly over the folds
        if cost < least:
            best, least = fold_of, cost
    return np.asarray(best[inverse], dtype=np.int64)


def _deal(owner: Ints, label: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Deal groups to folds, each to the emptiest fold by: subject and class, subject, class, all; ties at random.

    The first two criteria keep every class of a subject and every subject within one group of even. A fold without
    any group is least by all four, so that no fold stays empty while there are groups to deal.
    """
    fold_of = np.empty(owner.size, dtype=np.int64)
    by_class = np.zeros((int(label.max()) + 1, folds), dtype=np.int64)
    in_all = np.zeros(folds, dtype=np.int64)
    for person in rng.permutation(np.unique(owner)):
        mine = np.flatnonzero(owner == person)
        in_person = np.zeros(folds, dtype=np.int64)
        for c in rng.permutation(np.unique(label[mine])):
            in_class = np.zeros(folds, dtype=np.int64)
            for group in rng.permutation(mine[label[mine] == c]):
                fold = np.lexsort((rng.random(folds), in_all, by_class[c], in_person, in_class))[0]
                fold_of[group] = fold
                for counts in (in_class, in_person, by_class[c], in_all):
                    counts[fold] += 1
    return fold_of


def _subject_folds(
    people: Ints, trials: Ints, labels: Ints, folds: int | None, rng: np.random.Generator
) -> tuple[Ints, int]:
    """Fold of each row and how many folds there are, where whole subjects are dealt."""
    names, inverse = np.unique(people, return_inverse=True)
    if names.size < FEWEST_FOLDS:
        raise UserError(
            f"protocol 'subject': found {names.size} labelled subject{'s' * (names.size != 1)}, expected at least "
            f"{FEWEST_FOLDS} (to test, to validate, to train); add subjects or use the protocol 'trial'"
        )
    if folds is None:
        return np.asarray(inverse, dtype=np.int64), int(names.size)
    if folds > names.size:
        raise UserError(
            f"protocol 'subject': found {names.size} labelled subjects for {folds} folds, expected one or more a "
            "fold; lower evaluation.folds or leave it out for one a subject"
        )
    _, first = np.unique(trials, return_index=True)
    profile = np.zeros((names.size, int(labels.max()) + 1), dtype=np.int64)  # trials of each class, a subject
    np.add.at(profile, (inverse[first], labels[first]), 1)
    fold_of = np.empty(names.size, dtype=np.int64)
    sizes = np.zeros(folds, dtype=np.int64)
    table = np.zeros((folds, profile.shape[1]), dtype=np.int64)
    for person in rng.permutation(names.size):
        crowded = ((table + profile[person]) ** 2).sum(axis=1) - (table**2).sum(axis=1)
        fold = np.lexsort((rng.random(folds), crowded, sizes))[0]
        fold_of[person] = fold
        sizes[fold] += 1
        table[fold] += profile[person]
    return fold_of[inverse], folds


def _codes(rows: pd.DataFrame | Mapping[str, Any], columns: tuple[str, ...]) -> Ints:
    """Number the distinct combinations of identity columns; ``study`` and ``session`` may be missing."""
    codes: Ints | None = None
    for column in columns:
        if column not in rows:
            if column in ("study", "session"):
                continue
            raise UserError(f"table of rows: found no column '{column}', expected {', '.join(columns)}; add it")
        values = np.asarray(rows[column])
        if values.dtype.kind not in "iub":
            values = values.astype(str)
        _, new = np.unique(values, return_inverse=True)
        if codes is None:
            codes = np.asarray(new, dtype=np.int64)
        else:  # renumbering at every column keeps the product of two small numbers small
            _, codes = np.unique(codes * (int(new.max(initial=0)) + 1) + new, return_inverse=True)
    return np.asarray(codes, dtype=np.int64)


def _class_name(index: int, classes: Sequence[str] | None) -> str:
    return classes[index] if classes is not None and index < len(classes) else f"class {index}"


@dataclass(frozen=True)
class _ProtocolSplit:
    """A protocol as a scikit-learn splitter (``cv=`` of ``cross_val_score``, ``GridSearchCV`` and others).

    Parameters
    ----------
    n_splits : int, optional
        Number of folds; the protocol's default without it.
    random_state : int
        Seed of the split.
    keep_validation : bool
        If true, the validation rows are left out of the training rows that `split` yields. By default they are
        trained on, since scikit-learn's tools have no use for them.
    """

    protocol: ClassVar[str]
    n_splits: int | None = None
    random_state: int = 0
    keep_validation: bool = False

    def parts(self, metadata: pd.DataFrame | Mapping[str, Any], y: ArrayLike) -> list[Split]:
        """Return the folds with all three parts, as `make_splits` does; `y` may also hold names of classes."""
        values = np.asarray(y)
        if values.dtype.kind not in "iub":
            _, values = np.unique(values, return_inverse=True)
        return make_splits(metadata, values, self.protocol, self.n_splits, self.random_state)

    def split(
        self, X: Any, y: ArrayLike | None = None, groups: pd.DataFrame | Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Ints, Ints]]:
        """Yield row numbers to train and to test on, once a fold.

        Parameters
        ----------
        X : array-like or DataFrame
            Features, or the metadata table itself where `groups` is not given.
        y : array, shape (n_rows,)
            Classes; -1 marks a row without a label.
        groups : DataFrame or mapping, optional
            Metadata table with ``subject``, ``trial`` and where there are any ``study`` and ``session``.
        """
        for fold in self.parts(*self._table(X, y, groups)):
            kept = self.keep_validation
            yield fold.train if kept else np.sort(np.concatenate([fold.train, fold.validation])), fold.test

    def get_n_splits(
        self,
        X: Any = None,
        y: ArrayLike | None = None,
        groups: pd.DataFrame | Mapping[str, Any] | None = None,
    ) -> int:
        """Return the number of folds; for one a subject it is counted in the table."""
        if self.n_splits is not None:
            return self.n_splits
        if self.protocol != "subject":
            return DEFAULT_FOLDS
        return len(self.parts(*self._table(X, y, groups)))

    def _table(self, X: Any, y: ArrayLike | None, groups: Any) -> tuple[Any, ArrayLike]:
        table = X if groups is None else groups
        if y is None or not hasattr(table, "keys"):
            raise UserError(
                f"{type(self).__name__}: found {'no y' if y is None else type(table).__name__}, expected y and a "
                "table with subject, session and trial as groups (or as X)"
            )
        return table, y


@dataclass(frozen=True)
class TrialSplit(_ProtocolSplit):
    """Trials never on two sides, dealt within each subject and stratified by class; see `make_splits`."""

    protocol: ClassVar[str] = "trial"


@dataclass(frozen=True)
class SubjectSplit(_ProtocolSplit):
    """Subjects never on two sides: one subject a fold, or `n_splits` groups of them; see `make_splits`."""

    protocol: ClassVar[str] = "subject"


@dataclass(frozen=True)
class WindowSplit(_ProtocolSplit):
    """Random windows, the paper's. **Leaky**: windows of one trial are on both sides; for comparison only."""

    protocol: ClassVar[str] = "window"
