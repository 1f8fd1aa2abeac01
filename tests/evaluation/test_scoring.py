import json
import time

import numpy as np
import pandas as pd
import pytest

from milmer.config import Evaluation
from milmer.errors import UserError
from milmer.evaluation.metrics import PRINCIPAL, classification
from milmer.evaluation.protocols import make_splits
from milmer.evaluation.scoring import figures, point_figures, trial_level

CLASSES = ("HAHV", "HALV", "LAHV", "LALV")
PROB = [f"prob_{c}" for c in CLASSES]


def predictions(
    subjects: int = 6,
    trials: int = 12,
    windows: int = 3,
    effect: float = 1.0,
    protocol: str = "trial",
    seed: int = 0,
    train: bool = False,
) -> pd.DataFrame:
    """Predictions of a run, as good as `effect`; an effect of 0 knows nothing of the label."""
    rng = np.random.default_rng(seed)
    rows = [(f"s{s}", "", t, w) for s in range(subjects) for t in range(trials) for w in range(windows)]
    table = pd.DataFrame(rows, columns=["subject", "session", "trial", "window"])
    y = np.repeat(np.concatenate([rng.permutation(np.arange(trials) % 4) for _ in range(subjects)]), windows)
    out = []
    for split in make_splits(table, y, protocol, None, seed):
        for part in ("train", "validation", "test") if train else ("validation", "test"):
            index = getattr(split, part)
            z = rng.normal(size=(index.size, 4)) + effect * np.eye(4)[y[index]]
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            rows = table.iloc[index].assign(part=part, fold=split.fold, y_true=y[index])
            out.append(rows.assign(**dict(zip(PROB, p.T, strict=True))))
    found = pd.concat(out, ignore_index=True).assign(protocol=protocol, seed=7, study="deap", rating_valence=np.nan)
    found["frame_weights"] = [[0.5, 0.5]] * len(found)
    return found


def pick(rows: list[dict], name: str, level: str = "window", part: str = "test", subject: str | None = None) -> dict:
    found = [r for r in rows if (r["name"], r["level"], r["part"], r.get("subject")) == (name, level, part, subject)]
    assert len(found) == 1
    return found[0]


def test_trial_level_averages_windows_of_a_fold_and_part() -> None:
    table = predictions()
    trials = trial_level(table, CLASSES)
    assert len(trials) == 2 * 72 and (trials["windows"] == 3).all()
    one = table[(table["part"] == "test") & (table["subject"] == "s2") & (table["trial"] == 5)]
    row = trials[(trials["part"] == "test") & (trials["subject"] == "s2") & (trials["trial"] == 5)].iloc[0]
    np.testing.assert_allclose(row[PROB].to_numpy(float), one[PROB].mean().to_numpy())
    assert row["y_pred"] == one[PROB].mean().to_numpy().argmax()
    assert row["y_true"] == one["y_true"].iloc[0]
    assert "rating_valence" in trials and "frame_weights" not in trials


def test_every_figure_is_there_with_value_interval_chance_and_majority() -> None:
    table = predictions(train=True)
    rows = figures(table, Evaluation(resamples=200), CLASSES)
    json.dumps(rows, allow_nan=False)  # plain numbers, None where undefined
    keys = {"name", "level", "part", "protocol", "value", "low", "high", "n", "n_of", "majority", "seed"}
    keys |= {"chance", "chance_high", "chance_how", "p", "interval_how"}
    for level, source in (("window", table), ("trial", trial_level(table, CLASSES))):
        for part in ("test", "validation"):
            mine = source[source["part"] == part]
            values = classification(mine["y_true"], mine[PROB], CLASSES)
            for name, value in values.items():
                row = pick(rows, name, level, part)
                assert keys == set(row)
                assert row["value"] == pytest.approx(value)
                assert (row["n"], row["n_of"]) == ((216, "windows") if level == "window" else (72, "trials"))
                assert (row["protocol"], row["seed"]) == ("trial", 7)
                if name in PRINCIPAL:
                    assert row["low"] < row["high"]
                    if name != "ece":  # resampling adds to a calibration error, which no noise can make negative
                        assert row["low"] < row["value"] < row["high"]
                else:
                    assert row["low"] is None and row["high"] is None
            for subject in sorted(set(mine["subject"])):
                own = mine[mine["subject"] == subject]
                for name in ("accuracy", "macro_f1"):
                    row = pick(rows, name, level, part, subject)
                    assert row["value"] == pytest.approx(classification(own["y_true"], own[PROB], CLASSES)[name])
                    assert 0 < row["chance"] < row["chance_high"] < 1
    accuracy = pick(rows, "accuracy")
    assert accuracy["p"] < 0.01 and accuracy["chance"] == pytest.approx(0.25, abs=0.02)
    assert pick(rows, "log_loss")["chance_high"] < pick(rows, "log_loss")["chance"]
    assert pick(rows, "brier")["p"] < 0.01
    assert "trials within 6 subjects" in accuracy["interval_how"]
    assert accuracy["chance_how"] == "labels permuted between a subject's trials, predictions held"


