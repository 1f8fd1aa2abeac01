"""Ratings become classes here, at read; a store never holds a threshold."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.errors import UserError, nearest
from milmer.evaluation.protocols import person_codes, stimulus_codes, trial_codes

if TYPE_CHECKING:
    from milmer.evaluation.guard import Guard, Seen

FOUR_CLASSES = ("HAHV", "HALV", "LAHV", "LALV")
TWO_CLASSES = ("low", "high")
Threshold = float | Literal["midpoint", "median"]
Ties = Literal["low", "high", "drop"]
Ranges = Mapping[str, Any]  # rating -> (low, high), or study -> rating -> (low, high)
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """Classes of rows of a table.

    Parameters
    ----------
    y : ndarray of int64, shape (n_rows,)
        Class index, or -1 where the row has no rating or label.
    classes : tuple of str
        Names in index order: the paper's for four classes, low/high for two, sorted for named labels.
    rule : str
        How ratings became classes, in words, for the predictions file (``"valence > 5, arousal > 5"``). The same for
        all folds of a run.
    thresholds : mapping of str to ndarray of float64, shape (n_rows,)
        For each rating that was cut, the threshold of each row; empty for named classes.
    notes : tuple of str
        What a reader must know, one line each.
    """

    y: Ints
    classes: tuple[str, ...]
    rule: str
    thresholds: Mapping[str, Floats] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def make_labels(
    rows: pd.DataFrame,
    target: str = "valence-arousal",
    threshold: Threshold = 5.0,
    ranges: Ranges | None = None,
    ties: Ties = "low",
) -> Labels:
    """Turn ratings or a label column into classes.

    Parameters
    ----------
    rows : DataFrame, n_rows long
        With columns ``rating_<name>`` and/or ``label``, or a column called `target`.
    target : str
        ``valence-arousal`` (four classes), a rating's name (two classes), ``label`` or any column of named classes.
    threshold : float or {'midpoint', 'median'}
        "High" is a rating strictly above it (PAPER: rating > 5, for both dimensions). ``midpoint`` is the middle of
        the rating's range. ``median`` is fitted, a fold at a time (see `median_labels`); until then the midpoint
        stands for it.
    ranges : mapping of str to (low, high), optional
        The range of each rating, by name; or for each study (of the column ``study``) such a mapping. Ratings outside
        of it are counted in the notes.
    ties : {'low', 'high', 'drop'}
        What a rating exactly at the threshold is; with ``drop`` the row has no class.

    Raises
    ------
    UserError
        If the table has no such rating or column, or the range of a rating is needed and not known.
    """
    names = _rated(rows, target)
    if not names:
        return _named(rows, target)
    numbers = not isinstance(threshold, str)
    cuts = {n: np.full(len(rows), threshold, float) if numbers else _midpoints(rows, n, ranges) for n in names}
    told = {n: _told(rows, cut) for n, cut in cuts.items()}
    outside = _outside(rows, names, ranges)
    above = ">=" if ties == "high" else ">"
    dropped = "; none where a rating is exactly that" if ties == "drop" else ""
    if threshold != "median":
        rule = ", ".join(f"{n} {above} {c}" for n, c in told.items())
        return _cut(rows, target, cuts, f"{rule}{dropped}", outside, ties)
    text = "median of the subject's training trials (else midpoint"
    rule = ", ".join(f"{n} {above} {text} {c})" for n, c in told.items())
    notes = (*outside, "the median is fitted in each fold; until then the midpoint stands for it")
    # What is at the midpoint need not be at the median: no trial may be lost to a threshold that is not the last.
    return _cut(rows, target, cuts, f"{rule}{dropped}", notes, "low" if ties == "drop" else ties, provisional=True)


def median_labels(rows: pd.DataFrame, target: str, ranges: Ranges | None, guard: Guard, ties: Ties = "low") -> Labels:
    """Make the labels of a fold with ``threshold: median``: a rating is high above the subject's own median.

    Parameters
    ----------
    rows : DataFrame, n_rows long
        Also with the columns ``subject`` and ``trial``, and where there are any ``study`` and ``session``.
    guard : Guard
        The fold's; see `fit_thresholds`.
    ties : {'low', 'high', 'drop'}
        As `make_labels` takes it.

    Returns
    -------
    Labels
        Of all rows; the rule is that of `make_labels`, the notes say whose threshold is no median of training trials.
    """
    provisional = make_labels(rows, target, "median", ranges, ties)
    if not provisional.thresholds:
        return provisional
    thresholds, notes = fit_thresholds(rows, tuple(provisional.thresholds), ranges, guard)
    return _cut(rows, target, thresholds, provisional.rule, notes, ties)


def fit_thresholds(
    rows: pd.DataFrame, names: Sequence[str], ranges: Ranges | None, guard: Guard
) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """Fit a threshold for each subject and rating, through the guard (kind ``threshold``).

    It is the median over the subject's training trials, each counted once. Where training holds no rating of the
    subject, it is the median over those trials of it that a budget ``labelled:N`` names, else the range's midpoint.

    Returns
    -------
    thresholds : dict of str to ndarray of float64, shape (n_rows,)
    notes : tuple of str
        Whose threshold is no median of training trials, and why.
    """
    people, trials = person_codes(rows), trial_codes(rows)  # (n_rows,) each
    called = _people(rows, people)
    thresholds, notes = {}, list[str]()
    for name in names:
        middle = _midpoints(rows, name, ranges)  # (n_rows,)
        fitter = functools.partial(_medians, guard.seen("threshold", _rating(rows, name, name)), people, trials)
        what = f"median {name} of each subject"
        found = guard.fit("threshold", fitter, guard.split.train, what=what)
        lacking = sorted(set(called) - set(found))
        given = guard.labelled_rows("adaptation")  # (a,)
        if lacking and len(given):
            theirs = guard.fit("threshold", fitter, given[np.isin(people[given], lacking)], what=what)
            found |= theirs
            if theirs:
                text = f"threshold of {name}: median of the trials that budget {guard.budget} names"
                notes.append(f"{text} for {_some([called[p] for p in sorted(theirs)])}")
            lacking = [p for p in lacking if p not in theirs]
        if lacking:
            without = np.isin(people, lacking)  # (n_rows,)
            text = f"threshold of {name}: midpoint {_told(rows[without], middle[without])}"
            notes.append(f"{text} for {_some([called[p] for p in lacking])}, of whom training holds no rating")
        own = [found.get(p, float(m)) for p, m in zip(people.tolist(), middle, strict=True)]
        thresholds[name] = np.array(own, dtype=np.float64)  # (n_rows,)
    return thresholds, tuple(notes)


def _medians(ratings: Seen, people: Ints, trials: Ints, rows: Ints) -> dict[int, float]:
    """Return the median rating of each person in `rows`, every trial counted once."""
    _, first = np.unique(trials[rows], return_index=True)
    chosen = rows[np.sort(first)]  # (t,)
    values = ratings[chosen]  # (t,)
    known = ~np.isnan(values)  # (t,)
    mine = people[chosen]  # (t,)
    return {int(p): float(np.median(values[known & (mine == p)])) for p in np.unique(mine[known])}


def permute_trials(table: pd.DataFrame, y: NDArray[Any], seed: int, *, alike: bool = False) -> NDArray[Any]:
    """Shuffle values `y` (n_rows,) between the trials of each subject; windows of a trial keep one value."""
    return np.asarray(y)[trial_permutation(table, seed, alike=alike)]  # (n_rows,)


def trial_permutation(table: pd.DataFrame, seed: int, *, alike: bool = False) -> Ints:
    """Return for each row the row whose rating it gets where ratings change hands between a subject's trials.

    Parameters
    ----------
    table : DataFrame, n_rows long
        Columns ``subject`` and ``trial_row``, and where there is one ``study``.
    alike : bool
        Exchange the stimuli (column ``stimulus``), for all subjects alike, as far as they saw the same: see
        `milmer.evaluation.statistics.exchanged_alike`.

    Returns
    -------
    ndarray of int64, shape (n_rows,)
        The first row of a trial of the same subject, one trial for each trial.
    """
    rng = np.random.default_rng([seed, 77])
    source = np.arange(len(table))  # (n_rows,)
    trial = table["trial_row"].to_numpy()  # (n_rows,)
    stimulus = stimulus_codes(table) if alike else np.zeros(len(table), dtype=np.int64)  # (n_rows,)
    from_, to = (rng.random(int(stimulus.max(initial=0)) + 1) for _ in range(2)) if alike else (None, None)
    by = [name for name in ("study", "subject") if name in table]
    for _, indices in sorted(table.groupby(by, dropna=False).indices.items()):
        rows = np.asarray(indices)  # (n,)
        trials, first, back = np.unique(trial[rows], return_index=True, return_inverse=True)
        if from_ is None or to is None:
            order = rng.permutation(len(trials))  # (t,)
        else:
            seen, order = stimulus[rows[first]], np.empty(len(trials), dtype=np.int64)  # (t,), (t,)
            order[np.argsort(to[seen], kind="stable")] = np.argsort(from_[seen], kind="stable")
        source[rows] = rows[first][order][back]  # (n,)
    return source


def permute_ratings(
    table: pd.DataFrame, target: str, seed: int, fixed: Sequence[str] = (), *, alike: bool = False
) -> pd.DataFrame:
    """Return a table in which each trial has the ratings and label of a random trial of the same subject.

    All ratings of a trial go together; the columns in `fixed` (who, when, what was seen) stay.
    """
    columns = [c for c in table if str(c).startswith("rating_") or c in ("label", target)]
    source = trial_permutation(table, seed, alike=alike)  # (n_rows,)
    moved = {c: table[c].iloc[source].set_axis(table.index) for c in columns if c not in fixed}
    return table.assign(**{str(c): values for c, values in moved.items()})


def _rated(rows: pd.DataFrame, target: str) -> tuple[str, ...]:
    """Return the ratings that a target cuts; none for a target of named classes."""
    if target == "valence-arousal":
        return ("valence", "arousal")
    return (target,) if f"rating_{target}" in rows.columns else ()


def _midpoints(rows: pd.DataFrame, name: str, ranges: Ranges | None) -> Floats:
    """Return for each row the middle of a rating's range in its study; (n_rows,)."""
    found = np.empty(len(rows))  # (n_rows,)
    studies = rows["study"].astype(str).to_numpy() if "study" in rows else np.full(len(rows), "", dtype=object)
    for study in np.unique(studies):
        own = (ranges or {}).get(study)
        own = own if isinstance(own, Mapping) else ranges or {}
        if name not in own:
            of = f" in {study}" if study else ""
            raise UserError(
                f"threshold midpoint or median: the range of ratings of {name}{of} is not known (known: "
                f"{', '.join(sorted(own)) or 'none'}); give a number (--threshold 5), or prepare the study again"
            )
        low, high = own[name]
        found[studies == study] = (float(low) + float(high)) / 2
    return found


