from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from milmer.evaluation.probes import INTACT, RANDOM, SHUFFLES, TOP, minus
from milmer.reports.page import write_report
from milmer.reports.probes import added, attention_notes, deletion, direction
from milmer.reports.reading import Run, read_run


@pytest.fixture
def run(make: Callable[..., Any]) -> Run:
    return read_run(make().run)


def figure(name: str, probe: str, value: float | None, low: float | None, high: float | None, **more: Any) -> Any:
    row = {"name": name, "probe": probe, "level": "window", "value": value, "low": low, "high": high, "n": 96}
    row |= {"interval_how": "bootstrap over 24 trials", "of": 96, "intact": 0.7, "note": "a note of it"}
    return row | more


def deleted(accuracy: tuple[Any, Any, Any], loss: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    """Figures of a deletion test with these differences (value, low, high)."""
    rows = [figure("accuracy", INTACT, 0.70, 0.6, 0.8), figure("accuracy", RANDOM, 0.65, 0.55, 0.75)]
    rows += [figure("accuracy", TOP, 0.65 + accuracy[0], 0.3, 0.7), figure("accuracy", minus(TOP, RANDOM), *accuracy)]
    return [*rows, figure("log_loss", minus(TOP, RANDOM), *loss)]


@pytest.mark.parametrize(
    ("accuracy", "loss", "verdict", "rest"),
    [
        ((-0.12, -0.2, -0.05), (0.2, 0.1, 0.3), "Yes: the answer rests on", ": −0.12 [−0.20, −0.05] (untouched 0.70"),
        ((-0.02, -0.05, 0.01), (0.1, 0.05, 0.2), "By little: ", "the two apart: +0.100 [0.050, 0.200]."),
        ((-0.02, -0.05, 0.01), (0.1, -0.05, 0.2), "Not shown: ", ": −0.02 [−0.05, 0.01]"),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), "Not shown: ", ": 0.00 [0.00, 0.00]"),
        ((0.08, 0.02, 0.1), (-0.1, -0.2, -0.05), "No: large weights point away from", ": +0.08 [0.02, 0.10]"),
        ((-0.12, None, None), (0.2, None, None), "Not known: there are too few", ": −0.12 (untouched"),
    ],
)
def test_deletion_is_said_as_it_is(run: Run, accuracy: Any, loss: Any, verdict: str, rest: str) -> None:
    found = deletion(replace(run, probes=deleted(accuracy, loss)))
    (said,) = found["said"]
    assert said["verdict"].startswith(verdict)
    assert rest in said["rest"] and "untouched 0.70, chance 0." in said["rest"]
    assert [(r["title"], r["contrast"]) for r in found["rows"]][-1] == ("Heaviest against random", True)
    (cell,) = found["rows"][-1]["levels"]  # before is with random ones, after with the heaviest replaced
    assert (cell["before"], cell["after"]) == ("0.65", f"{0.65 + accuracy[0]:.2f}")
    assert "A note of it." in found["notes"]


@pytest.mark.parametrize(
    ("probe", "change", "loss", "said"),
    [
        ("eeg-any-class", (-0.2, -0.3, -0.1), 0.1, "EEG: the answer rests on it, and the face does not make up"),
        ("face-any-class", (0.0, -0.02, 0.02), 0.0, "Face: not shown that the answer uses it."),
        ("face-any-class", (0.0, -0.02, 0.02), 0.1, "Face: the answer uses it, but by little."),
        ("eeg-same-class", (-0.2, -0.3, -0.1), 0.1, "EEG and its moment: matters; EEG and face must be of one moment"),
        ("face-same-class", (0.0, -0.1, 0.1), 0.0, "Face and its moment: not shown to matter beyond its class."),
        ("eeg-any-class", (0.1, 0.05, 0.2), 0.0, "EEG: the model does better without the right EEG"),
        ("eeg-any-class", (-0.2, None, None), 0.1, "EEG: not known, there are too few subjects or trials"),
    ],
)
def test_what_a_modality_adds_is_said_as_it_is(run: Run, probe: str, change: Any, loss: float, said: str) -> None:
    rows = [figure("accuracy", INTACT, 0.8, 0.6, 0.8), figure("accuracy", probe, 0.7 + change[0], 0.1, 0.9)]
    rows += [figure("accuracy", minus(probe, INTACT), *change)]
    rows += [figure("log_loss", minus(probe, INTACT), loss, loss - 0.05, loss + 0.05)]
    (text,) = added(replace(run, probes=rows))["said"]
    assert text["verdict"].startswith(said)
    path = f"goes from 0.70 to {0.7 + change[0]:.2f} (" if change[0] else "stays at 0.70 ("
    assert path in text["rest"]  # of the rows asked, not of all


