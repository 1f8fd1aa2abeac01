"""Another toolkit's work: leaky folds are called leaky, honest ones clean, and what was not given is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milmer.errors import UserError
from milmer.evaluation.audit import scores
from milmer.evaluation.audit.external import audit_tables, judge_tables

from .tables_made import deal, study, write


def answers(info: pd.DataFrame, right: Any, of_row: Any) -> pd.DataFrame:
    other = info["label"].map({"low": "high", "high": "low"})
    truth = info["label"]
    return pd.DataFrame(
        {"clip_id": info["clip_id"], "fold": of_row, "y_true": truth, "y_pred": np.where(right, truth, other)}
    )


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    info, x = study(8, 10, 4)
    write(tmp_path / "info.csv", info)
    write(tmp_path / "x.parquet", info[["clip_id"]].join(pd.DataFrame(x, columns=[f"f{i}" for i in range(8)])))
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 4, len(info))
    trials = rng.permutation(np.arange(80) % 4)[np.arange(len(info)) // 4]
    return {"info": info, "path": tmp_path, "clips": clips, "trials": trials, "rng": rng}


def judged(made: dict[str, Any], of_row: Any, features: bool = True, **options: Any) -> dict[str, Any]:
    path = made["path"]
    folder = deal(path / "folds", made["info"], of_row)
    return judge_tables(path / "info.csv", folder, None, path / "x.parquet" if features else None, **options)


def test_clips_dealt_at_random_are_leaky(made: dict[str, Any]) -> None:
    found = judged(made, made["clips"])
    entry = found["protocols"][0]
    assert (entry["protocol"], entry["verdict"]) == ("window", "leaky")
    assert entry["permuted"]["excess"] > 0.3
    assert found["headline"].startswith("Leaky (protocol window).")
    json.dumps(found, allow_nan=False)


def test_whole_trials_are_clean_and_forced_names_are_judged(made: dict[str, Any]) -> None:
    found = judged(made, made["trials"])
    entry = found["protocols"][0]
    assert (entry["protocol"], entry["verdict"]) == ("trial", "clean")
    assert "permuted labels are not found" in entry["sentence"].lower()
    asked = judge_tables(made["path"] / "info.csv", made["path"] / "folds", protocol="subject")["protocols"][0]
    assert asked["verdict"] == "leaky"
    assert "8 of 8 by subject" in asked["sentence"]
    assert any("judged as 'subject', as asked" in n for n in asked["notes"])


def test_without_features_only_what_was_seen_is_judged(made: dict[str, Any]) -> None:
    found = judged(made, made["trials"], features=False)
    entry = found["protocols"][0]
    assert entry["verdict"] == "not judged" and "Nothing is shared that may not be" in entry["sentence"]
    assert entry["permuted"] is None and any("--features" in n for n in entry["notes"])
    leaky = judge_tables(made["path"] / "info.csv", deal(made["path"] / "c", made["info"], made["clips"]))
    assert leaky["protocols"][0]["verdict"] == "leaky"


def test_a_broken_split_by_subject_is_suspected(made: dict[str, Any]) -> None:
    info = made["info"]
    of_row = (info["subject_id"].str[1:].astype(int) // 2).to_numpy().copy()
    of_row[:4] = 3  # one trial of s0 went to another fold
    found = judged(made, of_row, features=False)["protocols"][0]
    assert found["protocol"] == "trial"
    assert any("Only 1 of 8 subjects are on two sides" in n for n in found["notes"])


def test_validation_that_training_knows_is_noted(made: dict[str, Any]) -> None:
    info, path = made["info"], made["path"]
    part = np.where(made["trials"] == 0, "test", np.where(made["clips"] == 0, "validation", "train"))
    file = write(path / "s.csv", info[["clip_id"]].assign(part=part))
    entry = judge_tables(path / "info.csv", file)["protocols"][0]
    assert entry["protocol"] == "trial" and entry["verdict"] == "not judged"
    assert any("trials of validation are in training too" in n for n in entry["notes"])


def test_copies_alone_make_it_leaky(made: dict[str, Any]) -> None:
    x = pd.read_parquet(made["path"] / "x.parquet")
    test = np.flatnonzero(made["trials"] == 0)[0]
    train = np.flatnonzero(made["trials"] == 1)[0]
    x.iloc[test, 1:] = x.iloc[train, 1:].to_numpy()
    x.to_parquet(made["path"] / "x.parquet", index=False)
    entry = judged(made, made["trials"])["protocols"][0]
    assert entry["verdict"] == "leaky" and "Arrays are on two sides" in entry["sentence"]


def test_the_label_is_the_recording(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"subject": np.repeat([f"s{i}" for i in range(9)], 12), "trial": np.tile(np.repeat([1, 2], 6), 9)}
    )
    rows["start"] = np.tile(np.arange(6) * 2.0, 18)
    rows["stop"], rows["recording"], rows["label"] = (
        rows["start"] + 2,
        rows["trial"],
        rows["trial"].map({1: "a", 2: "b"}),
    )
    rows["sample"] = np.arange(len(rows))
    write(tmp_path / "m.csv", rows)
    folder = deal(tmp_path / "f", rows, np.repeat(np.arange(9) % 3, 12))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(len(rows), 6)))
    entry = judge_tables(tmp_path / "m.csv", folder, None, tmp_path / "x.npy")["protocols"][0]
    assert (entry["protocol"], entry["verdict"]) == ("subject", "confounded")
    assert entry["sentence"].startswith("The label is the recording")


def test_score_dose_and_gain_from_predictions(made: dict[str, Any]) -> None:
    info, path, rng = made["info"], made["path"], made["rng"]
    of_row = made["trials"].copy()
    trial = np.arange(len(info)) // 4
    leaked = np.isin(trial, np.flatnonzero(np.arange(80) % 3 == 0)) & (np.arange(len(info)) % 4 == 0)
    of_row[leaked] = (of_row[leaked] + 1) % 4  # a third of the trials has its first clip in another fold
    affected = np.isin(trial, trial[leaked])
    right = rng.random(len(info)) < np.where(affected, 0.9, 0.5)
    write(path / "p.csv", answers(info, right, of_row))
    found = judge_tables(path / "info.csv", deal(path / "folds", info, of_row), path / "p.csv")
    dose = found["inflation"][0]
    own = pd.DataFrame({"s": info["subject_id"], "a": affected, "r": right}).groupby(["s", "a"])["r"].mean().unstack()
    gap = own[True] - own[False]
    assert dose["difference"] == pytest.approx(gap.mean())
    half = 2.3646 * gap.std(ddof=1) / np.sqrt(8)  # Student's quantile of 7 degrees
    assert (dose["high"] - dose["low"]) / 2 == pytest.approx(half, rel=1e-3)
    observed = found["protocols"][0]["observed"]
    assert observed["score"] == pytest.approx(pd.Series(right).groupby(info["subject_id"]).mean().mean())
    assert len(observed["folds"]) == 4 and abs(observed["chance"] - 0.5) < 0.06
    assert found["no_signal"]["probe"] == observed["score"]
    assert found["no_signal"]["gain"] == pytest.approx(observed["score"] - found["no_signal"]["score"])
    json.dumps(found, allow_nan=False)


def test_labels_come_from_where_they_are(made: dict[str, Any]) -> None:
    info, path = made["info"], made["path"]
    folder = deal(path / "f", info, made["trials"])
    bare = write(path / "bare.csv", info.drop(columns="label"))
    said = answers(info, np.ones(len(info), dtype=bool), made["trials"])
    with pytest.raises(UserError, match="no column y_true, nor a label or ratings"):
        judge_tables(bare, folder, write(path / "p.csv", said.drop(columns="y_true")))
    assert judge_tables(bare, folder, write(path / "p.csv", said))["label_rule"] == "y_true of the predictions"
    assert judge_tables(path / "info.csv", folder)["label_rule"] == "label as given"
    rated = write(path / "rated.csv", info.drop(columns="label").assign(valence=np.where(info["label"] == "low", 3, 7)))
    assert judge_tables(rated, folder)["label_rule"].startswith("valence > 5")
    assert judge_tables(rated, folder, target="valence")["confounds"]
    none = judge_tables(bare, folder)
    assert none["confounds"] == [] and any("none are given" in n for n in none["protocols"][0]["notes"])
    with pytest.raises(UserError, match="y_true differs from the metadata's label in"):
        judge_tables(
            path / "info.csv", folder, write(path / "q.csv", said.assign(y_true=said["y_true"].to_numpy()[::-1]))
        )
    with pytest.raises(UserError, match="the same names"):
        judge_tables(path / "info.csv", folder, write(path / "q.csv", said.assign(y_pred=1)))
    with pytest.raises(UserError, match="no such protocol"):
        judge_tables(bare, folder, protocol="loso")


def test_one_class_only_is_said(made: dict[str, Any]) -> None:
    info, path = made["info"], made["path"]
    one = write(path / "one.csv", info.assign(label="low"))
    found = judge_tables(one, deal(path / "f", info, made["trials"]), None, path / "x.parquet")
    assert any("one class only" in n for n in found["protocols"][0]["notes"])
    of_subject = np.asarray(info["subject_id"] == "s0").astype(int)
    lone = info.assign(label=np.where(info["subject_id"] == "s0", "low", info["label"]))
    found = judge_tables(write(path / "one.csv", lone), deal(path / "g", info, of_subject))
    assert any("fold 1: test has one class only" in n for n in found["protocols"][0]["notes"])


def test_both_files_are_written(made: dict[str, Any]) -> None:
    path = made["path"]
    folder = deal(path / "f", made["info"], made["clips"])
    found = audit_tables(path / "info.csv", folder, None, None, path / "out")
    assert json.loads((path / "out" / "audit.json").read_text()) == found
    assert "Leaky (protocol window)" in (path / "out" / "audit.html").read_text()
    (path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        audit_tables(path / "info.csv", folder, None, None, path / "file")


def test_torcheeg_example(tmp_path: Path) -> None:
    """The example of docs/audit.md runs, and says what it says there."""
    import importlib.util

    file = Path(__file__).parents[3] / "examples" / "torcheeg_folds.py"
    spec = importlib.util.spec_from_file_location("torcheeg_folds", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.run(tmp_path)
    clips, trials = (found[name]["protocols"][0] for name in ("clips", "trials"))
    assert clips["verdict"] == "leaky" and clips["observed"]["score"] > 0.85
    assert trials["verdict"] == "clean" and trials["observed"]["score"] < 0.65
    assert (tmp_path / "audit_clips" / "audit.html").exists()


def test_from_the_command_line(made: dict[str, Any]) -> None:
    from typer.testing import CliRunner

    from milmer.cli import app

    path = made["path"]
    folder = deal(path / "f", made["info"], made["trials"])
    tables = ["audit", "--metadata", str(path / "info.csv"), "--splits", str(folder), "--out", str(path / "out")]
    assert CliRunner().invoke(app, tables).exit_code == 0
    assert json.loads((path / "out" / "audit.json").read_text())["protocols"][0]["protocol"] == "trial"
    assert CliRunner().invoke(app, [*tables, "--protocol", "subject"]).exit_code == 0
    assert json.loads((path / "out" / "audit.json").read_text())["protocols"][0]["verdict"] == "leaky"


def test_where_each_subject_has_one_class_chance_is_of_subjects() -> None:
    """Permuting within subjects changed nothing there: chance was the score itself."""
    person = np.repeat(np.arange(16), 8)
    truth, row = person % 2, np.arange(128)
    answer = np.where(person < 12, truth, 1 - truth)  # 12 of 16 people
    told = scores.Told(row, row * 0, person, row, answer, truth, row < 0, ("a",), 2)
    found = scores.observed(told)
    assert found["score"] == 0.75 and found["chance"] == pytest.approx(0.5, abs=0.02)
    assert 0.02 < found["p"] < 0.1 and "between subjects" in found["how"]


def test_films_never_seen_are_what_luck_deals_out() -> None:
    """Eight people answer ten new films alike, seven of them right: ten answers, not eighty."""
    person, film = (a.ravel() for a in np.indices((8, 10)))
    truth, row = film % 2, np.arange(80)
    answer = np.where(film < 7, truth, 1 - truth)
    told = scores.Told(row, row * 0, person, row, answer, truth, row < 0, ("a",), 2)
    assert scores.observed(told)["p"] < 0.005 < 0.1 < scores.observed(told, stimulus=film)["p"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["constant", "of the subject"])
def test_features_that_do_not_vary_are_not_judged(made: dict[str, Any], kind: str) -> None:
    info = made["info"]
    value = np.full(len(info), 0.1) if kind == "constant" else pd.factorize(info["subject_id"])[0] * 0.1
    write(made["path"] / "x.parquet", info[["clip_id"]].assign(a=value, b=3 * value))
    entry = judged(made, made["trials"])["protocols"][0]
    assert entry["verdict"] == "not judged" and "no feature differs" in entry["sentence"]
    assert entry["permuted"] is None and entry["sentence"] in entry["notes"]


def test_answers_to_some_rows_only_are_said(made: dict[str, Any]) -> None:
    path, info = made["path"], made["info"]
    folder = deal(path / "folds", info, made["trials"])
    table = answers(info, True, made["trials"])
    found = judge_tables(path / "info.csv", folder, write(path / "p.csv", table.iloc[:20]))
    (said,) = found["warnings"]
    assert "answers to 20 of 320 test rows, from 1 of 8 subjects" in said
    assert said in found["protocols"][0]["notes"] and "label elsewhere" in found["label_rule"]
    bare = write(path / "bare.csv", info.drop(columns="label"))
    assert "20 of 320" in judge_tables(bare, folder, path / "p.csv")["warnings"][0]
    assert judge_tables(path / "info.csv", folder, write(path / "p.csv", table))["warnings"] == []
    table.loc[:1, "y_pred"] = [None, "other"]
    (said,) = judge_tables(path / "info.csv", folder, write(path / "p.csv", table))["warnings"]
    assert "2 of 320 answers are empty or name no class" in said


def test_a_verdict_by_counting_is_marked(made: dict[str, Any]) -> None:
    assert judged(made, made["clips"])["protocols"][0]["counted"] is True
