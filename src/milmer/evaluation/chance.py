"""What a figure is without skill: training's classes, permuted labels, and the level that luck reaches once in 20."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milmer.evaluation.intervals import FEWEST, quantile, two_way_variance, variance
from milmer.evaluation.metrics import LESS_IS_BETTER, Floats, Ints, classification, from_confusion, from_statistics
from milmer.evaluation.predictions import Rows, labels_of
from milmer.evaluation.statistics import TOLERANCE, p_value, permutation_statistics, relabelled

ALPHA = 0.05
TINY = 1e-20  # a variance below it is rounding
BEYOND = 1e-9  # what is less than that above a constant answer is not above it
DRAWS = 200
HELD_OUT = frozenset({"subject", "subject-and-stimulus", "cross-study"})  # protocols that make claims about new people
NEW_STIMULI = frozenset({"stimulus", "subject-and-stimulus", "cross-study"})  # and about new stimuli
_PROPER = ("log_loss", "brier", "ece", "auroc")


def majority(table: Rows, classes: Sequence[str]) -> dict[str, float]:
    """Return the figures of answering each row with its fold's training class frequencies.

    So the answer is the commonest class of training, whatever the signals. Empty where training is not known.
    """
    return {} if table.training is None else classification(table.y, table.training, classes)


def prior(table: Rows, classes: Sequence[str], seed: int = 0, *, answers_only: bool = False) -> dict[str, float]:
    """Return the expected figures of answers drawn from each row's training class frequencies.

    The mean of 200 draws for figures of answers; figures of probabilities (log-loss, Brier, calibration error, AUROC)
    are those of the frequencies themselves, as for `majority`, and left out with `answers_only`. Empty where training
    is not known.
    """
    if table.training is None:
        return {}
    k = len(classes)
    # Rows of one class and one fold are alike: how many get which answer is one multinomial draw.
    alike = table.fold * k + table.y  # (n,)
    groups, first, size = np.unique(alike, return_index=True, return_counts=True)
    rng = np.random.default_rng([seed, 17])
    share = table.training[first] / table.training[first].sum(axis=1, keepdims=True)  # (groups, k)
    drawn = rng.multinomial(size, share, size=(DRAWS, size.size))  # (DRAWS, groups, k)
    truth = np.eye(k)[groups % k]  # (groups, k)
    found = from_confusion(np.einsum("gc,rga->rca", truth, drawn), classes)
    means = {name: _mean(values) for name, values in found.items()}
    if answers_only:
        return means
    return {**means, **{name: value for name, value in majority(table, classes).items() if name in _PROPER}}


def held(
    table: Rows,
    permutations: int,
    classes: Sequence[str],
    rng: np.random.Generator,
    *,
    protocol: str = "trial",
    answers_only: bool = False,
) -> tuple[dict[str, Floats], str]:
    """Return the figures (permutations,) with labels permuted, predictions held.

    Parameters
    ----------
    table : Rows
    permutations : int
    classes : sequence of str
    rng : Generator
    protocol : str
        Labels are permuted between a subject's trials of about equal length; under protocols whose tests hold new
        stimuli only (`NEW_STIMULI`) between stimuli, for all subjects alike: people agree on a film, and models
        answer it alike.
    answers_only : bool
        Only the figures that need no probabilities, which is faster.

    Returns
    -------
    figures : dict of str to ndarray
        Empty where all trials have one class, or where classes differ in the length of their trials, so that no
        exchange leaves each class as many rows as it has.
    how : str
        That in words.
    """
    labels = labels_of(table)  # (U,)
    lengths = np.bincount(table.trial)  # (U,)
    shuffled, how = _exchanged(table, permutations, rng, protocol, lengths, TOLERANCE)
    if shuffled is not None and _constant_passes(table, shuffled, classes, answers_only):
        # About equal is not enough here: a class is always the little longer one.
        shuffled, how = _exchanged(table, permutations, rng, protocol, lengths, 1.0)
    if shuffled is None:
        return {}, _of_level(how, table.level)
    how = f"{how}, predictions held"
    if not answers_only:
        return from_statistics(permutation_statistics(table.p, table.trial, shuffled), classes), how
    k = len(classes)
    given = np.bincount(table.trial * k + table.p.argmax(axis=1), minlength=labels.size * k).reshape(-1, k)  # (U, k)
    tables = np.stack([(shuffled == c).astype(np.float64) @ given for c in range(k)], axis=1)  # (R, k, k)
    return from_confusion(tables, classes), how


def rerun_fault(table: Rows, permutations: int, classes: Sequence[str], rng: np.random.Generator, protocol: str) -> str:
    """Say why re-runs with permuted labels are no chance level of these rows; empty where they are one.

    Re-runs exchange labels between all of a subject's trials, of whatever length.
    """
    lengths = np.bincount(table.trial)  # (U,)
    fair, how = _exchanged(table, 1, rng, protocol, lengths, TOLERANCE)
    if fair is None and "differ in" in how:
        return _of_level(how, table.level)
    plain, _ = _exchanged(table, permutations, rng, protocol, None)
    if plain is not None and _constant_passes(table, plain, classes, False):
        return _of_level("none: re-runs exchanged labels between trials of different length", table.level)
    return ""


def _of_level(how: str, level: str) -> str:
    """Say of which level there is no chance level for trials' lengths, and what to read in its place."""
    if "differ" not in how:
        return how
    rest = "; read the figures of whole trials" if level == "window" else ""
    return how.replace("none:", f"none over {level}s:", 1) + rest


