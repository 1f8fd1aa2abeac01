from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.evaluation.regression import from_moments, moments, regression


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 80), st.floats(-1000, 1000))
def test_every_figure_is_that_of_independent_formulas(seed: int, n: int, offset: float) -> None:
    from scipy import stats
    from sklearn.metrics import root_mean_squared_error

    rng = np.random.default_rng(seed)
    y = rng.uniform(1, 9, n) + offset
    x = 0.4 * y + rng.normal(0, 1.5, n)
    found = regression(y, x)
    assert tuple(found) == ("ccc", "rmse", "pearson")
    r = stats.pearsonr(y, x).statistic
    assert found["pearson"] == pytest.approx(r, abs=1e-7)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(y, x), rel=1e-9)
    # Lin's second form: correlation times accuracy, from scale and location shifts.
    scale, shift = y.std() / x.std(), (y.mean() - x.mean()) / np.sqrt(y.std() * x.std())
    assert found["ccc"] == pytest.approx(r * 2 / (scale + 1 / scale + shift**2), abs=1e-7)


def test_known_values() -> None:
    assert regression([1, 5, 9], [1, 5, 9]) == pytest.approx({"ccc": 1, "rmse": 0, "pearson": 1})
    assert regression([1, 5, 9], [9, 5, 1])["ccc"] == pytest.approx(-1)
    shifted = regression([1, 5, 9], [3, 7, 11])
    assert shifted["pearson"] == pytest.approx(1) and shifted["rmse"] == pytest.approx(2) and shifted["ccc"] < 1


def test_a_constant_has_no_correlation_and_raises_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = regression([2.0, 4.0, 7.0], [5.1, 5.1, 5.1])
        alone = regression([5.0], [5.0])
    assert np.isnan(found["pearson"]) and found["ccc"] == pytest.approx(0) and found["rmse"] > 0
    assert np.isnan(alone["ccc"]) and alone["rmse"] == 0


def test_sums_of_clusters_leave_one_out() -> None:
    rng = np.random.default_rng(0)
    y, x, cluster = rng.uniform(1, 9, 60), rng.uniform(1, 9, 60), rng.integers(0, 6, 60)
    each = moments(y, x, cluster, y.mean())
    without = from_moments(each.sum(axis=0) - each)
    for g in range(6):
        for name, value in regression(y[cluster != g], x[cluster != g]).items():
            assert without[name][g] == pytest.approx(value)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="two of the same"):
        regression([1, 2], [1, 2, 3])
    with pytest.raises(UserError, match="not numbers"):
        regression([1, np.nan], [1, 2])
