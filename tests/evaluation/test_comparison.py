from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, log_loss
from tests.evaluation.made_runs import CLASSES, make_run, predictions, write_run

from milmer.errors import UserError
from milmer.evaluation.comparison import compare
from milmer.evaluation.crossed import Crossed, also_new, crossed
from milmer.evaluation.intervals import two_way

PROB = [f"prob_{c}" for c in CLASSES]


def test_figures_are_scikit_learns_subject_by_subject(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0.5, seed=1), make_run(tmp_path / "b", 0.1, seed=2)
    found = compare([a, b])
    table = pd.read_parquet(a / "predictions.parquet")
    trials = table.groupby(["subject", "trial", "y_true"], as_index=False)[PROB].mean()
    for place, subject in enumerate(found.units):
        mine = trials[trials["subject"] == subject]
        answer = mine[PROB].to_numpy().argmax(axis=1)
        values = found.runs[0].values
        assert values["accuracy"][place] == pytest.approx(accuracy_score(mine["y_true"], answer))
        f1 = f1_score(mine["y_true"], answer, labels=range(4), average="macro", zero_division=0)
        assert values["macro_f1"][place] == pytest.approx(f1)
        assert values["log_loss"][place] == pytest.approx(log_loss(mine["y_true"], mine[PROB], labels=range(4)))
    pair = found.main[0]
    assert pair.result.difference == pytest.approx(np.mean(values["macro_f1"] - found.runs[1].values["macro_f1"]))
    assert found.separated(pair) and pair.result.wins > pair.result.losses
    assert found.figure == "macro_f1" and found.unit == "subject" and found.trials == 96


def test_seeds_are_averaged_before_anything_is_paired(tmp_path: Path) -> None:
    both = predictions(0.3, seeds=(0, 1))
    one = [write_run(tmp_path / f"s{s}", both[both["seed"] == s]) for s in (0, 1)]
    other = make_run(tmp_path / "other", 0.2, seed=5)
    found = compare([write_run(tmp_path / "both", both), other])
    apart = [compare([run, other]).runs[0].values["accuracy"] for run in one]
    np.testing.assert_allclose(found.runs[0].values["accuracy"], np.mean(apart, axis=0))
    assert found.runs[0].seeds == 2 and any("Seeds: both 2, other 1" in note for note in found.notes)


def test_a_run_between_others_is_ranked_and_all_pairs_are_corrected_together(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / n, s, seed=i) for i, (n, s) in enumerate([("low", 0.0), ("mid", 0.35), ("high", 0.8)])]
    found = compare(runs)
    assert np.argsort(found.ranks).tolist() == [2, 1, 0] and found.p_friedman < 0.01
    assert [(p.first, p.second) for p in found.main] == [(0, 1), (0, 2), (1, 2)]
    assert all(p.p_holm >= p.result.p for p in found.main)
    assert found.groups == ()


def test_one_subject_is_paired_over_trials_and_says_so(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0.6, seed=1, subjects=1, trials=30)
    b = make_run(tmp_path / "b", 0.1, seed=2, subjects=1, trials=30)
    found = compare([a, b])
    assert (found.unit, found.figure, len(found.units)) == ("trial", "accuracy", 30)
    assert found.units[:3] == ("1", "2", "3")
    assert any("One subject (s01): paired over trials" in note for note in found.notes)
    with pytest.raises(
        UserError, match=r"with one subject \(s01\) trials are paired; choose accuracy, log_loss, brier"
    ):
        compare([a, b], figure="macro_f1")


def test_too_few_subjects_for_any_p_is_said_and_gives_no_interval(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / n, s, subjects=4, seed=i) for i, (n, s) in enumerate([("a", 0.0), ("b", 0.9)])]
    found = compare(runs)
    assert np.isnan(found.main[0].result.low) and found.main[0].result.p_smallest == 2 / 16
    assert any("smallest possible p is 0.12" in note and "milmer plan" in note for note in found.notes)


def test_other_protocols_are_an_inflation_and_only_by_request(tmp_path: Path) -> None:
    a = make_run(tmp_path / "honest", 0.1, seed=1)
    b = make_run(tmp_path / "leaky", 0.8, seed=2, protocol="window")
    with pytest.raises(
        UserError,
        match=r"protocols differ \(honest under trial, leaky under window \(leaky\)\).*add --across to measure the inf",
    ):
        compare([a, b])
    found = compare([a, b], across=True)
    pair = found.main[0]
    assert found.across and pair.inflation and (pair.first, pair.second) == (1, 0)  # leaky less honest
    assert pair.result.difference > 0.2
    assert {p["what"] for p in found.to_json()["pairs"]} == {"inflation between protocols"}