def _exchanged(
    table: Rows,
    permutations: int,
    rng: np.random.Generator,
    protocol: str,
    lengths: Ints | None,
    tolerance: float = TOLERANCE,
) -> tuple[Ints | None, str]:
    """Labels of trials, exchanged by what is independent under the protocol, (permutations, U), and how."""
    _, first = np.unique(table.trial, return_index=True)
    groups = stimuli_exchanged(table, protocol)  # (n,)
    of_trial = None if groups is None else groups[first]  # (U,)
    return relabelled(labels_of(table), table.person[first], permutations, rng, of_trial, lengths, tolerance)


def _constant_passes(table: Rows, shuffled: Ints, classes: Sequence[str], answers_only: bool) -> bool:
    """Whether an answer that never changes would be better than chance with these labels exchanged.

    That cannot be where each class keeps as many rows as it has; else each class is tried, and the mean probabilities.
    """
    labels, lengths = labels_of(table), np.bincount(table.trial)  # (U,), (U,)
    rows = _rows_of_classes(labels, shuffled, lengths, len(classes))  # (R + 1, k)
    if (rows == rows[-1]).all():
        return False
    if class_passes(labels, shuffled, lengths, classes):
        return True
    if answers_only:
        return False
    mean = table.p[0] if (table.p == table.p[0]).all() else table.p.mean(axis=0)  # (k,)
    same = np.broadcast_to(mean, table.p.shape)  # (n, k)
    all_ = np.concatenate([shuffled, labels[None]])  # (R + 1, U)
    return _last_passes(from_statistics(permutation_statistics(same, table.trial, all_), classes))


def class_passes(labels: Ints, shuffled: Ints, lengths: Ints, classes: Sequence[str]) -> bool:
    """Whether always answering one class would be better than chance with labels exchanged so.

    Parameters
    ----------
    labels, lengths : ndarray of int, shape (U,)
        Label of each trial, and how many rows it has.
    shuffled : ndarray of int, shape (R, U)
        Labels exchanged.
    classes : sequence of str
    """
    k = len(classes)
    rows = _rows_of_classes(labels, shuffled, lengths, k)  # (R + 1, k)
    for c in range(k):
        cells = np.zeros((*rows.shape, k))  # (R + 1, k, k)
        cells[:, :, c] = rows  # (R + 1, k)
        if _last_passes(from_confusion(cells, classes)):
            return True
    return False


def _rows_of_classes(labels: Ints, shuffled: Ints, lengths: Ints, k: int) -> Ints:
    """How many rows each class has under each exchange, and at last in truth, (R + 1, k)."""
    all_ = np.concatenate([shuffled, labels[None]])  # (R + 1, U)
    return np.stack([(all_ == c) @ lengths for c in range(k)], axis=1)  # (R + 1, k)


