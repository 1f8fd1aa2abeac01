"""The same study under several protocols, side by side: what a leaky split adds to a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milmer.errors import UserError
from milmer.evaluation.intervals import mean_interval
from milmer.evaluation.protocols import display_name
from milmer.reports.reading import Run, read_run
from milmer.reports.words import FIGURES, count, interval, number

Row = dict[str, Any]
NAME = "macro_f1"


def read_beside(run: Run, others: Sequence[Path]) -> list[Run]:
    """Read the runs to put beside `run`.

    Raises
    ------
    UserError
        If one is `run` itself or given twice; if one is of another study, has other classes or another label rule, or
        no test part: their figures would not be of one thing.
    """
    found: list[Run] = []
    for path in others:
        if Path(path).resolve() in [r.path.resolve() for r in (run, *found)]:
            raise UserError(f"{path}: is drawn already; give --beside another run, each once")
        other = read_run(Path(path), pictures=False)
        if other.classes != run.classes:
            raise UserError(
                f"{path}: has the classes {', '.join(other.classes)}, {run.path} has {', '.join(run.classes)}; put "
                "runs of the same data.target beside each other"
            )
        studies = [str(r.record.get("study") or "") for r in (run, other)]
        if all(studies) and studies[0] != studies[1]:
            raise UserError(
                f"{path}: is of the study “{studies[1]}”, {run.path} of “{studies[0]}”; their subjects cannot be "
                "paired: give runs of one study"
            )
        rules = [str(r.record.get("label_rule") or "") for r in (run, other)]
        if all(rules) and rules[0] != rules[1]:
            raise UserError(
                f"{path}: its label rule is “{rules[1]}”, that of {run.path} is “{rules[0]}”; evaluate both with the "
                "same data.threshold"
            )
        if other.part != run.part:
            raise UserError(
                f"{path}: has figures of its {other.part} part, {run.path} of {run.part}; give runs of evaluate"
            )
        found.append(other)
    return found


def compare_protocols(run: Run, others: Sequence[Run]) -> Row:
    """Return the figure of each run as a bar, and the differences paired by subject.

    Returns
    -------
    dict
        ``name`` (of the figure), ``level``, ``bars`` (title, value, interval, places in percent, leaky, this), ``base``
        (what differences are taken from), ``differences`` (text, value, interval, leaky, places) and ``notes``; empty
        without `others`.
    """
    if not others:
        return {}
    runs = [run, *others]
    level = run.levels[0] if all(r.levels == run.levels for r in runs) else "trial"
    base = next((r for r in runs if r.protocol == "trial"), next((r for r in runs if not r.leaky), run))
    bars = []
    for one in sorted(runs, key=lambda r: r.leaky):
        row = one.metric(NAME, level)
        bars.append({"title": _title(one, runs), "leaky": one.leaky, "this": one is run, **_bar(row)})
    differences = [d for one in runs if one is not base and (d := _difference(one, base, level, runs))]
    notes = []
    stores = {r.record.get("fingerprint") for r in runs}
    if len(stores) > 1:
        notes.append("These runs are of different stores: part of a difference may be the data’s.")
    models = {r.config.model.model_dump_json() + r.config.training.model_dump_json() for r in runs}
    if len(models) > 1:
        notes.append("These runs differ in model or training too: part of a difference may be theirs.")
    return {
        "name": FIGURES[NAME][0],
        "level": "trials" if level == "trial" else run.rows_word,
        "bars": bars,
        "base": _title(base, runs),
        "differences": differences,
        "notes": notes,
    }


def _title(run: Run, runs: Sequence[Run]) -> str:
    """Name a run by its protocol, and by its folder where two have the same."""
    name = str(run.record.get("protocol_name") or display_name(run.protocol))
    name = name if not run.leaky or "leaky" in name else f"{name} (leaky)"
    return f"{name}, {run.path.name}" if sum(r.protocol == run.protocol for r in runs) > 1 else name


def _bar(row: Any) -> Row:
    if row is None:
        return {"value": "–", "interval": "", "at": None, "ci": None, "chance": None, "above": None, "majority": None}

    def place(key: str) -> float | None:
        return None if row.get(key) is None else round(100 * float(np.clip(row[key], 0, 1)), 2)

    low, high = place("low"), place("high")
    return {
        "value": number(row["value"]),
        "interval": interval(row),
        "at": place("value"),
        "ci": None if low is None or high is None else (low, round(high - low, 2)),
        "chance": place("chance"),
        "majority": place("majority"),
        "above": place("above"),
    }


def _difference(one: Run, base: Run, level: str, runs: Sequence[Run]) -> Row | None:
    """The mean over subjects of the figure of `one` less that of `base`; None where they share fewer than two."""
    mine, theirs = _of_subjects(one, level), _of_subjects(base, level)
    both = sorted(set(mine) & set(theirs))
    if len(both) < 2:
        return None
    values = np.array([mine[s] - theirs[s] for s in both])  # (n_subjects,)
    low, high = mean_interval(values, run_confidence(base))
    known = bool(np.isfinite(low))
    value = float(values.mean())
    if not known:
        said = "too few subjects for an interval"
    elif low <= 0 <= high:
        said = "not shown to be different"
    else:
        said = "higher" if value > 0 else "lower"
    if one.leaky and not base.leaky and known and low > 0:
        said = "inflated by the leak"
    return {
        "title": f"{_title(one, runs)} less {_title(base, runs)}",
        "leaky": one.leaky != base.leaky,
        "value": f"{'+' if value > 0 else ''}{number(100 * value, 0)}",
        "interval": f"[{number(100 * low, 0)}, {number(100 * high, 0)}]" if known else "",
        "said": said,
        "n": count(len(both), "subject"),
        "at": _signed(value),
        "ci": (_signed(low), round(_signed(high) - _signed(low), 2)) if known else None,
        "from": min(50.0, _signed(value)),
        "wide": round(abs(_signed(value) - 50.0), 2),
    }


def run_confidence(run: Run) -> float:
    """Level of the run's intervals."""
    return float(run.config.evaluation.confidence)


def _of_subjects(run: Run, level: str) -> dict[str, float]:
    """The figure of each subject that has one."""
    names = {str(r["subject"]) for r in run.metrics if r.get("subject")}
    rows = {s: run.metric(NAME, level, s) for s in names}
    return {s: float(r["value"]) for s, r in rows.items() if r is not None}


def _signed(value: float) -> float:
    """Place of a difference on an axis from -1 to 1, in percent."""
    return round(50 + 50 * float(np.clip(value, -1, 1)), 2)
