from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.test_scoring import CLASSES, PROB, pick, predictions, rated

from milmer.config import Evaluation
from milmer.evaluation import chance as luck
from milmer.evaluation.metrics import from_confusion
from milmer.evaluation.predictions import tables
from milmer.evaluation.scoring import figures
from milmer.evaluation.statistics import chance_level, left_tables


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.floats(0.01, 0.99))
def test_the_binomial_level_is_scipys_test(n: int, chance: float) -> None:
    from scipy.stats import binomtest

    level = luck.binomial_level(chance, n)
    if np.isnan(level):
        assert binomtest(n, n, chance, alternative="greater").pvalue > 0.05
        return
    right = round(level * n)
    assert level == right / n
    assert binomtest(right, n, chance, alternative="greater").pvalue <= 0.05 + 1e-9
    assert binomtest(right - 1, n, chance, alternative="greater").pvalue > 0.05 - 1e-9


def test_a_level_of_nothing_is_undefined() -> None:
    assert np.isnan([luck.binomial_level(0.5, 0), luck.binomial_level(np.nan, 10), luck.binomial_level(0.5, 3)]).all()


def first(table: pd.DataFrame) -> luck.Rows:
    return next(iter(tables(table, CLASSES)))


def test_prior_is_the_expected_figure_of_drawn_answers() -> None:
    table = first(predictions(train=True, trials=10))
    found = luck.prior(table, CLASSES)
    right = table.training[np.arange(table.y.size), table.y].mean()
    assert found["accuracy"] == pytest.approx(right, abs=0.01)
    rng = np.random.default_rng(0)
    from sklearn.metrics import f1_score

    cumulated = table.training.cumsum(axis=1)
    drawn = [
        f1_score(table.y, (rng.random((table.y.size, 1)) > cumulated).sum(axis=1), average="macro") for _ in range(150)
    ]
    assert found["macro_f1"] == pytest.approx(np.mean(drawn), abs=0.015)
    common = luck.majority(table, CLASSES)
    assert found["log_loss"] == common["log_loss"]
    assert luck.prior(table, CLASSES) == found  # draws are a function of the seed


def test_the_level_follows_the_protocols_units() -> None:
    config = Evaluation(resamples=100)
    table = rated(predictions(8, 16, train=True))
    how = {}
    for protocol in ("trial", "window", "subject", "stimulus", "subject-and-stimulus", "cross-study"):
        row = pick(figures(table.assign(protocol=protocol), config, CLASSES), "accuracy")
        how[protocol] = row["above_how"]
        assert row["chance"] < row["above"] < 1
    assert how["trial"] == how["window"] == "exact binomial over 128 trials"  # never windows
    assert how["subject"] == how["cross-study"] == "t over subjects, 7 degrees"
    assert how["stimulus"] == "t over stimuli, 15 degrees"
    assert how["subject-and-stimulus"].startswith("t over subjects and stimuli")
    few = figures(predictions(4, protocol="subject"), config, CLASSES)
    assert pick(few, "accuracy")["above"] is None and "6 subjects" in pick(few, "accuracy")["above_how"]
    loss = pick(figures(table.assign(protocol="subject"), config, CLASSES), "log_loss")
    assert loss["above"] < loss["chance"]  # less is better


@pytest.mark.parametrize("protocol", ["trial", "subject"])
def test_without_an_effect_few_pass_the_level(protocol: str) -> None:
    """One in twenty is allowed; more than 18 of 200 null studies above it would come once in 150 times."""
    rng, passed = np.random.default_rng([len(protocol)]), 0
    for _ in range(200):
        p = rng.dirichlet(np.full(4, 0.5), 80)
        table = pd.DataFrame({"subject": np.arange(80) // 10, "trial": np.arange(80), "y_true": rng.integers(0, 4, 80)})
        rows = first(table.assign(part="test", fold=0, **dict(zip(PROB, p.T, strict=True))))
        null, _ = luck.held(rows, 100, CLASSES, rng, answers_only=True)
        left = from_confusion(left_tables(rows.y, rows.p.argmax(axis=1), rows.person, 4), CLASSES)
        mean, limit = chance_level(null["accuracy"])
        level, _ = luck.above("accuracy", mean, limit, protocol, 80, left, None, "subjects")
        passed += np.mean(rows.p.argmax(axis=1) == rows.y) >= level
    assert passed <= 18
