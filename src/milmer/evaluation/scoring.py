"""From predictions to metrics.json: every figure with its interval, its chance level and what needs no signal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.evaluation import chance as luck
from milmer.evaluation.calibration import calibrated
from milmer.evaluation.coded import PARTS
from milmer.evaluation.intervals import FEWEST, jackknife, scale_of, two_way
from milmer.evaluation.metrics import (
    LESS_IS_BETTER,
    Floats,
    Ints,
    classification,
    confusion,
    from_confusion,
    from_statistics,
    statistics_of,
)
from milmer.evaluation.predictions import HIGH, LEVELS, Rows, by_subject, tables, target_of, trial_level
from milmer.evaluation.ratings import rating_rows
from milmer.evaluation.statistics import chance_level, left_out, left_tables, p_value, places

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

    from milmer.config import Evaluation

__all__ = ["FEWEST_CLUSTERS", "clusters_of", "figures", "point_figures", "trial_level"]

PER_SUBJECT = ("accuracy", "macro_f1")
CALIBRATED = ("log_loss", "brier", "ece")
FEWEST_CLUSTERS = FEWEST

Row = dict[str, Any]
NullKey = tuple[str, str, str, str, str]


def figures(
    predictions: pd.DataFrame,
    config: Evaluation,
    classes: Sequence[str],
    permuted: pd.DataFrame | Iterable[Any] | None = None,
) -> list[Row]:
    """Return the rows of metrics.json.

    Parameters
    ----------
    predictions : DataFrame
        Rows of predictions.parquet of all folds and seeds; rows with ``y_true`` -1 are left out.
    config : milmer.config.Evaluation
        Gives ``protocol`` (where the table does not), ``seed``, ``resamples`` and ``confidence``.
    classes : sequence of str
        Names in index order.
    permuted : sequence of DataFrame, or figures, optional
        Re-runs with permuted labels: the predictions of each, or what `point_figures` made of them (all runs in one
        list or table).

    Returns
    -------
    list of dict
        First the main target, for the parts test and validation (folds and seeds pooled) and the levels window and
        trial: the principal figures, those of each class, then accuracy and macro-F1 of each subject (with a key
        ``subject``; macro-F1 over all classes, also those the subject lacks). Then calibrated test trials
        (``calibrated``: true), and for valence-arousal of the part that is judged (test where there is one) binary
        valence and arousal, the probabilities summed; last the ratings (``ccc``, ``rmse``, ``pearson`` of the expected
        rating). Each has ``name``, ``target``, ``level``, ``part``, ``protocol``, ``value``; ``low``, ``high``,
        ``interval_how``; ``low_new``, ``high_new``, ``interval_new_how`` (for claims about new stimuli too); ``n``,
        ``n_of``; ``chance``, ``chance_high``, ``p``, ``chance_how``; ``majority``, ``prior``; ``above``,
        ``above_how``; ``no_signal``, ``gain`` (positive where the model is better), ``gain_low``, ``gain_high``;
        ``seed``, ``seeds``, ``seed_sd``. None stands for what is undefined.

    Raises
    ------
    UserError
        If columns are missing or no row has a label.

    Notes
    -----
    Intervals are jackknife intervals over subjects (`milmer.evaluation.intervals`), none being given below 6; over
    trials where there is one subject. The two-way ones are for subjects and stimuli together.

    ``chance`` is the mean and ``chance_high`` the one-sided 5 % limit (the 95th percentile; the 5th where less is
    better) of the figure without any relation of labels to signals; ``p`` is the share of that null at least as good
    as the value. Re-runs are the honest null. Without them labels are permuted over fixed predictions
    (`milmer.evaluation.chance.held`), which leaves out what permuted labels do to training.

    ``above`` is the level a figure must reach to differ from chance at 5 % (`milmer.evaluation.chance.above`), by the
    number of independent subjects or trials, never windows. ``majority`` answers the commonest class of the fold's
    training rows, ``prior`` draws answers from their frequencies, ``no_signal`` answers what other subjects' training
    trials of the fold said of the stimulus.
    """
    nulls = _collect(permuted, classes, target_of(predictions, classes))
    target = target_of(predictions, classes)
    seeds = sorted(predictions["seed"].unique().tolist()) if "seed" in predictions.columns else [config.seed]
    shared = {"protocol": _only(predictions, "protocol", config.protocol), "seed": int(seeds[0]), "seeds": len(seeds)}
    protocol = str(shared["protocol"])
    first: list[Row] = []
    later: list[Row] = []
    all_ = list(tables(predictions, classes))
    judged = "test" if any(t.part == "test" for t in all_) else "validation"
    for number, table in enumerate(all_):
        rng = np.random.default_rng([config.seed, number])
        first += _score(table, config, protocol, classes, nulls, rng, target)
        first += _subjects(table, config, classes, nulls, target)
    for number, table in enumerate(t for t in all_ if t.part == judged):
        for at, dimension in enumerate(HIGH if target == "valence-arousal" else ()):
            rng = np.random.default_rng([config.seed, number, at, 2])
            later += _score(table.binary(dimension), config, protocol, ("low", "high"), nulls, rng, dimension)
        for at, name in enumerate(HIGH if target == "valence-arousal" else (target,)):
            if name in table.ratings:
                rng = np.random.default_rng([config.seed, number, at, 3])
                later += rating_rows(table, name, config, protocol, rng)
    rows = first + _calibrated(predictions, config, classes, target) + later
    return [{key: row[key] for key in sorted(row, key=_place)} for row in ({**r, **shared} for r in rows)]


def point_figures(predictions: pd.DataFrame, classes: Sequence[str]) -> list[Row]:
    """Return ``name``, ``target``, ``level``, ``part``, ``subject`` ("" for all) and ``value`` of every figure.

    For re-runs with permuted labels, whose rows together are the `permuted` of `figures`.
    """
    target = target_of(predictions, classes)
    rows: list[Row] = []
    for table in tables(predictions, classes):
        shared = {"target": target, "level": table.level, "part": table.part}
        for name, value in classification(table.y, table.p, classes).items():
            rows.append({"name": name, **shared, "subject": "", "value": value})
        for subject, mine in by_subject(table):
            values = _points(mine, classes)
            rows += [{"name": name, **shared, "subject": subject, "value": values[name]} for name in PER_SUBJECT]
        for dimension in HIGH if target == "valence-arousal" else ():
            mine = table.binary(dimension)
            for name, value in classification(mine.y, mine.p, ("low", "high")).items():
                rows.append({"name": name, **shared, "target": dimension, "subject": "", "value": value})
    return rows


def clusters_of(table: Rows) -> tuple[Ints | None, str]:
    """Return what an interval leaves out one of: subjects, or the trials of a lone subject.

    Returns
    -------
    cluster : ndarray of int64, shape (n,), or None
        Cluster of each row, 0 to G-1; None where there are fewer than 6.
    how : str
        That in words.
    """
    people = int(table.person.max()) + 1
    alone = people == 1
    cluster, unit = (table.own, "trials") if alone else (table.person, "subjects")
    count = int(cluster.max()) + 1
    if count < FEWEST:
        return None, f"none from {count} {unit}: at least {FEWEST} needed"
    return cluster, f"jackknife over {count} {unit}" + (" of one subject" if alone else "")


@dataclass(frozen=True)
class _Left:
    """Figures with one unit left out, of the model and of the predictor without a signal."""

    model: dict[str, Floats]
    quiet: dict[str, Floats]


def _score(
    table: Rows,
    config: Evaluation,
    protocol: str,
    classes: Sequence[str],
    nulls: Mapping[NullKey, Floats],
    rng: np.random.Generator,
    target: str,
) -> list[Row]:
    """Figures over all subjects, each with all that stands beside it."""
    values = classification(table.y, table.p, classes)
    common, drawn = luck.majority(table, classes), luck.prior(table, classes, config.seed)
    cluster, how = clusters_of(table)
    quiet = {} if table.no_signal is None else classification(table.y, table.no_signal.p, classes)
    levels = places(table.p)  # (n, k)
    left = _left(table, cluster, classes, levels)
    crossed, new_how = _crossed(table, classes, levels)
    shared = luck.stimuli_of(table) is not None
    null, null_how = luck.held(table, config.resamples, classes, rng, protocol=protocol)
    floor = luck.constant(table, classes)
    fault = luck.rerun_fault(table, config.resamples, classes, rng, protocol) if nulls else ""
    spread = _seed_sd(table, classes)
    unit = "subjects" if table.person.max() else "trials"
    rows: list[Row] = []
    for name, value in values.items():
        scale = scale_of(name)
        low, high = jackknife(value, left.model.get(name, ()), config.confidence, scale)
        row = {"name": name, "target": target, "level": table.level, "part": table.part, "value": _plain(value)}
        row |= {"low": _plain(low), "high": _plain(high), "interval_how": how}
        new = (float("nan"),) * 2
        if crossed is not None and cluster is not None:
            new = two_way(value, left.model[name], crossed[0][name], crossed[1][name], config.confidence, scale)
        row |= {"low_new": _plain(new[0]), "high_new": _plain(new[1]), "interval_new_how": new_how}
        rerun = nulls.get((name, table.level, table.part, "", target))
        row |= _chance(name, value, null.get(name), null_how, rerun, fault)
        row |= {"majority": _plain(common.get(name)), "prior": _plain(drawn.get(name))}
        mean, limit = _number(row["chance"]), _number(row["chance_high"])
        trials = luck.trials_of(table)
        beyond = floor.get(name, float("nan"))
        level, above_how = luck.above(name, mean, limit, protocol, trials, left.model, crossed, unit, shared, beyond)
        row |= {"above": _plain(level), "above_how": _why(row, above_how)}
        row |= _gain(name, value, quiet.get(name), left, config.confidence)
        rows.append({**row, **count_of(table), "seed_sd": _plain(spread.get(name))})
    return rows


def _subjects(
    table: Rows,
    config: Evaluation,
    classes: Sequence[str],
    nulls: Mapping[NullKey, Floats],
    target: str,
) -> list[Row]:
    """Accuracy and macro-F1 of each subject, over the subject's own trials."""
    rows: list[Row] = []
    for number, (subject, mine) in enumerate(by_subject(table)):
        rng = np.random.default_rng([config.seed, LEVELS.index(table.level), PARTS.index(table.part), number])
        value, k = _points(mine, classes), len(classes)
        common = {} if mine.training is None else _points(mine, classes, mine.training)
        drawn = luck.prior(mine, classes, config.seed, answers_only=True)
        quiet = {} if mine.no_signal is None else _points(mine, classes, mine.no_signal.p)
        cluster, how = clusters_of(mine)
        left = _Left({}, {})
        if cluster is not None:
            model = from_confusion(left_tables(mine.y, mine.p.argmax(axis=1), cluster, k), classes)
            base = {}
            if mine.no_signal is not None:
                base = from_confusion(left_tables(mine.y, mine.no_signal.p.argmax(axis=1), cluster, k), classes)
            left = _Left(model, base)
        null, null_how = luck.held(mine, config.resamples, classes, rng, answers_only=True)
        floor = luck.constant(mine, classes)
        fault = luck.rerun_fault(mine, config.resamples, classes, rng, "trial") if nulls else ""
        for name in PER_SUBJECT:
            low, high = jackknife(value[name], left.model.get(name, ()), config.confidence, "unit")
            row: Row = {"name": name, "target": target, "level": table.level, "part": table.part}
            row |= {"subject": subject, "value": value[name], "low": _plain(low), "high": _plain(high)}
            rerun = nulls.get((name, table.level, table.part, subject, target))
            row |= {"interval_how": how, **_chance(name, value[name], null.get(name), null_how, rerun, fault)}
            row |= {"majority": _plain(common.get(name)), "prior": _plain(drawn.get(name))}
            mean, limit = _number(row["chance"]), _number(row["chance_high"])
            level, above_how = luck.above(
                name, mean, limit, "trial", luck.trials_of(mine), left.model, None, "trials", floor=floor[name]
            )
            row |= {"above": _plain(level), "above_how": _why(row, above_how)}
            rows.append({**row, **_gain(name, value[name], quiet.get(name), left, config.confidence), **count_of(mine)})
    return rows


