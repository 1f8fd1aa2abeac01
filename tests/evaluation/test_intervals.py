from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.evaluation.intervals import (
    clustered_mean,
    jackknife,
    mean_interval,
    scale_of,
    two_way,
    two_way_variance,
    variance,
)
from milmer.evaluation.metrics import from_confusion


def left(values: np.ndarray) -> np.ndarray:
    return (values.sum() - values) / (values.size - 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(6, 40), st.sampled_from([0.8, 0.95, 0.99]))
def test_of_a_mean_it_is_students_interval(seed: int, n: int, confidence: float) -> None:
    from scipy import stats

    values = np.random.default_rng(seed).normal(2, 3, n)
    theirs = stats.t.interval(confidence, n - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose(jackknife(values.mean(), left(values), confidence), theirs)
    np.testing.assert_allclose(mean_interval(values, confidence), theirs)
    np.testing.assert_allclose(clustered_mean(np.repeat(values, 3), np.repeat(np.arange(n), 3), confidence), theirs)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["unit", "signed", "positive", "plain"]))
def test_an_interval_holds_its_value_and_stays_in_range(seed: int, scale: str) -> None:
    rng = np.random.default_rng(seed)
    values = rng.beta(*rng.uniform(0.3, 5, 2), 12)
    values = 2 * values - 1 if scale == "signed" else values
    low, high = jackknife(values.mean(), left(values), 0.95, scale)
    assert low <= values.mean() <= high
    wide = jackknife(values.mean(), left(values), 0.99, scale)
    assert wide[0] <= low and high <= wide[1]
    if scale != "plain":
        assert low >= (-1 if scale == "signed" else 0)
        assert high <= (np.inf if scale == "positive" else 1)
    assert jackknife(values.mean(), rng.permutation(left(values)), 0.95, scale) == pytest.approx((low, high))


def test_there_is_none_below_six_units_or_where_something_is_undefined() -> None:
    assert np.isnan(jackknife(0.5, np.full(5, 0.5))).all()
    assert np.isnan(jackknife(0.5, [])).all()
    assert np.isnan(mean_interval(np.arange(5.0))).all()
    assert np.isnan(clustered_mean(np.arange(10.0), np.arange(10) // 2)).all()
    assert np.isnan(jackknife(np.nan, np.full(6, 0.5))).all()
    assert np.isnan(jackknife(0.5, [0.5] * 6 + [np.nan])).all()
    assert np.isnan(two_way(0.5, np.full(6, 0.5), np.full(5, 0.5), np.full(30, 0.5))).all()
    assert np.isnan(variance([1.0]))


def test_at_a_bound_the_plain_scale_is_used_and_cut_off() -> None:
    assert jackknife(1.0, np.ones(8), 0.95, "unit") == (1, 1)
    values = np.array([1.0] * 7 + [0.6])  # without the last subject the figure is 1
    low, high = jackknife(values.mean(), left(values), 0.95, "unit")
    assert high == 1 and low == pytest.approx(jackknife(values.mean(), left(values))[0])


def test_scales_are_the_figures_ranges() -> None:
    assert {scale_of(n) for n in ("accuracy", "macro_f1", "auroc", "ece", "f1/high")} == {"unit"}
    assert {scale_of(n) for n in ("mcc", "cohen_kappa", "ccc", "pearson")} == {"signed"}
    assert {scale_of(n) for n in ("log_loss", "brier", "rmse")} == {"positive"}


def crossed(rng: np.random.Generator, subjects: int, items: int, of_s: float, of_i: float) -> np.ndarray:
    return (
        rng.normal(0, of_s, (subjects, 1)) + rng.normal(0, of_i, (1, items)) + rng.normal(0, 1, (subjects, items))
    )  # (subjects, items)


def three(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return left(table.mean(axis=1)), left(table.mean(axis=0)), left(table.ravel())


def test_the_two_way_variance_is_nearly_unbiased() -> None:
    rng = np.random.default_rng(0)
    tables = [crossed(rng, 12, 20, 0.5, 0.7) for _ in range(600)]
    found = np.mean([two_way_variance(*three(t))[0] for t in tables])
    true = 0.25 / 12 + 0.49 / 20 + 1 / 240
    assert found == pytest.approx(true, rel=0.08)
    one_way = np.mean([variance(three(t)[0]) for t in tables])
    assert one_way < 0.65 * true  # over subjects alone it is far too small for claims about new stimuli


def test_the_two_way_variance_falls_back_to_the_larger_one() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        subjects, items, cells = three(crossed(rng, 8, 8, 0, 0))
        found, free = two_way_variance(subjects, items, cells)
        assert found >= max(variance(subjects), variance(items)) and free > 0
    same = np.full(6, 0.25)
    assert two_way_variance(same, same, same)[0] == 0


@pytest.mark.parametrize(("subjects", "items"), [(8, 20), (12, 40)])
def test_the_two_way_interval_covers_with_equal_variances(subjects: int, items: int) -> None:
    """Claims about new people and new stimuli: 95 % intervals cover 93-97 %; those over subjects alone far fewer."""
    rng = np.random.default_rng([subjects, items])
    studies = 1500
    both = alone = 0
    for _ in range(studies):
        table = crossed(rng, subjects, items, 0.6, 0.6)
        low, high = two_way(table.mean(), *three(table))
        both += low <= 0 <= high
        low, high = jackknife(table.mean(), three(table)[0])
        alone += low <= 0 <= high
    assert 0.93 - 0.01 <= both / studies <= 0.97 + 0.01  # 0.01 is 1.8 standard errors of 1,500 studies
    assert alone / studies < both / studies - 0.01


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(("subjects", "skill"), [(8, 1.0), (8, 3.0), (22, 1.0)])
def test_pooled_figures_are_covered(k: int, subjects: int, skill: float) -> None:
    """People differ in how well and how lopsidedly they are read: accuracy and macro-F1 of the pooled confusion."""
    rng = np.random.default_rng([k, subjects, int(skill)])
    studies = 1500

    def draw(shape: tuple[int, ...], trials: int) -> tuple[np.ndarray, np.ndarray]:
        own, bias = rng.normal(skill, 0.5, (*shape, 1, 1)), rng.normal(0, 0.5, (*shape, 1, k))
        odds = np.exp(own * np.eye(k) + bias)
        cells = rng.dirichlet(np.full(k, 5.0), shape)[..., None] * odds / odds.sum(-1, keepdims=True)
        cells = cells.reshape(*shape, k * k) / cells.sum((-1, -2))[..., None]
        return rng.multinomial(trials, cells).reshape(*shape, k, k), cells.reshape(*shape, k, k)

    names = [str(c) for c in range(k)]
    truth = from_confusion(draw((100_000,), 1)[1].mean(axis=0)[None], names)
    tables, _ = draw((studies, subjects), 40)  # (R, S, k, k)
    value = from_confusion(tables.sum(axis=1), names)
    without = from_confusion((tables.sum(axis=1, keepdims=True) - tables).reshape(-1, k, k), names)
    for name in ("accuracy", "macro_f1"):
        of = without[name].reshape(studies, subjects)
        found = np.array([jackknife(v, w, 0.95, "unit") for v, w in zip(value[name], of, strict=True)])  # (R, 2)
        covered = np.mean((found[:, 0] <= truth[name][0]) & (truth[name][0] <= found[:, 1]))
        assert 0.93 - 0.01 <= covered <= 0.97 + 0.01
