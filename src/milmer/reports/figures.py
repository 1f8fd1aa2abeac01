"""The run's figures as plain data for the page: tables and dot plots (places in percent)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from milmer.evaluation.metrics import confusion
from milmer.evaluation.scoring import trial_level
from milmer.reports.reading import Run
from milmer.reports.words import FIGURES, LOWER_IS_BETTER, RATINGS, count, interval, number, p_words

Row = dict[str, Any]


def figure_table(run: Run, *, target: str | None = None, names: Sequence[str] = tuple(FIGURES)) -> list[Row]:
    """Return one row a figure, with its cells at window and trial level; empty without metrics.json.

    Parameters
    ----------
    target : str, optional
        Of what: the run's main target unless another is named.
    names : sequence of str
        Figures, in the order of the rows.
    """
    rows = []
    for name in names:
        title, digits, explained = (FIGURES | RATINGS)[name]
        levels = {}
        for level in run.levels:
            found = run.metric(name, level, target=target)
            levels[level] = found and {
                "value": number(found["value"], digits),
                "interval": interval(found, digits),
                "chance": number(found.get("chance"), digits),
                "p": p_words(found["p"]).removeprefix("p ").removeprefix("= ") if found.get("p") is not None else "–",
                "majority": number(found.get("majority"), digits),
                "prior": number(found.get("prior"), digits),
                "above": number(found.get("above"), digits),
                "no_signal": number(found.get("no_signal"), digits),
            }
        if any(levels.values()):
            rows.append({"title": title, "explained": explained, "lower": name in LOWER_IS_BETTER, **levels})
    return rows


def figure_notes(run: Run) -> list[str]:
    """Say how many rows the figures are of, how intervals and chance were found."""
    notes = []
    for level in run.levels:
        row = run.metric("macro_f1", level) or run.metric("accuracy", level)
        if row is None:
            continue
        word = run.row_word if level == "window" else level
        seen = f"{word.capitalize()} level: {count(int(row.get('n') or 0), word)}"
        parts = [f"intervals by {row['interval_how']}" if row.get("interval_how") else ""]
        parts += [f"chance: {row['chance_how']}" if row.get("chance_how") else ""]
        notes.append("; ".join([seen, *filter(None, parts)]) + ".")
    notes.append(
        f"Intervals are at {100 * run.config.evaluation.confidence:g} %. Chance is what no relation between labels and "
        "signals would give, p the share of that as good as the value. Majority is always answering the commonest "
        "class of the training part, prior answering by the frequencies of its classes, whatever the signals."
    )
    rows = [r for level in run.levels if (r := run.metric("macro_f1", level) or run.metric("accuracy", level))]
    if any(r.get("above") is not None for r in rows):
        hows = "; ".join(dict.fromkeys(str(r["above_how"]) for r in rows if r.get("above_how")))
        notes.append(
            "The 5 % bar (dashed line) is what a figure must pass to differ from chance at 5 %, by the number of "
            f"independent subjects or trials, not of windows{f' ({hows})' if hows else ''}. It counts as above chance "
            "where it reaches the bar and p is 0.05 at most; where only one of the two is known, by that one."
        )
    if any(r.get("no_signal") is not None for r in rows):
        notes.append("No signal: answering from the ratings that other subjects gave the same stimulus.")
    return notes


def dot_plot(run: Run) -> Row:
    """Return the main figures as points on one axis from (at most) 0 to 1, window and trial level."""
    names = [n for n in FIGURES if n not in LOWER_IS_BETTER]
    found = [(n, lv, r) for n in names for lv in run.levels if (r := run.metric(n, lv))]
    keys = ("value", "low", "high", "chance", "chance_high", "majority", "prior", "above", "no_signal")
    low = min([0.0, *(float(r[k]) for _, _, r in found for k in keys if r.get(k) is not None)])
    low = float(np.floor((low + 0.02) * 5) / 5)  # the axis starts at a multiple of 0.2; a hair below 0 is 0
    rows: list[Row] = []
    for name in names:
        points = [{"level": lv, **_point(r, low)} for n, lv, r in found if n == name]
        if points:
            rows.append({"title": FIGURES[name][0], "points": points})
    return {"rows": rows, "ticks": _ticks(low), "has": _has(rows)}


def _has(rows: Sequence[Row]) -> set[str]:
    """Which marks a plot has, for its legend."""
    points = [p for r in rows for p in r["points"]]
    return {
        m for m in ("ci", "band", "majority", "prior", "above", "no_signal") if any(p[m] is not None for p in points)
    }


def subject_plot(run: Run) -> Row:
    """Return accuracy of each subject at window level: the first of these figures that the run has."""
    known = {str(r["subject"]) for r in run.metrics if r.get("subject")}
    subjects = sorted(known or {str(s) for s in run.scored["subject"]}, key=_natural)
    for name in ("macro_f1", "accuracy"):
        rows: list[Row] = []
        values: list[float] = []
        for subject in subjects:
            found = run.metric(name, run.levels[0], subject)
            if found:
                trial = run.metric(name, "trial", subject) if len(run.levels) > 1 else None
                points = [{"level": run.levels[0], **_point(found, 0.0)}]
                values.append(float(found["value"]))
                n = count(int(found.get("n") or 0), run.row_word)
                trials = f", {count(int(trial['n']), 'trial')}" if trial and trial.get("n") else ""
                rows.append({"title": subject, "points": points, "n": n + trials})
        if rows:
            spread = f"Lowest {number(min(values))}, median {number(np.median(values))}, highest {number(max(values))}."
            marks = {"ticks": _ticks(0.0), "has": _has(rows)}
            return {"rows": rows, "name": FIGURES[name][0], "spread": spread, **marks}
    return {"rows": [], "ticks": [], "has": set(), "name": "", "spread": ""}


def confusion_tables(run: Run) -> list[Row]:
    """Return the confusion table and the figures of each class at both levels."""
    scored, k = run.scored, len(run.classes)
    if not len(scored):
        return []
    found = []
    for level in run.levels:
        rows = scored if level == "window" else trial_level(scored, list(run.classes))
        y = rows["y_true"].to_numpy(np.int64)
        table = confusion(y, run.probabilities(rows).argmax(axis=1), k)  # (k, k)
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)  # (k, k)
        lines = []
        for i, name in enumerate(run.classes):
            cells = [
                {"n": int(table[i, j]), "share": f"{100 * share[i, j]:.0f} %", **_shade(share[i, j])} for j in range(k)
            ]
            scores = [
                number(r["value"] if (r := run.metric(f"{m}/{name}", level)) else None)
                for m in ("precision", "recall", "f1")
            ]
            lines.append({"name": name, "cells": cells, "n": int(table[i].sum()), "scores": scores})
        n = count(len(rows), run.row_word if level == "window" else level)
        if len(run.seeds) > 1:
            n = f"{count(len(rows), 'answer')} of {len(run.seeds)} seeds"
        elif level == "trial" and run.leaky:
            n = f"{count(len(rows), 'answer')}: a trial has windows in several folds"
        found.append({"level": level, "lines": lines, "n": n})
    return found


def splits_table(run: Run) -> list[Row]:
    """Return what each fold's parts hold, and what of the tested rows was met in training."""
    table = run.predictions
    if len(run.seeds) > 1:  # the split is the same for every seed
        table = table[table["seed"] == run.seeds[0]]
    trial = table.groupby([c for c in ("study", "subject", "session", "trial") if c in table], dropna=False).ngroup()
    table = table.assign(_trial=trial)
    rows = []
    for fold, mine in table.groupby("fold", sort=True):
        parts = {name: mine[mine["part"] == name] for name in ("train", "validation", "test")}
        train, judged = parts["train"], parts[run.part]
        row: Row = {"fold": int(str(fold)) + 1}
        for name, part in parts.items():
            row[name] = f"{len(part):,}".replace(",", " ")
            row[f"{name}_more"] = (
                f"{part['_trial'].nunique()} trials, {part['subject'].nunique()} subj." if len(part) else ""
            )
        row["name"] = run.fold_names.get(int(str(fold)), "")
        row["shared"] = {
            "trials": _met(judged, train, "_trial"),
            "subjects": _met(judged, train, "subject"),
            "stimuli": _met(judged, train, "stimulus"),
        }
        rows.append(row)
    return rows