def _calibrated(predictions: pd.DataFrame, config: Evaluation, classes: Sequence[str], target: str) -> list[Row]:
    """Log-loss, Brier score and calibration error of test trials at their folds' temperatures."""
    parts = set(predictions["part"].unique().tolist())
    if not {"test", "validation"} <= parts:
        return []
    trials = calibrated(predictions, classes)
    tested = trials[trials["part"] == "test"]
    if not len(tested):
        return []
    table = next(t for t in tables(tested, classes) if t.level == "trial")
    values, (cluster, how) = classification(table.y, table.p, classes), clusters_of(table)
    left, spread = _left(table, cluster, classes, places(table.p)), _seed_sd(table, classes)
    rows = []
    for name in CALIBRATED:
        low, high = jackknife(values[name], left.model.get(name, ()), config.confidence, scale_of(name))
        row: Row = {"name": name, "target": target, "level": "trial", "part": "test", "calibrated": True}
        row |= {"value": _plain(values[name]), "low": _plain(low), "high": _plain(high), "interval_how": how}
        rows.append({**row, **count_of(table), "seed_sd": _plain(spread.get(name))})
    return rows


def _left(table: Rows, cluster: Ints | None, classes: Sequence[str], levels: Ints) -> _Left:
    if cluster is None:
        return _Left({}, {})
    model = from_statistics(left_out(table.y, table.p, cluster, levels), classes)
    if table.no_signal is None:
        return _Left(model, {})
    return _Left(model, from_statistics(left_out(table.y, table.no_signal.p, cluster), classes))


