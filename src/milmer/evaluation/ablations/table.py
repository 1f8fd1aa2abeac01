"""The figures of an ablation: each cell over its seeds, and its paired difference from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.errors import UserError
from milmer.evaluation.metrics import Floats, Ints, checked, from_confusion
from milmer.evaluation.predictions import LEVELS, trial_level
from milmer.evaluation.protocols import person_codes, trial_codes
from milmer.evaluation.scoring import FEWEST_CLUSTERS
from milmer.evaluation.statistics import (
    chance_level,
    cluster_weights,
    exchangeable,
    interval,
    p_value,
    permuted_labels,
)

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

    from milmer.config import Evaluation

FIGURES = ("accuracy", "balanced_accuracy", "macro_f1")
Row = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """What one cell answered at one level, all seeds: R resamples, G clusters shared by all cells."""

    y: list[Ints]  # (n,) of each seed
    answer: list[Ints]  # (n,) of each seed
    person: list[Ints]  # (n,) of each seed, numbered over all cells
    trial: list[Ints]  # (n,) of each seed, numbered over all cells
    classes: tuple[str, ...]

    def figures(self, cluster: Sequence[Ints], weights: Floats, keep: Ints | None = None) -> dict[str, Floats]:
        """Return each figure, averaged over the seeds, in every resample, shape (R,); of the trials `keep` only."""
        per_seed = [self._figures(i, cluster[i], weights, keep) for i in range(len(self.y))]
        return {name: np.mean([f[name] for f in per_seed], axis=0) for name in FIGURES}

    def points(self) -> dict[str, Floats]:
        """Return each figure of each seed, shape (n_seeds,)."""
        per_seed = []
        for seed, trial in enumerate(self.trial):
            per_seed.append(self._figures(seed, np.zeros_like(trial), np.ones((1, 1)), None))
        return {name: np.concatenate([f[name] for f in per_seed]) for name in FIGURES}

    def _figures(self, seed: int, cluster: Ints, weights: Floats, keep: Ints | None) -> dict[str, Floats]:
        k, count = len(self.classes), weights.shape[1]
        kept = slice(None) if keep is None else np.isin(self.trial[seed], keep)
        cell = (cluster * k * k + self.y[seed] * k + self.answer[seed])[kept]  # (n,)
        sums = np.bincount(cell, minlength=count * k * k).reshape(count, -1)  # (G, k*k)
        found = from_confusion((weights @ sums).reshape(-1, k, k), self.classes)
        return {name: found[name] for name in FIGURES}


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
    Clusters are resampled once for all cells and seeds, so that differences are paired: subjects under ``subject``,
    trials within each subject under the others (as in `milmer.evaluation.scoring.figures`); no interval below 6. The
    figure of a resample is the mean over the seeds: the interval speaks of other people (or trials), not of other
    seeds, whose spread stands beside it. Differences are of the trials that both cells answered. Chance: labels
    permuted between a subject's trials, predictions held.
    """
    rows: dict[str, Row] = {name: {} for name in predictions}
    for number, level in enumerate(LEVELS):
        cells = _answers(predictions, classes, level)
        clusters = _Clusters.draw(list(cells.values()), config, np.random.default_rng([config.seed, number]))
        for name, cell in cells.items():
            row = rows[name]
            drawn = clusters.figures(cell)
            chance = _chance(cell, config, np.random.default_rng([config.seed, number, 1]))
            gap = _difference(cell, cells[reference], clusters) if name != reference else {}
            for figure, values in cell.points().items():
                key = f"{figure}_{level}"
                value = float(values.mean())
                row |= {key: value, f"{key}_min": float(values.min()), f"{key}_max": float(values.max())}
                low, high = clusters.interval(drawn.get(figure), cell)
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
            row["interval_how"] = clusters.how
    return rows


@dataclass(frozen=True)
class _Clusters:
    """One draw of resamples for all cells of a level."""

    by_subject: bool
    weights: Floats | None  # (R, G), None where too few clusters
    strata: int
    confidence: float
    how: str

    @classmethod
    def draw(cls, cells: Sequence[Answered], config: Evaluation, rng: np.random.Generator) -> _Clusters:
        by_subject = config.protocol == "subject"
        person = np.concatenate([p for c in cells for p in c.person])  # (all rows,)
        trial = np.concatenate([t for c in cells for t in c.trial])  # (all rows,)
        names, first = np.unique(person if by_subject else trial, return_index=True)
        unit = "subjects" if by_subject else "trials"
        if names.size < FEWEST_CLUSTERS:
            how = f"none from {names.size} {unit}: at least {FEWEST_CLUSTERS} needed"
            return cls(by_subject, None, 1, config.confidence, how)
        stratum = np.zeros(names.size, dtype=np.int64) if by_subject else person[first]  # (G,)
        groups = int(np.unique(stratum).size)
        how = f"bootstrap over {names.size} {unit}"
        if 3 * groups > names.size:  # a trial or two a subject: next to nothing to resample within
            stratum, groups = np.zeros(names.size, dtype=np.int64), 1
        elif not by_subject:
            how += f" within {groups} subject{'s' * (groups != 1)}"
        weights = cluster_weights(stratum, config.resamples, rng)  # (R, G)
        return cls(by_subject, weights, groups, config.confidence, how)

    def of(self, cell: Answered) -> list[Ints]:
        return cell.person if self.by_subject else cell.trial

    def figures(self, cell: Answered, keep: Ints | None = None) -> dict[str, Floats]:
        return {} if self.weights is None else cell.figures(self.of(cell), self.weights, keep)

    def interval(self, values: Floats | None, cell: Answered) -> tuple[float, float]:
        count = int(np.unique(self.of(cell)[0]).size)
        if values is None or count < FEWEST_CLUSTERS:
            return float("nan"), float("nan")
        return interval(values, self.confidence, count, min(self.strata, count - 1))


def _difference(cell: Answered, other: Answered, clusters: _Clusters) -> dict[str, tuple[float, float, float]]:
    """Figures of `cell` less those of `other`, over the trials that both answered, with interval."""
    common = np.intersect1d(cell.trial[0], other.trial[0])  # (t,)
    if not common.size:
        return {}
    one = np.ones((1, 1))
    mine = cell.figures([np.zeros_like(t) for t in cell.trial], one, common)
    theirs = other.figures([np.zeros_like(t) for t in other.trial], one, common)
    a, b = clusters.figures(cell, common), clusters.figures(other, common)
    out = {}
    for name in FIGURES:
        drawn = a[name] - b[name] if a else None
        low, high = clusters.interval(drawn, cell)
        out[name] = (float(mine[name][0] - theirs[name][0]), low, high)
    return out


def _chance(cell: Answered, config: Evaluation, rng: np.random.Generator) -> dict[str, Floats]:
    """Figures, averaged over the seeds, with labels permuted between a subject's trials; (R,) each, or nothing.

    All seeds have the same trials, so they share the shuffles: a figure of the null is a mean over seeds too.
    """
    k = len(cell.classes)
    units, first, unit = np.unique(cell.trial[0] * k + cell.y[0], return_index=True, return_inverse=True)
    labels, strata = cell.y[0][first], cell.person[0][first]  # (U,), (U,)
    if not exchangeable(labels, strata):
        strata = np.zeros_like(strata)
    if not exchangeable(labels, strata):
        return {}
    shuffled = permuted_labels(labels, strata, config.resamples, rng)  # (R, U)
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
        )
    return out


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
