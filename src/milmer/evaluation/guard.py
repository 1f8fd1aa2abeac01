"""The guard: everything that is fitted goes through it, and it raises where a fit touches a row it may not see.

A fit has a kind, and the kind says which rows it may see; the budget says what of a test person may be seen before the
test. The guard bites where data is read: `Guard.view` hands out bags that refuse every other row and hide its label,
`Guard.seen` an array that does. A fitter that was written carelessly raises; one that was written well is logged.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError
from milmer.evaluation.budget import PARTS, Budget, budgeted
from milmer.evaluation.protocols import Split, person_codes, trial_codes

if TYPE_CHECKING:  # pandas takes half a second, torch four
    import pandas as pd

    from milmer.config import Config
    from milmer.store import Store
    from milmer.training.data import Bags

Ints = NDArray[np.int64]
T = TypeVar("T")
KINDS = ("normaliser", "ica", "threshold", "weights", "early stopping", "calibration", "adaptation")
_MAY = {
    "normaliser": "training rows",
    "ica": "training rows and what the budget names",
    "threshold": "training rows and labels that the budget names",
    "weights": "training rows",
    "early stopping": "validation rows",
    "calibration": "validation rows",
    "adaptation": "what the budget names of test people",
}


class LeakError(UserError):
    """A fit touched a row that it may not see."""


class Guard:
    """Says which rows a fit may see, lets it see no others, and keeps a log of what was fitted on what.

    Parameters
    ----------
    split : Split
        The fold.
    rows : DataFrame or mapping of columns, n_rows long
        The table that the split's row numbers point into: ``subject``, ``trial`` and where there are any ``study``,
        ``session``; ``start`` and ``stop`` (s) for a budget in seconds.
    budget : Budget

    Attributes
    ----------
    log : list of dict
        One entry a fit: ``kind``, ``what``, ``rows`` (how many) and ``parts`` (how many of each part of the split).
    """

    def __init__(self, split: Split, rows: pd.DataFrame | Mapping[str, Any], budget: Budget | None = None) -> None:
        self.split, self.budget = split, budget or Budget()
        people = person_codes(rows)  # (n_rows,)
        self.n_rows = len(people)
        self.log: list[dict[str, Any]] = []
        self._part = np.zeros(self.n_rows, dtype=np.int64)  # (n_rows,)
        for code, part in enumerate((split.train, split.validation, split.test), 1):
            self._part[part] = code
        self._adaptation = budgeted(rows, people, self._part, self.budget)  # (a,)

    def rows(self, kind: str) -> Ints:
        """Return the rows that a fit of a kind may see, in the split's order; (n,)."""
        if kind in ("weights", "normaliser"):
            return self.split.train
        if kind in ("early stopping", "calibration"):
            return self.split.validation
        if kind == "threshold":
            more = self.labelled_rows("adaptation")  # (a,)
            return np.union1d(self.split.train, more) if len(more) else self.split.train
        if kind == "adaptation":
            return self._adaptation
        if kind == "ica":
            if self.budget == Budget("unlabelled"):
                return np.arange(self.n_rows)
            return np.union1d(self.split.train, self._adaptation)
        raise UserError(f"fit of kind '{kind}': expected one of {', '.join(KINDS)}")

    def labelled_rows(self, kind: str) -> Ints:
        """Return those of `rows(kind)` whose labels the fit may see too; (m,)."""
        rows = self.rows(kind)
        if kind not in ("ica", "adaptation") or self.budget.kind == "labelled":
            return rows
        return np.intersect1d(rows, self.split.train)

    @property
    def tested(self) -> Ints:
        """Test rows whose label no fit may see: those that a figure may be made of; (n,)."""
        return np.setdiff1d(self.split.test, self.labelled_rows("adaptation"))

    def check(self, kind: str | Sequence[str], rows: ArrayLike, labelled: bool = True) -> None:
        """Raise where a fit of a kind (or of several at once) may not see one of `rows`.

        Parameters
        ----------
        rows : array of int
            Row numbers.
        labelled : bool
            Whether the fit sees the labels too.

        Raises
        ------
        LeakError
            Saying which part the row is of, and what may be seen.
        """
        kinds = (kind,) if isinstance(kind, str) else tuple(kind)
        asked = np.unique(_numbers(rows, self.n_rows))  # (n,)
        may = [self.labelled_rows(k) if labelled else self.rows(k) for k in kinds]
        wrong = np.setdiff1d(asked, np.concatenate(may))  # (m,)
        if not len(wrong):
            return
        inside = wrong[(wrong >= 0) & (wrong < self.n_rows)]  # (m',)
        parts = sorted({PARTS[p] for p in self._part[inside]}) or ["no"]
        what = "labels of " if labelled else ""
        mend = "; fit it on guard.rows(kind)"
        if kinds == ("ica",):
            mend = "; --operators fold, --reject none, or --budget unlabelled"
        raise LeakError(
            f"leak: a fit of kind '{', '.join(kinds)}' reads {what}{len(wrong)} rows that it may not see "
            f"({', '.join(parts)} part, first row {wrong[0]}); budget {self.budget}: it may see "
            f"{', '.join(_MAY[k] for k in kinds)}{mend}"
        )

    def fit(
        self, kind: str, fitter: Callable[[Ints], T], rows: ArrayLike, *, labelled: bool = True, what: str = ""
    ) -> T:
        """Check the rows, note the fit in the log, and return what ``fitter(rows)`` returns.

        The fitter should read through `view` or `seen` of the same kind, which bite where it reads others than it was
        given.

        Parameters
        ----------
        what : str
            What is fitted, for the log.

        Raises
        ------
        LeakError
            See `check`.
        """
        numbers = _numbers(rows, self.n_rows)  # (n,)
        self.check(kind, numbers, labelled)
        counts = np.bincount(self._part[numbers], minlength=len(PARTS))  # (4,)
        parts = {name: int(n) for name, n in zip(PARTS, counts, strict=True) if n}
        self.recall([{"kind": kind, "what": what, "rows": len(numbers), "parts": parts}])
        return fitter(numbers)

    def view(self, kind: str | Sequence[str], bags: Bags) -> Bags:
        """Return bags of which only the rows of a kind can be read.

        Reading another row raises `LeakError`; its label is -1, its thresholds and ratings are NaN, its frames are not
        named. What lies below the bags is not behind the guard: a fit reads bags, never ``bags.store``.
        """
        kinds = (kind,) if isinstance(kind, str) else tuple(kind)
        rows = np.concatenate([self.rows(k) for k in kinds])  # (n,)
        labelled = np.concatenate([self.labelled_rows(k) for k in kinds])  # (m,)
        return bags.restricted(_Check(self, kinds, self._mask(rows), False), self._mask(rows), self._mask(labelled))

    def seen(self, kind: str, values: Any, labelled: bool = True) -> Seen:
        """Return an array (n_rows, ...) of which only the rows of a kind can be read."""
        mask = self._mask(self.labelled_rows(kind) if labelled else self.rows(kind))  # (n_rows,)
        return Seen(_Check(self, (kind,), mask, labelled), values)

    def within(self, train: Ints, validation: Ints) -> Guard:
        """Return a guard of a part of this fit: fewer training rows, of which some may validate; they share a log.

        Raises
        ------
        LeakError
            If a row was not to be had for the same use before.
        """
        self.check("weights", train)
        self.check(("weights", "early stopping"), validation)
        if len(both := np.intersect1d(train, validation)):
            raise LeakError(f"leak: {len(both)} rows (first row {both[0]}) train and validate at once; deal them anew")
        other = copy.copy(self)
        other.split = dataclasses.replace(self.split, train=train, validation=validation)
        return other

    def known(self, there: NDArray[np.bool_]) -> Guard:
        """Return a guard without the rows that are not `there` (n_rows,); they share a log.

        A fold's own threshold may leave rows without a class, and these are of no use to a fit or a figure.

        Raises
        ------
        UserError
            If no row is left to train on, or to validate on.
        """
        if there[np.concatenate([self.split.train, self.split.validation, self.split.test])].all():
            return self
        parts = {p: getattr(self.split, p) for p in ("train", "validation", "test")}
        parts = {p: rows[there[rows]] for p, rows in parts.items()}  # (n',) each
        for name in ("train", "validation"):
            if not len(parts[name]):
                raise UserError(
                    f"fold {self.split.fold}: every {name} row is rated exactly at the threshold and was dropped; use "
                    "--ties low or --ties high"
                )
        other = copy.copy(self)
        other.split = dataclasses.replace(self.split, **parts)
        return other

    def recall(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Take up entries of a log that are not in this one yet: those of a fit that was done before."""
        for entry in log:
            if dict(entry) not in self.log:
                self.log.append(dict(entry))

    def record(self) -> dict[str, Any]:
        """Return what ``fits.json`` holds: the budget and the log."""
        return {"budget": str(self.budget), "fits": self.log}

    def _mask(self, rows: Ints) -> NDArray[np.bool_]:
        mask = np.zeros(self.n_rows, dtype=bool)  # (n_rows,)
        mask[rows] = True
        return mask


@dataclass(frozen=True)
class _Check:
    """Called with row numbers; raises where one is not in `mask`. Travels to a loader's workers."""

    guard: Guard
    kinds: tuple[str, ...]
    mask: NDArray[np.bool_]  # (n_rows,)
    labelled: bool

    def __call__(self, rows: Any) -> None:
        numbers = _numbers(rows, self.guard.n_rows)  # (n,)
        if not self.mask[numbers].all():
            self.guard.check(self.kinds, numbers, self.labelled)


class Seen:
    """An array (n_rows, ...) behind the guard, NumPy's or torch's: read it with row numbers."""

    def __init__(self, check: _Check, values: Any) -> None:
        self._check, self._values = check, values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Any) -> Any:
        """Return the values of `rows`, an array of row numbers; `LeakError` where one may not be seen."""
        self._check(rows)
        return self._values[rows]


