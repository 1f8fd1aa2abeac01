from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

from milmer.evaluation.calibration import calibrated
from milmer.reports.reading import Run, read_run
from milmer.reports.reliability import reliability
from milmer.reports.targets import binary_tables, rating_tables
from milmer.reports.words import number


@pytest.fixture
def run(make: Callable[..., Any]) -> Run:
    return read_run(make(modalities=("face",)).run)


def test_log_loss_comes_first_before_and_after(run: Run) -> None:
    found = reliability(run)
    assert [r["title"] for r in found["rows"]] == ["Log-loss", "Brier score", "Calibration error (ECE)"]
    assert [d["title"] for d in found["diagrams"]] == ["As the model gives them", "After calibration"]
    rows = calibrated(run.predictions, list(run.classes))
    rows = rows[rows["part"] == "test"]
    expected = log_loss(rows["y_true"], run.probabilities(rows), labels=range(4))
    bare = reliability(replace(run, metrics=[]))  # by its own counting where metrics.json has no such row
    assert bare["rows"][0]["cells"][1]["value"] == number(expected, 3)
    assert found["temperatures"].startswith("Temperatures of the folds")


def test_a_diagram_shows_all_answers_between_0_and_1(run: Run) -> None:
    for diagram in reliability(run)["diagrams"]:
        dots = re.findall(r'<circle class="f1" cx="([\d.]+)" cy="([\d.]+)"', diagram["svg"])
        assert all(34 <= float(x) <= 244 and 10 <= float(y) <= 216 for x, y in dots)
        assert sum(int(n) for n in re.findall(r"<title>(\d+) answers?</title>", diagram["svg"])) == 24
        assert "nan" not in diagram["svg"]


def test_without_a_test_part_nothing_is_calibrated(make: Callable[..., Any]) -> None:
    found = reliability(read_run(make("train", ("face",)).run))
    assert len(found["diagrams"]) == 1 and "without a test part" in found["fault"]


def test_without_labels_there_is_nothing_to_show(run: Run) -> None:
    assert reliability(replace(run, predictions=run.predictions.assign(y_true=-1))) == {}


def test_binary_and_rating_tables_are_those_of_metrics(run: Run) -> None:
    shared = {"part": "test", "level": "trial", "low": 0.1, "high": 0.9, "n": 24}
    rows = [
        dict(r) | {"target": "valence-arousal"}
        for r in run.metrics
        if r.get("target") in (None, "valence-arousal") and not r.get("calibrated")
    ]
    rows += [{"name": "accuracy", "target": "valence", "value": 0.77, "chance": 0.5, "p": 0.01, **shared}]
    rows += [
        {"name": n, "target": "arousal", "value": v, **shared}
        for n, v in (("ccc", 0.31), ("rmse", 1.5), ("pearson", 0.4))
    ]
    rows += [{"name": "log_loss", "target": "valence-arousal", "calibrated": True, "value": 0.9, **shared}]
    told = replace(run, metrics=rows)
    (table,) = binary_tables(told)
    assert table["title"] == "Valence, high against low"
    assert [(r["title"], r["trial"]["value"], r["trial"]["chance"]) for r in table["rows"]] == [
        ("Accuracy", "0.77", "0.50")
    ]
    (table,) = rating_tables(told)
    assert table["title"] == "Rating of arousal"
    assert [r["title"] for r in table["rows"]] == ["CCC", "Pearson’s\u00a0r", "RMSE"]
    # Rows of another target or after calibration are not taken for the main figures.
    main = told.metric("log_loss", "trial")
    assert main is not None and main["value"] != 0.9
    after = told.metric("log_loss", "trial", calibrated=True)
    assert after is not None and after["value"] == 0.9
    assert told.metric("ccc", "trial") is None
    assert np.isclose(told.metric("ccc", "trial", target="arousal")["value"], 0.31)  # type: ignore[index]  # is there
