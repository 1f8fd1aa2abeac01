"""Budgets: what of a test person may be seen before the test, and which rows of a table that is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.evaluation.protocols import trial_codes

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

Ints = NDArray[np.int64]
PARTS = ("unused", "train", "validation", "test")


@dataclass(frozen=True)
class Budget:
    """What of a test person may be seen before the test.

    Parameters
    ----------
    kind : {'none', 'unlabelled', 'labelled'}
        Nothing; signals without labels; whole trials with their labels.
    amount : int, optional
        Seconds of each test person (unlabelled; None: all there are), or trials of each (labelled).
    """

    kind: Literal["none", "unlabelled", "labelled"] = "none"
    amount: int | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``none``, ``unlabelled``, ``unlabelled:30`` (seconds) or ``labelled:4`` (trials).

        Raises
        ------
        UserError
            If the text is none of these (``auto`` must have been resolved, see `guard_ica`).
        """
        match = re.fullmatch(r"(none)|(unlabelled)(?::([1-9]\d*))?|(labelled):([1-9]\d*)", text)
        if match is None:
            raise UserError(
                f"budget '{text}': expected none, unlabelled, unlabelled:SECONDS or labelled:TRIALS, amounts of at "
                "least 1; give one with --budget"
            )
        if match[1]:
            return cls()
        if match[2]:
            return cls("unlabelled", int(match[3]) if match[3] else None)
        return cls("labelled", int(match[5]))

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return self.kind if self.amount is None else f"{self.kind}:{self.amount}"


def budgeted(rows: pd.DataFrame | Mapping[str, Any], people: Ints, part: Ints, budget: Budget) -> Ints:
    """Return the rows of test people that a budget names; (a,).

    Parameters
    ----------
    rows : DataFrame or mapping of columns, n_rows long
        See `milmer.evaluation.guard.Guard`. Time goes by ``session``, ``order``, ``trial`` and ``start``.
    people : ndarray of int64, shape (n_rows,)
        Whose rows they are.
    part : ndarray of int64, shape (n_rows,)
        Of each row the place of its part in `PARTS`.

    Returns
    -------
    ndarray of int64, shape (a,)
        Ascending. Unlabelled: test rows, and rows of test people that are in no part; of these, with an amount, the
        first seconds of each person. Labelled: the first trials of each person among the test rows.

    Raises
    ------
    UserError
        If seconds were asked for and the table tells no times.
    """
    test = part == PARTS.index("test")  # (n_rows,)
    if budget.kind == "none" or not test.any():
        return np.zeros(0, dtype=np.int64)
    mine = np.isin(people, people[test])  # (n_rows,)
    if budget.kind == "unlabelled":
        mine &= test | (part == PARTS.index("unused"))  # (n_rows,)
        if budget.amount is None:
            return np.flatnonzero(mine)
    else:
        mine = test
    trials = trial_codes(rows)  # (n_rows,)
    orders = [_ranks(rows[name]) for name in ("start", "trial", "order", "session") if name in rows]
    order = np.lexsort([*orders, people])  # (n_rows,) least significant first
    order = order[mine[order]]  # (m,)
    if budget.kind == "unlabelled" and not {"start", "stop"} <= set(rows):
        raise UserError(f"budget {budget}: the table has no columns start and stop; use --budget unlabelled")
    found: list[int] = []
    amount = budget.amount or 0
    for person in np.unique(people[order]):
        theirs = order[people[order] == person]  # (p,)
        _, first = np.unique(trials[theirs], return_index=True)
        in_order = trials[theirs][np.sort(first)]  # (t,)
        if budget.kind == "labelled":
            found += theirs[np.isin(trials[theirs], in_order[:amount])].tolist()
            continue
        stop, spent = np.asarray(rows["stop"], dtype=np.float64), 0.0  # (n_rows,)
        for trial in in_order:
            windows = theirs[trials[theirs] == trial]  # (w,)
            found += windows[spent + stop[windows] <= amount + 1e-9].tolist()
            spent += float(stop[windows].max())
    return np.array(sorted(found), dtype=np.int64)


def _ranks(column: Any) -> Ints:
    """Return the place of each value among the sorted distinct ones: numbers by value, anything else as text."""
    values = np.asarray(column)
    if values.dtype.kind not in "iuf":
        values = values.astype(str)
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.int64)
