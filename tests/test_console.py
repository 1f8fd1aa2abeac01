from __future__ import annotations

import io

import pytest
from rich.console import Console
from tests.evaluation.test_scoring import CLASSES, predictions, rated

from milmer import console
from milmer.config import Evaluation
from milmer.evaluation.scoring import figures

Row = dict[str, object]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=text, width=80, highlight=False, soft_wrap=True))
    return text


def table(**values: object) -> list[Row]:
    return figures(rated(predictions(8, train=True)).assign(**values), Evaluation(resamples=100), CLASSES)


def test_each_figure_stands_beside_what_it_must_be_held_against(shown: io.StringIO) -> None:
    rows = table()
    console.show_figures(rows)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "trial protocol, test: valence-arousal"
    for word in ("value and interval", "chance", "majority", "above"):
        assert word in lines[1]
    # Rich fills lines to the table's width; the notes below are sentences, which a terminal wraps.
    assert max(len(line) for line in lines[:8]) <= 80
    first = rows[0]
    for key in ("value", "low", "high", "chance", "majority", "above"):
        assert f"{first[key]:.2f}" in lines[2]
    assert "window" in lines[2] and "…" not in shown.getvalue()
    assert f"gain over no signal, accuracy by window {first['gain']:+.2f}" in shown.getvalue()
    assert sum("trial " in line for line in lines[2:8]) == 3
    text = shown.getvalue()
    assert "of 288 windows, 96 trials" in text and "jackknife over 8 subjects" in text
    assert "exact binomial over 96 trials" in text


def test_a_leaky_protocol_is_called_so_and_what_is_unknown_is_a_dash(shown: io.StringIO) -> None:
    rows = figures(predictions(4, protocol="window"), Evaluation(resamples=100, protocol="window"), CLASSES)
    console.show_figures(rows)
    text = shown.getvalue()
    assert text.startswith("window (leaky) protocol") and "none from 4 subjects: at least 6 needed" in text
    assert "gain over no signal: not known" in text and "None" not in text and "nan" not in text


def test_figures_of_an_older_run_and_none_at_all_are_shown_too(shown: io.StringIO) -> None:
    console.show_figures([])
    assert not shown.getvalue()
    old = {"name": "accuracy", "level": "window", "part": "validation", "protocol": "trial", "value": 0.5, "n": 12}
    console.show_figures([{**old, "n_of": "windows"}])
    assert "0.50" in shown.getvalue() and "validation figures" in shown.getvalue()


def test_seeds_are_said(shown: io.StringIO) -> None:
    rows = [{**row, "seeds": 3} for row in table()]
    console.show_figures(rows)
    assert "pooled over 3 seeds" in shown.getvalue()


def test_a_figure_whose_level_goes_by_another_rule_is_named_with_its_rows(shown: io.StringIO) -> None:
    """Each subject has one of two trials right: over trials accuracy has another rule than over windows."""
    most = {"value": 0.5, "part": "test", "protocol": "subject", "above": 0.6, "above_how": "t over subjects"}
    rows: list[Row] = [
        {**most, "name": name, "level": level}
        for level in ("window", "trial")
        for name in ("accuracy", "balanced_accuracy", "macro_f1")
    ]
    console.show_figures(rows)
    assert "at 5 % (t over subjects)" in shown.getvalue()
    rows[3]["above_how"] = "exact binomial over 16 trials"
    console.show_figures(rows)
    assert "(accuracy by trial: exact binomial over 16 trials; others: t over subjects)" in shown.getvalue()
    rows[0]["above_how"] = rows[3]["above_how"]
    console.show_figures(rows)
    assert "(accuracy: exact binomial over 16 trials; others: t over subjects)" in shown.getvalue()


def test_bold_is_what_passes_the_level_and_has_a_small_p(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"name": "accuracy", "level": "window", "part": "test", "protocol": "subject", "value": 0.61, "above": 0.55}
    for p, above, bold in ((0.01, 0.55, True), (0.15, 0.55, False), (0.01, 0.65, False), (None, None, False)):
        text = io.StringIO()
        styled = Console(file=text, width=80, highlight=False, soft_wrap=True, force_terminal=True, no_color=True)
        monkeypatch.setattr(console, "out", styled)
        console.show_figures([{**row, "p": p, "above": above}])
        assert ("\x1b[1m0.61" in text.getvalue()) is bold
        assert ("whether anything here is above chance is not known" in text.getvalue()) is (p is None)
