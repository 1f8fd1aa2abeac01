"""From predictions to metrics.json: every figure with its interval, its chance level and its majority baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from milmer.evaluation.metrics import (
    LESS_IS_BETTER,
    PRINCIPAL,
    Floats,
    Ints,
    classification,
    from_confusion,
    from_statistics,
)
from milmer.evaluation.predictions import LEVELS, PARTS, Rows, by_subject, labels_of, tables, trial_level
from milmer.evaluation.statistics import (
    bootstrap_statistics,
    chance_level,
    cluster_weights,
    exchangeable,
    interval,
    p_value,
    permutation_statistics,
    permuted_labels,
)

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

    from milmer.config import Evaluation

__all__ = ["figures", "point_figures", "trial_level"]

PER_SUBJECT = ("accuracy", "macro_f1")
FEWEST_CLUSTERS = 6  # an interval from fewer subjects (or trials) would say more than is known

Row = dict[str, Any]
NullKey = tuple[str, str, str, str]


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
        Rows of predictions.parquet of all folds; rows with ``y_true`` -1 are left out.
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
        For the parts test and validation (all folds pooled) and the levels window and trial: ``name``, ``level``,
        ``part``, ``protocol``, ``value``, ``low``, ``high``, ``interval_how``, ``n``, ``n_of``, ``chance``,
        ``chance_high``, ``p``, ``chance_how``, ``majority``, ``seed``. First the principal figures, then those of
        each class (without interval), then accuracy and macro-F1 of each subject (with a key ``subject``; macro-F1
        over all classes, also those the subject lacks). None stands for what is undefined.

    Raises
    ------
    UserError
        If columns are missing or no row has a label.

    Notes
    -----
    Intervals are expanded percentile intervals of a bootstrap over clusters: under ``subject`` the subjects are
    resampled, none being given below 6; under ``trial`` and ``window`` the trials within each subject, which says
    nothing about other people. Under ``window`` they are too narrow besides, since training has seen each trial.

    ``chance`` is the mean and ``chance_high`` the one-sided 5 % limit (the 95th percentile; the 5th where less is
    better) of the figure without any relation of labels to signals; ``p`` is the share of that null at least as good
    as the value. Re-runs are the honest null. Without them labels are permuted between a subject's trials over fixed
    predictions, which leaves out what permuted labels do to training.

    ``majority`` is the figure of answering the class frequencies of the fold's training rows, so the most frequent
    class, whatever the signals.
    """
    nulls = _collect(permuted, classes)
    rows: list[Row] = []
    for number, table in enumerate(tables(predictions, classes)):
        protocol = _only(predictions, "protocol", config.protocol)
        seed = int(_only(predictions, "seed", config.seed))
        rng = np.random.default_rng([config.seed, number])
        shared = {"level": table.level, "part": table.part, "protocol": protocol}
        rows += [
            {**row, **shared, "seed": seed}
            for row in _score(table, config, protocol, classes, nulls, rng) + _subjects(table, config, classes, nulls)
        ]
    return [{key: row[key] for key in sorted(row, key=_place)} for row in rows]


def point_figures(predictions: pd.DataFrame, classes: Sequence[str]) -> list[Row]:
    """Return ``name``, ``level``, ``part``, ``subject`` ("" for all) and ``value`` of every figure, nothing else.

    For re-runs with permuted labels, whose rows together are the `permuted` of `figures`.
    """
    rows: list[Row] = []
    for table in tables(predictions, classes):
        shared = {"level": table.level, "part": table.part}
        for name, value in classification(table.y, table.p, classes).items():
            rows.append({"name": name, **shared, "subject": "", "value": value})
        for subject, mine in by_subject(table):
            values = classification(mine.y, mine.p, classes)
            rows += [{"name": name, **shared, "subject": subject, "value": values[name]} for name in PER_SUBJECT]
    return rows