def _met(judged: pd.DataFrame, train: pd.DataFrame, column: str) -> str:
    """Share of the different values of `column` in `judged` that are also in `train`, in words."""
    if column not in judged or not len(judged) or not len(train):
        return "–"
    values = set(judged[column].dropna()) - {""}
    if not values:
        return "–"
    both = len(values & set(train[column].dropna()))
    return f"{both} of {len(values)}"


def _point(row: Mapping[str, Any], low: float) -> Row:
    def place(name: str) -> float | None:
        value = row.get(name)
        return None if value is None else round(100 * float(np.clip((value - low) / (1 - low), 0, 1)), 2)

    chance, limit, first, last = place("chance"), place("chance_high"), place("low"), place("high")
    said = f"{number(row['value'])} {interval(row)}".rstrip()
    said += f", chance {number(row.get('chance'))}, majority {number(row.get('majority'))}"
    for name, word in (("prior", "prior"), ("above", "above chance from"), ("no_signal", "no signal")):
        said += f", {word} {number(row[name])}" if row.get(name) is not None else ""
    return {
        "at": place("value"),
        "ci": None if first is None or last is None else (first, round(last - first, 2)),
        "chance": chance,
        "band": None if chance is None or limit is None else (min(chance, limit), round(abs(limit - chance), 2)),
        "majority": place("majority"),
        "prior": place("prior"),
        "above": place("above"),
        "no_signal": place("no_signal"),
        "value": number(row["value"]),
        "interval": interval(row),
        "said": said,
    }


def _ticks(low: float) -> list[Row]:
    """Return the axis' marks; minor ones give way where the page is narrow."""
    fifths = range(round(low * 5), 6)
    return [
        {"at": round(100 * (n / 5 - low) / (1 - low), 2), "text": number(n / 5, 1), "minor": n not in (0, 2, 4, 5)}
        for n in fifths
    ]


def _shade(share: float) -> Row:
    """Background of a confusion cell, white to deep blue, and whether its text must be light."""
    low, high = np.array([247, 250, 253]), np.array([11, 79, 138])
    red, green, blue = (low + (high - low) * float(share) ** 0.8).round().astype(int)
    return {"colour": f"rgb({red},{green},{blue})", "light": bool(share > 0.55)}


def _natural(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdigit())
    return (int(digits) if digits else 0, name)
