"""Continuous ratings: how close the expected rating is to the one that was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.evaluation import chance as luck
from milmer.evaluation.intervals import FEWEST, jackknife, scale_of, two_way
from milmer.evaluation.metrics import LESS_IS_BETTER, Floats, Ints
from milmer.evaluation.predictions import Rows
from milmer.evaluation.regression import from_moments, moments
from milmer.evaluation.statistics import (
    TOLERANCE,
    alike_in_length,
    chance_level,
    exchangeable,
    exchanged_alike,
    p_value,
    permuted_labels,
)

if TYPE_CHECKING:
    from milmer.config import Evaluation

Row = dict[str, Any]


def rating_rows(table: Rows, name: str, config: Evaluation, protocol: str, rng: np.random.Generator) -> list[Row]:
    """Return the rows of metrics.json for one rating; none where training rows are not known or nobody rated.

    Parameters
    ----------
    table : milmer.evaluation.predictions.Rows
        With the rating among its ``ratings``.
    name : str
        Of the rating, such as ``valence``.
    config : milmer.config.Evaluation
    protocol : str
    rng : Generator
        For the permutations of ratings between a subject's trials.
    """
    whole = table.ratings[name]
    keep = np.flatnonzero(np.isfinite(whole.truth) & np.isfinite(whole.expected))
    if not keep.size:
        return []
    mine = table.of(keep)
    rated = mine.ratings[name]
    truth, centre = rated.truth, float(rated.truth.mean())
    quiet = rated.no_signal if mine.no_signal is not None and np.isfinite(rated.no_signal).all() else None

    def sums(answer: Floats, cluster: Ints) -> Floats:
        return moments(truth, answer, cluster, centre)  # (G, 6)

    def figures(answer: Floats, chosen: Ints | None = None) -> dict[str, float]:
        rows = np.zeros(truth.size, dtype=np.int64)
        part = np.arange(truth.size) if chosen is None else chosen
        found = from_moments(moments(truth[part], answer[part], rows[part], centre))
        return {figure: float(v[0]) for figure, v in found.items()}

    def left(answer: Floats, cluster: Ints) -> dict[str, Floats]:
        each = sums(answer, cluster)  # (G, 6)
        return from_moments(each.sum(axis=0) - each)

    people = int(mine.person.max()) + 1
    cluster, unit = (mine.own, "trials") if people == 1 else (mine.person, "subjects")
    count = int(cluster.max()) + 1
    how = f"jackknife over {count} {unit}" if count >= FEWEST else f"none from {count} {unit}: at least {FEWEST} needed"
    values, base = figures(rated.expected), figures(rated.base)
    of_model = left(rated.expected, cluster) if count >= FEWEST else {}
    still = {} if quiet is None else figures(quiet)
    of_still = left(quiet, cluster) if quiet is not None and count >= FEWEST else {}
    crossed: tuple[dict[str, Floats], dict[str, Floats]] | None = None
    new_how = "none: fewer than 6 subjects or stimuli, or stimuli that one subject saw"
    stimuli = luck.stimuli_of(mine)
    if stimuli is not None and int(stimuli[0].max()) + 1 >= FEWEST:
        crossed = (left(rated.expected, stimuli[0]), left(rated.expected, stimuli[1]))
    if crossed is not None and stimuli is not None and people >= FEWEST:
        new_how = f"jackknife over {people} subjects and {int(stimuli[0].max()) + 1} stimuli"
    null, null_how = _held(mine, truth, rated.expected, config.resamples, rng, centre, protocol)
    seeds = [figures(rated.expected, np.flatnonzero(mine.seed == s)) for s in range(int(mine.seed.max()) + 1)]
    rows = []
    for figure, value in values.items():
        scale, sign = scale_of(figure), -1 if figure in LESS_IS_BETTER else 1
        low, high = jackknife(value, of_model.get(figure, ()), config.confidence, scale)
        new = (float("nan"),) * 2
        if crossed is not None and of_model:
            new = two_way(value, of_model[figure], crossed[0][figure], crossed[1][figure], config.confidence, scale)
        mean, limit = chance_level(null.get(figure, ()), sign > 0)
        trials, shared = luck.trials_of(mine), stimuli is not None
        spread = float(truth.std()) if figure == "rmse" else 0.0  # of the best constant answer, the mean; else none
        floor = min(spread, base[figure]) if figure == "rmse" else spread
        level, above_how = luck.above(figure, mean, limit, protocol, trials, of_model, crossed, unit, shared, floor)
        if null_how.startswith("none over"):
            above_how = null_how
        gain = (float("nan"),) * 3
        if np.isfinite(still.get(figure, np.nan)):
            gain = (sign * (value - still[figure]), *gain[1:])
            if of_still:
                less = sign * (of_model[figure] - of_still[figure])  # (G,)
                gain = (gain[0], *jackknife(gain[0], less, config.confidence))
        row: Row = {"name": figure, "target": name, "level": mine.level, "part": mine.part, "value": value}
        row |= {"low": low, "high": high, "low_new": new[0], "high_new": new[1], "chance": mean, "chance_high": limit}
        row |= {"p": p_value(value, null.get(figure, ()), sign > 0), "majority": base[figure], "prior": base[figure]}
        row |= {"above": level, "no_signal": still.get(figure, float("nan"))}
        row |= {"gain": gain[0], "gain_low": gain[1], "gain_high": gain[2]}
        row["seed_sd"] = float(np.std([s[figure] for s in seeds], ddof=1)) if len(seeds) > 1 else float("nan")
        row = {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in row.items()}
        row |= {"interval_how": how, "interval_new_how": new_how, "chance_how": null_how, "above_how": above_how}
        rows.append({**row, "n": int(mine.row.max()) + 1, "n_of": f"{mine.level}s"})
    return rows


def _held(
    table: Rows,
    truth: Floats,
    answer: Floats,
    permutations: int,
    rng: np.random.Generator,
    centre: float,
    protocol: str,
) -> tuple[dict[str, Floats], str]:
    """Figures with ratings permuted as `chance.held` permutes labels, answers held, (permutations,) each."""
    _, first, unit = np.unique(table.own, return_index=True, return_inverse=True)
    rating, strata = truth[first] - centre, table.person[first]  # (U,), (U,)
    how = "ratings permuted between a subject's trials, predictions held"
    if not exchangeable(rating, strata):
        return {}, "none: each subject gave one rating"
    groups = luck.stimuli_exchanged(table, protocol)  # (n,)
    of_trial = None if groups is None else groups[first]  # (U,)
    if of_trial is not None:
        how = "ratings permuted between stimuli, for all subjects alike, predictions held"
    size = np.bincount(unit).astype(np.float64)  # (U,)
    x = answer - centre  # (n,)
    of_unit = np.bincount(unit, weights=x)  # (U,)
    for tolerance in (TOLERANCE, 1.0):
        alike = alike_in_length(rating, strata, size, tolerance, of_trial)  # (U,)
        if alike is None:
            break
        if of_trial is None:
            order = permuted_labels(np.arange(first.size), alike, permutations, rng)  # (R, U)
        else:
            order = exchanged_alike(np.arange(first.size), alike, of_trial, permutations, rng)  # (R, U)
        shuffled = np.concatenate([rating[order], rating[None]])  # (R + 1, U)
        sums = np.empty((permutations + 1, 6))  # (R + 1, 6)
        sums[:, 0], sums[:, 2], sums[:, 4] = size.sum(), x.sum(), (x * x).sum()
        sums[:, 1], sums[:, 3], sums[:, 5] = shuffled @ size, (shuffled**2) @ size, shuffled @ of_unit
        if not any(_constant_passes(sums, at) for at in (float(x.mean()), float(sums[-1, 1] / sums[-1, 0]))):
            return from_moments(sums[:-1]), how
    return {}, f"none over {table.level}s: a subject's trials differ in length with their rating" + (
        "; read the figures of whole trials" if table.level == "window" else ""
    )


def _constant_passes(sums: Floats, at: float) -> bool:
    """Whether one rating for every row would be nearer than chance to the last row of sums, the others permuted."""
    errors = sums[:, 3] - 2 * at * sums[:, 1] + at * at * sums[:, 0]  # (R + 1,), of squares
    errors = np.sqrt(np.maximum(errors / sums[:, 0], 0))  # (R + 1,)
    # The same sums in another order differ by rounding, which is no gain.
    return p_value(float(errors[-1]) + 1e-9, errors[:-1], False) <= luck.ALPHA