def _score(
    table: Rows,
    config: Evaluation,
    protocol: str,
    classes: Sequence[str],
    nulls: Mapping[NullKey, Floats],
    rng: np.random.Generator,
) -> list[Row]:
    """Figures over all subjects: value, interval, chance and majority of each."""
    values = classification(table.y, table.p, classes)
    majority = {} if table.training is None else classification(table.y, table.training, classes)
    resampled, how, cluster, strata = _resample(table, config, protocol, classes, rng)
    held, held_how = _hold(table, config.resamples, classes, rng)
    rows: list[Row] = []
    for name, value in values.items():
        low = high = float("nan")
        if name in PRINCIPAL and resampled:
            low, high = interval(resampled[name], config.confidence, cluster, strata)
        rerun = nulls.get((name, table.level, table.part, ""))
        chance = _chance(name, value, held.get(name), held_how, rerun)
        found = {"name": name, "value": _plain(value), "low": _plain(low), "high": _plain(high), **chance}
        found["interval_how"] = how if name in PRINCIPAL else None
        found["majority"] = _plain(majority.get(name, float("nan")))
        rows.append({**found, **_count(table)})
    return rows


def _subjects(table: Rows, config: Evaluation, classes: Sequence[str], nulls: Mapping[NullKey, Floats]) -> list[Row]:
    """Accuracy and macro-F1 of each subject, over the subject's own trials."""
    rows: list[Row] = []
    for number, (subject, mine) in enumerate(by_subject(table)):
        rng = np.random.default_rng([config.seed, LEVELS.index(table.level), PARTS.index(table.part), number])
        k, count = len(classes), int(mine.trial.max()) + 1
        answer = mine.p.argmax(axis=1)
        cells = np.bincount(mine.trial * k * k + mine.y * k + answer, minlength=count * k * k).reshape(count, -1)
        value = from_confusion(cells.sum(axis=0).reshape(1, k, k), classes)
        majority = {} if mine.training is None else classification(mine.y, mine.training, classes)
        resampled: dict[str, Floats] = {}
        if count >= FEWEST_CLUSTERS:
            weights = cluster_weights(np.zeros(count), config.resamples, rng)  # (R, T)
            resampled = from_confusion((weights @ cells).reshape(-1, k, k), classes)
        held: dict[str, Floats] = {}
        labels = labels_of(mine)
        if exchangeable(labels, np.zeros(count)):
            given = cells.reshape(count, k, k).sum(axis=1)  # (T, k)
            shuffled = permuted_labels(labels, np.zeros(count), config.resamples, rng)  # (R, T)
            tables = np.stack([(shuffled == c).astype(np.float64) @ given for c in range(k)], axis=1)  # (R, k, k)
            held = from_confusion(tables, classes)
        for name in PER_SUBJECT:
            low = high = float("nan")
            if resampled:
                low, high = interval(resampled[name], config.confidence, count)
            rerun = nulls.get((name, table.level, table.part, subject))
            point = float(value[name][0])
            row = {"name": name, "subject": subject, "value": point, "low": _plain(low), "high": _plain(high)}
            row |= _chance(name, point, held.get(name), "labels permuted between a subject's trials", rerun)
            row["interval_how"] = f"bootstrap over {count} trials" if resampled else f"none from {count} trials"
            row["majority"] = _plain(majority.get(name, float("nan")))
            rows.append({**row, **_count(mine)})
    return rows


def _resample(
    table: Rows, config: Evaluation, protocol: str, classes: Sequence[str], rng: np.random.Generator
) -> tuple[dict[str, Floats], str, int, int]:
    """Figures of the bootstrap's resamples (none where too few clusters), in words, and clusters and strata."""
    cluster, stratum, how = clusters_of(table, protocol)
    if stratum is None:
        return {}, how, np.unique(cluster).size, 1
    weights = cluster_weights(stratum, config.resamples, rng)  # (R, G)
    sums = bootstrap_statistics(table.y, table.p, cluster, weights)
    return from_statistics(sums, classes), how, int(stratum.size), int(np.unique(stratum).size)


