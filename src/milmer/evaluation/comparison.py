"""Runs compared on the test rows they share, paired over subjects: the work of `milmer compare`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError, nearest
from milmer.evaluation.comparable import check_alike, differing, read_candidates, same_rows
from milmer.evaluation.comparison_notes import new_stimuli, notes_of
from milmer.evaluation.crossed import AlsoNew, Crossed, Stimuli, also_new, corrected, crossed_run, stimuli_of
from milmer.evaluation.metrics import LESS_IS_BETTER, classification
from milmer.evaluation.paired import Floats, Paired, friedman, holm, joined, paired
from milmer.evaluation.predictions import trial_level
from milmer.evaluation.protocols import LEAKY, display_name

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

OVER_SUBJECTS = ("accuracy", "balanced_accuracy", "macro_f1", "cohen_kappa", "log_loss", "brier")
OVER_TRIALS = ("accuracy", "log_loss", "brier")  # the others are of many trials
LEVELS = ("trial", "window")


@dataclass(frozen=True)
class Compared:
    """One run: what it is, and its figures.

    Parameters
    ----------
    name : str
        Short and unlike the others'.
    path : Path
        The run's folder.
    protocol, budget : str
        Names, as stored.
    seeds : int
        How many were averaged, unit by unit.
    values : dict of str to ndarray, shape (n_units,)
        Figures of each unit; NaN where undefined.
    """

    name: str
    path: Path
    protocol: str
    budget: str
    seeds: int
    values: Mapping[str, Floats]

    def mean(self, figure: str) -> float:
        """Mean of a figure over the units that have it."""
        values = self.values[figure]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


@dataclass(frozen=True)
class Pair:
    """Two runs (their numbers) and what their differences say; `p_holm` is corrected over all pairs of the figure.

    `inflation` is true where the two have other protocols or budgets: then it is no comparison of models. `new` is the
    difference for new stimuli too; None where there are too few of them.
    """

    first: int
    second: int
    result: Paired
    p_holm: float
    inflation: bool
    new: AlsoNew | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison shows.

    Parameters
    ----------
    runs : tuple of Compared
        In the order given.
    units : tuple of str
        Subjects, or the trials of the one subject.
    unit : str
        ``subject`` or ``trial``.
    figure : str
        The figure that verdicts, ranks and pictures are of.
    level : str
        ``trial`` or ``window``.
    pairs : dict of str to tuple of Pair
        Every pair of runs, for every figure.
    ranks : ndarray, shape (n_runs,)
        Average ranks over units, 1 the best.
    p_friedman : float
        That all ranks are alike; NaN for two runs.
    groups : tuple of tuple of int
        Runs next to one another by rank of which no two are separated.
    alpha, confidence : float
        Levels of tests and intervals.
    across : bool
        Whether protocols or budgets differ.
    shared : str
        What was left out, in words; empty where nothing was.
    trials : int
        Trials that all runs tested.
    settings : dict
        Configuration keys that differ, with each run's value.
    notes : tuple of str
        What a reader must know.
    for_new : bool
        Whether runs are told apart by the difference for new stimuli: a protocol's stimuli are new.
    stimuli : Stimuli
        How many, and why there is no difference for new ones; that is empty where there is.
    """

    runs: tuple[Compared, ...]
    units: tuple[str, ...]
    unit: str
    figure: str
    level: str
    pairs: Mapping[str, tuple[Pair, ...]]
    ranks: Floats
    p_friedman: float
    groups: tuple[tuple[int, ...], ...]
    alpha: float
    confidence: float
    across: bool
    shared: str
    trials: int
    settings: Mapping[str, list[Any]]
    notes: tuple[str, ...]
    for_new: bool
    stimuli: Stimuli

    @property
    def judged(self) -> bool:
        """Whether runs can be told apart at all: for new stimuli, only where there are enough."""
        return not (self.for_new and self.stimuli.why)

    @property
    def main(self) -> tuple[Pair, ...]:
        """Pairs of the main figure."""
        return self.pairs[self.figure]

    def separated(self, pair: Pair) -> bool:
        """Whether the corrected test tells the two apart."""
        return _apart(pair, self.for_new, self.alpha)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, for compare.json."""
        runs = [
            {
                "name": run.name,
                "path": str(run.path),
                "protocol": run.protocol,
                "protocol_name": display_name(run.protocol),
                "budget": run.budget,
                "seeds": run.seeds,
                "rank": float(rank),
                "figures": {
                    name: {"mean": run.mean(name), "of_units": [float(v) for v in values]}
                    for name, values in run.values.items()
                },
            }
            for run, rank in zip(self.runs, self.ranks, strict=True)
        ]
        pairs = [
            {
                "figure": name,
                "what": "inflation between protocols" if pair.inflation else "difference between models",
                "first": self.runs[pair.first].name,
                "second": self.runs[pair.second].name,
                **dataclasses.asdict(pair.result),
                "p_holm": pair.p_holm,
                "new_stimuli": None if pair.new is None else dataclasses.asdict(pair.new),
                "separated": self.separated(pair),
            }
            for name, found in self.pairs.items()
            for pair in found
        ]
        shared = {k: getattr(self, k) for k in ("figure", "level", "unit", "alpha", "confidence", "across", "shared")}
        return {
            "kind": "comparison",
            **shared,
            "trials": self.trials,
            "subjects": self.stimuli.subjects,
            "stimuli": self.stimuli.count,
            "verdict": "for new stimuli" if self.for_new else f"over {self.unit}s",
            "judged": self.judged,
            "no_new_stimuli": self.stimuli.why,
            "units": list(self.units),
            "runs": runs,
            "pairs": pairs,
            "p_friedman": self.p_friedman,
            "groups": [[self.runs[i].name for i in group] for group in self.groups],
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }


def compare(
    runs: Sequence[Path],
    *,
    figure: str | None = None,
    level: str = "trial",
    shared: bool = False,
    across: bool = False,
    alpha: float = 0.05,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare finished runs on the test rows that they share.

    Figures are made subject by subject (over the seeds of a run their mean), and differences are paired over
    subjects; with one subject, over its trials.

    Parameters
    ----------
    runs : sequence of Path
        Folders of `milmer evaluate`, two or more.
    figure : str, optional
        Figure of verdicts and pictures: ``macro_f1`` by default; with one subject ``accuracy``.
    level : {'trial', 'window'}
        Whether a trial's windows are averaged first.
    shared : bool
        Leave out trials that not all runs tested, instead of refusing.
    across : bool
        Allow other protocols or budgets: what is measured is then called an inflation.
    alpha, confidence : float
        Levels of the corrected tests and of the intervals.
    seed : int
        Of random sign flips.

    Raises
    ------
    UserError
        If the runs cannot be compared; the line says what to do instead.
    """
    if level not in LEVELS:
        raise UserError(f"--level {level}: expected trial or window{nearest(level, LEVELS)}")
    if figure is not None and figure not in OVER_SUBJECTS:
        raise UserError(
            f"--figure {figure}: expected one of {', '.join(OVER_SUBJECTS)}{nearest(figure, OVER_SUBJECTS)}"
        )
    candidates = read_candidates(runs)
    check_alike(candidates, across=across)
    tables, left_out = same_rows(candidates, level=level, shared=shared)
    several = tables[0]["study"].nunique() > 1
    people = sorted({_person(key, several) for key in zip(tables[0]["study"], tables[0]["subject"], strict=True)})
    over_trials = len(people) == 1
    names = OVER_TRIALS if over_trials else OVER_SUBJECTS
    figure = figure or ("accuracy" if over_trials else "macro_f1")
    if figure not in names:
        raise UserError(
            f"--figure {figure}: is a figure of many trials, and with one subject ({people[0]}) trials are paired; "
            f"choose {', '.join(names)}"
        )
    units: list[str] = []
    compared = []
    for run, table in zip(candidates, tables, strict=True):
        found = [unit_figures(t, run.classes, level, over_trials) for _, t in table.groupby("seed")]
        units = sorted(found[0], key=_natural)
        values = {name: np.mean([[f[u][name] for u in units] for f in found], axis=0) for name in names}
        compared.append(Compared(run.name, run.path, run.protocol, run.budget, len(found), values))
    stimuli = stimuli_of(tables)
    crossed = [
        crossed_run(table, run.classes, level, stimuli, names)
        for run, table in zip(candidates, tables, strict=True)
        if not stimuli.why
    ]
    # One subject's trials of a stimulus each are stimuli already.
    for_new = any(new_stimuli(run.protocol) for run in candidates) and not (over_trials and stimuli.one_a_trial)
    pairs = {name: _pairs(compared, crossed, name, confidence, seed) for name in names}
    ranks, p_friedman = friedman(
        np.stack([run.values[figure] for run in compared], axis=1),  # (units, runs)
        less_is_better=figure in LESS_IS_BETTER,
        seed=seed,
    )
    apart: NDArray[np.bool_] = np.zeros((len(compared), len(compared)), dtype=bool)
    for pair in pairs[figure]:
        apart[pair.first, pair.second] = apart[pair.second, pair.first] = _apart(pair, for_new, alpha)
    differ = differing(candidates)
    return Comparison(
        runs=tuple(compared),
        units=tuple(units),
        unit="trial" if over_trials else "subject",
        figure=figure,
        level=level,
        pairs=pairs,
        ranks=ranks,
        p_friedman=p_friedman,
        groups=tuple(joined(ranks, apart)),
        alpha=alpha,
        confidence=confidence,
        across=any(pair.inflation for pair in pairs[figure]),
        shared="; ".join(left_out),
        trials=len(set(zip(*(tables[0][c] for c in ("study", "subject", "session", "trial")), strict=True))),
        settings=differ,
        notes=tuple(
            notes_of(
                candidates, differ, pairs[figure], alpha, people[0] if over_trials else "", stimuli if for_new else None
            )
        ),
        for_new=for_new,
        stimuli=stimuli,
    )


