"""What the same answers say of valence and arousal alone, and of the ratings themselves."""

from __future__ import annotations

from typing import Any

from milmer.reports.figures import figure_table
from milmer.reports.reading import Run
from milmer.reports.words import RATINGS

Row = dict[str, Any]
BINARY = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss")


def binary_tables(run: Run) -> list[Row]:
    """Return a table for each target beside the main one: ``title`` and the rows of `figures.figure_table`."""
    others = dict.fromkeys(str(r["target"]) for r in run.metrics if r.get("target") not in (None, run.target))
    tables = [
        {"title": f"{name.capitalize()}, high against low", "rows": figure_table(run, target=name, names=BINARY)}
        for name in others
    ]
    return [t for t in tables if t["rows"]]


def rating_tables(run: Run) -> list[Row]:
    """Return a table of ratings for each target that has some: agreement of the expected with the given rating."""
    targets = dict.fromkeys(str(r.get("target") or run.target) for r in run.metrics if r.get("name") in RATINGS)
    tables = [
        {"title": f"Rating of {name}", "rows": figure_table(run, target=name, names=tuple(RATINGS))} for name in targets
    ]
    return [t for t in tables if t["rows"]]
