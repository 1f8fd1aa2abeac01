"""Protocols: who may learn from whom. Splits over a metadata table; splitters.py has them for scikit-learn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError, nearest
from milmer.evaluation.dealing import Ints
from milmer.evaluation.protocol_fits import (
    FEWEST_FOLDS,
    Fit,
    Labelled,
    grid_fits,
    stimulus_fits,
    study_fits,
    subject_fits,
    trial_fits,
    window_fits,
)

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

PROTOCOLS = ("trial", "subject", "stimulus", "subject-and-stimulus", "cross-study", "window")
LEAKY = frozenset({"window"})
SCOPES = ("pooled", "subject")
WITHIN = ("trial", "stimulus", "window")  # protocols that can be asked of one subject alone
# What two parts can share, from the finest to the coarsest; "time" is overlapping seconds of one trial.
KINDS = ("time", "trial", "recording", "subject", "stimulus", "study")
# What training (or validation) and test may share. Anything else they share is a leak.
PERMITTED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "trial": frozenset({"recording", "subject", "stimulus", "study"}),
        "subject": frozenset({"stimulus", "study"}),
        "stimulus": frozenset({"recording", "subject", "study"}),
        "subject-and-stimulus": frozenset({"study"}),
        "cross-study": frozenset({"stimulus"}),
        "window": frozenset({"recording", "subject", "stimulus", "study"}),
    }
)
# Each protocol draws from its own stream, so that its splits stay as they are when others are added.
_STREAMS = {"trial": 0, "subject": 1, "window": 2, "stimulus": 3, "subject-and-stimulus": 4, "cross-study": 5}
_NAMELESS = ("", "nan", "None", "NaN", "<NA>")


@dataclass(frozen=True)
class Split:
    """One fold: row numbers of its three parts.

    Parameters
    ----------
    fold : int
        Number of the fold, from 0; it runs on over all fits of a protocol.
    train, validation, test : ndarray of int64
        Row numbers into the table, ascending and disjoint. Rows without a label (-1) are in no part.
    notes : tuple of str
        What a reader must know about this fold, one line each (a class that a part lacks).
    name : str
        What is tested, where the number does not say it: the subject of a model within a subject, the groups of a
        cell (``subjects 1, stimuli 3``), the study; else empty.
    """

    fold: int
    train: Ints
    validation: Ints
    test: Ints
    notes: tuple[str, ...] = ()
    name: str = ""


def display_name(protocol: str) -> str:
    """Return the name to show: a leaky protocol is called leaky wherever it appears."""
    return f"{protocol} (leaky)" if protocol in LEAKY else protocol


def permitted_table() -> list[list[str]]:
    """Return the table of what training and test may share, for docs and reports.

    Returns
    -------
    list of list of str
        A heading (``protocol`` and the `KINDS`) and a row a protocol; cells are ``may``, ``never``, or ``leak`` where
        the protocol itself makes it happen.
    """
    rows = [["protocol", *KINDS]]
    for protocol in PROTOCOLS:
        never = "leak" if protocol in LEAKY else "never"
        rows.append([display_name(protocol), *("may" if k in PERMITTED[protocol] else never for k in KINDS)])
    return rows


def person_codes(rows: pd.DataFrame | Mapping[str, Any]) -> Ints:
    """Number the people of a table, shape (n_rows,): the same study and subject, the same number."""
    return identity_codes(rows, ("study", "subject"))


def trial_codes(rows: pd.DataFrame | Mapping[str, Any]) -> Ints:
    """Number the trials of a table, shape (n_rows,): the same study, subject, session and trial, the same number."""
    return identity_codes(rows, ("study", "subject", "session", "trial"))


def stimulus_codes(rows: pd.DataFrame | Mapping[str, Any]) -> Ints:
    """Number the stimuli of a table, shape (n_rows,): the same study and stimulus, the same number.

    Sessions and subjects make no difference: a film shown again is the same stimulus.
    """
    return identity_codes(rows, ("study", "stimulus"))


def identity_codes(rows: pd.DataFrame | Mapping[str, Any], columns: tuple[str, ...]) -> Ints:
    """Number what is distinct in identity columns, shape (n_rows,); a table may lack ``study`` and ``session``."""
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


def make_splits(
    rows: pd.DataFrame | Mapping[str, Any],
    y: ArrayLike,
    protocol: str = "trial",
    folds: int | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    scope: str = "pooled",
    train_study: str | None = None,
) -> list[Split]:
    """Split the rows of a table into train, validation and test, once a fit.

    Every labelled row is tested in exactly one fold (with `train_study`: every row of the other studies).

    ``trial``
        Pooled over subjects. Each subject's trials are dealt over the folds class by class, so that every class of
        every subject, every subject and every class over all is spread as evenly as can be. A trial is never on two
        sides. (With plain grouping a held-out trial makes its own class rarer in training, and an honest null falls
        well below ``1 / classes``.)
    ``subject``
        One subject a fold, or `folds` groups of subjects of even size and even classes.
    ``stimulus``
        Groups of stimuli, dealt by their commonest class. A stimulus of a study is never on two sides, whoever saw
        it in whatever session.
    ``subject-and-stimulus``
        Groups of subjects crossed with as many groups of stimuli: a fit for each cell of the grid. Training knows
        neither the subjects nor the stimuli of the test, and validation (another cell) shares neither with both.
    ``cross-study``
        Each study is tested by what was trained on all others, or all others by `train_study`. Validation is one of
        `folds` groups of each training study's subjects.
    ``window``
        Random windows, the paper's. **Leaky**: windows of one trial are on all sides. For comparison only.

    But for ``subject-and-stimulus`` and ``cross-study``, fold ``k + 1`` validates where fold ``k`` tests.

    Parameters
    ----------
    rows : DataFrame or mapping of columns, n_rows long
        Columns ``subject`` and ``trial``, where there are any ``study`` and ``session``, where needed ``stimulus``.
    y : array of int, shape (n_rows,)
        Class of each row, -1 where it has none.
    protocol : str
        One of `PROTOCOLS`: who may learn from whom.
    folds : int, optional
        At least 3. Without it 5 (or as many as there are stimuli, if fewer), or one a subject for ``subject``.
    seed : int
        The same seed and table give the same split, in whatever order the rows come (not for ``window``).
    classes : sequence of str, optional
        Names of the classes for the notes.
    scope : {'pooled', 'subject'}
        ``subject``: the protocol is asked of each subject alone, from its own rows (`WITHIN` only).
    train_study : str, optional
        For ``cross-study``: the study to train on.

    Returns
    -------
    list of Split

    Raises
    ------
    UserError
        If a column or a stimulus' name is missing, or there are too few subjects, trials, stimuli, studies, classes
        or folds.
    """
    _check_request(protocol, folds, scope, train_study)
    labels = _labels(y)
    people = person_codes(rows)
    if labels.shape != people.shape:
        raise UserError(f"labels: found shape {labels.shape}, expected one a row of the table, {people.shape}")
    known = np.flatnonzero(labels >= 0)
    _check_classes(labels[known], classes, "labels", "choose another data.target or data.threshold")
    trials = trial_codes(rows)[known]
    stimuli = _stimuli(rows, known, trials) if "stimulus" in protocol else np.zeros_like(known)
    names, studies = np.unique(_texts(rows, "study", known), return_inverse=True)
    table = Labelled(known, people[known], trials, stimuli, np.asarray(studies, dtype=np.int64), labels[known])
    if scope == "pooled":
        rng = np.random.default_rng([seed, _STREAMS[protocol]])
        if protocol == "cross-study":
            fits = study_fits(table, names.tolist(), folds, rng, train_study)
        else:
            fits = _FITS[protocol](table, folds, rng)
        return [_split(fit, k, table, classes) for k, fit in enumerate(fits)]
    found: list[Split] = []
    for person in np.unique(table.people):
        own = table.only(table.people == person)
        name = str(_texts(rows, "subject", own.rows[:1])[0])
        if names.size > 1:
            name = f"{names[own.studies[0]]}/{name}"
        found += _within(own, name, table, protocol, folds, seed, classes, len(found))
    return found


def _within(
    own: Labelled,
    name: str,
    table: Labelled,
    protocol: str,
    folds: int | None,
    seed: int,
    classes: Sequence[str] | None,
    begin: int,
) -> list[Split]:
    """Folds of one subject, numbered from `begin`."""
    _check_classes(
        own.labels, classes, f"subject {name}", "choose another data.threshold, or pool with evaluation.scope pooled"
    )
    # A seed from the name: a subject's folds stay the same whoever else is in the table.
    rng = np.random.default_rng([seed, _STREAMS[protocol], zlib.crc32(name.encode())])
    try:
        fits = _FITS[protocol](own, folds, rng)
    except UserError as error:
        raise UserError(f"subject {name}, {error}; or pool with evaluation.scope pooled") from error
    found = [_split(replace(fit, name=name), begin + k, own, classes) for k, fit in enumerate(fits)]
    lacking = _lacking(table.labels, own.labels, classes)
    if lacking:
        first = found[0]
        found[0] = replace(first, notes=(f"subject {name} has no trial of {lacking}", *first.notes))
    return found


_FITS: Mapping[str, Callable[[Labelled, int | None, np.random.Generator], list[Fit]]] = MappingProxyType(
    {
        "trial": trial_fits,
        "subject": subject_fits,
        "stimulus": stimulus_fits,
        "subject-and-stimulus": grid_fits,
        "window": window_fits,
    }
)


def _split(fit: Fit, fold: int, table: Labelled, classes: Sequence[str] | None) -> Split:
    parts = {"train": fit.train, "validation": fit.validation, "test": fit.test}
    notes = []
    for part, mine in parts.items():
        lacking = _lacking(table.labels, table.labels[mine], classes)
        if lacking:
            where = f"fold {fold} ({fit.name})" if fit.name else f"fold {fold}"
            notes.append(f"{where}: {part} has no {'trial' if part != 'train' else 'example'} of {lacking}")
    train, validation, test = (table.rows[mine] for mine in parts.values())
    return Split(fold, train, validation, test, tuple(notes), fit.name)


def _check_request(protocol: str, folds: int | None, scope: str, train_study: str | None) -> None:
    if protocol not in PROTOCOLS:
        raise UserError(
            f"protocol '{protocol}': found no such protocol, expected {', '.join(PROTOCOLS)}"
            f"{nearest(protocol, PROTOCOLS)}"
        )
    if scope not in SCOPES:
        raise UserError(f"scope: found '{scope}', expected {' or '.join(SCOPES)}; set evaluation.scope")
    if scope == "subject" and protocol not in WITHIN:
        raise UserError(
            f"scope subject: found the protocol '{protocol}', expected {', '.join(WITHIN)}, since one subject alone "
            "has no others to test on; use evaluation.scope pooled"
        )
    if train_study is not None and protocol != "cross-study":
        raise UserError(
            f"train_study: found '{train_study}' with the protocol '{protocol}', expected cross-study; use "
            "--protocol cross-study"
        )
    if folds is not None and folds < FEWEST_FOLDS:
        raise UserError(
            f"folds: found {folds}, expected at least {FEWEST_FOLDS}, since one fold tests, one validates and the "
            "rest train; set evaluation.folds"
        )


def _labels(y: ArrayLike) -> Ints:
    given = np.asarray(y)
    if given.dtype.kind not in "iub" and not (given.dtype.kind == "f" and np.array_equal(given, np.floor(given))):
        found = "values without a number" if given.dtype.kind == "f" and np.isnan(given).any() else str(given.dtype)
        raise UserError(
            f"labels: found {found}, expected whole numbers, -1 where a row has none; number the classes from 0"
        )
    return given.astype(np.int64)


def _check_classes(labels: Ints, classes: Sequence[str] | None, of: str, mend: str) -> None:
    seen = [_class_name(c, classes) for c in np.unique(labels).tolist()]
    if len(seen) < 2:
        raise UserError(
            f"{of}: found {'only the class ' + seen[0] if seen else 'no labelled row'}, expected at least two "
            f"classes; {mend}"
        )


def _stimuli(rows: pd.DataFrame | Mapping[str, Any], known: Ints, trials: Ints) -> Ints:
    """Number the stimuli of the labelled rows; each must have a name, and a trial only one."""
    nameless = np.isin(np.char.strip(_texts(rows, "stimulus", known)), _NAMELESS)
    if nameless.any():
        raise UserError(
            f"stimuli: found {nameless.sum()} of {known.size} labelled rows without a name, expected one each; name "
            "them in the column stimulus, or use the protocol 'trial' or 'subject'"
        )
    codes = stimulus_codes(rows)[known]
    _, first, of_row = np.unique(trials, return_index=True, return_inverse=True)
    mixed = np.flatnonzero(codes != codes[first][of_row])
    if mixed.size:
        row = known[mixed[:1]]
        raise UserError(
            f"stimuli: found more than one in trial {_texts(rows, 'trial', row)[0]} of subject "
            f"{_texts(rows, 'subject', row)[0]}, expected one a trial; number what was seen as trials of their own"
        )
    return codes


def _texts(rows: pd.DataFrame | Mapping[str, Any], column: str, which: Ints) -> NDArray[np.str_]:
    """Return a column as text, shape (len(which),); a ``study`` that is not there is empty."""
    if column not in rows:
        if column == "study":
            return np.full(which.size, "", dtype=np.str_)
        raise UserError(f"table of rows: found no column '{column}', expected one; add it")
    return np.asarray(np.asarray(rows[column])[which].astype(str))


def _lacking(of: Ints, found: Ints, classes: Sequence[str] | None) -> str:
    """Name the classes of `of` that are not in `found`."""
    return ", ".join(_class_name(c, classes) for c in np.setdiff1d(of, found).tolist())


def _class_name(index: int, classes: Sequence[str] | None) -> str:
    return classes[index] if classes is not None and index < len(classes) else f"class {index}"