def _last_passes(figures: Mapping[str, Floats]) -> bool:
    """Whether a figure's last value has p of 0.05 at most among those before."""
    return any(p_value(float(v[-1]), v[:-1], name not in LESS_IS_BETTER) <= ALPHA for name, v in figures.items())


def constant(table: Rows, classes: Sequence[str]) -> dict[str, float]:
    """Return each figure of the best answer that never changes: one class, or the shares of classes themselves.

    That of training's commonest class (`majority`) is among them, where training is known.
    """
    k = len(classes)
    rows = np.bincount(table.y, minlength=k).astype(np.float64)  # (k,)
    cells = np.zeros((k, k, k))  # (k answers, k, k)
    cells[np.arange(k), :, np.arange(k)] = rows  # (k, k)
    found: dict[str, list[float]] = {name: values.tolist() for name, values in from_confusion(cells, classes).items()}
    shares = np.broadcast_to(rows / rows.sum(), (table.y.size, k))  # (n, k)
    for figures in (classification(table.y, shares, classes), majority(table, classes)):
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    known = {name: [v for v in values if np.isfinite(v)] for name, values in found.items()}
    return {name: min(v) if name in LESS_IS_BETTER else max(v) for name, v in known.items() if v}


def differs(row: Mapping[str, Any]) -> bool | None:
    """Return whether a figure counts as better than chance: the one rule of terminal and report.

    It must reach its level `above` where there is one, and have p of 0.05 at most where there is one.

    Parameters
    ----------
    row : mapping
        Of metrics.json: ``name``, ``value`` and, where known, ``above`` and ``p``.

    Returns
    -------
    bool or None
        None where neither is known, or there is no value.
    """
    value, level, p = row.get("value"), row.get("above"), row.get("p")
    if value is None or (level is None and p is None):
        return None
    passed = level is None or (value <= level if row.get("name") in LESS_IS_BETTER else value >= level)
    return bool(passed and (p is None or p <= ALPHA))


def stimuli_exchanged(table: Rows, protocol: str) -> Ints | None:
    """Return the stimulus of each row, (n,), where it is stimuli that luck deals out; else None."""
    return table.stimulus if protocol in NEW_STIMULI and (table.stimulus >= 0).all() else None


def binomial_level(chance: float, n: int, alpha: float = ALPHA) -> float:
    """Return the smallest share of `n` independent answers that luck reaches with probability `alpha` at most.

    Parameters
    ----------
    chance : float
        Probability that one answer is right by luck.
    n : int
        How many independent answers: trials, never windows.

    Returns
    -------
    float
        NaN where even all of them right would not do, or chance is no probability.
    """
    if not n or not 0 <= chance <= 1:
        return float("nan")
    from scipy.special import bdtrc  # late: keeps `import milmer.evaluation` fast

    tail = bdtrc(np.arange(n) * 1.0, n, chance)  # (n,), probability of more than 0 ... n - 1 right
    enough = np.flatnonzero(tail <= alpha)
    return float((enough[0] + 1) / n) if enough.size else float("nan")