def _numbers(rows: Any, n_rows: int) -> Ints:
    """Return the row numbers (n,) that an index means: numbers, a mask (n_rows,), or a slice.

    A mask taken for numbers would be checked as rows 0 and 1, and would read all that it marks.
    """
    if isinstance(rows, slice):
        return np.arange(n_rows)[rows]  # (n,)
    given = np.asarray(rows)
    if given.dtype == np.bool_:
        if given.shape != (n_rows,):
            raise UserError(f"rows: found a mask of shape {given.shape}, expected one a row of the table, ({n_rows},)")
        return np.flatnonzero(given)  # (n,)
    return given.astype(np.int64)


def check_budget(splits: Sequence[Split], rows: pd.DataFrame | Mapping[str, Any], budget: Budget) -> None:
    """Refuse a budget of labels that leaves somebody without a trial to be tested on.

    Raises
    ------
    UserError
        Naming the first such person and fold.
    """
    if budget.kind != "labelled":
        return
    people, trials = person_codes(rows), trial_codes(rows)  # (n_rows,) each
    for split in splits:
        for person in np.setdiff1d(people[split.test], people[Guard(split, rows, budget).tested]).tolist():
            theirs = split.test[people[split.test] == person]  # (m,)
            n = np.unique(trials[theirs]).size
            raise UserError(
                f"budget {budget}: subject {np.asarray(rows['subject'])[theirs[0]]} has {n} test trial"
                f"{'' if n == 1 else 's'} in fold {split.fold}, so none would be left to test on; give fewer, or fewer "
                "evaluation.folds, so that a fold has more trials"
            )


