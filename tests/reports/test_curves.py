from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milmer.reports.curves import attention_curves, learning_curves, split_curves
from milmer.reports.page import write_report
from milmer.reports.reading import Run, read_run


@pytest.fixture
def run(make: Callable[..., Any]) -> Run:
    return read_run(make().run)


def watched(path: Path) -> None:
    """Add to a run's history what training writes of attention."""
    for file in path.glob("folds/*/history.csv"):
        table = pd.read_csv(file)
        n = len(table)
        table["attention_entropy"] = np.linspace(1.0, 0.4, n)
        table["attention_changed"] = np.r_[np.nan, np.linspace(0.8, 0.1, n - 1)]
        table["attention_position"] = 0.3
        table.to_csv(file, index=False)


def test_curves_are_drawn_for_each_fold(make: Callable[..., Any]) -> None:
    made = make()
    assert attention_curves(read_run(made.run)) == []
    watched(made.run)
    curves = attention_curves(read_run(made.run))
    assert [c["fold"] for c in curves] == ["1", "2", "3"]
    assert "entropy 0.67, choice changed in 45 % of bags, heaviest frame at one place in 30 %" in curves[0]["text"]
    assert "nan" not in curves[0]["svg"] and curves[0]["svg"].count("<polyline") == 2
    shutil.rmtree(made.store)  # scalp maps take their time and are no matter here
    assert "Attention while training" in write_report(made.run).read_text("utf-8")


def curve(member: str, losses: list[float], **columns: Any) -> pd.DataFrame:
    n = len(losses)
    table = {"epoch": np.arange(float(n)), "train_loss": np.linspace(1, 0.2, n), "val_loss": losses, "member": member}
    return pd.DataFrame(table | columns)


def lines(svg: str) -> list[list[float]]:
    """Places from left to right of the points of each line."""
    found = re.findall(r'<polyline class="\w+" points="([^"]*)"', svg)
    return [[float(p.split(",")[0]) for p in points.split()] for points in found]


def of_members() -> pd.DataFrame:
    """What DeepCCA writes: two networks, the correlation of both, and a classifier."""
    tables = [
        curve("eeg", [1.4, 1.2, 1.3], val_macro_f1=0.4),
        curve("face", [1.4, 1.1], val_macro_f1=0.5, attention_entropy=[0.9, 0.5], attention_changed=[np.nan, 0.25]),
        curve("cca", [0.9, 0.8, 0.7, 0.75]),
        curve("classifier", [1.0, 0.6, 0.9], val_macro_f1=0.7),
    ]
    return pd.concat(tables, ignore_index=True)


def test_members_have_pictures_of_their_own(run: Run) -> None:
    run = replace(run, histories={0: of_members(), 1: of_members()})
    assert [(c.member, c.fold) for c in split_curves(run)][:4] == [("eeg", 0), ("eeg", 1), ("face", 0), ("face", 1)]
    groups = learning_curves(run)
    assert [g["title"] for g in groups] == [
        "EEG alone",
        "Face alone",
        "What EEG and face have in common (DeepCCA)",
        "Classifier on both",
    ]
    for group, (steps, drawn) in zip(groups, [(3, 3), (2, 3), (4, 2), (3, 3)], strict=True):
        assert [c["fold"] for c in group["curves"]] == ["1", "2"]
        found = lines(group["curves"][0]["svg"])
        assert len(found) == drawn and {len(x) for x in found} == {steps}
        assert all(x == sorted(x) and len(set(x)) == len(x) for x in found)  # no zig-zag
    said = [g["curves"][0]["text"] for g in groups]
    assert said[0] == "Epoch 2 of 3 chosen, validation loss 1.20, macro-F1 0.40"
    assert said[2] == "Epoch 3 of 4 chosen, mean validation correlation 0.30"
    svg = groups[2]["curves"][0]["svg"]
    assert "1 − correlation" in svg and "macro-F1" not in svg and "nan" not in svg


def test_attention_is_that_of_the_member_with_frames(run: Run) -> None:
    (found,) = attention_curves(replace(run, histories={2: of_members()}))
    assert found["fold"] == "3" and found["text"].startswith(
        "At the chosen epoch: entropy 0.50, choice changed in 25 %"
    )
    assert lines(found["svg"]) == [[34.0, 252.0]]
    assert found["svg"].count('<circle class="val"') == 1  # one epoch to compare is a point, not a line


def test_strengths_of_a_regression_are_no_epochs(make: Callable[..., Any]) -> None:
    made = make()
    table = curve("logistic", [0.9, 0.5, 0.7], C=[0.01, 0.1, 10.0], val_macro_f1=0.6).drop(columns="epoch")
    for file in Path(made.run).glob("folds/*/history.csv"):
        table.to_csv(file, index=False)
    (group,) = learning_curves(read_run(made.run))
    assert group["title"] == "Logistic regression on band power" and len(group["curves"]) == 3
    assert group["curves"][0]["text"] == "C = 0.1 chosen of 3, validation loss 0.50, macro-F1 0.60"
    assert "epoch" not in group["curves"][0]["svg"] and "0.01" in group["curves"][0]["svg"]


def test_a_fit_without_validation_takes_its_last_epoch(run: Run) -> None:
    table = curve("", [np.nan, np.nan]).drop(columns="member")
    (group,) = learning_curves(replace(run, histories={0: table}))
    assert group["title"] == "" and group["curves"][0]["text"].startswith("Epoch 2 of 2 chosen, validation loss –")
    assert lines(group["curves"][0]["svg"]) == [[34.0, 252.0]]