def above(
    name: str,
    chance: float,
    limit: float,
    protocol: str,
    trials: int,
    left: dict[str, Floats],
    by_stimulus: tuple[dict[str, Floats], dict[str, Floats]] | None,
    unit: str,
    shared: bool = False,
    floor: float = float("nan"),
) -> tuple[float, str]:
    """Return the level above which (below, where less is better) a figure differs from chance at 5 %, and how.

    Parameters
    ----------
    name : str
        Of the figure.
    chance, limit : float
        Mean of the figure under permuted labels, and its one-sided 5 % limit.
    protocol : str
        Under ``subject`` the units are subjects; for ``stimulus`` they are stimuli; for ``subject-and-stimulus`` and
        ``cross-study`` both, where people saw the same stimuli; under the others trials.
    trials : int
        How many independent trials were answered.
    left : dict
        Each figure with one subject left out (or one trial, of a lone subject).
    by_stimulus : tuple of dict, optional
        Each figure with one stimulus, and with one cell, left out.
    unit : str
        What `left` leaves out.
    shared : bool
        Whether people saw the same stimuli (`stimuli_of`), so that these are fewer than trials.
    floor : float
        The figure of the best constant answer (`constant`): the level lies beyond it.
    """
    sign = -1 if name in LESS_IS_BETTER else 1
    level, how = _level(name, chance, limit, protocol, trials, left, by_stimulus, unit, shared)
    if not np.isfinite([level, floor]).all() or sign * (level - floor) > BEYOND:
        return level, how
    if sign * floor >= (1 if sign > 0 else 0) - BEYOND:
        return float("nan"), "none: a constant answer reaches the bound of this figure"
    return floor + sign * BEYOND, f"{how}; more than a constant answer"


def _level(
    name: str,
    chance: float,
    limit: float,
    protocol: str,
    trials: int,
    left: dict[str, Floats],
    by_stimulus: tuple[dict[str, Floats], dict[str, Floats]] | None,
    unit: str,
    shared: bool,
) -> tuple[float, str]:
    """The level by the units of the protocol alone."""
    if not np.isfinite(chance):
        return float("nan"), "none: chance is not known"
    sign = -1 if name in LESS_IS_BETTER else 1
    mine = left.get(name, np.zeros(0))
    if shared and protocol in NEW_STIMULI:
        people = mine.size if unit == "subjects" else 0
        stimuli = by_stimulus[0][name].size if by_stimulus is not None else 0
        if by_stimulus is None or stimuli < FEWEST or (protocol in HELD_OUT and people < FEWEST):
            also = f"{FEWEST} subjects and " if protocol in HELD_OUT else ""
            return float("nan"), f"none: t needs {also}{FEWEST} stimuli"
        if protocol == "stimulus":
            spread, free, how = variance(by_stimulus[0][name]), stimuli - 1.0, "stimuli"
        else:
            spread, free = two_way_variance(mine, by_stimulus[0][name], by_stimulus[1][name])
            how = "subjects and stimuli"
    elif protocol in HELD_OUT and unit == "subjects":
        if mine.size < FEWEST:
            return float("nan"), f"none: t needs {FEWEST} subjects"
        spread, free, how = variance(mine), mine.size - 1.0, "subjects"
    elif name == "accuracy":
        return binomial_level(chance, trials), f"exact binomial over {trials} trials"
    else:
        return limit, f"permuted labels of {trials} trials"
    if not np.isfinite(spread):
        return float("nan"), f"none: undefined without one of the {how}"
    if spread < TINY:  # nobody differs (each has one of two trials right, say): t would call everything skill
        if name == "accuracy":
            return binomial_level(chance, trials), f"exact binomial over {trials} trials: the {how} do not differ"
        if abs(limit - chance) < TINY**0.5:
            return float("nan"), f"none: the {how} do not differ, nor do permuted labels"
        return limit, f"permuted labels of {trials} trials: the {how} do not differ"
    level = chance + sign * quantile(free, ALPHA) * float(np.sqrt(max(spread, 0.0)))
    return level, f"t over {how}, {free:.3g} degrees"


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def trials_of(table: Rows) -> int:
    """How many trials were answered, each once whatever the seeds and windows."""
    return int(table.own.max()) + 1


def stimuli_of(table: Rows) -> tuple[Ints, Ints] | None:
    """Return the number of each row's stimulus and cell, (n,) each; None where they say nothing of new stimuli.

    That is where a row's stimulus has no name, or hardly any stimulus was seen by two subjects.
    """
    if (table.stimulus < 0).any():
        return None
    stimulus = np.unique(table.stimulus, return_inverse=True)[1]  # (n,)
    people = int(table.person.max()) + 1
    cells, cell = np.unique(stimulus * people + table.person, return_inverse=True)  # (cells,), (n,)
    return (stimulus, cell) if cells.size >= 2 * (int(stimulus.max()) + 1) else None
