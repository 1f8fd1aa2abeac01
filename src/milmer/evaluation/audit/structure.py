"""What the two sides of a split share: seconds, trials, recordings, subjects, stimuli, studies. Counted, not tested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError, nearest
from milmer.evaluation.audit.copies import duplicates
from milmer.evaluation.protocols import KINDS, PERMITTED

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

__all__ = ["affected", "as_folds", "duplicates", "guess_protocol", "overlaps", "sentence", "unit_codes"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Rows: TypeAlias = "pd.DataFrame | Mapping[str, Any]"

# What names one unit of each kind. A recording's or trial's number means something within its subject and session only.
UNITS: Mapping[str, tuple[str, ...]] = {
    "trial": ("study", "subject", "session", "trial"),
    "recording": ("study", "subject", "session", "recording"),
    "subject": ("study", "subject"),
    "stimulus": ("study", "stimulus"),
    "study": ("study",),
}
OPTIONAL = frozenset({"study", "session"})
PLURAL = {
    "time": "rows",
    "trial": "trials",
    "recording": "recordings",
    "subject": "subjects",
    "stimulus": "stimuli",
    "study": "studies",
}
# From the hardest to share anything under to the easiest; the first whose forbidden overlaps are absent is the guess.
STRICTEST = ("cross-study", "subject-and-stimulus", "subject", "stimulus", "trial", "window")


class HasParts(Protocol):
    """A fold with three parts, such as `milmer.evaluation.protocols.Split`."""

    @property
    def train(self) -> Ints:
        """Row numbers."""

    @property
    def validation(self) -> Ints:
        """Row numbers; may be empty."""

    @property
    def test(self) -> Ints:
        """Row numbers."""


Parts: TypeAlias = HasParts | Mapping[str, Any] | Sequence[HasParts | Mapping[str, Any]]


def as_folds(parts: Parts) -> list[dict[str, Ints]]:
    """Return folds as dicts of row numbers ``train``, ``validation`` and ``test``.

    Parameters
    ----------
    parts : Split, mapping, or sequence of either
        One fold or many. A mapping needs ``train`` and ``test``; ``validation`` may be left out.
    """
    each = parts if isinstance(parts, Sequence) else [parts]
    folds = []
    for fold in each:
        if isinstance(fold, Mapping):
            found = {name: fold.get(name, ()) for name in ("train", "validation", "test")}
        else:
            found = {"train": fold.train, "validation": fold.validation, "test": fold.test}
        folds.append({name: np.asarray(rows, dtype=np.int64) for name, rows in found.items()})
    return folds


def unit_codes(rows: Rows, kind: str) -> Ints | None:
    """Number the units of one kind, shape (n_rows,): the same unit, the same number.

    Parameters
    ----------
    rows : DataFrame or mapping of columns, n_rows long
    kind : {'trial', 'recording', 'subject', 'stimulus', 'study'}

    Returns
    -------
    ndarray of int64, or None
        -1 where the row does not say (an empty stimulus); None where the table has no such column, or it is empty.
    """
    columns = UNITS[kind]
    if columns[-1] not in rows:
        return None
    last = _text(rows[columns[-1]])  # (n,)
    known = last != ""
    if not known.any():
        return None
    codes = np.zeros(last.size, dtype=np.int64)  # (n,)
    for column in columns:
        if column not in rows:
            if column in OPTIONAL:
                continue
            return None
        _, new = np.unique(_text(rows[column]), return_inverse=True)
        _, codes = np.unique(codes * (int(new.max(initial=0)) + 1) + new, return_inverse=True)
    return np.where(known, codes, -1).astype(np.int64)  # (n,)


def overlaps(rows: Rows, parts: Parts, protocol: str) -> list[dict[str, Any]]:
    """Count what the test shares with training and validation, kind by kind.

    Parameters
    ----------
    rows : DataFrame or mapping of columns, n_rows long
        Columns ``subject``, ``trial`` and where there are any ``study``, ``session``, ``recording``, ``stimulus``,
        ``start`` and ``stop`` (in one unit within a trial).
    parts : Split, mapping, or sequence of either
        The folds.
    protocol : str
        What the split claims to be; decides what is permitted (`milmer.evaluation.protocols.PERMITTED`).

    Returns
    -------
    list of dict
        One a kind that the table names: ``kind``, ``shared`` (units of the test that are in training or validation
        of the same fold), ``of`` (units tested; for ``time`` rows), ``permitted``, ``training``, ``validation``
        (how many of them are shared with that part), ``dose`` (share of test rows, over folds, that belong to a
        shared unit).

    Raises
    ------
    UserError
        If there is no such protocol.
    """
    if protocol not in PERMITTED:
        raise UserError(
            f"protocol '{protocol}': found no such protocol, expected {', '.join(PERMITTED)}"
            f"{nearest(protocol, PERMITTED)}"
        )
    folds = as_folds(parts)
    found = []
    for kind in KINDS:
        if kind == "time":
            counted = _time_overlap(rows, folds)
        else:
            codes = unit_codes(rows, kind)
            counted = None if codes is None else _unit_overlap(codes, folds)
        if counted is not None:
            found.append({"kind": kind, **counted, "permitted": kind in PERMITTED[protocol]})
    return found


def affected(rows: Rows, fold: Mapping[str, Ints], kind: str) -> Bools:
    """Mark the test rows of one fold whose unit is in its training or validation, shape (n_test,)."""
    codes = unit_codes(rows, kind)
    test = fold["test"]
    if codes is None:
        return np.zeros(test.size, dtype=np.bool_)  # (n_test,)
    learnt = codes[np.concatenate([fold["train"], fold["validation"]])]
    return np.isin(codes[test], learnt) & (codes[test] >= 0)  # (n_test,)


def guess_protocol(rows: Rows, parts: Parts) -> str:
    """Name the strictest protocol whose forbidden overlaps are all absent; ``window`` where trials are shared.

    What the table does not name cannot be ruled out: without a column ``stimulus`` the stimuli count as shared.
    """
    folds = as_folds(parts)
    counts = {"time": _time_overlap(rows, folds)}
    for kind in UNITS:
        codes = unit_codes(rows, kind)
        counts[kind] = None if codes is None else _unit_overlap(codes, folds)
    shared = {kind for kind, found in counts.items() if found is not None and found["shared"]}
    # Recordings lie within subjects, seconds within trials: where their columns lack they follow. A stimulus or study
    # that is not named may be the same on both sides.
    shared |= {kind for kind in ("stimulus", "study") if counts[kind] is None}
    for protocol in STRICTEST:
        if not shared - PERMITTED[protocol]:
            return protocol
    return "window"


def _unit_overlap(codes: Ints, folds: Sequence[Mapping[str, Ints]]) -> dict[str, Any]:
    """Count the units (-1: not known) of test rows that training or validation rows are of too."""
    return _tally(codes, folds, lambda test, other: np.isin(codes[test], codes[other]))


def _tally(
    units: Ints, folds: Sequence[Mapping[str, Ints]], meets: Callable[[Ints, Ints], NDArray[np.bool_]]
) -> dict[str, Any]:
    """Count what is tested and shared; `meets` says which test rows share something with rows of another part."""
    tested: set[int] = set()
    shared: dict[str, set[int]] = {"train": set(), "validation": set()}
    rows = hit = 0
    for fold in folds:
        test = fold["test"][units[fold["test"]] >= 0]  # (n_test,)
        tested.update(units[test].tolist())
        both = np.zeros(test.size, dtype=np.bool_)  # (n_test,)
        for part, seen in shared.items():
            here = meets(test, fold[part])  # (n_test,)
            seen.update(units[test[here]].tolist())
            both |= here
        rows += int(test.size)
        hit += int(both.sum())
    return {
        "shared": len(shared["train"] | shared["validation"]),
        "of": len(tested),
        "training": len(shared["train"]),
        "validation": len(shared["validation"]),
        "dose": hit / rows if rows else 0.0,
    }


def _time_overlap(rows: Rows, folds: Sequence[Mapping[str, Ints]]) -> dict[str, Any] | None:
    """Count test rows that hold seconds of their trial that a training or validation row holds too."""
    trial = unit_codes(rows, "trial")
    if trial is None or "start" not in rows or "stop" not in rows:
        return None
    start = np.asarray(rows["start"], dtype=np.float64)  # (n,)
    stop = np.asarray(rows["stop"], dtype=np.float64)  # (n,)
    if not np.isfinite(start).any():
        return None
    each = np.arange(trial.size)  # (n,), every row is a unit of its own
    return _tally(each, folds, lambda test, other: _covered(trial, start, stop, test, other))


def _covered(
    trial: Ints, start: NDArray[np.float64], stop: NDArray[np.float64], test: Ints, other: Ints
) -> NDArray[np.bool_]:
    """Mark test rows that overlap in time with a row of `other` of the same trial, (n_test,).

    In each trial the rows of `other` are sorted by start, with the latest stop so far: a test row overlaps where any
    of those that start before its stop ends after its start.
    """
    out = np.zeros(test.size, dtype=np.bool_)  # (n_test,)
    order = other[np.lexsort((start[other], trial[other]))]  # (n_other,)
    first = np.searchsorted(trial[order], trial[test], side="left")  # (n_test,)
    last = np.searchsorted(trial[order], trial[test], side="right")  # (n_test,)
    spans: dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for i in np.flatnonzero((last > first) & (trial[test] >= 0)).tolist():
        key = (int(first[i]), int(last[i]))
        if key not in spans:
            mine = order[key[0] : key[1]]
            spans[key] = start[mine], np.maximum.accumulate(stop[mine])  # (k,), (k,)
        begins, ends = spans[key]
        # Times come from sums of steps: a rounding error is no shared second.
        slack = 1e-6 * max(1.0, abs(float(stop[test[i]])))
        before = int(np.searchsorted(begins, stop[test[i]] - slack, side="left"))
        out[i] = before > 0 and ends[before - 1] > start[test[i]] + slack
    return out


def _text(values: Iterable[Any]) -> NDArray[np.str_]:
    """Return identities as text, (n,): whole numbers alike whether stored as 3 or 3.0, nothing as ''."""
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return array.astype(np.str_)
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.round(array))
        text = np.array([f"{v:.0f}" if w else repr(float(v)) for v, w in zip(array, whole, strict=True)], dtype=np.str_)
        return np.where(np.isnan(array), "", text)
    return np.array(["" if _missing(v) else str(v).strip() for v in array], dtype=np.str_)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value)) or type(value).__name__ == "NAType"


def sentence(found: Mapping[str, Any]) -> str:
    """Say one overlap in words: ``40 of 40 trials of the test are in training too (100 % of the test rows)``."""
    if found["kind"] == "time":
        text = f"{found['shared']} of {found['of']} test rows hold seconds that training holds too"
    else:
        plural = PLURAL[found["kind"]]
        text = f"{found['shared']} of {found['of']} {plural} of the test are in training or validation too"
    return f"{text} ({found['dose']:.0%} of the test rows)" if found["shared"] else text