def test_other_budgets_are_refused_alike(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=2, budget="unlabelled")]
    with pytest.raises(UserError, match=r"budgets differ \(a under none, b under unlabelled\)"):
        compare(runs)
    assert compare(runs, across=True).main[0].inflation


def test_rows_that_not_all_have_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    whole, cut = predictions(0.4), predictions(0.1, rng=np.random.default_rng(3))
    cut = cut[~((cut["subject"] == "s03") & (cut["trial"] > 10)) & (cut["subject"] != "s08")]
    runs = [write_run(tmp_path / "whole", whole), write_run(tmp_path / "cut", cut)]
    with pytest.raises(UserError) as refused:
        compare(runs)
    assert "cut lacks 14 test trials (s03 2 of 12, s08 12 of 12)" in str(refused.value)
    assert "add --shared to compare on the 82 of 96 that all have" in str(refused.value)
    found = compare(runs, shared=True)
    assert found.shared == "only the 82 of 96 test trials that all runs have"
    assert len(found.units) == 7 and found.trials == 82


def test_other_windows_are_compared_by_trial(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=2, window=4.0)]
    with pytest.raises(UserError, match=r"windows differ between a \(288 of 3 s\) and b \(288 of 4 s\).*--level trial"):
        compare(runs, level="window")
    assert compare(runs).level == "trial"


def test_a_window_at_a_time_every_window_counts(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0.4, seed=1), make_run(tmp_path / "b", 0.1, seed=2)
    found = compare([a, b], level="window")
    table = pd.read_parquet(a / "predictions.parquet")
    hits = (table["y_true"] == table["y_pred"]).groupby(table["subject"]).mean()
    np.testing.assert_allclose(found.runs[0].values["accuracy"], hits.to_numpy())


def test_a_seed_that_tested_less_is_refused(tmp_path: Path) -> None:
    table = predictions(0.3, seeds=(0, 1))
    short = table[(table["seed"] == 0) | (table["trial"] < 12)]
    runs = [write_run(tmp_path / "short", short), make_run(tmp_path / "b")]
    with pytest.raises(
        UserError, match=r"short: not every seed tested the same trials \(88 of 96\); finish it with --res"
    ):
        compare(runs)
    assert compare(runs, shared=True).trials == 88


def test_other_labels_are_refused(tmp_path: Path) -> None:
    table = predictions(0.2)
    same = write_run(tmp_path / "a", table)
    moved = table.assign(threshold_valence=np.where(table["subject"] == "s02", 4.5, 5.0))
    turned = table.assign(y_true=np.where(table["trial"] == 3, (table["y_true"] + 1) % 4, table["y_true"]))
    for name, other, expected in (
        ("rule", table.assign(label_rule="valence > 4, arousal > 4"), "'valence > 5, arousal > 5', rule 'valence > 4"),
        ("threshold", moved, "threshold of valence of s02's trial 1 is 5 in a, 4.5 in threshold"),
        ("label", turned, "the label of s01's trial 3 is 2 in a, 3 in label"),
    ):
        with pytest.raises(UserError, match=expected):
            compare([same, write_run(tmp_path / name, other)])
    two = table.drop(columns=PROB[2:]).assign(y_true=table["y_true"] % 2)
    with pytest.raises(UserError, match="has the classes HAHV, HALV, LAHV, LALV, two HAHV, HALV; compare runs of the"):
        compare([same, write_run(tmp_path / "two", two, classes=list(CLASSES[:2]))])


def _unfinished(path: Path) -> None:
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(record | {"complete": False}))


def _trained(path: Path) -> None:
    table = pd.read_parquet(path / "predictions.parquet")
    write_run(path, table.assign(part="validation"), kind="train")


def _no_column(path: Path) -> None:
    pd.read_parquet(path / "predictions.parquet").drop(columns="y_true").to_parquet(path / "predictions.parquet")


def _permuted(path: Path) -> None:
    write_run(path, predictions(), settings={"data": {"permute_labels": 3}})


