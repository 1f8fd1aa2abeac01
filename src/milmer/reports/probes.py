"""The parts of the page that say what the model uses: deletion and shuffling tests, their verdicts first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from milmer.evaluation.probes import EXCHANGES, INTACT, RANDOM, SIGNALS, TOP, minus
from milmer.reports.reading import Run
from milmer.reports.words import interval, number

Row = dict[str, Any]
DELETION = {
    TOP: "Heaviest frames replaced",
    RANDOM: "As many at random replaced",
    minus(TOP, RANDOM): "Heaviest against random",
}
ADDED = {
    f"{kind}-{which}-class": f"{name[0].upper()}{name[1:]}, {which} class"
    for kind, name in SIGNALS.items()
    for which in ("any", "same")
}


def attention_notes(run: Run) -> list[str]:
    """Return what the run says of folds whose attention has collapsed, folds of one fate in one sentence."""
    found: dict[str, list[str]] = {}
    for note in run.record.get("notes", []):
        match = re.fullmatch(r"fold (\d+): (attention has collapsed.*)", str(note))
        if match:
            found.setdefault(match.group(2), []).append(str(int(match.group(1)) + 1))
    return [f"In fold{'s' * (len(folds) > 1)} {', '.join(folds)} {what}." for what, folds in found.items()]


def deletion(run: Run) -> Row:
    """Return the deletion test as ``rows``, ``said`` (verdict and rest) and ``notes``; no ``said`` where not run."""
    said = [s for s in [_deletion_words(run)] if s]
    return {"rows": _rows(run, DELETION), "said": said, "notes": _notes(run, [TOP])}


def added(run: Run) -> Row:
    """Return the shuffling tests as ``rows``, ``said`` (verdict and rest) and ``notes``; no ``said`` where not run."""
    said = [s for p in ADDED if (s := _shuffle_words(run, p))]
    return {"rows": _rows(run, ADDED), "said": said, "notes": _notes(run, list(EXCHANGES))}


def _any(run: Run, name: str, probe: str, level: str) -> Mapping[str, Any] | None:
    """A row of probes.json, be its value defined or not."""
    return next(
        (r for r in run.probes if (r.get("name"), r.get("probe"), r.get("level")) == (name, probe, level)), None
    )


def _rows(run: Run, probes: Mapping[str, str]) -> list[Row]:
    """Return one row a probe, with its cells at each level; probes without a figure have none."""
    found = []
    for probe, title in probes.items():
        contrast = " minus " in probe
        row: Row = {"title": title, "contrast": contrast, "levels": []}
        for level in run.levels:
            now = run.probe("accuracy", probe, level)
            if now is None:
                continue
            change, loss = (
                run.probe(name, probe if contrast else minus(probe, INTACT), level) for name in ("accuracy", "log_loss")
            )
            before, after = (number(now.get("intact")), number(now["value"]))
            if contrast:
                before, after = (number(r["value"] if r else None) for p in (RANDOM, TOP) for r in [_at(run, p, level)])
            row["levels"].append(
                {
                    "level": level,
                    "n": int(now.get("n") or 0),
                    "before": before,
                    "after": after,
                    "change": _value(change, 2),
                    "interval": interval(change),
                    "loss": _value(loss, 3),
                    "loss_interval": interval(loss, 3),
                }
            )
        if row["levels"]:
            found.append(row)
    return found


def _at(run: Run, probe: str, level: str) -> Mapping[str, Any] | None:
    return run.probe("accuracy", probe, level)


def _value(row: Mapping[str, Any] | None, digits: int) -> str:
    """Write a difference with its sign."""
    text = number(row["value"] if row else None, digits)
    return f"+{text}" if row and float(row["value"]) > 0 and text.strip("0.") else text


def _deletion_words(run: Run) -> Row:
    """Say whether the heaviest frames matter more than others, and how sure that is."""
    level = run.levels[0]
    asked = _any(run, "accuracy", minus(TOP, RANDOM), level)
    if asked is None:
        return {}
    top, rest = (run.probe("accuracy", p, level) for p in (TOP, RANDOM))
    row, loss = (run.probe(n, minus(TOP, RANDOM), level) for n in ("accuracy", "log_loss"))
    if top is None or rest is None or row is None:
        return _unasked("Whether the heaviest frames matter cannot be asked here.", asked)
    whole = number(top.get("intact"))
    detail = f"The model is right in {number(top['value'])} of {run.rows_word} with its heaviest frames replaced, in "
    detail += f"{number(rest['value'])} with as many random ones replaced: {_signed(row)} "
    detail += f"(untouched {whole}{_chance(run)})."
    finer = direction(loss, lower_is_better=True)
    match direction(row):
        case "worse":
            verdict = "Yes: the answer rests on the frames with large weights."
        case "better":
            verdict = "No: large weights point away from what the answer rests on."
        case "unknown":
            verdict = "Not known: there are too few subjects or trials for an interval."
        case _ if finer == "worse":
            verdict = "By little: large weights point at what the answer rests on, but right answers do not show it."
            detail += f" Only the log-loss tells the two apart: {_signed(loss, 3)}."
        case _:
            verdict = "Not shown: as far as this test can tell, the heaviest frames matter no more than others."
    return {"verdict": verdict, "rest": detail}


def _shuffle_words(run: Run, probe: str) -> Row:
    """Say what an exchanged modality costs, and what follows."""
    level = run.levels[0]
    modality, same = EXCHANGES[probe]
    name = SIGNALS[modality]
    others = [SIGNALS[m] for m in run.config.data.modalities if m != modality]
    title = name[0].upper() + name[1:]
    asked = _any(run, "accuracy", probe, level)
    if asked is None:
        return {}
    now, row, loss = (
        run.probe(n, p, level)
        for n, p in (("accuracy", probe), ("accuracy", minus(probe, INTACT)), ("log_loss", minus(probe, INTACT)))
    )
    what = f"{title} and its moment" if same else title
    if now is None or row is None:
        return _unasked(f"{what}: cannot be asked here.", asked)
    kind = "the same" if same else "any"
    before, after = number(now.get("intact")), number(now["value"])
    path = f"stays at {before}" if before == after else f"goes from {before} to {after}"
    detail = f"With the {name} of another trial of {kind} class, accuracy {path} ({_signed(row)})"
    found, finer = direction(row), direction(loss, lower_is_better=True)
    if found == "unknown":
        verdict = "not known, there are too few subjects or trials for an interval."
    elif found == "better":
        verdict = f"the model does better without the right {name}; what it learnt of it does not carry over."
    elif found == "open" and finer != "worse":
        verdict = "not shown to matter beyond its class." if same else "not shown that the answer uses it."
    elif found == "open":
        verdict = "matters beyond its class, but by little." if same else "the answer uses it, but by little."
        detail += f"; only the log-loss shows it, {_signed(loss, 3)}"
    elif same:
        all_ = " and ".join(SIGNALS[m] for m in run.config.data.modalities)
        verdict = f"matters; {all_} must be of one moment, not only of one class."
    else:
        rest = f"the {others[0]} does not" if len(others) == 1 else "the others do not"
        verdict = f"the answer rests on it, and {rest} make up for a wrong one."
    return {"verdict": f"{what}: {verdict}", "rest": f"{detail}."}


def _unasked(verdict: str, asked: Mapping[str, Any]) -> Row:
    """Say that and why there is no figure."""
    note = str(asked.get("note") or "")
    return {"verdict": verdict, "rest": f"{note[0].upper()}{note[1:]}." if note else ""}


def direction(row: Mapping[str, Any] | None, *, lower_is_better: bool = False) -> str:
    """Say of a difference: ``worse``, ``better``, ``open`` (its interval holds 0) or ``unknown`` (it has none)."""
    if row is None or row.get("low") is None or row.get("high") is None:
        return "unknown"
    if row["low"] <= 0 <= row["high"]:
        return "open"
    return "worse" if (row["value"] > 0) == lower_is_better else "better"


def _signed(row: Mapping[str, Any] | None, digits: int = 2) -> str:
    return "–" if row is None else f"{_value(row, digits)} {interval(row, digits)}".rstrip()


def _chance(run: Run) -> str:
    row = run.metric("accuracy", run.levels[0])
    return f", chance {number(row['chance'])}" if row and row.get("chance") is not None else ""


def _notes(run: Run, probes: Sequence[str]) -> list[str]:
    """What was put in and what was left out, then how the intervals came about."""
    rows = [r for p in probes if (r := run.probe("accuracy", p, run.levels[0]))]
    if not rows:
        return []
    said = dict.fromkeys(str(r["note"]) for r in rows if r.get("note"))
    found = [f"{note[0].upper()}{note[1:]}." for note in said]
    hows = dict.fromkeys(str(r["interval_how"]) for r in rows if r.get("interval_how"))
    confidence = f"{100 * run.config.evaluation.confidence:g} %"
    return [*found, f"Intervals at {confidence}, of paired differences: {'; '.join(hows)}."]
