from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from milmer.evaluation.probes import INTACT, RANDOM, SHUFFLES, TOP, minus
from milmer.reports.page import write_report
from milmer.reports.probes import added, attention_curves, attention_notes, deletion, direction
from milmer.reports.reading import Run, read_run


@pytest.fixture
def run(make: Callable[..., Any]) -> Run:
    return read_run(make().run)


def figure(name: str, probe: str, value: float, low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    row = {"name": name, "probe": probe, "level": "window", "value": value, "low": low, "high": high, "n": 96}
    return row | {"interval_how": "bootstrap over 24 trials", "unchanged": 0.0, "note": "a note of it"} | more


def deleted(accuracy: tuple[Any, Any, Any], loss: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    """Figures of a deletion test with these differences (value, low, high)."""
    rows = [figure("accuracy", INTACT, 0.70, 0.6, 0.8), figure("accuracy", RANDOM, 0.65, 0.55, 0.75)]
    rows += [figure("accuracy", TOP, 0.65 + accuracy[0], 0.3, 0.7), figure("accuracy", minus(TOP, RANDOM), *accuracy)]
    return [*rows, figure("log_loss", minus(TOP, RANDOM), *loss)]


@pytest.mark.parametrize(
    ("accuracy", "loss", "said"),
    [
        ((-0.12, -0.2, -0.05), (0.2, 0.1, 0.3), "are those the answer rests on: difference −0.12 [−0.20, −0.05]"),
        ((-0.02, -0.05, 0.01), (0.1, 0.05, 0.2), "the finer log-loss does: +0.100 [0.050, 0.200]"),
        ((-0.02, -0.05, 0.01), (0.1, -0.05, 0.2), "is not shown: difference −0.02 [−0.05, 0.01]"),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), "is not shown: difference 0.00 [0.00, 0.00]"),
        ((0.08, 0.02, 0.1), (-0.1, -0.2, -0.05), "point away from what the answer rests on: difference +0.08"),
        ((-0.12, None, None), (0.2, None, None), "nothing can be said"),
    ],
)
def test_deletion_is_said_as_it_is(run: Run, accuracy: Any, loss: Any, said: str) -> None:
    found = deletion(replace(run, probes=deleted(accuracy, loss)))
    text = " ".join(found["said"])
    assert said in text and "untouched: 0.70, chance 0." in text
    assert [r["difference"] for r in found["rows"]] == [False, False, False, True]
    assert "A note of it." in found["notes"]


@pytest.mark.parametrize(
    ("probe", "change", "said"),
    [
        (
            "eeg-any-class",
            (-0.2, -0.3, -0.1),
            "The answer rests on the EEG, and the other modality does not make up for a wrong one.",
        ),
        ("face-any-class", (0.0, -0.02, 0.02), "The interval holds 0: it is not shown that the answer uses the face."),
        ("eeg-same-class", (-0.2, -0.3, -0.1), "EEG and face are of one moment, not only of one class, matters."),
        ("face-same-class", (0.0, -0.1, 0.1), "it is not shown that this window’s own face matters beyond its class"),
        ("eeg-any-class", (0.1, 0.05, 0.2), "The model does better without the right EEG"),
        ("eeg-any-class", (-0.2, None, None), "Too few subjects or trials for an interval"),
    ],
)
def test_what_a_modality_adds_is_said_as_it_is(run: Run, probe: str, change: Any, said: str) -> None:
    rows = [figure("accuracy", INTACT, 0.7, 0.6, 0.8), figure("accuracy", probe, 0.7 + change[0], 0.1, 0.9)]
    (text,) = added(replace(run, probes=[*rows, figure("accuracy", minus(probe, INTACT), *change)]))["said"]
    assert said in text and f"0.70 becomes {0.7 + change[0]:.2f}" in text


def test_a_question_that_cannot_be_asked_is_not_answered(run: Run) -> None:
    probe = "eeg-same-class"
    rows = [figure("accuracy", INTACT, 0.7, 0.6, 0.8), figure("accuracy", probe, 0.7, 0.6, 0.8, unchanged=1.0)]
    (text,) = added(replace(run, probes=[*rows, figure("accuracy", minus(probe, INTACT), 0.0, 0.0, 0.0)]))["said"]
    assert "cannot be asked" in text and "holds 0" not in text


def test_direction_knows_which_figures_fall_and_which_rise() -> None:
    fall, rise = ({"value": v, "low": v - 0.1, "high": v + 0.1} for v in (-0.2, 0.2))
    assert direction(fall) == direction(rise, lower_is_better=True) == "worse"
    assert direction(rise) == direction(fall, lower_is_better=True) == "better"
    assert direction({"value": 0.05, "low": -0.05, "high": 0.15}) == "open"
    assert direction(None) == direction({"value": 1.0, "low": None, "high": None}) == "unknown"


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
    assert [c["fold"] for c in curves] == [1, 2, 3]
    assert "entropy 0.67, choice changed in 45 % of bags, heaviest frame at one place in 30 %" in curves[0]["text"]
    assert "nan" not in curves[0]["svg"] and curves[0]["svg"].count("<polyline") == 2


def test_folds_of_one_fate_share_a_sentence(run: Run) -> None:
    notes = ["fold 1: validation has no trial of HAHV", "fold 0: attention has collapsed to uniform, so x"]
    notes += ["fold 2: attention has collapsed to uniform, so x", "fold 1: attention has collapsed to one position"]
    found = attention_notes(replace(run, record={**run.record, "notes": notes}))
    assert found == [
        "In folds 1, 3 attention has collapsed to uniform, so x.",
        "In fold 2 attention has collapsed to one position.",
    ]


def test_the_page_shows_all_of_it_and_does_without(make: Callable[..., Any]) -> None:
    made = make()
    shutil.rmtree(made.store)  # scalp maps take their time and are no matter here
    page = write_report(made.run).read_text("utf-8")
    assert "Deletion test: not available." in page and "Shuffling tests: not available." in page
    watched(made.run)
    rows = deleted((-0.12, -0.2, -0.05), (0.2, 0.1, 0.3))
    for probe in SHUFFLES:
        rows += [figure("accuracy", probe, 0.5, 0.4, 0.6), figure("accuracy", minus(probe, INTACT), -0.2, -0.3, -0.1)]
    (made.run / "probes.json").write_text(json.dumps(rows))
    page = write_report(made.run).read_text("utf-8")
    for text in ("Does the attention matter?", "What does each modality add?", "Attention while training"):
        assert text in page
    assert "A weight alone proves nothing; this test does." in page
    assert page.count('class="figures probes"') == 2 and 'href="#attention"' in page and 'href="#added"' in page


def test_a_model_of_eeg_alone_is_not_asked(make: Callable[..., Any]) -> None:
    made = make(modalities=("eeg",))
    shutil.rmtree(made.store)
    page = write_report(made.run).read_text("utf-8")
    assert "#attention" not in page and "#added" not in page
