import json
import time

import numpy as np
import pandas as pd
import pytest

from milmer.config import Evaluation
from milmer.errors import UserError
from milmer.evaluation.intervals import jackknife
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
    main = [
        r for r in found if r.get("target", "valence-arousal") == found[0].get("target") and not r.get("calibrated")
    ]
    assert len(main) == 1 and main[0] is found[0]  # the main figure comes first
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
    keys = {"name", "target", "level", "part", "protocol", "value", "low", "high", "interval_how", "n", "n_of"}
    keys |= {"low_new", "high_new", "interval_new_how", "chance", "chance_high", "chance_how", "p", "majority", "prior"}
    keys |= {"above", "above_how", "no_signal", "gain", "gain_low", "gain_high", "seed", "seeds", "seed_sd"}
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
                assert row["low"] < row["value"] < row["high"] or name not in PRINCIPAL
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
    assert accuracy["interval_how"] == "jackknife over 6 subjects"
    assert pick(rows, "accuracy", subject="s3")["interval_how"] == "jackknife over 12 trials of one subject"
    assert accuracy["chance_how"] == "labels permuted between a subject's trials, predictions held"


def test_without_an_effect_nothing_is_above_chance_more_often_than_it_should_be() -> None:
    ps = [
        pick(figures(predictions(effect=0, seed=s, trials=8), Evaluation(resamples=100), CLASSES), "macro_f1")["p"]
        for s in range(12)
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


def test_intervals_are_over_subjects_and_need_six() -> None:
    for protocol in ("trial", "subject"):
        rows = figures(predictions(protocol=protocol), Evaluation(protocol=protocol, resamples=100), CLASSES)
        assert pick(rows, "accuracy")["interval_how"] == "jackknife over 6 subjects"
    few = figures(predictions(5, protocol="subject"), Evaluation(protocol="subject", resamples=100), CLASSES)
    row = pick(few, "accuracy")
    assert row["low"] is None and "at least 6" in row["interval_how"] and row["p"] is not None
    lone = pick(figures(predictions(1, 20), Evaluation(resamples=100), CLASSES), "accuracy")
    assert lone["interval_how"] == "jackknife over 20 trials of one subject" and lone["low"] < lone["value"]


def test_an_interval_is_that_of_each_subject_left_out_by_hand() -> None:
    table = predictions(7)
    row = pick(figures(table, Evaluation(resamples=100), CLASSES), "auroc")
    tested = table[table["part"] == "test"]
    left = []
    for subject in sorted(set(tested["subject"])):
        rest = tested[tested["subject"] != subject]
        left.append(classification(rest["y_true"], rest[PROB], CLASSES)["auroc"])
    assert jackknife(row["value"], left, 0.95, "unit") == pytest.approx((row["low"], row["high"]))


def test_intervals_widen_with_differences_between_subjects() -> None:
    alike = predictions(8, 12, 4, effect=0.6, protocol="subject")
    table = alike.copy()
    good = table["subject"].isin(["s0", "s1", "s2"]).to_numpy()
    table.loc[good, PROB] = np.eye(4)[table.loc[good, "y_true"]] * 0.9 + 0.025
    config = Evaluation(resamples=100)
    wide, narrow = (pick(figures(t, config, CLASSES), "accuracy") for t in (table, alike))
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_a_class_a_subject_permutes_between_subjects_and_says_so() -> None:
    table = predictions(8, 4, 2, protocol="subject")
    table["y_true"] = table["subject"].str[1:].astype(int) % 4
    row = pick(figures(table, Evaluation(resamples=100), CLASSES), "accuracy")
    assert "between subjects" in row["chance_how"] and row["chance"] is not None
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
    assert pick(other, "accuracy")["chance"] != pick(figures(table, config, CLASSES), "accuracy")["chance"]


def test_two_classes_and_two_studies() -> None:
    table = predictions()
    table = table.assign(y_true=table["y_true"] // 2, prob_low=table[PROB[:2]].sum(axis=1))
    table["prob_high"] = 1 - table["prob_low"]
    table = pd.concat([table, table.assign(study="other")], ignore_index=True)
    rows = figures(table, Evaluation(resamples=100), ("low", "high"))
    assert pick(rows, "auroc")["p"] < 0.05
    assert pick(rows, "accuracy", subject="other/s1")["n"] == 36
    assert pick(rows, "accuracy")["interval_how"] == "jackknife over 12 subjects"
    assert pick(rows, "f1/low")["chance"] == pytest.approx(0.5, abs=0.1)


def test_one_rating_as_low_and_high_has_its_own_ratings() -> None:
    table = rated(predictions(train=True))
    table = table.assign(
        y_true=table["y_true"].isin([0, 2]).astype(int), prob_high=table[[PROB[0], PROB[2]]].sum(axis=1)
    )
    table = table.assign(
        prob_low=1 - table["prob_high"], label_rule="valence > median of the subject's training trials"
    )
    rows = figures(table, Evaluation(resamples=100), ("low", "high"))
    assert {r["target"] for r in rows} == {"valence"}
    assert {(r["name"], r["level"]) for r in rows if r["name"] in ("ccc", "rmse", "pearson")} == {
        (name, level) for name in ("ccc", "rmse", "pearson") for level in ("window", "trial")
    }
    calibrated = [r for r in rows if r.get("calibrated")]
    assert [r["name"] for r in calibrated] == ["log_loss", "brier", "ece"]
    assert all(r["level"] == "trial" and r["part"] == "test" for r in calibrated)


def test_mistakes_are_named() -> None:
    table = predictions()
    with pytest.raises(UserError, match="no column prob_LALV"):
        figures(table.drop(columns="prob_LALV"), Evaluation(), CLASSES)
    with pytest.raises(UserError, match="no row with a label"):
        figures(table.assign(y_true=-1), Evaluation(), CLASSES)
    with pytest.raises(UserError, match=r"the parts \['train'\]"):
        figures(table.assign(part="train"), Evaluation(), CLASSES)


def rated(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Give every trial a stimulus, and ratings that agree with its class."""
    rng = np.random.default_rng(seed)
    y = table["y_true"].to_numpy()
    high = {"valence": np.isin(y, (0, 2)), "arousal": np.isin(y, (0, 1))}
    trial = table.groupby(["subject", "trial"]).ngroup().to_numpy()
    spread = rng.uniform(0, 3.5, (2, trial.max() + 1))
    ratings = {
        f"rating_{name}": 5 + np.where(high[name], 0.2 + spread[i, trial], -spread[i, trial])
        for i, name in enumerate(high)
    }
    return table.assign(stimulus="v" + table["trial"].astype(str), label_rule="valence > 5, arousal > 5", **ratings)


def test_binary_valence_and_arousal_and_ratings_follow_the_main_target() -> None:
    table = rated(predictions(train=True))
    rows = figures(table, Evaluation(resamples=100), CLASSES)
    json.dumps(rows, allow_nan=False)
    tested = table[table["part"] == "test"]
    for name, high in (("valence", [0, 2]), ("arousal", [0, 1])):
        p = tested[[PROB[c] for c in high]].sum(axis=1).to_numpy()
        y = tested["y_true"].isin(high).to_numpy().astype(int)
        values = classification(y, np.stack([1 - p, p], axis=1), ("low", "high"))
        mine = [r for r in rows if r["target"] == name and r["level"] == "window"]
        assert {r["part"] for r in mine} == {"test"}
        for row in mine[: len(values)]:
            assert row["value"] == pytest.approx(values[row["name"]]) and row["low"] is not None
        (ccc,) = [r for r in mine if r["name"] == "ccc"]
        assert 0 < ccc["value"] < 1 and ccc["low"] < ccc["value"] < ccc["high"] and ccc["p"] < 0.05
        (rmse,) = [r for r in mine if r["name"] == "rmse"]
        expected = np.empty(len(tested))
        for fold in range(5):
            train = table[(table["part"] == "train") & (table["fold"] == fold)]
            means = train.groupby("y_true")[f"rating_{name}"].mean().reindex(range(4)).to_numpy()
            at = (tested["fold"] == fold).to_numpy()
            expected[at] = tested.loc[at, PROB].to_numpy() @ means
        error = np.sqrt(np.mean((expected - tested[f"rating_{name}"].to_numpy()) ** 2))
        assert rmse["value"] == pytest.approx(error)
        assert rmse["majority"] > rmse["value"] and rmse["above"] < rmse["chance"]
    targets = [r["target"] for r in rows]
    assert targets.index("valence") > max(i for i, t in enumerate(targets) if t == "valence-arousal")


def test_without_training_rows_there_are_no_ratings_and_no_gain() -> None:
    rows = figures(rated(predictions()), Evaluation(resamples=100), CLASSES)
    assert not [r for r in rows if r["name"] in ("ccc", "rmse", "pearson")]
    assert pick(rows, "accuracy")["gain"] is None and pick(rows, "accuracy")["majority"] is not None


def test_the_gain_is_over_what_others_said_of_the_stimulus() -> None:
    table = predictions(8, train=True)
    table["y_true"] = table["trial"] % 4  # everybody is of one mind about a stimulus
    row = pick(figures(rated(table), Evaluation(resamples=100), CLASSES), "accuracy", "trial")
    assert row["no_signal"] == 1 and row["gain"] == pytest.approx(row["value"] - 1)
    assert row["gain_low"] < row["gain"] < row["gain_high"] < 0
    loss = pick(figures(rated(table), Evaluation(resamples=100), CLASSES), "log_loss", "trial")
    assert loss["gain"] == pytest.approx(loss["no_signal"] - loss["value"])  # positive is better, here too
    alone = figures(rated(table).assign(stimulus=""), Evaluation(resamples=100), CLASSES)
    assert pick(alone, "accuracy")["no_signal"] is None and pick(alone, "accuracy")["low_new"] is None


def test_claims_about_new_stimuli_have_their_own_interval() -> None:
    table = rated(predictions(8, 16))
    easy = table["trial"].isin([0, 1, 2, 3, 4]).to_numpy()
    table.loc[easy, PROB] = np.eye(4)[table.loc[easy, "y_true"]] * 0.9 + 0.025
    row = pick(figures(table, Evaluation(resamples=100), CLASSES), "accuracy")
    assert row["interval_new_how"] == "jackknife over 8 subjects and 16 stimuli"
    assert row["high_new"] - row["low_new"] > 1.5 * (row["high"] - row["low"])
    own = table.assign(stimulus=table["subject"] + table["trial"].astype(str))  # nobody sees what another sees
    assert pick(figures(own, Evaluation(resamples=100), CLASSES), "accuracy")["low_new"] is None


def test_seeds_are_pooled_and_count_a_trial_once() -> None:
    one, two = (predictions(seed=s, train=True).assign(seed=s) for s in (3, 4))
    two["y_true"] = two.merge(
        one.drop_duplicates(["subject", "trial"])[["subject", "trial", "y_true"]], on=["subject", "trial"], how="left"
    )["y_true_y"].to_numpy()
    config = Evaluation(resamples=100)
    row, a, b = (
        pick(figures(t, config, CLASSES), "accuracy") for t in (pd.concat([one, two], ignore_index=True), one, two)
    )
    assert (row["n"], row["seed"], row["seeds"]) == (216, 3, 2) and (a["seeds"], a["seed_sd"]) == (1, None)
    assert row["value"] == pytest.approx((a["value"] + b["value"]) / 2)
    assert row["seed_sd"] == pytest.approx(np.std([a["value"], b["value"]], ddof=1))
    assert row["above"] == pytest.approx(a["above"], abs=0.03) and "72 trials" in row["above_how"]


def test_a_model_for_each_subject_has_its_own_training_frequencies() -> None:
    parts = []
    for s in range(6):
        mine = predictions(1, 20, 2, train=True, seed=s)
        parts.append(mine.assign(subject=f"s{s}", fold=mine["fold"] + 5 * s))
    table = pd.concat(parts, ignore_index=True)
    table.loc[table["subject"] == "s0", "y_true"] = 3
    rows = figures(rated(table), Evaluation(resamples=100, scope="subject"), CLASSES)
    assert pick(rows, "accuracy", subject="s0")["majority"] == 1
    assert pick(rows, "accuracy", subject="s1")["majority"] < 0.6
    assert pick(rows, "accuracy")["no_signal"] is None  # training has no other subject
    without = figures(table[table["part"] != "train"], Evaluation(resamples=100, scope="subject"), CLASSES)
    assert pick(without, "accuracy")["majority"] is None  # who trained on what does not follow from the tests


def test_a_study_of_deaps_size_is_scored_in_seconds() -> None:
    table = predictions(32, 40, 20)
    figures(table.iloc[:5000], Evaluation(resamples=100), CLASSES)  # what is imported late is not the figures' time
    begun = time.process_time()
    figures(table, Evaluation(), CLASSES)
    assert time.process_time() - begun < 6  # 1.5 s on a machine with nothing else to do
