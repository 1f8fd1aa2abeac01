"""An answer that never changes has no skill: it must never be called better than chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.evaluation.test_scoring import pick

from milmer.config import Evaluation
from milmer.evaluation.ablations.table import score
from milmer.evaluation.chance import ALPHA, differs
from milmer.evaluation.metrics import LESS_IS_BETTER
from milmer.evaluation.scoring import figures, point_figures
from milmer.evaluation.statistics import alike_in_length

NAMES = ("low", "high", "other")
PROTOCOLS = ("trial", "window", "subject", "stimulus", "subject-and-stimulus", "cross-study")


def study(trials: list[list[tuple[int, int]]], answer: list[float], protocol: str, train: bool = True) -> pd.DataFrame:
    """Predictions that never change; each subject has trials of (class, windows)."""
    rows = [
        (f"s{s}", t, f"f{t}", w, label)
        for s, mine in enumerate(trials)
        for t, (label, windows) in enumerate(mine)
        for w in range(windows)
    ]
    table = pd.DataFrame(rows, columns=["subject", "trial", "stimulus", "window", "y_true"])
    table = table.assign(part="test", fold=0, seed=0, protocol=protocol, rating_score=1.0 + 3 * table["y_true"])
    if protocol == "window":  # a trial's windows lie in several folds
        table["fold"] = table["window"] % 2
    if train:
        seen = table.assign(part="train", subject="t" + table["subject"])
        table = pd.concat([table, seen], ignore_index=True)
    return table.assign(**{f"prob_{n}": p for n, p in zip(NAMES, answer, strict=False)})


def classes(answer: list[float]) -> tuple[str, ...]:
    return NAMES[: len(answer)]


def wrongly(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures whose p, or whose level, calls them better than chance."""
    found = []
    for row in rows:
        if row.get("calibrated") or row["name"] in ("ccc", "pearson"):
            continue
        value, level, p = row["value"], row.get("above"), row.get("p")
        less = row["name"] in LESS_IS_BETTER
        passed = None not in (value, level) and (value <= level if less else value >= level)
        if passed or (p is not None and p <= ALPHA) or differs(row):
            found.append({k: row.get(k) for k in ("name", "level", "subject", "value", "above", "p", "chance_how")})
    return found


ANSWERS = st.sampled_from([[0.2, 0.8], [0.9, 0.1], [0.0, 1.0], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
LENGTHS = st.sampled_from([(1, 6), (4, 5), (3, 3), (2, 30)])  # of the shortest and the longest trial


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(2, 12),
    LENGTHS,
    ANSWERS,
    st.sampled_from(PROTOCOLS),
    st.sampled_from(["any", "longer", "one a subject", "film"]),
    st.booleans(),
)
def test_a_constant_answer_is_never_called_better_than_chance(
    seed: int,
    subjects: int,
    trials: int,
    lengths: tuple[int, int],
    answer: list[float],
    protocol: str,
    kind: str,
    train: bool,
) -> None:
    rng, k = np.random.default_rng(seed), len(answer)
    share = rng.dirichlet(np.ones(k))
    y = rng.choice(k, (subjects, trials), p=share)
    length = rng.integers(lengths[0], lengths[1] + 1, y.shape)
    if kind == "longer":  # a class is always the longer one
        length = np.where(y == k - 1, lengths[1], lengths[0])
    elif kind == "one a subject":
        y = np.broadcast_to(y[:, :1], y.shape)
    elif kind == "film":  # a film has a label and a length
        y, length = np.broadcast_to(y[0], y.shape), np.broadcast_to(length[0], y.shape)
    told = [list(zip(a.tolist(), b.tolist(), strict=True)) for a, b in zip(y, length, strict=True)]
    table = study(told, answer, protocol, train)
    assert wrongly(figures(table, Evaluation(resamples=100, protocol=protocol), classes(answer))) == []


REST = [[(1, 180), (0, 60)]] * 8


def test_always_rest_is_no_skill_where_rest_is_longer() -> None:
    rows = figures(study(REST, [0.2, 0.8], "subject"), Evaluation(resamples=100), NAMES[:2])
    window, trial = pick(rows, "accuracy"), pick(rows, "accuracy", "trial")
    assert window["value"] == 0.75
    assert [window[k] for k in ("chance", "chance_high", "p", "above")] == [None] * 4
    said = (
        "none over windows: a subject's trials of different classes differ in length; read the figures of whole trials"
    )
    assert window["chance_how"] == window["above_how"] == said
    assert trial["chance"] == 0.5 and trial["p"] == 1 and trial["above"] is not None


def test_reruns_that_exchange_rest_and_task_are_no_chance_level_of_windows() -> None:
    runs = [point_figures(study(REST, [0.8, 0.2], "subject"), NAMES[:2])] * 30
    rows = figures(study(REST, [0.2, 0.8], "subject"), Evaluation(resamples=100), NAMES[:2], runs)
    window, trial = pick(rows, "accuracy"), pick(rows, "accuracy", "trial")
    assert window["p"] is None and "differ in length" in window["chance_how"] and differs(window) is None
    assert trial["chance_how"] == "30 re-runs with permuted labels"


def test_a_skill_over_windows_is_still_found_among_trials_of_about_equal_length() -> None:
    rng = np.random.default_rng(0)
    told = [[(int(t % 2), int(rng.integers(8, 11))) for t in range(12)] for _ in range(8)]
    table = study(told, [0.5, 0.5], "subject")
    right = rng.random(len(table)) < 0.8
    high = np.where(right, table["y_true"], 1 - table["y_true"]) * 0.6 + 0.2
    row = pick(
        figures(table.assign(prob_high=high, prob_low=1 - high), Evaluation(resamples=100), NAMES[:2]), "accuracy"
    )
    assert differs(row) and row["p"] <= 0.02 and row["chance"] == pytest.approx(0.5, abs=0.03)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(1, 40)), min_size=2, max_size=30))
@example([(0, 0, 4), (0, 1, 5), (0, 0, 20), (0, 1, 25)])
def test_strata_hold_a_subjects_trials_of_about_equal_length(units: list[tuple[int, int, int]]) -> None:
    owner, label, length = (np.array(c) for c in zip(*units, strict=True))
    for tolerance in (1.25, 1.0):
        found = alike_in_length(label, owner, length, tolerance)
        if found is None:
            continue
        for stratum in np.unique(found):
            mine = found == stratum
            assert np.unique(owner[mine]).size == 1
            if found is not owner or np.unique(owner).size == 1:
                assert length[mine].max() <= tolerance * length[mine].min()


def test_one_rule_says_what_is_better_than_chance() -> None:
    row = {"name": "accuracy", "value": 0.6, "above": 0.55, "p": 0.01}
    assert differs(row) is True
    assert differs(row | {"p": 0.15}) is False and differs(row | {"above": 0.61}) is False
    assert differs(row | {"above": None}) is True and differs(row | {"above": None, "p": 0.06}) is False
    assert differs(row | {"p": None}) is True and differs(row | {"p": None, "above": None}) is None
    assert differs(row | {"name": "log_loss"}) is False and differs(row | {"value": None}) is None


def test_a_constant_cell_of_an_ablation_has_no_p_over_windows_where_rest_is_longer() -> None:
    table = study(REST, [0.2, 0.8], "subject", train=False)
    found = score({"a": {0: table}}, {"a": NAMES[:2]}, Evaluation(resamples=100, protocol="subject"), "a")["a"]
    assert found["accuracy_window_p"] is None and found["accuracy_window_chance"] is None
    assert found["accuracy_trial_p"] == 1
