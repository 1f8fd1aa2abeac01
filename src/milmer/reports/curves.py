"""Learning curves and attention over the epochs, as small pictures (SVG): one a fold and member."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from numpy.typing import NDArray

from milmer.reports.reading import Run
from milmer.reports.words import number

WIDE, LEFT, RIGHT = 260, 34, 252
# What history.csv calls the parts of a model that are fitted one by one, and the words for them.
MEMBERS = {
    "": "",
    "eeg": "EEG alone",
    "face": "Face alone",
    "cca": "What EEG and face have in common (DeepCCA)",
    "classifier": "Classifier on both",
    "logistic": "Logistic regression on band power",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """One fit of one part of a model in one fold: a row a step, with ``train_loss`` and ``val_loss``."""

    fold: int
    member: str
    table: pd.DataFrame

    @property
    def chosen(self) -> int:
        """The step with the smallest validation loss; the last where there is none."""
        loss = self.table["val_loss"].to_numpy(dtype=float)  # (E,)
        return int(np.nanargmin(loss)) if np.isfinite(loss).any() else len(loss) - 1

    @property
    def by_strength(self) -> bool:
        """Whether the steps are strengths of regularisation instead of epochs."""
        return "epoch" not in self.table or not bool(self.table["epoch"].notna().any())


def split_curves(run: Run) -> list[Curve]:
    """Return the curves of a run's folds, those of one member beside each other, members in the order of the fit."""
    found = []
    for fold, table in run.histories.items():
        members = table["member"].fillna("").astype(str) if "member" in table else pd.Series("", index=table.index)
        found += [Curve(fold, str(m), mine.reset_index(drop=True)) for m, mine in table.groupby(members, sort=False)]
    order = list(dict.fromkeys(c.member for c in found))
    return sorted(found, key=lambda c: (order.index(c.member), c.fold))


def _grouped(curves: Sequence[Curve]) -> Iterator[tuple[str, list[Curve]]]:
    for member in dict.fromkeys(c.member for c in curves):
        yield member, [c for c in curves if c.member == member]


def learning_curves(run: Run) -> list[Row]:
    """Return a group a member, each with a picture a fold: training and validation loss, validation macro-F1 below.

    Pictures of one group share their scales. What is fitted without epochs (logistic regression) is drawn over the
    strength of its regularisation; DeepCCA's networks, which answer nothing, have a correlation in place of macro-F1.
    """
    groups = []
    for member, mine in _grouped(split_curves(run)):
        top = max(float(np.nanmax(c.table[["train_loss", "val_loss"]].to_numpy(dtype=float), initial=0)) for c in mine)
        highest = float(max(np.ceil(top * 2) / 2, 0.5))
        longest = max(len(c.table) for c in mine)
        figures = []
        for curve in mine:
            text = _said(curve)
            svg = Markup(_losses(curve, highest, longest, text))
            figures.append({"fold": _fold(run, curve), "text": text, "svg": svg})
        groups.append({"title": MEMBERS.get(member, member), "curves": figures})
    return groups


def _fold(run: Run, curve: Curve) -> str:
    """Name a fold as on the rest of the page: from 1, and by whom or what it tests where that has a name."""
    name = run.fold_names.get(curve.fold, "")
    return f"{curve.fold + 1}" + (f", {name}" if name else "")


def _said(curve: Curve) -> str:
    """Say which step was chosen and how good it was."""
    row = curve.table.iloc[curve.chosen]
    steps = len(curve.table)
    if curve.by_strength:
        text = f"C = {row['C']:g} chosen of {steps}"
    else:
        text = f"Epoch {int(row['epoch']) + 1} of {steps} chosen"
    if curve.member == "cca":
        return f"{text}, mean validation correlation {number(1 - row['val_loss'])}"
    return f"{text}, validation loss {number(row['val_loss'])}, macro-F1 {number(row.get('val_macro_f1'))}"


def attention_curves(run: Run) -> list[Row]:
    """Return a small picture a fold: entropy of the attention, and the share of bags whose choice changed."""
    column = "attention_entropy"
    mine = [c for c in split_curves(run) if column in c.table and c.table[column].notna().any()]
    longest = max((len(c.table) for c in mine), default=1)
    rows = []
    for curve in mine:
        chosen = curve.table.iloc[curve.chosen]
        text = f"At the chosen epoch: entropy {number(chosen[column])}"
        if np.isfinite(chosen.get("attention_changed", float("nan"))):  # the first epoch has none before it
            text += f", choice changed in {_percent(chosen['attention_changed'])} of bags"
        text += f", heaviest frame at one place in {_percent(chosen.get('attention_position'))}"
        rows.append({"fold": _fold(run, curve), "text": text, "svg": Markup(_attention(curve, longest, text))})
    return rows