def _crossed(
    table: Rows, classes: Sequence[str], levels: Ints
) -> tuple[tuple[dict[str, Floats], dict[str, Floats]] | None, str]:
    """Figures without one stimulus, and without one cell; None where they say nothing of new stimuli, and why."""
    people, found = int(table.person.max()) + 1, luck.stimuli_of(table)
    if found is None:
        return None, "none: no names of stimuli, or hardly one that two subjects saw"
    stimuli = int(found[0].max()) + 1
    how = f"jackknife over {people} subjects and {stimuli} stimuli"
    if people < FEWEST or stimuli < FEWEST:
        how = f"none from {people} subjects and {stimuli} stimuli: at least {FEWEST} of each needed"
    if stimuli < FEWEST:
        return None, how
    left = tuple(from_statistics(left_out(table.y, table.p, c, levels), classes) for c in found)
    return (left[0], left[1]), how


def _gain(name: str, value: float, quiet: float | None, left: _Left, confidence: float) -> Row:
    """How much better a figure is than without a signal; the interval leaves the same subject out of both."""
    if quiet is None or not np.isfinite(quiet):
        return dict.fromkeys(("no_signal", "gain", "gain_low", "gain_high"))
    sign = -1 if name in LESS_IS_BETTER else 1
    low = high = float("nan")
    if name in left.quiet:
        low, high = jackknife(sign * (value - quiet), sign * (left.model[name] - left.quiet[name]), confidence)
    gain = {"gain": _plain(sign * (value - quiet)), "gain_low": _plain(low), "gain_high": _plain(high)}
    return {"no_signal": _plain(quiet), **gain}


