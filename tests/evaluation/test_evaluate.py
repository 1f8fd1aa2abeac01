from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milmer.config import load_config
from milmer.errors import UserError
from milmer.evaluation.evaluate import evaluate, train
from milmer.store import Store

QUICK = {
    "data.modalities": ["eeg"],
    "evaluation.folds": 3,
    "evaluation.resamples": 100,
    "training.epochs": 8,
    "training.threads": 1,
    "data.target": "arousal",
}


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    evaluate(Store(tiny_store), load_config("demo", overrides=QUICK), out)
    return out


def _figure(run: Path, name: str, level: str, part: str = "test") -> dict[str, Any]:
    rows = json.loads((run / "metrics.json").read_text())
    (row,) = [r for r in rows if (r["name"], r["level"], r["part"]) == (name, level, part) and "subject" not in r]
    return dict(row)


def test_a_run_holds_what_is_promised(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert names == {"config.yaml", "run.json", "predictions.parquet", "metrics.json", "log.txt", "folds"}
    assert {p.name for p in (run / "folds").iterdir()} == {"0", "1", "2"}
    assert load_config(file=run / "config.yaml") == load_config("demo", overrides=QUICK)
    record = json.loads((run / "run.json").read_text())
    assert record["complete"] and record["peak_memory_bytes"] > 0 and record["classes"] == ["low", "high"]


def test_every_window_is_tested_once_and_trials_are_on_one_side(run: Path) -> None:
    rows = pd.read_parquet(run / "predictions.parquet")
    test = rows[rows["part"] == "test"]
    assert len(test) == 128 and not test.duplicated(["subject", "trial", "window"]).any()
    for fold, part in rows.groupby("fold"):
        sides = part.groupby(["subject", "trial"])["part"].nunique()
        assert (sides == 1).all(), fold
    assert np.allclose(rows[["prob_low", "prob_high"]].sum(axis=1), 1, atol=1e-5)
    assert ((rows["rating_arousal"] > 5) == (rows["y_true"] == 1)).all()
    assert set(rows["label_rule"]) == {"arousal > 5"} and set(rows["budget"]) == {"none"}


def test_it_learns_what_was_planted(run: Path) -> None:
    figure = _figure(run, "accuracy", "trial")
    assert figure["value"] > 0.85 and figure["low"] > figure["chance"]
    assert figure["majority"] <= 0.6 and figure["n"] == 32


def test_figures_come_from_the_predictions_alone(run: Path) -> None:
    rows = pd.read_parquet(run / "predictions.parquet")
    test = rows[rows["part"] == "test"]
    assert _figure(run, "accuracy", "window")["value"] == pytest.approx((test["y_true"] == test["y_pred"]).mean())


def test_jobs_do_not_change_the_predictions(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    evaluate(Store(tiny_store), load_config("demo", overrides=QUICK), tmp_path / "run", jobs=2)
    assert (tmp_path / "run/predictions.parquet").read_bytes() == (run / "predictions.parquet").read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"model.backbone": "/nowhere/at/all"},
        {"data.px": 30},
        {"model.eeg_tokens": "braindecode:NoSuchNetwork"},
        {"data.target": "smell"},
    ],
)
def test_a_wrong_name_leaves_no_run_behind(
    wrong: dict[str, Any], tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from milmer.training.data import Bags

    read: list[object] = []
    monkeypatch.setattr(Bags, "_keep_frames", lambda self, progress: read.append(self))
    both = QUICK | {"data.modalities": ["eeg", "face"]}
    with pytest.raises(UserError):
        evaluate(Store(tiny_store), load_config("demo", overrides=both | wrong), tmp_path / "run")
    assert not read and not list((tmp_path / "run").iterdir())


def test_an_existing_run_is_not_overwritten_nor_resumed_with_other_values(run: Path, tiny_store: Path) -> None:
    config = load_config("demo", overrides=QUICK)
    with pytest.raises(UserError, match="add --resume"):
        evaluate(Store(tiny_store), config, run)
    with pytest.raises(UserError, match=r"training\.epochs 8, asked for 9"):
        evaluate(Store(tiny_store), load_config("demo", overrides=QUICK | {"training.epochs": 9}), run, resume=True)
    before = (run / "predictions.parquet").read_bytes()
    evaluate(Store(tiny_store), config, run, resume=True)
    assert (run / "predictions.parquet").read_bytes() == before


def test_permuted_reruns_give_the_chance_level(tiny_store: Path, tmp_path: Path) -> None:
    values = QUICK | {"evaluation.permutations": 2, "training.epochs": 2}
    evaluate(Store(tiny_store), load_config("demo", overrides=values), tmp_path / "run")
    figure = _figure(tmp_path / "run", "accuracy", "trial")
    assert figure["chance_how"].startswith("2 re-runs")
    assert 0.2 < figure["chance"] < 0.8 and figure["p"] >= 1 / 3
    shuffled = pd.read_parquet(tmp_path / "run/permutations/1/0/predictions.parquet")
    assert "permuted, seed 1" in shuffled["label_rule"].iloc[0]


def test_train_reports_validation_figures_and_keeps_one_model(tiny_store: Path, tmp_path: Path) -> None:
    values = QUICK | {"training.epochs": 2}
    figures = train(Store(tiny_store), load_config("demo", overrides=values), tmp_path / "run")
    assert {f["part"] for f in figures} == {"validation"}
    assert [p.name for p in (tmp_path / "run/folds").iterdir()] == ["0"]
    rows = pd.read_parquet(tmp_path / "run/predictions.parquet")
    assert set(rows["part"]) == {"train", "validation"} and len(rows) == 128