def _told(rows: pd.DataFrame, cut: Floats) -> str:
    """Write the thresholds (n_rows,) of rows: one number, or one for each study."""
    values = np.unique(cut)
    if len(values) <= 1 or "study" not in rows:
        return ", ".join(f"{v:g}" for v in values)
    by = pd.Series(cut).groupby(rows["study"].astype(str).to_numpy()).first()
    return ", ".join(f"{v:g} in {study}" for study, v in by.items())


def _outside(rows: pd.DataFrame, names: Sequence[str], ranges: Ranges | None) -> tuple[str, ...]:
    """Say how many trials are rated outside of a rating's range, one line a rating and study."""
    notes = []
    studies = rows["study"].astype(str).to_numpy() if "study" in rows else np.full(len(rows), "", dtype=object)
    for name in names:
        values = _rating(rows, name, name)  # (n_rows,)
        for study in np.unique(studies):
            own = (ranges or {}).get(study)
            own = own if isinstance(own, Mapping) else ranges or {}
            if name not in own:
                continue
            low, high = (float(v) for v in own[name])
            out = (studies == study) & ((values < low) | (values > high))  # (n_rows,)
            if n := _trials(rows, out):
                wrong = values[out][0]
                of = f" in {study}" if study else ""
                notes.append(
                    f"{n} trial{' is' if n == 1 else 's are'} rated outside of {name}'s range {low:g}-{high:g}{of} "
                    f"(such as {wrong:g}) and taken as given"
                )
    return tuple(notes)


