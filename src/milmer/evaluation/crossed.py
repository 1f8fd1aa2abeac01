"""Differences of two runs for new subjects and new stimuli together: the two-way part of `milmer compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from milmer.evaluation.comparable import Key, trial_keys
from milmer.evaluation.intervals import FEWEST, quantile, two_way_variance
from milmer.evaluation.metrics import Floats, Ints, checked, classification, from_statistics
from milmer.evaluation.paired import holm
from milmer.evaluation.predictions import trial_level
from milmer.evaluation.protocols import display_name
from milmer.evaluation.statistics import left_out

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

TINY = 1e-20  # a variance below it is rounding


@dataclass(frozen=True)
class Crossed:
    """A run's pooled figures, and what they are without each unit.

    Parameters
    ----------
    whole : dict of str to float
        Of all rows together; over several seeds their mean.
    left : dict of str to tuple of ndarray, shapes (S,), (I,) and (cells,)
        Without each subject, each stimulus, each cell (what one subject answered to one stimulus).
    """

    whole: Mapping[str, float]
    left: Mapping[str, tuple[Floats, Floats, Floats]]


@dataclass(frozen=True)
class AlsoNew:
    """The difference of two runs' pooled figures for new subjects and new stimuli: first less second.

    Parameters
    ----------
    difference, low, high : float
        With the interval of Student's t by the two-way variance.
    degrees : float
        Satterthwaite's.
    p, p_holm : float
        Two-sided, and corrected over all pairs of the figure. All NaN where a figure is undefined.
    """

    difference: float
    low: float
    high: float
    degrees: float
    p: float
    p_holm: float = float("nan")


@dataclass(frozen=True)
class Stimuli:
    """Which stimulus each trial that was compared had.

    Parameters
    ----------
    of : dict of tuple to str
        Name of the stimulus by study, subject, session and trial; empty where not all are known.
    subjects, count : int
        How many subjects, and stimuli (those of two studies are two).
    why : str
        Why there can be no two-way interval; empty where there can.
    """

    of: Mapping[Key, str]
    subjects: int
    count: int
    why: str

    @property
    def one_a_trial(self) -> bool:
        """Whether every trial had a stimulus of its own, so that what is paired over trials is over stimuli."""
        return bool(self.of) and self.count == len(self.of)


def stimuli_of(tables: Sequence[pd.DataFrame]) -> Stimuli:
    """Find the stimuli of the rows that runs are compared on, as every run names them.

    Parameters
    ----------
    tables : sequence of DataFrame
        One a run, of the same trials.
    """
    known: dict[Key, str] = {}
    subjects = len({key[:2] for key in trial_keys(tables[0])})
    for table in tables:
        for key, name in dict(zip(trial_keys(table), table["stimulus"].str.strip(), strict=True)).items():
            if not name:
                return Stimuli({}, subjects, 0, "not every row names its stimulus")
            if known.setdefault(key, name) != name:
                return Stimuli({}, subjects, 0, f"runs name other stimuli ({key[1]}'s trial {key[3]})")
    stimuli = len({(key[0], name) for key, name in known.items()})
    why = ""
    if min(subjects, stimuli) < FEWEST:
        people, films = _count(subjects, "subject", "subjects"), _count(stimuli, "stimulus", "stimuli")
        why = f"{people} and {films}, where {FEWEST} of each are needed"
    return Stimuli(known, subjects, stimuli, why)


def crossed_run(
    table: pd.DataFrame, classes: Sequence[str], level: str, stimuli: Stimuli, names: Sequence[str]
) -> Crossed:
    """Return a run's pooled figures and what they are without each unit; over several seeds the mean of each.

    Parameters
    ----------
    table : DataFrame
        Labelled test rows of all seeds, one a window.
    classes : sequence of str
        Names in index order.
    level : {'trial', 'window'}
        Whether a trial's windows are averaged first.
    stimuli : Stimuli
        Of the same trials.
    names : sequence of str
        The figures.
    """
    found = []
    for _, of_seed in table.groupby("seed"):
        rows = trial_level(of_seed, classes) if level == "trial" else of_seed
        keys = trial_keys(rows)
        person = _numbered([f"{k[0]}\n{k[1]}" for k in keys])  # (n,)
        stimulus = _numbered([f"{k[0]}\n{stimuli.of[k]}" for k in keys])  # (n,)
        p = rows[[f"prob_{c}" for c in classes]].to_numpy(dtype=np.float64)  # (n, k)
        found.append(crossed(rows["y_true"].to_numpy(dtype=np.int64), p, person, stimulus, classes, names))
    whole = {name: float(np.mean([f.whole[name] for f in found])) for name in names}
    left = {name: tuple(np.mean([f.left[name][i] for f in found], axis=0) for i in range(3)) for name in names}
    return Crossed(whole, {name: (values[0], values[1], values[2]) for name, values in left.items()})


def crossed(y: Ints, p: Floats, person: Ints, stimulus: Ints, classes: Sequence[str], names: Sequence[str]) -> Crossed:
    """Return the figures of one set of rows and what they are without each unit.

    Parameters
    ----------
    y, p : arrays, shapes (n,) and (n, k)
        True classes and probabilities.
    person, stimulus : arrays of int, shape (n,)
        Numbers from 0 on, none left out.
    classes, names : sequence of str
        Of the probabilities; of the figures wanted.
    """
    y, p = checked(y, p, len(classes))
    cell = np.unique(stimulus * (int(person.max()) + 1) + person, return_inverse=True)[1].astype(np.int64)  # (n,)
    whole = classification(y, p, classes)
    subjects, stimuli, cells = (from_statistics(left_out(y, p, c), classes) for c in (person, stimulus, cell))
    return Crossed({n: whole[n] for n in names}, {n: (subjects[n], stimuli[n], cells[n]) for n in names})


def also_new(first: Crossed, second: Crossed, name: str, confidence: float, otherwise: float) -> AlsoNew:
    """Return the difference of a figure between two runs, for new subjects and new stimuli.

    Parameters
    ----------
    first, second : Crossed
        Of the same rows.
    name : str
        The figure.
    confidence : float
        Level of the interval.
    otherwise : float
        p where there is a difference, but none without any unit is another (every answer right against every one
        wrong): t has nothing to go by there.

    Notes
    -----
    Both runs leave out the same unit, and the variance of the difference is that over subjects, plus that over
    stimuli, less that over cells, with Satterthwaite's degrees (`milmer.evaluation.intervals.two_way_variance`); on
    the plain scale, like all differences.
    """
    none = float("nan")
    gap = first.whole[name] - second.whole[name]
    left = [a - b for a, b in zip(first.left[name], second.left[name], strict=True)]
    if not np.isfinite(gap) or not all(np.isfinite(v).all() for v in left):
        return AlsoNew(none, none, none, none, none)
    found, degrees = two_way_variance(*left)
    if found < TINY:
        gap = 0.0 if abs(gap) < TINY**0.5 else gap
        return AlsoNew(gap, gap, gap, degrees, otherwise if gap else 1.0)
    from scipy.special import stdtr  # late: keeps `import milmer.evaluation` fast

    error = float(np.sqrt(found))
    reach = quantile(degrees, (1 - confidence) / 2) * error
    return AlsoNew(gap, gap - reach, gap + reach, degrees, float(2 * stdtr(degrees, -abs(gap) / error)))


def corrected(found: Sequence[AlsoNew]) -> list[AlsoNew]:
    """Return the differences of all pairs with p corrected for their number (Holm)."""
    adjusted = holm([f.p for f in found])  # (pairs,)
    return [replace(f, p_holm=float(p)) for f, p in zip(found, adjusted, strict=True)]


def verdict_note(protocols: Sequence[str], stimuli: Stimuli) -> str:
    """Say by what runs under protocols with new stimuli are told apart."""
    names = ", ".join(dict.fromkeys(map(display_name, protocols)))
    these = "tests over subjects speak of these stimuli only, and with others a difference may turn round"
    if stimuli.why:
        return f"Under {names} stimuli are new: {these}."
    return (
        f"Under {names} stimuli are new: runs are told apart by the difference for new stimuli ({stimuli.subjects} "
        f"subjects, {stimuli.count} stimuli); {these}."
    )


def _numbered(names: Sequence[str]) -> Ints:
    return np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