def uses_ica(config: Config, store: Store) -> bool:
    """Whether what the model sees was cleaned by an operator that was fitted on whole recordings, test trials too."""
    return bool(cleaned(config, store))


def cleaned(config: Config, store: Store) -> list[str]:
    """Return the recordings whose stored ICA the configuration uses."""
    if config.data.operators == "fold":  # fitted in each fold, behind its guard
        return []
    kinds = set(config.data.reject) if "eeg" in config.data.modalities else set()
    return [k for k in store.keys if kinds & set(store.recording(k).components)]


def guard_ica(config: Config, store: Store, budget: str) -> str:
    """Return the budget of a run in full: ``auto`` is as much as the store's ICA saw.

    A stored operator was fitted on its whole recording: using it, all of the test people's signals have been seen.

    Raises
    ------
    UserError
        If a smaller budget was asked for, and the store's operators are used.
    """
    used = cleaned(config, store)
    if budget == "auto":
        return "unlabelled" if used else "none"
    asked = Budget.parse(budget)
    if used and asked != Budget("unlabelled"):
        raise UserError(
            f"budget {asked}: the ICA of this store ({used[0]}{f' and {len(used) - 1} more' if used[1:] else ''}) was "
            "fitted on whole recordings, those of test people too; use --operators fold, --reject none, or --budget "
            "unlabelled"
        )
    return str(asked)


def resolve_budget(config: Config, store: Store) -> Budget:
    """Return the budget that a configuration asks for; see `guard_ica`."""
    return Budget.parse(guard_ica(config, store, config.evaluation.budget))


__all__ = [
    "KINDS",
    "Budget",
    "Guard",
    "LeakError",
    "Seen",
    "cleaned",
    "guard_ica",
    "resolve_budget",
    "uses_ica",
]