def test_a_question_that_cannot_be_asked_is_answered_with_the_reason(run: Run) -> None:
    """No figure and no row of the table, least of all a zero."""
    why = "all 96 bags are left out: they have no EEG"
    none = {"n": 0, "intact": None, "note": why}
    rows = [figure("accuracy", INTACT, 0.7, 0.6, 0.8), figure("accuracy", "eeg-same-class", None, None, None, **none)]
    rows += [figure("accuracy", minus("eeg-same-class", INTACT), None, None, None, **none)]
    rows += [figure("accuracy", p, None, None, None, **none) for p in (TOP, RANDOM, minus(TOP, RANDOM))]
    found = added(replace(run, probes=rows))
    assert found == {
        "rows": [],
        "said": [{"verdict": "EEG and its moment: cannot be asked here.", "rest": f"A{why[1:]}."}],
        "notes": [],
    }
    (said,) = deletion(replace(run, probes=rows))["said"]
    assert "cannot be asked" in said["verdict"] and said["rest"] == f"A{why[1:]}."


def test_rows_left_out_are_shown_and_said_once(run: Run) -> None:
    note = {"n": 60, "note": "36 of 96 bags are left out: they have no EEG"}
    rows = []
    for probe in ("eeg-any-class", "eeg-same-class"):
        rows += [figure("accuracy", probe, 0.5, 0.4, 0.6, **note)]
        rows += [figure("accuracy", minus(probe, INTACT), -0.2, -0.3, -0.1, **note)]
    found = added(replace(run, probes=rows))
    assert [r["levels"][0]["n"] for r in found["rows"]] == [60, 60]
    assert found["notes"][0] == "36 of 96 bags are left out: they have no EEG." and len(found["notes"]) == 2
    assert found["notes"][1] == "Intervals at 95 %, of paired differences: bootstrap over 24 trials."


def test_direction_knows_which_figures_fall_and_which_rise() -> None:
    fall, rise = ({"value": v, "low": v - 0.1, "high": v + 0.1} for v in (-0.2, 0.2))
    assert direction(fall) == direction(rise, lower_is_better=True) == "worse"
    assert direction(rise) == direction(fall, lower_is_better=True) == "better"
    assert direction({"value": 0.05, "low": -0.05, "high": 0.15}) == "open"
    assert direction(None) == direction({"value": 1.0, "low": None, "high": None}) == "unknown"


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
    rows = deleted((-0.12, -0.2, -0.05), (0.2, 0.1, 0.3))
    for probe in SHUFFLES:
        rows += [figure("accuracy", probe, 0.5, 0.4, 0.6), figure("accuracy", minus(probe, INTACT), -0.2, -0.3, -0.1)]
    (made.run / "probes.json").write_text(json.dumps(rows))
    page = write_report(made.run).read_text("utf-8")
    for text in ("Does the attention matter?", "What does each modality add?"):
        assert text in page
    assert "A weight alone proves nothing; this test does." in page
    assert page.count('class="figures probes"') == 2 and 'href="#attention"' in page and 'href="#added"' in page


def test_a_model_of_eeg_alone_is_not_asked(make: Callable[..., Any]) -> None:
    made = make(modalities=("eeg",))
    shutil.rmtree(made.store)
    page = write_report(made.run).read_text("utf-8")
    assert "#attention" not in page and "#added" not in page