def clusters_of(table: Rows, protocol: str) -> tuple[Ints, Ints | None, str]:
    """Return what an interval resamples: subjects under ``subject``, else trials within each subject.

    Returns
    -------
    cluster : ndarray of int64, shape (n,)
        Cluster of each row, 0 to G-1.
    stratum : ndarray of int64, shape (G,), or None
        Stratum of each cluster; None where there are too few clusters for an interval.
    how : str
        That in words.
    """
    by_subject = protocol == "subject"
    names, cluster = np.unique(table.person if by_subject else table.trial, return_inverse=True)
    first = np.unique(cluster, return_index=True)[1]  # (G,)
    unit = "subjects" if by_subject else "trials"
    if names.size < FEWEST_CLUSTERS:
        return cluster, None, f"none from {names.size} {unit}: at least {FEWEST_CLUSTERS} needed"
    stratum = np.zeros(names.size, dtype=np.int64) if by_subject else table.person[first]  # (G,)
    groups = np.unique(stratum).size
    how = f"bootstrap over {names.size} {unit}"
    if 3 * groups > names.size:  # a trial or two a subject: next to nothing to resample within
        stratum = np.zeros(names.size, dtype=np.int64)
    elif not by_subject:
        how += f" within {groups} subject{'s' * (groups != 1)}"
    return cluster, stratum, how


def _hold(
    table: Rows, permutations: int, classes: Sequence[str], rng: np.random.Generator
) -> tuple[dict[str, Floats], str]:
    """Figures under permuted labels, predictions held, and how that was done, in words."""
    labels = labels_of(table)
    _, first = np.unique(table.trial, return_index=True)
    strata = table.person[first]
    how = "labels permuted between a subject's trials, predictions held"
    if not exchangeable(labels, strata):
        strata = np.zeros(labels.size, dtype=np.int64)
        how = "labels permuted between all trials (each subject has one class), predictions held"
    if not exchangeable(labels, strata):
        return {}, "none: all trials have one class"
    shuffled = permuted_labels(labels, strata, permutations, rng)  # (R, U)
    return from_statistics(permutation_statistics(table.p, table.trial, shuffled), classes), how


def _chance(name: str, value: float, held: Floats | None, how: str, rerun: Floats | None) -> Row:
    null = rerun if rerun is not None else held
    greater = name not in LESS_IS_BETTER
    mean, limit = chance_level([] if null is None else null, greater)
    if rerun is not None:
        how = f"{rerun.size} re-runs with permuted labels"
    p = p_value(value, [] if null is None else null, greater)
    return {"chance": _plain(mean), "chance_high": _plain(limit), "p": _plain(p), "chance_how": how}


def _count(table: Rows) -> Row:
    n = table.y.size if table.level == "window" else np.unique(table.trial).size
    return {"n": int(n), "n_of": f"{table.level}s"}


def _collect(permuted: pd.DataFrame | Iterable[Any] | None, classes: Sequence[str]) -> dict[NullKey, Floats]:
    """Gather each figure's values over the re-runs, given as predictions, rows of figures, or a table of them."""
    if permuted is None:
        return {}
    found: dict[NullKey, list[float]] = {}
    items: Iterable[Any] = permuted.to_dict("records") if hasattr(permuted, "to_dict") else permuted
    for item in items:
        rows = point_figures(item, classes) if hasattr(item, "columns") else [item] if "name" in item else item
        for row in rows:
            subject = row.get("subject")
            key = (row["name"], row["level"], row["part"], subject if isinstance(subject, str) else "")
            value = row["value"]
            found.setdefault(key, []).append(float("nan") if value is None else float(value))
    return {key: np.array(values) for key, values in found.items()}


def _only(predictions: pd.DataFrame, column: str, otherwise: Any) -> Any:
    """Return the one value of a column, or `otherwise` where it is absent or holds several."""
    values = predictions[column].unique().tolist() if column in predictions.columns else []
    return values[0] if len(values) == 1 else otherwise


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


_ORDER = ("name", "level", "part", "protocol", "subject", "value", "low", "high", "interval_how", "n", "n_of")


def _place(key: str) -> int:
    return _ORDER.index(key) if key in _ORDER else len(_ORDER)
