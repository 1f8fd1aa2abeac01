"""The figures of an ablation: each cell over its seeds, and its paired difference from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.errors import UserError
from milmer.evaluation.chance import NEW_STIMULI, class_passes
from milmer.evaluation.intervals import FEWEST, jackknife
from milmer.evaluation.metrics import Floats, Ints, checked, confusion, from_confusion
from milmer.evaluation.predictions import LEVELS, trial_level
from milmer.evaluation.protocols import person_codes, stimulus_codes, trial_codes
from milmer.evaluation.statistics import chance_level, left_tables, p_value, relabelled

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

    from milmer.config import Evaluation

FIGURES = ("accuracy", "balanced_accuracy", "macro_f1")
Row = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """What one cell answered at one level, all seeds; G units (subjects, or a lone subject's trials) a figure is of."""

    y: list[Ints]  # (n,) of each seed
    answer: list[Ints]  # (n,) of each seed
    person: list[Ints]  # (n,) of each seed, numbered over all cells
    trial: list[Ints]  # (n,) of each seed, numbered over all cells
    classes: tuple[str, ...]
    stimulus: Ints | None = None  # (n,) of the first seed; None where some have no name

    def points(self, keep: Ints | None = None) -> dict[str, Floats]:
        """Return each figure of each seed, shape (n_seeds,); of the trials `keep` only."""
        k, tables = len(self.classes), []
        for y, answer, trial in zip(self.y, self.answer, self.trial, strict=True):
            kept = slice(None) if keep is None else np.isin(trial, keep)
            tables.append(confusion(y[kept], answer[kept], k))
        found = from_confusion(np.stack(tables), self.classes)
        return {name: found[name] for name in FIGURES}

    def left_out(self, by_trial: bool, keep: Ints | None = None) -> dict[str, Floats]:
        """Return each figure, averaged over the seeds, without each unit in the order of its number, shape (G,)."""
        found = []
        for seed, trial in enumerate(self.trial):
            kept = slice(None) if keep is None else np.isin(trial, keep)
            units = (trial if by_trial else self.person[seed])[kept]
            _, unit = np.unique(units, return_inverse=True)
            tables = left_tables(self.y[seed][kept], self.answer[seed][kept], unit, len(self.classes))
            found.append(from_confusion(tables, self.classes))
        return {name: np.mean([f[name] for f in found], axis=0) for name in FIGURES}


def score(
    predictions: Mapping[str, Mapping[int, pd.DataFrame]],
    classes: Mapping[str, Sequence[str]],
    config: Evaluation,
    reference: str,
) -> dict[str, Row]:
    """Return the figures of every cell.

    Parameters
    ----------
    predictions : mapping of cell to mapping of seed to DataFrame
        Rows of each run's predictions.parquet; the part ``test`` is scored.
    classes : mapping of cell to sequence of str
        Names in index order.
    config : milmer.config.Evaluation
        Gives ``protocol``, ``seed``, ``resamples`` and ``confidence``.
    reference : str
        The cell that others are compared with.

    Returns
    -------
    dict of str to dict
        For the levels window and trial and the figures accuracy, balanced_accuracy and macro_f1, under
        ``<figure>_<level>``: the mean over the seeds, and with an ending: ``_min`` and ``_max`` over seeds, ``_low``
        and ``_high`` of the interval, ``_chance`` and ``_chance_high`` (its one-sided 5 % limit), ``_p``, and
        ``_difference``, ``_difference_low``, ``_difference_high`` from the reference. Then ``n_window``, ``n_trial``,
        ``n_subject`` and ``interval_how``. None stands for what is undefined.

    Raises
    ------
    UserError
        If a cell has no labelled test row.

    Notes
    -----
    Intervals are jackknife intervals over subjects, over trials where there is one subject, none below 6
    (`milmer.evaluation.intervals.jackknife`). The figure without a subject is the mean over the seeds: the interval
    speaks of other people (or trials), not of other seeds, whose spread stands beside it. Differences are of the
    trials that both cells answered, the same subject left out of both, so they are paired. Chance: labels permuted
    between a subject's trials (under protocols that test on new stimuli between stimuli, for all subjects alike),
    predictions held.
    """
    rows: dict[str, Row] = {name: {} for name in predictions}
    for number, level in enumerate(LEVELS):
        cells = _answers(predictions, classes, level)
        for name, cell in cells.items():
            row = rows[name]
            by_trial, how = _units(cell)
            left = {} if by_trial is None else cell.left_out(by_trial)
            chance = _chance(cell, config, np.random.default_rng([config.seed, number, 1]))
            gap = _difference(cell, cells[reference], config.confidence) if name != reference else {}
            for figure, values in cell.points().items():
                key = f"{figure}_{level}"
                value = float(values.mean())
                row |= {key: value, f"{key}_min": float(values.min()), f"{key}_max": float(values.max())}
                low, high = jackknife(value, left.get(figure, ()), config.confidence, "unit")
                null = chance.get(figure, np.zeros(0))
                mean, limit = chance_level(null)
                row |= {f"{key}_low": _plain(low), f"{key}_high": _plain(high)}
                row |= {f"{key}_chance": _plain(mean), f"{key}_chance_high": _plain(limit)}
                row |= {f"{key}_p": _plain(p_value(value, null))}
                point, low, high = gap.get(figure, (float("nan"),) * 3)
                row |= {f"{key}_difference": _plain(point)}
                row |= {f"{key}_difference_low": _plain(low), f"{key}_difference_high": _plain(high)}
            row["n_window" if level == "window" else "n_trial"] = (
                len(cell.y[0]) if level == "window" else int(np.unique(cell.trial[0]).size)
            )
            row["n_subject"] = int(np.unique(cell.person[0]).size)
            row["interval_how"] = how
    return rows


def _units(cell: Answered, keep: Ints | None = None) -> tuple[bool | None, str]:
    """Return whether trials are left out (else subjects; None where there are fewer than 6), and that in words."""
    kept = slice(None) if keep is None else np.isin(cell.trial[0], keep)
    people, trials = np.unique(cell.person[0][kept]).size, np.unique(cell.trial[0][kept]).size
    alone = people == 1
    count, unit = (trials, "trials") if alone else (people, "subjects")
    if count < FEWEST:
        return None, f"none from {count} {unit}: at least {FEWEST} needed"
    return alone, f"jackknife over {count} {unit}" + (" of one subject" if alone else "")


def _difference(cell: Answered, other: Answered, confidence: float) -> dict[str, tuple[float, float, float]]:
    """Figures of `cell` less those of `other`, over the trials that both answered, with interval."""
    common = np.intersect1d(cell.trial[0], other.trial[0])  # (t,)
    if not common.size:
        return {}
    mine, theirs = cell.points(common), other.points(common)
    by_trial, _ = _units(cell, common)
    out = {}
    for name in FIGURES:
        value, low, high = float(mine[name].mean() - theirs[name].mean()), float("nan"), float("nan")
        if by_trial is not None:
            left = cell.left_out(by_trial, common)[name] - other.left_out(by_trial, common)[name]  # (G,)
            low, high = jackknife(value, left, confidence)
        out[name] = (value, low, high)
    return out


def _chance(cell: Answered, config: Evaluation, rng: np.random.Generator) -> dict[str, Floats]:
    """Figures, averaged over the seeds, with labels permuted as `chance.held` does; (R,) each, or nothing.

    All seeds have the same trials, so they share the shuffles: a figure of the null is a mean over seeds too.
    """
    k = len(cell.classes)
    units, first, unit = np.unique(cell.trial[0] * k + cell.y[0], return_index=True, return_inverse=True)
    labels, strata = cell.y[0][first], cell.person[0][first]  # (U,), (U,)
    alike = cell.stimulus is not None and config.protocol in NEW_STIMULI
    groups = cell.stimulus[first] if alike and cell.stimulus is not None else None  # (U,)
    lengths = np.bincount(unit)  # (U,)
    shuffled, _ = relabelled(labels, strata, config.resamples, rng, groups, lengths)  # (R, U)
    if shuffled is not None and class_passes(labels, shuffled, lengths, cell.classes):
        shuffled, _ = relabelled(labels, strata, config.resamples, rng, groups, lengths, 1.0)  # (R, U)
    if shuffled is None:
        return {}
    found = []
    for seed, answer in enumerate(cell.answer):
        if seed:
            unit = np.searchsorted(units, cell.trial[seed] * k + cell.y[seed])  # (n,)
        given = np.bincount(unit * k + answer, minlength=units.size * k).reshape(-1, k).astype(np.float64)  # (U, k)
        tables = np.stack([(shuffled == c).astype(np.float64) @ given for c in range(k)], axis=1)  # (R, k, k)
        found.append(from_confusion(tables, cell.classes))
    return {name: np.mean([f[name] for f in found], axis=0) for name in FIGURES}


def _answers(
    predictions: Mapping[str, Mapping[int, pd.DataFrame]], classes: Mapping[str, Sequence[str]], level: str
) -> dict[str, Answered]:
    """Return what each cell answered, people and trials numbered over all cells."""
    import pandas as pd

    frames: dict[tuple[str, int], pd.DataFrame] = {}
    for name, seeds in predictions.items():
        for seed, table in seeds.items():
            rows = table[(table["part"] == "test") & (table["y_true"] >= 0)]
            if not len(rows):
                raise UserError(f"cell {name}: found no labelled test row, expected some; check data.target")
            frames[name, seed] = rows if level == "window" else trial_level(rows, list(classes[name]))
    keys = ("study", "subject", "session", "trial")
    whole = pd.concat([f[[k for k in keys if k in f.columns]] for f in frames.values()], ignore_index=True)
    person, trial = person_codes(whole), trial_codes(whole)  # (all rows,) each
    ends = np.cumsum([len(f) for f in frames.values()])[:-1]
    numbered = dict(zip(frames, zip(np.split(person, ends), np.split(trial, ends), strict=True), strict=True))
    out = {}
    for name, seeds in predictions.items():
        of_cell = [frames[name, seed] for seed in seeds]
        prob = [f"prob_{c}" for c in classes[name]]
        pairs = [checked(f["y_true"].to_numpy(), f[prob].to_numpy(dtype=np.float64), len(prob)) for f in of_cell]
        out[name] = Answered(
            [y for y, _ in pairs],
            [p.argmax(axis=1) for _, p in pairs],
            [numbered[name, seed][0] for seed in seeds],
            [numbered[name, seed][1] for seed in seeds],
            tuple(classes[name]),
            _stimuli(of_cell[0]),
        )
    return out


def _stimuli(rows: pd.DataFrame) -> Ints | None:
    """Number the stimuli of rows, (n,); None where some have no name."""
    if "stimulus" not in rows or (rows["stimulus"].fillna("").astype(str).str.strip() == "").any():
        return None
    return stimulus_codes(rows)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