def _trials(rows: pd.DataFrame, marked: NDArray[np.bool_]) -> int:
    """Count the trials of marked rows; the rows, where the table does not say which trial each is of."""
    known = {"subject", "trial"} <= set(rows.columns)
    return len(np.unique(trial_codes(rows)[marked])) if known and marked.any() else int(marked.sum())


def _cut(
    rows: pd.DataFrame,
    target: str,
    thresholds: Mapping[str, Floats],
    rule: str,
    notes: tuple[str, ...],
    ties: Ties,
    provisional: bool = False,
) -> Labels:
    """Make classes of ratings: high is above the threshold, and at it as `ties` says."""
    ratings = {name: _rating(rows, name, target) for name in thresholds}
    missing = np.any([np.isnan(r) for r in ratings.values()], axis=0)  # (n_rows,)
    low = {n: ratings[n] < cut if ties == "high" else ratings[n] <= cut for n, cut in thresholds.items()}
    classes: tuple[str, ...] = FOUR_CLASSES
    if target == "valence-arousal":
        index = 2 * low["arousal"] + low["valence"]  # (n_rows,)
    else:
        index, classes = 1 - low[target].astype(np.int64), TWO_CLASSES  # (n_rows,)
    tied = np.any([ratings[name] == cut for name, cut in thresholds.items()], axis=0) & ~missing  # (n_rows,)
    if (n := _trials(rows, tied)) and not provisional:
        counted = {"low": ("counts as low", "count as low"), "high": ("counts as high", "count as high")}
        one, many = counted.get(ties, ("has no class", "have no class"))
        are, done = ("trial is", one) if n == 1 else ("trials are", many)
        notes = (*notes, f"{n} {are} rated exactly at the threshold and {done}")
    if ties == "drop":
        missing |= tied  # (n_rows,)
    return Labels(np.where(missing, -1, index).astype(np.int64), classes, rule, dict(thresholds), notes)