def test_without_an_effect_nothing_is_above_chance_more_often_than_it_should_be() -> None:
    ps = [
        pick(figures(predictions(effect=0, seed=s, trials=8), Evaluation(resamples=100), CLASSES), "macro_f1")["p"]
        for s in range(16)
    ]
    assert np.mean(np.array(ps) <= 0.05) <= 0.25
    assert 0.3 < np.mean(ps) < 0.7


def test_majority_follows_from_training_rows_given_or_not() -> None:
    whole = predictions(train=True, trials=10)  # 10 trials of 4 classes: uneven
    without = whole[whole["part"] != "train"]
    given, derived = (figures(t, Evaluation(resamples=100), CLASSES) for t in (whole, without))
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert pick(given, name)["majority"] == pytest.approx(pick(derived, name)["majority"])
    right = []
    for fold in range(5):
        train = whole[(whole["fold"] == fold) & (whole["part"] == "train")]["y_true"]
        test = whole[(whole["fold"] == fold) & (whole["part"] == "test")]["y_true"]
        right += (test == np.bincount(train, minlength=4).argmax()).tolist()
    assert pick(given, "accuracy")["majority"] == pytest.approx(np.mean(right))
    assert pick(given, "cohen_kappa")["majority"] < 0.05


def test_majority_is_unknown_where_training_rows_cannot_be_known() -> None:
    table = predictions()
    only = table[table["part"] == "validation"]
    rows = figures(only, Evaluation(resamples=100), CLASSES)
    assert {r["part"] for r in rows} == {"validation"}
    assert pick(rows, "accuracy", part="validation")["majority"] is None


def test_reruns_with_permuted_labels_replace_the_held_null() -> None:
    table = predictions()
    runs = [predictions(effect=0, seed=s) for s in range(1, 10)]
    config = Evaluation(resamples=100)
    from_tables = figures(table, config, CLASSES, permuted=runs)
    row = pick(from_tables, "macro_f1", "trial")
    null = [pick(point_figures(r, CLASSES), "macro_f1", "trial", subject="")["value"] for r in runs]
    assert row["chance_how"] == "9 re-runs with permuted labels"
    assert row["chance"] == pytest.approx(np.mean(null))
    assert row["chance_high"] == pytest.approx(np.quantile(null, 0.95))
    assert row["p"] == pytest.approx(1 / 10)
    assert pick(from_tables, "accuracy", subject="s3")["chance_how"].startswith("9 re-runs")
    flat = [row for r in runs for row in point_figures(r, CLASSES)]
    assert figures(table, config, CLASSES, permuted=flat) == from_tables
    assert figures(table, config, CLASSES, permuted=pd.DataFrame(flat)) == from_tables
    tests_only = [r[r["part"] == "test"] for r in runs]  # what an evaluation keeps of its re-runs
    mixed = figures(table, config, CLASSES, permuted=tests_only)
    assert pick(mixed, "macro_f1", "trial") == row
    assert pick(mixed, "macro_f1", part="validation")["chance_how"].endswith("predictions held")


