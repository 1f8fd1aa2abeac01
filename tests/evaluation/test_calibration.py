from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milmer.errors import UserError
from milmer.evaluation.calibration import (
    HIGHEST,
    LOWEST,
    calibrated,
    fit_temperature,
    reliability,
    temperatures,
    tempered,
)
from milmer.evaluation.metrics import classification

CLASSES = ("a", "b", "c")
PROB = [f"prob_{c}" for c in CLASSES]


def answers(seed: int, n: int, k: int = 3, sharp: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a model whose logits are right, then `sharp` times too large."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.2, (n, k))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    y = (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1)
    return y, tempered(p, 1 / sharp)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_temperature_is_scipys(seed: int, k: int, sharp: float) -> None:
    from scipy.optimize import minimize_scalar
    from sklearn.metrics import log_loss

    y, p = answers(seed, 80, k, sharp)
    ours = fit_temperature(y, p)
    if LOWEST < ours < HIGHEST and np.unique(y).size == k:
        found = minimize_scalar(
            lambda t: log_loss(y, tempered(p, np.exp(t)), labels=list(range(k))), bounds=(-2.4, 2.4), method="bounded"
        )
        assert np.log(ours) == pytest.approx(found.x, abs=2e-3)


def test_it_finds_how_much_too_sure_a_model_is() -> None:
    y, p = answers(0, 4000)
    assert fit_temperature(y, p) == pytest.approx(3, rel=0.08)
    new, q = answers(1, 4000)
    before, after = (classification(new, x, CLASSES) for x in (q, tempered(q, fit_temperature(y, p))))
    for name in ("log_loss", "brier", "ece"):
        assert after[name] < before[name]
    assert after["ece"] < 0.03 and after["accuracy"] == before["accuracy"]


def test_where_nothing_can_be_fitted_it_is_one() -> None:
    y, p = answers(2, 5)
    assert fit_temperature(y, p) == 1  # too few
    assert fit_temperature([], np.zeros((0, 3))) == 1
    y, p = answers(3, 40)
    assert fit_temperature(np.zeros(40, dtype=int), p) == 1  # one class
    assert fit_temperature(p.argmax(axis=1), p) == 1  # all right: sharper is always better
    assert fit_temperature(y, np.full((40, 3), 1 / 3)) == 1  # nothing to make surer
    wrong = (p.argmax(axis=1) + 1) % 3
    assert fit_temperature(wrong, p) == HIGHEST
    sure = np.eye(3)[y]  # zeros and ones, one of them wrong
    sure[0] = np.roll(sure[0], 1)
    assert LOWEST <= fit_temperature(y, sure) <= HIGHEST and np.isfinite(tempered(sure, 2.0)).all()
    with pytest.raises(UserError, match="not numbers"):
        fit_temperature(y, np.where(p > 2, p, np.nan))


def table() -> pd.DataFrame:
    """Two folds, one of which is too sure; 2 windows a trial."""
    parts = []
    for fold, sharp in ((0, 4.0), (1, 1.0)):
        for part, n in (("train", 30), ("validation", 400), ("test", 400)):
            y, p = answers(10 * fold + n + len(part), n, 3, sharp)
            one = pd.DataFrame({"subject": np.arange(n) % 8, "trial": np.arange(n), "y_true": y})
            one = one.assign(fold=fold, seed=0, part=part, study="x", **dict(zip(PROB, p.T, strict=True)))
            parts += [one.assign(window=w) for w in range(2)]
    return pd.concat(parts, ignore_index=True)


def test_each_fold_has_its_own_from_its_validation_trials_only() -> None:
    rows = table()
    found = temperatures(rows, CLASSES)
    assert found[0, 0] == pytest.approx(4, rel=0.2) and found[0, 1] == pytest.approx(1, rel=0.2)
    other = rows.copy()
    tested = (other["part"] == "test").to_numpy()
    other.loc[tested, "y_true"] = (other.loc[tested, "y_true"] + 1) % 3
    other.loc[other["part"] == "train", PROB] = 1 / 3
    assert temperatures(other, CLASSES) == found
    after = calibrated(rows, CLASSES)
    assert set(after["part"]) == {"validation", "test"} and len(after) == 1600
    assert (after["temperature"] == [found[0, f] for f in after["fold"]]).all()
    np.testing.assert_allclose(after[PROB].sum(axis=1), 1)
    assert (after["y_pred"] == after[PROB].to_numpy().argmax(axis=1)).all()
    no_validation = rows[rows["part"] != "validation"]
    assert set(temperatures(no_validation, CLASSES).values()) == {1.0}


def test_reliability_is_the_calibration_errors_parts() -> None:
    y, p = answers(5, 500)
    bins = reliability(y, p)
    assert sum(b.n for b in bins) == 500
    ece = sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / 500
    assert ece == pytest.approx(classification(y, p, CLASSES)["ece"])
    for b in bins:
        assert b.low < b.confidence <= b.high + 1e-9
    from sklearn.calibration import calibration_curve

    right = p.argmax(axis=1) == y
    share, mean = calibration_curve(right, p.max(axis=1), n_bins=5)
    np.testing.assert_allclose([b.accuracy for b in reliability(y, p, 5)], share)
    np.testing.assert_allclose([b.confidence for b in reliability(y, p, 5)], mean)
    with pytest.raises(UserError, match="found 0 bins"):
        reliability(y, p, 0)
