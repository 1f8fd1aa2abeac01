from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest, t

from milmer.errors import UserError
from milmer.evaluation.intervals import two_way_variance
from milmer.evaluation.planning import Plan, Shown, as_json, plan

STUDIES = 3000
MARGIN = 4 * np.sqrt(0.8 * 0.2 / STUDIES) + 0.02  # binomial error, and what the t approximation of hits leaves


def shown(found: Plan, protocol: str) -> Shown:
    return next(row for row in found.shown if row.protocol == protocol)


def effects(rng: np.random.Generator, sd: float, size: tuple[int, ...]) -> np.ndarray:
    """Uniform, so that accuracies stay within 0 to 1."""
    return rng.uniform(-np.sqrt(3) * sd, np.sqrt(3) * sd, size)


@pytest.mark.parametrize(("n", "m", "chance"), [(10, 20, 0.5), (22, 12, 0.25)])
def test_the_difference_for_new_subjects_is_found_with_the_promised_power(n: int, m: int, chance: float) -> None:
    found = plan(n, m, chance=chance, sd_subjects=0.08, sd_stimuli=0.0)
    rng = np.random.default_rng([1, n])
    delta = shown(found, "subject").difference
    assert delta is not None
    p = chance + delta + effects(rng, 0.08, (STUDIES, n))  # (R, N)
    accuracy = rng.binomial(m, p) / m
    value = (accuracy.mean(axis=1) - chance) / (accuracy.std(axis=1, ddof=1) / np.sqrt(n))
    assert np.mean(value > t.ppf(0.95, n - 1)) == pytest.approx(0.8, abs=MARGIN)


@pytest.mark.parametrize(("n", "m"), [(12, 16), (24, 10)])
def test_the_two_way_difference_is_found_with_the_promised_power_and_chance_is_not(n: int, m: int) -> None:
    found = plan(n, m, chance=0.5)
    delta = shown(found, "subject-and-stimulus").difference
    assert delta is not None
    for add, expected in ((delta, 0.8), (0.0, 0.05)):
        rng = np.random.default_rng([2, n])
        studies = 800
        hits = 0
        for _ in range(studies):
            p = 0.5 + add + effects(rng, 0.1, (n, 1)) + effects(rng, 0.1, (1, m))  # (N, M)
            y = (rng.random((n, m)) < p).astype(float)  # (N, M)
            total = y.sum()
            left = (total - y.sum(axis=1)) / (n * m - m), (total - y.sum(axis=0)) / (n * m - n)  # (N,), (M,)
            spread, free = two_way_variance(*left, ((total - y) / (n * m - 1)).ravel())
            hits += (y.mean() - 0.5) / np.sqrt(spread) > t.ppf(0.95, free)
        margin = 4 * np.sqrt(expected * (1 - expected) / studies) + 0.02
        assert hits / studies == pytest.approx(expected, abs=margin)


def test_the_difference_between_two_models_is_found_with_the_promised_power() -> None:
    n, m, rho = 16, 20, 0.5
    found = plan(n, m, chance=0.5, sd_subjects=0.08, sd_stimuli=0.0, correlation=rho)
    delta = shown(found, "subject").models
    assert delta is not None
    rng = np.random.default_rng([3])
    both = rng.normal(0, 0.08 * np.sqrt(rho), (STUDIES, n, 1))
    gifts = [both + rng.normal(0, 0.08 * np.sqrt(1 - rho), (STUDIES, n, 1)) for _ in range(2)]  # (R, N, 1) each
    u = rng.random((2, STUDIES, n, m))
    u[1] = np.where(rng.random((STUDIES, n, m)) < rho, u[0], u[1])
    hits = [u[k] < 0.5 + (delta / 2 if k else -delta / 2) + gifts[k] for k in range(2)]  # (R, N, M) each
    d = (hits[1].astype(float) - hits[0]).mean(axis=2)  # (R, N)
    value = np.abs(d.mean(axis=1)) / (d.std(axis=1, ddof=1) / np.sqrt(n))
    assert np.mean(value > t.ppf(0.975, n - 1)) == pytest.approx(0.8, abs=MARGIN)


