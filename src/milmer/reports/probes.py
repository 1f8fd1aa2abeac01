"""The parts of the page that say what the model uses: attention over the epochs, deletion and shuffling tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from milmer.evaluation.probes import INTACT, RANDOM, SHUFFLES, TOP, minus
from milmer.reports.figures import LEVELS
from milmer.reports.reading import Run
from milmer.reports.words import FIGURES, LOWER_IS_BETTER, interval, number

Row = dict[str, Any]
SHOWN = ("accuracy", "macro_f1", "log_loss")
DELETION = {
    INTACT: "Frames as they are",
    TOP: "Heaviest frames replaced",
    RANDOM: "As many at random replaced",
    minus(TOP, RANDOM): "Difference, heaviest less random",
}
ADDED = {
    INTACT: "EEG and face as they are",
    "eeg-any-class": "EEG of another trial, any class",
    minus("eeg-any-class", INTACT): "Difference",
    "eeg-same-class": "EEG of another trial, same class",
    minus("eeg-same-class", INTACT): "Difference",
    "face-any-class": "Face of another trial, any class",
    minus("face-any-class", INTACT): "Difference",
    "face-same-class": "Face of another trial, same class",
    minus("face-same-class", INTACT): "Difference",
}


def attention_curves(run: Run) -> list[Row]:
    """Return a small picture a fold: entropy of the attention, and the share of bags whose choice changed."""
    tables = {
        f: t for f, t in run.histories.items() if "attention_entropy" in t and t["attention_entropy"].notna().any()
    }
    longest = max((len(t) for t in tables.values()), default=1)
    rows = []
    for fold, table in tables.items():
        best = int(table["val_loss"].to_numpy().argmin())
        chosen = {c: table[c].iloc[best] if c in table else None for c in table}
        text = f"At the chosen epoch: entropy {number(chosen['attention_entropy'])}"
        text += f", choice changed in {_percent(chosen.get('attention_changed'))} of bags"
        text += f", heaviest frame at one place in {_percent(chosen.get('attention_position'))}"
        rows.append({"fold": fold + 1, "text": text, "svg": Markup(_curve(table, best, longest, text))})
    return rows


def attention_notes(run: Run) -> list[str]:
    """Return what the run says of folds whose attention has collapsed, folds of one fate in one sentence."""
    found: dict[str, list[str]] = {}
    for note in run.record.get("notes", []):
        match = re.fullmatch(r"fold (\d+): (attention has collapsed.*)", str(note))
        if match:
            found.setdefault(match.group(2), []).append(str(int(match.group(1)) + 1))
    return [f"In fold{'s' * (len(folds) > 1)} {', '.join(folds)} {what}." for what, folds in found.items()]


def deletion(run: Run) -> Row:
    """Return the deletion test as ``rows``, ``said`` (sentences) and ``notes``; without rows where it was not run."""
    rows = _rows(run, DELETION) if run.probe("accuracy", minus(TOP, RANDOM), "window") else []
    return {"rows": rows, "said": _deletion_words(run) if rows else [], "notes": _notes(run, [TOP]) if rows else []}


def added(run: Run) -> Row:
    """Return the shuffling tests as ``rows``, ``said`` (sentences) and ``notes``; without rows where not run."""
    rows = _rows(run, ADDED) if any(run.probe("accuracy", p, "window") for p in SHUFFLES) else []
    said = [_shuffle_words(run, probe) for probe in ADDED if probe in SHUFFLES] if rows else []
    return {"rows": rows, "said": [s for s in said if s], "notes": _notes(run, list(SHUFFLES)) if rows else []}


def _rows(run: Run, probes: Mapping[str, str]) -> list[Row]:
    found = []
    for probe, title in probes.items():
        cells = {
            level: [
                {"value": _value(row, probe, FIGURES[name][1]), "interval": interval(row, FIGURES[name][1])}
                for name in SHOWN
                for row in [run.probe(name, probe, level)]
            ]
            for level in LEVELS
        }
        if any(run.probe(name, probe, level) for name in SHOWN for level in LEVELS):
            found.append({"title": title, "difference": "minus" in probe, **cells})
    return found


def _value(row: Mapping[str, Any] | None, probe: str, digits: int) -> str:
    text = number(row["value"] if row else None, digits)
    return f"+{text}" if "minus" in probe and row and float(row["value"]) > 0 and text.strip("0.") else text


def _deletion_words(run: Run) -> list[str]:
    """Say whether the heaviest frames matter more than others, and how sure that is."""
    top, rest = (run.probe("accuracy", p, "window") for p in (TOP, RANDOM))
    row, loss = (run.probe(n, minus(TOP, RANDOM), "window") for n in ("accuracy", "log_loss"))
    if top is None or rest is None or row is None:
        return []
    whole = run.probe("accuracy", INTACT, "window")
    first = f"With its heaviest frames replaced the model is right in {number(top['value'])} of windows, with as many "
    first += f"random ones replaced in {number(rest['value'])}"
    first += f" (untouched: {number(whole['value'])}{_chance(run)})." if whole else "."
    found = [first]
    both = f"difference {_signed(row)}"
    finer = direction(loss, lower_is_better=True)
    match direction(row):
        case "worse":
            found.append(f"So the frames with large weights are those the answer rests on: {both}.")
        case "better":
            found.append(f"So large weights point away from what the answer rests on: {both}.")
        case "unknown":
            found.append(f"Too few subjects or trials for an interval, so nothing can be said: {both}.")
        case _ if finer == "worse":
            found.append(
                f"Right answers do not tell the two apart ({both}, whose interval holds 0); the finer log-loss "
                f"does: {_signed(loss, 3)}. Large weights do point at what matters, by little."
            )
        case _:
            found.append(
                f"That the weights point at what matters is not shown: {both}, and its interval holds 0"
                + (f"; so does that of the log-loss, {_signed(loss, 3)}." if finer == "open" else ".")
            )
    return found


def _shuffle_words(run: Run, probe: str) -> str:
    """Say what an exchanged modality costs, and what follows."""
    whole, now = run.probe("accuracy", INTACT, "window"), run.probe("accuracy", probe, "window")
    row, loss = (run.probe(n, minus(probe, INTACT), "window") for n in ("accuracy", "log_loss"))
    if whole is None or now is None or row is None:
        return ""
    modality, same = SHUFFLES[probe]
    name = "EEG" if modality == "eeg" else "face"
    title = name[0].upper() + name[1:]
    kind = "of the same class" if same else "of any class"
    if float(now.get("unchanged") or 0) >= 1:
        return f"{title} of another trial {kind}: cannot be asked, no subject has two such trials in a test part."
    begin = f"{title} of another trial {kind}: accuracy {number(whole['value'])} becomes {number(now['value'])}"
    begin += f" ({_signed(row)}; log-loss {_signed(loss, 3)})."
    found = direction(row)
    finer = direction(loss, lower_is_better=True)
    if found == "unknown":
        return f"{begin} Too few subjects or trials for an interval, so nothing can be said."
    if found == "better":
        return f"{begin} The model does better without the right {name}: what it learnt of it does not carry over."
    if found == "open" and finer != "worse":
        what = f"that this window’s own {name} matters beyond its class" if same else f"that the answer uses the {name}"
        return f"{begin} The interval holds 0: it is not shown {what}."
    how = "" if found == "worse" else " (by the log-loss; right answers do not show it)"
    if same:
        return f"{begin} That EEG and face are of one moment, not only of one class, matters{how}."
    return f"{begin} The answer rests on the {name}, and the other modality does not make up for a wrong one{how}."


def direction(row: Mapping[str, Any] | None, *, lower_is_better: bool = False) -> str:
    """Say of a difference: ``worse``, ``better``, ``open`` (its interval holds 0) or ``unknown`` (it has none)."""
    if row is None or row.get("low") is None or row.get("high") is None:
        return "unknown"
    if row["low"] <= 0 <= row["high"]:
        return "open"
    return "worse" if (row["value"] > 0) == lower_is_better else "better"


def _signed(row: Mapping[str, Any] | None, digits: int = 2) -> str:
    if row is None:
        return "–"
    return f"{_value(row, minus('', ''), digits)} {interval(row, digits)}".rstrip()


def _chance(run: Run) -> str:
    row = run.metric("accuracy", "window")
    return f", chance {number(row['chance'])}" if row and row.get("chance") is not None else ""


def _notes(run: Run, probes: Sequence[str]) -> list[str]:
    """What was put in and what could not be changed, then how the intervals came about."""
    rows = [r for p in probes if (r := run.probe("accuracy", p, "window"))]
    found = [f"{str(r['note'])[0].upper()}{str(r['note'])[1:]}." for r in rows if r.get("note")]
    hows = [run.probe("accuracy", INTACT, level) for level in LEVELS]
    said = [f"{r['level']}s: {r['interval_how']}" for r in hows if r and r.get("interval_how")]
    confidence = f"{100 * run.config.evaluation.confidence:g} %"
    found.append(f"Intervals at {confidence}, of differences paired by the resampled units ({'; '.join(said)}).")
    return found


def heads() -> list[Row]:
    """Return the columns of both tables."""
    return [{"title": FIGURES[n][0], "lower": n in LOWER_IS_BETTER} for n in SHOWN]


def _percent(value: Any) -> str:
    return "–" if value is None or not np.isfinite(float(value)) else f"{100 * float(value):.0f} %"


def _curve(table: pd.DataFrame, best: int, longest: int, text: str) -> str:
    """Draw one fold on a scale from 0 to 1: entropy and changed share by epoch."""
    wide, left, right, top, low = 260, 30, 252, 12, 104
    across = left + (right - left) * np.arange(longest) / max(longest - 1, 1)  # (E,)
    parts = [f'<svg viewBox="0 0 {wide} 122" role="img" aria-label="{text}"><title>{text}</title>']
    for y, label in ((top, "1"), (low, "0")):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 5}" y="{y + 4}" class="end">{label}</text>')
    x = across[best]
    parts.append(f'<line class="chosen" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{low}"/>')
    for column, kind in (("attention_entropy", "f1"), ("attention_changed", "val")):
        values = table[column].to_numpy(dtype=float) if column in table else np.full(len(table), np.nan)  # (E,)
        y = top + (low - top) * (1 - np.clip(values, 0, 1))  # (E,)
        points = [f"{a:.1f},{b:.1f}" for a, b in zip(across, y, strict=False) if np.isfinite(b)]
        parts.append(f'<polyline class="{kind}" points="{" ".join(points)}"/>')
    parts.append(f'<text x="{left}" y="119">1</text><text x="{right}" y="119" class="end">{longest}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="119" class="mid">epoch</text>')
    return "".join(parts) + "</svg>"