def _percent(value: Any) -> str:
    return "–" if value is None or not np.isfinite(float(value)) else f"{100 * float(value):.0f} %"


def _losses(curve: Curve, highest: float, longest: int, text: str) -> str:
    """Draw losses in the upper panel and macro-F1 in the lower."""
    table = curve.table
    answers = "val_macro_f1" in table and bool(table["val_macro_f1"].notna().any())
    across, low = _across(longest), 172 if answers else 104
    rules = [(12, number(highest, 1)), (104, "0"), *([(128, "1"), (172, "0")] if answers else [])]
    panels = [(12, 104), (128, 172)][: 1 + answers]
    parts = _frame(rules, across[curve.chosen], panels, text)
    for column, kind in (("train_loss", "train"), ("val_loss", "val")):
        parts.append(_line(table[column], across, 12, 104, highest, kind, dots=curve.by_strength))
    name = "1 − correlation" if curve.member == "cca" else "loss"
    parts.append(f'<text x="{RIGHT}" y="9" class="end">{name}</text>')
    if answers:
        parts.append(_line(table["val_macro_f1"], across, 128, 172, 1.0, "f1", dots=curve.by_strength))
        parts.append(f'<text x="{RIGHT}" y="124" class="end">macro-F1</text>')
    ends = ("1", str(longest), "epoch")
    if curve.by_strength:
        ends = (f"{table['C'].iloc[0]:g}", f"{table['C'].iloc[-1]:g}", "C (small: held back)")
    return "".join([*parts, *_feet(low + 15, *ends)]) + "</svg>"


def _attention(curve: Curve, longest: int, text: str) -> str:
    """Draw entropy and changed share by epoch, on a scale from 0 to 1."""
    across = _across(longest)
    parts = _frame([(12, "1"), (104, "0")], across[curve.chosen], [(12, 104)], text)
    for column, kind in (("attention_entropy", "f1"), ("attention_changed", "val")):
        if column in curve.table:
            parts.append(_line(curve.table[column], across, 12, 104, 1.0, kind))
    return "".join([*parts, *_feet(119, "1", str(longest), "epoch")]) + "</svg>"


def _across(steps: int) -> NDArray[np.float64]:
    return LEFT + (RIGHT - LEFT) * np.arange(steps) / max(steps - 1, 1)  # (E,)


def _frame(rules: Sequence[tuple[int, str]], chosen: float, panels: Sequence[tuple[int, int]], text: str) -> list[str]:
    said, low = escape(text), panels[-1][1]
    parts = [f'<svg viewBox="0 0 {WIDE} {low + 18}" role="img" aria-label="{said}"><title>{said}</title>']
    for y, label in rules:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4}" class="end">{label}</text>')
    ends = f'x1="{chosen:.1f}" x2="{chosen:.1f}"'
    return [*parts, *(f'<line class="chosen" {ends} y1="{y0}" y2="{y1}"/>' for y0, y1 in panels)]


def _feet(y: int, first: str, last: str, name: str) -> list[str]:
    ends = [f'<text x="{LEFT}" y="{y}">{first}</text>'] if first != last else []
    ends.append(f'<text x="{RIGHT}" y="{y}" class="end">{last}</text>')
    return [*ends, f'<text x="{(LEFT + RIGHT) / 2}" y="{y}" class="mid">{name}</text>']


def _line(
    values: pd.Series[Any], across: NDArray[np.float64], y0: int, y1: int, highest: float, kind: str, dots: bool = False
) -> str:
    """Draw a line; points of their own where asked for, or where one alone would be no line."""
    numbers = values.to_numpy(dtype=float)  # (E,)
    y = y0 + (y1 - y0) * (1 - np.clip(numbers / highest, 0, 1))  # (E,)
    points = [(float(a), float(b)) for a, b in zip(across, y, strict=False) if np.isfinite(b)]
    drawn = "".join(f'<circle class="{kind}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in points)
    if len(points) < 2:
        return drawn
    joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return f'<polyline class="{kind}" points="{joined}"/>' + (drawn if dots else "")