def test_over_trials_the_binomial_is_exact() -> None:
    found = plan(8, 20, classes=2)
    right = found.right_needed
    assert right is not None and found.trials == 160
    assert binomtest(right, 160, 0.5, alternative="greater").pvalue <= 0.05
    assert binomtest(right - 1, 160, 0.5, alternative="greater").pvalue > 0.05
    delta = shown(found, "trial").difference
    assert delta is not None
    hits = np.random.default_rng([4]).binomial(160, 0.5 + delta, 20_000) >= right
    assert hits.mean() == pytest.approx(0.8, abs=0.012)


def test_more_of_everything_shows_smaller_differences() -> None:
    base, protocols = plan(12, 12), ("trial", "subject", "subject-and-stimulus")
    for more in (plan(24, 12), plan(12, 24), plan(12, 12, sessions=2)):
        for protocol in protocols:
            assert (shown(more, protocol).difference or 1) < (shown(base, protocol).difference or 0)
            assert (shown(more, protocol).models or 1) < (shown(base, protocol).models or 0)
    sizes = [shown(base, protocol).difference for protocol in protocols]
    assert sizes == sorted(sizes)  # type: ignore[type-var]  # none is None here


def test_needed_subjects_are_enough_and_one_less_is_not() -> None:
    needed = shown(plan(12, 40), "subject").needed
    for target, n in needed.items():
        assert n is not None
        assert (shown(plan(n, 40), "subject").difference or 1) <= target
        assert (shown(plan(n - 1, 40), "subject").difference or 1) > target
    assert list(needed.values()) == sorted(needed.values(), reverse=True)  # type: ignore[type-var]  # none is None


def test_few_stimuli_set_a_floor_that_no_number_of_subjects_passes() -> None:
    row = shown(plan(20, 12), "subject-and-stimulus")
    assert row.needed[0.02] is None and row.needed[0.10] is not None
    one = plan(20, 1)
    assert shown(one, "subject-and-stimulus").difference is None
    assert any("One stimulus tells nothing" in note for note in one.notes)


def test_assumptions_are_said_with_their_values() -> None:
    text = " ".join(plan(4, 5, sd_subjects=0.07).assumptions)
    assert "standard deviation of 7 points (--sd-subjects)" in text and "over stimuli with 10 points" in text
    assert "assumptions" in text and "25 % (4 balanced classes, the default)" in text
    assert any("4 subjects milmer gives no interval" in note for note in plan(4, 5).notes)
    assert plan(2, 1).accuracy_needed is None  # two right of two happen by chance once in sixteen


def test_a_plan_is_json() -> None:
    found = json.loads(json.dumps(as_json(plan(12, 12))))
    assert found["trials"] == 144 and len(found["shown"]) == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"subjects": 1}, "--subjects 1: expected at least 2"),
        ({"stimuli": 0}, "--stimuli 0: expected at least 1"),
        ({"sessions": 0}, "--sessions 0: expected at least 1"),
        ({"chance": 1.2}, "--chance 1.2: expected a share between 0 and 1"),
        ({"chance": 0.0}, "--chance 0: expected"),
        ({"classes": 1}, "--classes 1: expected at least 2"),
        ({"classes": 2, "chance": 0.5}, "give one of them"),
        ({"power": 1.0}, "--power 1: expected"),
        ({"alpha": 0.0}, "--alpha 0: expected"),
        ({"alpha": float("nan")}, "--alpha nan: expected a share above 0 and below 1"),
        ({"sd_subjects": -0.1}, "--sd-subjects -0.1: expected"),
        ({"sd_stimuli": 0.49, "chance": 0.25}, "cannot vary so much"),
        ({"correlation": 1.0}, "--correlation 1: expected"),
    ],
)
def test_nonsense_is_one_line(given: dict[str, float], expected: str) -> None:
    with pytest.raises(UserError, match=expected.replace("(", r"\(")) as refused:
        plan(**({"subjects": 10, "stimuli": 10} | given))  # type: ignore[arg-type]  # nonsense on purpose
    assert "\n" not in str(refused.value)