def _named(rows: pd.DataFrame, target: str) -> Labels:
    """Make classes of a column of names."""
    if target not in rows.columns:
        known = [c.removeprefix("rating_") for c in rows.columns if c.startswith("rating_")]
        known += ["label"] if _has_names(rows) else []
        known += ["valence-arousal"]
        raise UserError(f"target '{target}': this study has {', '.join(sorted(known))}{nearest(target, known)}")
    text = rows[target].astype(object).where(rows[target].notna(), "").astype(str).str.strip()
    classes = tuple(sorted(set(text) - {""}, key=_natural))
    if len(classes) < 2:
        found = f"only the class {classes[0]}" if classes else "no class"
        raise UserError(f"target '{target}': found {found}, expected at least two; name another target")
    lookup = {name: i for i, name in enumerate(classes)}
    return Labels(np.array([lookup.get(t, -1) for t in text], dtype=np.int64), classes, f"{target} as given")


def _has_names(rows: pd.DataFrame) -> bool:
    """Whether a trial has a class by name; every store has the column."""
    return "label" in rows.columns and bool(rows["label"].fillna("").astype(str).str.strip().any())


def _rating(rows: pd.DataFrame, name: str, target: str) -> Floats:
    column = f"rating_{name}"
    if column not in rows.columns:
        have = ", ".join(c.removeprefix("rating_") for c in rows.columns if c.startswith("rating_")) or "nothing"
        hint = "; it has named classes: --target label" if _has_names(rows) else ""
        raise UserError(f"target '{target}' needs ratings of {name}; this study has ratings of {have}{hint}")
    try:
        return np.asarray(rows[column].to_numpy(dtype=np.float64, na_value=np.nan))  # (n_rows,)
    except ValueError as error:
        raise UserError(f"ratings of {name}: {error}; expected numbers or nothing") from error


def _people(rows: pd.DataFrame, people: Ints) -> dict[int, str]:
    """Return what to call each person: the subject, with its study where there are several."""
    _, first = np.unique(people, return_index=True)
    several = "study" in rows and rows["study"].nunique() > 1
    names = (
        f"{rows['study'].iat[i]}/{rows['subject'].iat[i]}" if several else str(rows["subject"].iat[i]) for i in first
    )
    return dict(zip(people[first].tolist(), names, strict=True))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _natural(name: str) -> tuple[float, str]:
    """Sort numbers by value, before words."""
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name
