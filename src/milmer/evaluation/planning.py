"""What a study can show before it is run: smallest differences, by protocol. The work of `milmer plan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from milmer.errors import UserError
from milmer.evaluation.intervals import FEWEST

TARGETS = (0.02, 0.05, 0.10)
MOST_SUBJECTS = 100_000
CLAIMS = {
    "trial": "new trials of these subjects",
    "subject": "new subjects, the same stimuli",
    "subject-and-stimulus": "new subjects and new stimuli",
}


@dataclass(frozen=True)
class Shown:
    """What a study can show under one protocol; accuracies and differences are shares, 0.05 is 5 points.

    Parameters
    ----------
    protocol, claim : str
        Name of the protocol and what its result speaks of.
    difference : float or None
        Smallest difference from chance that is found with the promised power; None where nothing up to 100 % is.
    models : float or None
        The same for the difference between two models on the same trials.
    needed : dict of float to (int or None)
        Subjects needed to show a difference from chance of 2, 5, 10 points; None where no number is enough.
    needed_models : dict of float to (int or None)
        The same for the difference between two models.
    """

    protocol: str
    claim: str
    difference: float | None
    models: float | None
    needed: dict[float, int | None]
    needed_models: dict[float, int | None]


@dataclass(frozen=True)
class Plan:
    """What a study of some size can show, and what was assumed.

    Parameters
    ----------
    subjects, stimuli, sessions : int
        Every subject sees every stimulus once a session.
    chance, power, alpha : float
        Accuracy without any relation; probability that the difference is found; level of the tests.
    sd_subjects, sd_stimuli : float
        Standard deviations of the true accuracy over subjects and over stimuli.
    correlation : float
        Of two models' hits on the same trial.
    accuracy_needed, right_needed : float or None, int or None
        Least accuracy (right trials) above chance by an exact binomial test over all trials; None where there is none.
    accuracy_needed_one : float or None
        The same for one subject's own trials.
    shown : tuple of Shown
        By protocol.
    assumptions, notes : tuple of str
        Where the figures come from; what a reader must know.
    """

    subjects: int
    stimuli: int
    sessions: int
    chance: float
    power: float
    alpha: float
    sd_subjects: float
    sd_stimuli: float
    correlation: float
    accuracy_needed: float | None
    right_needed: int | None
    accuracy_needed_one: float | None
    shown: tuple[Shown, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def trials(self) -> int:
        """Trials of the study."""
        return self.subjects * self.stimuli * self.sessions


@dataclass(frozen=True)
class _Study:
    """Sizes and variances that all formulas share."""

    subjects: int
    stimuli: int
    sessions: int
    sd_subjects: float
    sd_stimuli: float
    power: float
    alpha: float


Power = Callable[[_Study, float], float]


def plan(
    subjects: int,
    stimuli: int,
    *,
    classes: int | None = None,
    chance: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    sd_subjects: float = 0.10,
    sd_stimuli: float = 0.10,
    sessions: int = 1,
    correlation: float = 0.5,
) -> Plan:
    """Say what a study can show.

    Parameters
    ----------
    subjects, stimuli, sessions : int
        Every subject sees every stimulus once a session.
    classes : int, optional
        Balanced classes: chance is 1/classes; 4 where `chance` is not given either.
    chance : float, optional
        Accuracy of knowing nothing: the commonest class's share where classes are unbalanced.
    power : float
        Probability with which the difference printed is found.
    alpha : float
        Level: one-sided above chance, two-sided between models.
    sd_subjects, sd_stimuli : float
        Standard deviation of the true accuracy over subjects and over stimuli.
    correlation : float
        Of two models' hits on the same trial; also of their accuracies over subjects and over stimuli.

    Raises
    ------
    UserError
        If a value makes no sense.

    Notes
    -----
    A trial is right with probability ``p + s_i + t_j`` of subject i and stimulus j. With N subjects, M stimuli, r
    sessions and ``E = p (1 - p) - S^2 - T^2`` the variance of a study's accuracy is ``E / NMr`` over new trials,
    ``S^2 / N`` more over new subjects, ``T^2 / M`` more over new stimuli. The first is tested by an exact binomial,
    the second by Student's t over subjects, the third by t with the two-way variance
    ``V_subject + V_stimulus - V_cell`` and Satterthwaite's degrees of freedom (F. E. Satterthwaite, 1946). Power is
    that of the noncentral t. Between models each variance is ``2 (1 - correlation)`` of it, at the accuracy where it
    is largest.
    """
    level = _check(subjects, stimuli, sessions, classes, chance, power, alpha, sd_subjects, sd_stimuli, correlation)
    study = _Study(subjects, stimuli, sessions, sd_subjects, sd_stimuli, power, alpha)
    spread = sd_subjects**2 + sd_stimuli**2
    if spread >= level * (1 - level):
        raise UserError(
            f"--sd-subjects {sd_subjects:g}, --sd-stimuli {sd_stimuli:g}: accuracies cannot vary so much about chance "
            f"{level:g} (variance {spread:.3g}, at most {level * (1 - level):.3g}); give smaller ones"
        )
    shown = []
    for protocol, claim in CLAIMS.items():
        above = _above(protocol, level)
        between = _between(protocol, level, correlation)
        shown.append(
            Shown(
                protocol,
                claim,
                _smallest(above, study, 1 - level - 1e-9),
                _smallest(between, study, 1.0),
                {t: _subjects_for(t, above, study) if level + t < 1 else None for t in TARGETS},
                {t: _subjects_for(t, between, study) for t in TARGETS},
            )
        )
    trials = subjects * stimuli * sessions
    right, one = _right_needed(trials, level, alpha), _right_needed(stimuli * sessions, level, alpha)
    return Plan(
        subjects=subjects,
        stimuli=stimuli,
        sessions=sessions,
        chance=level,
        power=power,
        alpha=alpha,
        sd_subjects=sd_subjects,
        sd_stimuli=sd_stimuli,
        correlation=correlation,
        accuracy_needed=None if right is None else right / trials,
        right_needed=right,
        accuracy_needed_one=None if one is None else one / (stimuli * sessions),
        shown=tuple(shown),
        assumptions=_assumptions(study, level, classes, chance, correlation),
        notes=_notes(study),
    )


def _check(
    subjects: int,
    stimuli: int,
    sessions: int,
    classes: int | None,
    chance: float | None,
    power: float,
    alpha: float,
    sd_subjects: float,
    sd_stimuli: float,
    correlation: float,
) -> float:
    """Return the chance level, or raise `UserError`."""
    for name, count, least in (("subjects", subjects, 2), ("stimuli", stimuli, 1), ("sessions", sessions, 1)):
        if count < least:
            raise UserError(f"--{name} {count}: expected at least {least}")
    if classes is not None and chance is not None:
        raise UserError("--classes and --chance: give one of them; classes are taken as balanced, chance as it is")
    if classes is not None and classes < 2:
        raise UserError(f"--classes {classes}: expected at least 2")
    if chance is not None and not 0 < chance < 1:
        raise UserError(f"--chance {chance:g}: expected a share between 0 and 1, such as 0.25")
    for name, share, low in (("alpha", alpha, 0.0), ("power", power, alpha)):  # power is measured by alpha
        if not low < share < 1:
            raise UserError(f"--{name} {share:g}: expected a share above {low:g} and below 1")
    for name, value in (("sd-subjects", sd_subjects), ("sd-stimuli", sd_stimuli)):
        if not 0 <= value < 0.5:
            raise UserError(f"--{name} {value:g}: expected a share from 0 to below 0.5 (0.1 is 10 points)")
    if not 0 <= correlation < 1:
        raise UserError(f"--correlation {correlation:g}: expected 0 to below 1")
    return chance if chance is not None else 1 / (classes or 4)


def _above(protocol: str, chance: float) -> Power:
    """Return the power of a study to show a difference from chance."""

    def power(study: _Study, delta: float) -> float:
        p = chance + delta
        if protocol == "trial":
            return _binomial_power(study, chance, p)
        return _t_power(delta, protocol, study, p * (1 - p), 1.0, one_sided=True)

    return power


def _between(protocol: str, chance: float, correlation: float) -> Power:
    """Return the power of a study to show a difference between two models."""
    p = max(chance, 0.5)  # where accuracies vary most

    def power(study: _Study, delta: float) -> float:
        return _t_power(delta, protocol, study, p * (1 - p), 2 * (1 - correlation), one_sided=False)

    return power


def _t_power(delta: float, protocol: str, study: _Study, bernoulli: float, factor: float, *, one_sided: bool) -> float:
    """Power to find a difference `delta`; 0 where the test cannot be made."""
    from scipy.stats import nct, t  # late: half a second

    error, free = _error(protocol, study, bernoulli, factor)
    if not free:
        return 0.0
    limit = float(t.ppf(1 - study.alpha / (1 if one_sided else 2), free))
    return float(nct.sf(limit, free, delta / error))


def _error(protocol: str, study: _Study, bernoulli: float, factor: float) -> tuple[float, float]:
    """Return the standard error of a mean over the study, and its degrees of freedom (0: no test)."""
    n, m, r = study.subjects, study.stimuli, study.sessions
    s, t = factor * study.sd_subjects**2, factor * study.sd_stimuli**2
    within = max(factor * bernoulli - s - t, 1e-12)
    if protocol == "trial":
        # Fixed people and stimuli; the variance over trials is at most the Bernoulli one.
        return float(np.sqrt(factor * bernoulli / (n * m * r))), n * m * r - 1
    if protocol == "subject":
        return float(np.sqrt(s / n + within / (n * m * r))), n - 1
    if m < 2:
        return 1.0, 0
    squares = np.array([m * r * s + within, n * r * t + within, within]) / (n * m * r)  # (3,) subject, stimulus, cell
    total = float(squares[0] + squares[1] - squares[2])
    degrees = np.array([n - 1, m - 1, (n - 1) * (m - 1)])  # (3,)
    return float(np.sqrt(total)), total**2 / float((squares**2 / degrees).sum())


def _smallest(power: Power, study: _Study, most: float) -> float | None:
    """Return the smallest difference with the promised power, up to `most`; None where there is none."""
    from scipy.optimize import brentq

    step = most / 40
    reached = next((k * step for k in range(1, 41) if power(study, k * step) >= study.power), None)
    if reached is None:
        return None
    return float(brentq(lambda d: power(study, d) - study.power, max(reached - step, 1e-9), reached, xtol=1e-6))


def _right_needed(trials: int, chance: float, alpha: float) -> int | None:
    """Return the fewest right trials that knowing nothing reaches with probability at most alpha."""
    from scipy.stats import binom

    k = int(binom.isf(alpha, trials, chance)) + 1
    return k if k <= trials else None


def _binomial_power(study: _Study, chance: float, p: float) -> float:
    """Power of the exact binomial test over all trials; 0 where no count is above chance."""
    from scipy.stats import binom

    trials = study.subjects * study.stimuli * study.sessions
    right = _right_needed(trials, chance, study.alpha)
    return 0.0 if right is None else float(binom.sf(right - 1, trials, p))


def _subjects_for(target: float, power: Power, study: _Study) -> int | None:
    """Return the fewest subjects that show a difference of `target`; None where no number does."""

    def enough(n: int) -> bool:
        return power(dataclasses.replace(study, subjects=n), target) >= study.power

    high = 2
    while not enough(high):
        high *= 2
        if high > MOST_SUBJECTS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _assumptions(
    study: _Study, level: float, classes: int | None, chance: float | None, correlation: float
) -> tuple[str, ...]:
    how = "as given" if chance is not None else f"{classes or 4} balanced classes{'' if classes else ', the default'}"
    return (
        f"Chance is {_percent(level)} ({how}). Where classes are unbalanced give the commonest one's share: --chance.",
        f"True accuracy varies over subjects with a standard deviation of {_points(study.sd_subjects)} (--sd-subjects) "
        f"and over stimuli with {_points(study.sd_stimuli)} (--sd-stimuli). The defaults of 10 points are assumptions, "
        "round figures and not measured; take yours from a pilot or an earlier study.",
        f"Hits of two models on the same trial correlate by {correlation:g} (--correlation), and their accuracies over "
        "subjects and stimuli as much. The default of 0.5 is an assumption.",
        "Every subject sees every stimulus once a session. Subject and stimulus act independently, and trials of a "
        "subject do not influence each other.",
        f"Tests at {_percent(study.alpha)}: one-sided above chance, two-sided between two models; power "
        f"{_percent(study.power)}. The luck of training (seed) is not in it, nor a correction for many comparisons.",
    )


def _notes(study: _Study) -> tuple[str, ...]:
    notes = []
    if study.subjects < FEWEST:
        notes.append(
            f"With {study.subjects} subjects milmer gives no interval over subjects (at least {FEWEST}), and the sign "
            f"flips of compare cannot go below p = {2.0 ** (1 - study.subjects):.2g}."
        )
    if study.stimuli < 2:
        notes.append("One stimulus tells nothing of new stimuli: subject-and-stimulus needs two, intervals need 6.")
    elif study.stimuli < FEWEST:
        notes.append(f"With {study.stimuli} stimuli milmer gives no interval for new stimuli (at least {FEWEST}).")
    return tuple(notes)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _points(share: float) -> str:
    return f"{100 * share:.3g} points"


def as_json(found: Plan) -> dict[str, Any]:
    """Return a plan as plain values."""
    return dataclasses.asdict(found) | {"trials": found.trials}
