"""Do the probabilities mean what they say? Reliability before and after calibration, of whole trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from milmer.errors import UserError
from milmer.evaluation.calibration import Bin, calibrated
from milmer.evaluation.calibration import reliability as reliability_bins
from milmer.evaluation.metrics import classification
from milmer.evaluation.predictions import trial_level
from milmer.reports.reading import Run
from milmer.reports.words import count, interval, number

Row = dict[str, Any]
BINS = 10
SIDE, LEFT, TOP, LOW = 244, 34, 22, 228  # of a picture: the square from 0 to 1 is LEFT..SIDE by TOP..LOW
FIGURES = {"log_loss": "Log-loss", "brier": "Brier score", "ece": "Calibration error (ECE)"}


def reliability(run: Run) -> Row:
    """Return the diagrams and figures before and after calibration.

    Returns
    -------
    dict
        ``diagrams`` (title, svg, text), ``rows`` (title, before, after, each with its interval), ``temperatures`` (in
        words) and ``fault`` (why there is no calibrated side); empty where there is nothing to show.
    """
    rows = run.predictions[run.predictions["part"] == run.part]
    rows = rows[rows["y_true"] >= 0]
    if not len(rows):
        return {}
    sides = [("As the model gives them", trial_level(rows, list(run.classes)))]
    after, said, fault = _calibrated(run)
    if after is not None:
        sides.append(("After calibration", after))
    diagrams, values = [], []
    for title, table in sides:
        prob, y = run.probabilities(table), table["y_true"].to_numpy(np.int64)
        found = reliability_bins(y, prob, BINS)
        text = f"{title}: {count(len(table), 'trial')}, mean confidence {number(prob.max(axis=1).mean())}, "
        text += f"right {number((prob.argmax(axis=1) == y).mean())}"
        diagrams.append({"title": title, "svg": Markup(_draw(found, text)), "text": text})
        values.append(classification(y, prob, run.classes))
    lines = []
    for name, title in FIGURES.items():
        cells = []
        for i, value in enumerate(values):
            row = run.metric(name, "trial", calibrated=bool(i))
            cells.append({"value": number(row["value"] if row else value[name], 3), "interval": interval(row, 3)})
        lines.append({"title": title, "cells": cells})
    return {"diagrams": diagrams, "rows": lines, "temperatures": said, "fault": fault}


def _calibrated(run: Run) -> tuple[pd.DataFrame | None, str, str]:
    """Calibrated trials of the judged part, the temperatures in words, or why there are none."""
    if run.part != "test":
        return None, "", "A run without a test part has no calibrated figures: calibration is fitted on validation."
    try:
        table = calibrated(run.predictions, list(run.classes))
    except UserError as error:
        return None, "", f"No calibrated figures: {error}"
    table = table[(table["part"] == run.part) & (table["y_true"] >= 0)]
    if not len(table):
        return None, "", "No calibrated figures: no trial of the test part has a temperature."
    said = ""
    if "temperature" in table:
        found = table["temperature"].dropna()
        if len(found):
            low, high = number(found.min()), number(found.max())
            said = f"Temperatures of the folds: {low}" + (f" to {high}" if low != high else "")
            said += "; above 1 the answers were too sure, below 1 not sure enough."
    return table.reset_index(drop=True), said, ""


def _draw(bins: Sequence[Bin], text: str) -> str:
    """Draw share of right answers over confidence; the larger a dot the more answers, the diagonal is honest."""
    said = escape(text)

    def x(v: float) -> float:
        return LEFT + (SIDE - LEFT) * v

    def y(v: float) -> float:
        return LOW - (LOW - TOP) * v

    parts = [f'<svg viewBox="0 0 {SIDE + 8} {LOW + 34}" role="img" aria-label="{said}"><title>{said}</title>']
    for tick in (0.0, 0.5, 1.0):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{SIDE}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y(tick) + 4:.1f}" class="end">{tick:g}</text>')
        parts.append(f'<text x="{x(tick):.1f}" y="{LOW + 14}" class="mid">{tick:g}</text>')
    parts.append(f'<line class="chosen" x1="{LEFT}" x2="{SIDE}" y1="{LOW}" y2="{TOP}"/>')
    most = max(b.n for b in bins)
    points = [(x(b.confidence), y(b.accuracy), b.n) for b in bins]
    joined = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
    if len(points) > 1:
        parts.append(f'<polyline class="f1" points="{joined}"/>')
    for a, b, n in points:
        parts.append(
            f'<circle class="f1" cx="{a:.1f}" cy="{b:.1f}" r="{2 + 5 * np.sqrt(n / most):.1f}">'
            f"<title>{count(n, 'answer')}</title></circle>"
        )
    parts.append(f'<text x="{(LEFT + SIDE) / 2}" y="{LOW + 29}" class="mid">confidence</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 10}">share right</text>')
    return "".join(parts) + "</svg>"