def _damaged(path: Path) -> None:
    (path / "predictions.parquet").write_bytes(b"not a table")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_unfinished, "has not finished; run its command again with --resume"),
        (_trained, "found no test part .'milmer train' holds nothing out.; compare runs of 'milmer evaluate'"),
        (_no_column, "found no column y_true"),
        (_permuted, "was run on permuted labels"),
        (_damaged, "predictions.parquet: not readable"),
        (lambda path: (path / "predictions.parquet").unlink(), "has not finished"),
        (lambda path: (path / "run.json").unlink(), "found no run.json, expected a run"),
        (lambda path: (path / "run.json").write_text("{"), "run.json: not readable"),
        (lambda path: (path / "run.json").rename(path / "ablation.json"), "is an ablation, expected runs"),
    ],
)
def test_what_is_no_finished_run_is_refused(spoil: Callable[[Path], object], expected: str, tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    spoil(b)
    with pytest.raises(UserError, match=expected) as refused:
        compare([a, b])
    assert "\n" not in str(refused.value)


def test_names_are_as_short_as_they_can_be_and_a_run_is_named_once(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "x" / "run"), make_run(tmp_path / "y" / "run", seed=1)
    assert [run.name for run in compare([a, b]).runs] == ["x/run", "y/run"]
    with pytest.raises(UserError, match="is named twice"):
        compare([a, b, tmp_path / "x" / ".." / "x" / "run"])
    with pytest.raises(UserError, match="found 1 run, expected two or more"):
        compare([a])
    with pytest.raises(UserError, match=r"--figure macrof1.*did you mean 'macro_f1'"):
        compare([a, b], figure="macrof1")
    with pytest.raises(UserError, match="--level trials: expected trial or window"):
        compare([a, b], level="trials")


def test_differences_of_configuration_and_split_are_told(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", predictions(), split_hash="aa", settings={"model": {"fusion": {"method": "deepcca"}}})
    found = compare([a, write_run(tmp_path / "b", predictions(0.3), split_hash="bb", fingerprint="1")])
    assert found.settings == {"model.fusion.method": ["deepcca", "transformer"]}
    assert any(note.startswith("Splits differ") for note in found.notes)
    assert any(note.startswith("Stores differ") for note in found.notes)


def test_whole_comparisons_of_equal_models_raise_few_alarms(tmp_path: Path) -> None:
    alarms, studies = 0, 30
    for study in range(studies):
        small = {"subjects": 7, "trials": 8, "windows": 1}
        runs = [make_run(tmp_path / n, 0.2, seed=2 * study + i, **small) for i, n in enumerate("ab")]
        found = compare(runs, figure="accuracy")
        alarms += found.separated(found.main[0])
    assert alarms <= 6  # of 30 at 5 %: more than 6 once in a thousand such tests


def answers(seed: int, subjects: int, films: int) -> list[NDArray[np.int64]]:
    """Return person, film, truth and the answers of two models that are as good on average, but not film by film.

    Over all films there are both are right on half of them; nine in ten people get a film's answer.
    """
    rng = np.random.default_rng([seed, 61])
    person, film = np.repeat(np.arange(subjects), films), np.tile(np.arange(films), subjects)  # (n,), (n,)
    y = (rng.permutation(films) % 2)[film]  # (n,)
    right = [(rng.random(films) < 0.5)[film] ^ (rng.random(y.size) < 0.1) for _ in range(2)]  # (n,) each
    return [person, film, y, *(np.where(r, y, 1 - y) for r in right)]


def study(seed: int, protocol: str, subjects: int, films: int) -> list[pd.DataFrame]:
    person, film, y, *models = answers(seed, subjects, films)
    told = {"protocol": protocol, "budget": "none", "label_rule": "valence > 5", "fold": 0, "part": "test", "seed": 0}
    rows = pd.DataFrame({"subject": [f"s{i:02d}" for i in person], "trial": film, "stimulus": [f"f{i}" for i in film]})
    rows = rows.assign(**told, study="made", y_true=y)
    return [rows.assign(prob_low=0.8 - 0.6 * answer, prob_high=0.2 + 0.6 * answer) for answer in models]


def runs_of(folder: Path, tables: list[pd.DataFrame]) -> list[Path]:
    return [write_run(folder / str(i), t, classes=["low", "high"]) for i, t in enumerate(tables)]


def test_equal_models_that_differ_from_film_to_film_are_not_told_apart_where_films_are_new(tmp_path: Path) -> None:
    """Over subjects half of these studies have p <= 0.05: films are few, and all subjects saw the same."""
    for_new, over_subjects = 0, 0
    for seed in range(12):
        found = compare(runs_of(tmp_path, study(seed, "subject-and-stimulus", 9, 10)), figure="accuracy")
        for_new += found.separated(found.main[0])
        over_subjects += found.main[0].p_holm <= 0.05
    assert for_new <= 3  # more at a true 5 %: once in 450 times
    assert over_subjects > for_new


@pytest.mark.parametrize(("subjects", "films"), [(16, 10), (8, 8)])
def test_differences_for_new_films_are_called_real_one_time_in_twenty(subjects: int, films: int) -> None:
    classes, studies = ("low", "high"), 400
    calls = 0
    for seed in range(studies):
        person, film, y, *models = answers(seed, subjects, films)
        runs = [
            crossed(y, np.stack([0.8 - 0.6 * a, 0.2 + 0.6 * a], axis=1), person, film, classes, ("accuracy",))
            for a in models
        ]
        calls += also_new(*runs, "accuracy", 0.95, 1.0).p <= 0.05
    assert 0.02 <= calls / studies <= 0.085  # standard error 0.011; over 1,000 studies 0.058 and 0.048


@pytest.mark.parametrize("protocol", ["stimulus", "subject-and-stimulus", "cross-study"])
def test_a_difference_on_all_films_is_found_where_films_are_new(tmp_path: Path, protocol: str) -> None:
    runs = [make_run(tmp_path / str(s), s, seed=i, protocol=protocol) for i, s in enumerate((0.0, 0.1, 0.7))]
    found = compare(runs)
    apart = [found.separated(p) for p in found.main]
    assert found.for_new and found.judged and apart[1:] == [True, True]
    assert apart == [p.new is not None and p.new.p_holm <= 0.05 for p in found.main]
    assert found.groups == (() if apart[0] else ((1, 0),))
    assert any("told apart by the difference for new stimuli (8 subjects, 12 stimuli)" in n for n in found.notes)
    pairs = found.to_json()["pairs"]
    assert pairs[0]["new_stimuli"]["p_holm"] >= pairs[0]["new_stimuli"]["p"] and found.to_json()["judged"]


def test_the_pooled_difference_is_that_of_all_trials_and_varies_as_intervals_say(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(s), s, seed=i) for i, s in enumerate((0.1, 0.4))]
    found = compare(runs)
    pooled = []
    for run in runs:
        table = pd.read_parquet(run / "predictions.parquet")
        trials = table.groupby(["subject", "stimulus", "y_true"], as_index=False)[PROB].mean()
        pooled.append(trials.assign(y_pred=trials[PROB].to_numpy().argmax(axis=1)))

    def gap(keep: NDArray[np.bool_]) -> float:
        scores = [
            f1_score(t["y_true"][keep], t["y_pred"][keep], labels=range(4), average="macro", zero_division=0)
            for t in pooled
        ]
        return float(scores[0] - scores[1])

    rows = pooled[0]
    cells = rows["subject"] + rows["stimulus"]
    left = [[gap((c != u).to_numpy()) for u in c.unique()] for c in (rows["subject"], rows["stimulus"], cells)]
    whole, new = gap(np.ones(len(rows), dtype=bool)), found.main[0].new
    assert new is not None and new.difference == pytest.approx(whole)
    assert (new.low, new.high) == pytest.approx(two_way(whole, *left))
    assert not found.for_new and found.separated(found.main[0]) == (found.main[0].p_holm <= 0.05)


def test_too_few_films_or_films_without_names_are_not_judged_where_they_are_new(tmp_path: Path) -> None:
    for name, change, why in (
        ("few", {"trials": 5}, "8 subjects and 5 stimuli, where 6 of each are needed"),
        ("none", {}, "not every row names its stimulus"),
    ):
        tables = [
            predictions(s, rng=np.random.default_rng(9), protocol="subject-and-stimulus", **change) for s in (0.0, 0.9)
        ]
        if name == "none":
            tables = [t.drop(columns="stimulus") for t in tables]
        found = compare([write_run(tmp_path / name / str(i), t) for i, t in enumerate(tables)])
        assert found.main[0].p_holm < 0.05 and found.main[0].new is None
        assert not found.judged and not found.separated(found.main[0]) and found.stimuli.why == why
        assert any("tests over subjects speak of these stimuli only" in note for note in found.notes)
        assert found.to_json()["no_new_stimuli"] == why and len(found.groups) == 1


def test_one_persons_trials_of_a_film_each_are_judged_as_films(tmp_path: Path) -> None:
    tables = [predictions(s, subjects=1, trials=30, protocol="stimulus") for s in (0.0, 0.9)]
    found = compare([write_run(tmp_path / "own" / str(i), t) for i, t in enumerate(tables)])
    assert found.unit == "trial" and not found.for_new and found.separated(found.main[0])
    twice = [t.assign(stimulus=[f"f{n // 2}" for n in t["trial"]]) for t in tables]
    found = compare([write_run(tmp_path / "twice" / str(i), t) for i, t in enumerate(twice)])
    assert found.for_new and not found.judged


def test_without_any_spread_the_other_test_decides() -> None:
    flat = Crossed({"accuracy": 1.0}, {"accuracy": (np.ones(6), np.ones(6), np.ones(36))})
    none = Crossed({"accuracy": 0.0}, {"accuracy": (np.zeros(6), np.zeros(6), np.zeros(36))})
    assert also_new(flat, none, "accuracy", 0.95, 0.03).p == 0.03
    assert also_new(flat, flat, "accuracy", 0.95, 0.03).p == 1