def unit_figures(
    table: pd.DataFrame, classes: Sequence[str], level: str, over_trials: bool
) -> dict[str, dict[str, float]]:
    """Return the figures of each subject (or trial) of one seed's test rows.

    Parameters
    ----------
    table : DataFrame
        Labelled test rows, one a window.
    classes : sequence of str
        Names in index order.
    level : {'trial', 'window'}
        Whether a trial's windows are averaged first.
    over_trials : bool
        Whether the units are trials.
    """
    rows = trial_level(table, classes) if level == "trial" else table
    keys = ["study", "subject", *(["session", "trial"] if over_trials else [])]
    prob = [f"prob_{c}" for c in classes]
    out: dict[str, dict[str, float]] = {}
    several = rows["study"].nunique() > 1
    y, p = rows["y_true"].to_numpy(), rows[prob].to_numpy(dtype=np.float64)  # (n,), (n, k)
    for key, mine in rows.groupby(keys, sort=True).indices.items():
        found = classification(y[mine], p[mine], classes)
        study, subject, *rest = (str(k) for k in (key if isinstance(key, tuple) else (key,)))
        name = " ".join(filter(None, rest)) if over_trials else subject
        out[f"{study}/{name}" if several else name] = found
    return out


def _pairs(
    runs: Sequence[Compared], crossed: Sequence[Crossed], name: str, confidence: float, seed: int
) -> tuple[Pair, ...]:
    chosen = [(j, i) if _easier(runs[j], runs[i]) else (i, j) for i, j in combinations(range(len(runs)), 2)]
    results = [
        paired(
            runs[i].values[name],
            runs[j].values[name],
            confidence=confidence,
            less_is_better=name in LESS_IS_BETTER,
            seed=seed,
        )
        for i, j in chosen
    ]
    adjusted = holm([r.p for r in results])
    new: Sequence[AlsoNew | None] = [None] * len(chosen)
    if crossed:
        new = corrected(
            [
                also_new(crossed[i], crossed[j], name, confidence, result.p)
                for (i, j), result in zip(chosen, results, strict=True)
            ]
        )
    return tuple(
        Pair(i, j, result, float(p), (runs[i].protocol, runs[i].budget) != (runs[j].protocol, runs[j].budget), also)
        for (i, j), result, p, also in zip(chosen, results, adjusted, new, strict=True)
    )


def _apart(pair: Pair, for_new: bool, alpha: float) -> bool:
    """Whether the corrected test that decides tells the two apart."""
    if for_new:
        return pair.new is not None and bool(pair.new.p_holm <= alpha)
    return bool(pair.p_holm <= alpha)


def _easier(one: Compared, other: Compared) -> bool:
    """Whether only `one` is under a leaky protocol: an inflation is read as leaky less honest."""
    return one.protocol in LEAKY and other.protocol not in LEAKY


def _person(key: tuple[str, str], several: bool) -> str:
    return "/".join(key) if several else key[1]


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sort s2 before s10."""
    parts: list[tuple[int, str]] = []
    word = ""
    for char in [*name, ""]:
        if word and (char == "" or char.isdigit() != word[-1].isdigit()):
            parts.append((int(word), "") if word.isdigit() else (-1, word))
            word = ""
        word += char
    return tuple(parts)
