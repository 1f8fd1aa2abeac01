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
from milmer.evaluation.statistics import chance_level, left_tables, p_value


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
    assert how["subject"] == "t over subjects, 7 degrees"
    assert how["stimulus"] == "t over stimuli, 15 degrees"
    assert how["subject-and-stimulus"] == how["cross-study"]
    assert how["cross-study"].startswith("t over subjects and stimuli")
    few = figures(predictions(4, protocol="subject"), config, CLASSES)
    assert pick(few, "accuracy")["above"] is None and "6 subjects" in pick(few, "accuracy")["above_how"]
    loss = pick(figures(table.assign(protocol="subject"), config, CLASSES), "log_loss")
    assert loss["above"] < loss["chance"]  # less is better


def test_where_nobody_differs_chance_itself_is_not_above_chance() -> None:
    """Each subject has one of its two trials right: t over subjects, without any variance, would call 0.5 skill."""
    left = {name: np.full(8, 0.5) + 1e-17 for name in ("accuracy", "macro_f1")}
    level, how = luck.above("accuracy", 0.5, 0.7, "subject", 16, left, None, "subjects")
    assert level == luck.binomial_level(0.5, 16) == 0.75 and how.endswith("16 trials: the subjects do not differ")
    level, how = luck.above("macro_f1", 0.5, 0.7, "subject", 16, left, None, "subjects")
    assert level == 0.7 and how == "permuted labels of 16 trials: the subjects do not differ"
    assert np.isnan(luck.above("macro_f1", 0.5, 0.5, "subject", 16, left, None, "subjects")[0])


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


def study(
    rng: np.random.Generator, protocol: str, subjects: int = 12, stimuli: int = 12, trials: int = 1
) -> pd.DataFrame:
    """A study with nothing in it: films have labels and get answers of their own, alike for all who saw them.

    Under ``subject`` it is people who have one label and get one kind of answer.
    """
    people = np.repeat(np.arange(subjects), stimuli * trials)
    film = np.tile(np.repeat(np.arange(stimuli), trials), subjects)
    unit = people if protocol == "subject" else film
    y = rng.permutation(np.arange(unit.max() + 1) % 2)[unit]
    logit = rng.normal(0, 2, unit.max() + 1)[unit] + rng.normal(0, 0.5, unit.size)
    high = 1 / (1 + np.exp(-logit))
    told = {"subject": people, "trial": np.arange(unit.size), "stimulus": [f"f{i}" for i in film], "y_true": y}
    return pd.DataFrame(told).assign(part="test", fold=0, protocol=protocol, prob_low=1 - high, prob_high=high)


@pytest.mark.parametrize("protocol", ["stimulus", "subject-and-stimulus", "cross-study", "subject"])
def test_what_goes_with_films_or_with_people_is_not_called_better_than_chance(protocol: str) -> None:
    """Trials exchanged one by one called a third of these studies better than chance at 5 %."""
    ps = []
    for seed in range(60):
        table = study(np.random.default_rng([seed]), protocol)
        rows = next(iter(tables(table, ("low", "high"))))
        null, _ = luck.held(rows, 200, ("low", "high"), np.random.default_rng([seed, 1]), protocol=protocol)
        ps.append(p_value(np.mean(rows.p.argmax(axis=1) == rows.y), null["accuracy"]))
    assert np.mean(np.array(ps) <= 0.05) <= 0.15  # 10 of 60 or more at a true 5 %: once in 1,000 times


def test_what_is_found_in_films_never_seen_is_called_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    table = study(rng, "subject-and-stimulus")
    high = np.where(rng.random(len(table)) < 0.75, table["y_true"], 1 - table["y_true"])
    rows = next(iter(tables(table.assign(prob_high=high, prob_low=1 - high), ("low", "high"))))
    null, how = luck.held(rows, 500, ("low", "high"), rng, protocol="subject-and-stimulus")
    assert "between stimuli, for all subjects alike" in how
    assert p_value(np.mean(rows.p.argmax(axis=1) == rows.y), null["accuracy"]) < 0.01


@pytest.mark.parametrize(
    ("protocol", "wanted"), [("stimulus", "6 stimuli"), ("cross-study", "6 subjects and 6 stimuli")]
)
def test_with_five_films_there_is_no_level(protocol: str, wanted: str) -> None:
    table = study(np.random.default_rng(1), protocol, stimuli=5)
    for name in ("accuracy", "macro_f1"):
        row = pick(figures(table, Evaluation(resamples=100), ("low", "high")), name)
        assert row["above"] is None and row["above_how"] == f"none: t needs {wanted}"


def test_under_stimulus_five_people_are_enough() -> None:
    table = study(np.random.default_rng(1), "stimulus", subjects=5)
    row = pick(figures(table, Evaluation(resamples=100), ("low", "high")), "accuracy")
    assert row["above_how"] == "t over stimuli, 11 degrees" and row["low_new"] is None