def _chance(name: str, value: float, null: Floats | None, how: str, rerun: Floats | None, fault: str) -> Row:
    """What the figure is by chance, by re-runs where they are a chance level of these rows."""
    values = rerun if rerun is not None else null if null is not None else np.zeros(0)
    if rerun is not None:
        how = fault or f"{rerun.size} re-runs with permuted labels"
        values = np.zeros(0) if fault else values
    greater = name not in LESS_IS_BETTER
    mean, limit = chance_level(values, greater)
    p = p_value(value, values, greater)
    return {"chance": _plain(mean), "chance_high": _plain(limit), "p": _plain(p), "chance_how": how}


def _why(row: Row, how: str) -> str:
    """Give the reason for which there is no chance level as that for which there is no level above it."""
    unknown = row["chance"] is None and str(row["chance_how"]).startswith("none over")
    return str(row["chance_how"]) if unknown else how


def _seed_sd(table: Rows, classes: Sequence[str]) -> dict[str, float]:
    """Standard deviation of each figure over the seeds; empty where there is one."""
    count = int(table.seed.max()) + 1
    if count < 2:
        return {}
    each = [
        from_statistics(statistics_of(table.y[m], table.p[m]), classes) for m in (table.seed == s for s in range(count))
    ]
    return {name: float(np.std([e[name][0] for e in each], ddof=1)) for name in each[0]}


def _points(table: Rows, classes: Sequence[str], p: Floats | None = None) -> dict[str, float]:
    """Figures that need answers only, of the model or of other probabilities."""
    answer = (table.p if p is None else p).argmax(axis=1)  # (n,)
    found = from_confusion(confusion(table.y, answer, len(classes))[None], classes)
    return {name: float(values[0]) for name, values in found.items()}


def count_of(table: Rows) -> Row:
    """Return ``n`` and ``n_of``: windows or trials, each once whatever the seeds."""
    return {"n": int(table.row.max()) + 1, "n_of": f"{table.level}s"}


def _collect(
    permuted: pd.DataFrame | Iterable[Any] | None, classes: Sequence[str], target: str
) -> dict[NullKey, Floats]:
    """Gather each figure's values over the re-runs, given as predictions, rows of figures, or a table of them."""
    if permuted is None:
        return {}
    found: dict[NullKey, list[float]] = {}
    items: Iterable[Any] = permuted.to_dict("records") if hasattr(permuted, "to_dict") else permuted
    for item in items:
        rows = point_figures(item, classes) if hasattr(item, "columns") else [item] if "name" in item else item
        for row in rows:
            subject, of = row.get("subject"), row.get("target") or target
            key = (row["name"], row["level"], row["part"], subject if isinstance(subject, str) else "", of)
            value = row["value"]
            found.setdefault(key, []).append(float("nan") if value is None else float(value))
    return {key: np.array(values) for key, values in found.items()}


def _only(predictions: pd.DataFrame, column: str, otherwise: Any) -> Any:
    """Return the one value of a column, or `otherwise` where it is absent or holds several."""
    values = predictions[column].unique().tolist() if column in predictions.columns else []
    return values[0] if len(values) == 1 else otherwise


def _plain(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


_ORDER = ("name", "target", "level", "part", "protocol", "subject", "calibrated", "value", "low", "high")


def _place(key: str) -> int:
    return _ORDER.index(key) if key in _ORDER else len(_ORDER)