def test_subject_protocol_resamples_subjects_and_needs_six() -> None:
    rows = figures(predictions(protocol="subject"), Evaluation(protocol="subject", resamples=100), CLASSES)
    assert pick(rows, "accuracy")["interval_how"] == "bootstrap over 6 subjects"
    few = figures(predictions(5, protocol="subject"), Evaluation(protocol="subject", resamples=100), CLASSES)
    row = pick(few, "accuracy")
    assert row["low"] is None and "at least 6" in row["interval_how"] and row["p"] is not None


def test_intervals_widen_with_differences_between_subjects() -> None:
    table = predictions(8, 12, 4, effect=0.3, protocol="subject")
    good = table["subject"].isin(["s0", "s1", "s2"]).to_numpy()
    table.loc[good, PROB] = np.eye(4)[table.loc[good, "y_true"]] * 0.9 + 0.025
    config = Evaluation(resamples=300)
    over_subjects = pick(figures(table, config, CLASSES), "accuracy")
    over_trials = pick(figures(table.assign(protocol="trial"), config, CLASSES), "accuracy")
    wide, narrow = (r["high"] - r["low"] for r in (over_subjects, over_trials))
    assert wide > 2 * narrow


def test_a_class_a_subject_permutes_between_subjects_and_says_so() -> None:
    table = predictions(8, 4, 2, protocol="subject")
    table["y_true"] = table["subject"].str[1:].astype(int) % 4
    row = pick(figures(table, Evaluation(resamples=100), CLASSES), "accuracy")
    assert "between all trials" in row["chance_how"] and row["chance"] is not None
    table["y_true"] = 0
    row = pick(figures(table, Evaluation(resamples=100), CLASSES), "accuracy")
    assert row["chance"] is None and "one class" in row["chance_how"]
    assert pick(figures(table, Evaluation(resamples=100), CLASSES), "auroc")["value"] is None


def test_window_protocol_counts_a_trial_once() -> None:
    rows = figures(predictions(protocol="window", windows=6), Evaluation(resamples=100), CLASSES)
    assert pick(rows, "accuracy", "trial")["n"] == 72
    assert pick(rows, "accuracy", "window")["n"] == 432


def test_unlabelled_rows_count_nowhere_and_the_seed_decides_all() -> None:
    table = predictions()
    extra = pd.concat([table, table.iloc[:9].assign(y_true=-1)], ignore_index=True)
    config = Evaluation(resamples=100)
    assert figures(extra, config, CLASSES) == figures(table, config, CLASSES)
    other = figures(table, Evaluation(resamples=100, seed=1), CLASSES)
    assert pick(other, "accuracy")["low"] != pick(figures(table, config, CLASSES), "accuracy")["low"]


def test_two_classes_and_two_studies() -> None:
    table = predictions()
    table = table.assign(y_true=table["y_true"] // 2, prob_low=table[PROB[:2]].sum(axis=1))
    table["prob_high"] = 1 - table["prob_low"]
    table = pd.concat([table, table.assign(study="other")], ignore_index=True)
    rows = figures(table, Evaluation(resamples=100), ("low", "high"))
    assert pick(rows, "auroc")["p"] < 0.05
    assert pick(rows, "accuracy", subject="other/s1")["n"] == 36
    assert "within 12 subjects" in pick(rows, "accuracy")["interval_how"]
    assert pick(rows, "f1/low")["chance"] == pytest.approx(0.5, abs=0.1)


def test_mistakes_are_named() -> None:
    table = predictions()
    with pytest.raises(UserError, match="no column prob_LALV"):
        figures(table.drop(columns="prob_LALV"), Evaluation(), CLASSES)
    with pytest.raises(UserError, match="no row with a label"):
        figures(table.assign(y_true=-1), Evaluation(), CLASSES)
    with pytest.raises(UserError, match=r"the parts \['train'\]"):
        figures(table.assign(part="train"), Evaluation(), CLASSES)


def test_a_study_of_demo_size_is_scored_in_seconds() -> None:
    table = predictions(6, 12, 21)
    begun = time.process_time()
    figures(table, Evaluation(), CLASSES)
    assert time.process_time() - begun < 3
