"""What may be believed of a run, on top of its page: the audit's verdict, or what the run itself shows of its split."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from milmer.evaluation import protocols
from milmer.reports.reading import Run
from milmer.reports.words import KIND_WORDS, interval, number

Row = dict[str, Any]
COLUMNS = {
    "trial": ("study", "subject", "session", "trial"),
    "recording": ("study", "subject", "session", "recording"),
    "subject": ("study", "subject"),
    "stimulus": ("study", "stimulus"),
    "study": ("study",),
}
TITLES = {
    "clean": "Audit: clean",
    "leaky": "Audit: leaky",
    "confounded": "Audit: confounded",
    "not possible": "Audit: this protocol is not possible here",
    "not judged": "Audit: not judged",
    "none": "Not audited yet",
}


def audit_verdict(run: Run) -> Row:
    """Return the panel on top of the page.

    Returns
    -------
    dict
        ``kind`` (clean, leaky, confounded, not possible, not judged or none), ``title``, ``sentences`` (plain words
        first, then the figures), ``overlaps`` (rows of: kind, shared, permitted, fault), ``notes``, ``source`` (what
        the verdict rests on) and ``command`` (what to type for an audit; empty where there is one).
    """
    entries = [e for e in run.audit.get("protocols", []) if isinstance(e, Mapping)]
    mine = next((e for e in entries if e.get("protocol") == run.protocol), None)
    if mine is None:
        return _unaudited(run, bool(entries))
    kind = str(mine.get("verdict") or "not judged")
    alpha = run.audit.get("alpha")
    sentences = [str(mine["sentence"])] if mine.get("sentence") else []
    sentences += [s for s in (_permuted(mine.get("permuted")), _stimulus(mine.get("stimulus"))) if s]
    if mine.get("counted"):
        sentences.append("This verdict is counted: there is no chance in it.")
    elif alpha is not None:
        sentences.append(
            f"A verdict of leaky or confounded is wrong in at most {100 * float(alpha):g} % of clean studies."
        )
    overlaps = [
        {
            "kind": KIND_WORDS.get(str(o.get("kind")), str(o.get("kind"))),
            "shared": f"{o.get('shared')} of {o.get('of')}",
            "permitted": bool(o.get("permitted")),
            "fault": bool(o.get("shared")) and not o.get("permitted"),
        }
        for o in mine.get("overlaps", [])
    ]
    fits = mine.get("fits_of_audit")
    source = "milmer audit, with a fast probe in place of the model" + (f", {fits} fits" if fits else "")
    return {
        "kind": kind,
        "title": TITLES.get(kind, f"Audit: {kind}"),
        "sentences": sentences,
        "overlaps": overlaps,
        "notes": [str(n) for n in mine.get("notes", [])],
        "source": source,
        "command": "",
    }


def structure(run: Run) -> list[Row]:
    """Count what of the judged part was met in training or validation, of each kind that can be shared.

    Returns
    -------
    list of dict
        ``kind``, ``shared``, ``of`` (each counted once, however many folds judge it) and ``permitted`` under the run's
        protocol.
    """
    permitted = protocols.PERMITTED.get(run.protocol, frozenset())
    table = run.predictions
    if len(run.seeds) > 1:
        table = table[table["seed"] == run.seeds[0]]
    found: list[Row] = []
    for kind, wanted in COLUMNS.items():
        columns = [c for c in wanted if c in table]
        if columns[-1:] != [wanted[-1]]:
            continue
        if table[columns[-1]].isna().all() or not set(table[columns[-1]].dropna().astype(str)) - {""}:
            continue  # nobody named it, so nothing can be said
        code = pd.Series(table.groupby(columns, dropna=False, sort=False).ngroup().to_numpy(), index=table.index)
        shared: set[int] = set()
        of: set[int] = set()
        for _, fold in table.groupby("fold", sort=True):
            judged = set(code[fold.index[fold["part"] == run.part]])
            met = set(code[fold.index[fold["part"] != run.part]])
            shared, of = shared | (judged & met), of | judged
        found.append({"kind": kind, "shared": len(shared), "of": len(of), "permitted": kind in permitted})
    return found


def _unaudited(run: Run, others: bool) -> Row:
    found = structure(run)
    faults = [o for o in found if o["shared"] and not o["permitted"]]
    name = run.record.get("protocol_name") or run.protocol
    if run.leaky or faults:
        what = " and ".join(KIND_WORDS[o["kind"]] for o in faults) or "trials"
        first = f"Leaky by its split alone: {what} of the {run.part} part are in training or validation as well."
    elif found:
        first = f"By its split alone nothing stands against this run: all that is shared is permitted under “{name}”."
    else:
        first = "The predictions do not say what was shared between the parts."
    rest = (
        "The split is not all: labels may go with recordings or with stimuli, and what was fitted on everything leaves "
        "no trace here. An audit finds that out:"
    )
    if others:
        rest = f"The audit in this run says nothing of “{name}”. {rest}"
    return {
        "kind": "leaky" if run.leaky or faults else "none",
        "title": "Not audited, but leaky" if run.leaky or faults else TITLES["none"],
        "sentences": [first, rest],
        "overlaps": [
            {
                "kind": KIND_WORDS[o["kind"]],
                "shared": f"{o['shared']} of {o['of']}",
                "permitted": o["permitted"],
                "fault": bool(o["shared"]) and not o["permitted"],
            }
            for o in found
        ],
        "notes": [],
        "source": "the run’s own split, from its predictions",
        "command": shlex.join(["milmer", "audit", run.store_path or "STORE", "--run", str(run.path), "--out", "AUDIT"]),
    }


def _permuted(row: Mapping[str, Any] | None) -> str:
    """Say what permuted labels gave."""
    if not row or row.get("score") is None:
        return ""
    text = f"With labels permuted within each subject the probe still scores {number(row['score'])}"
    if row.get("base") is not None:
        text += f", against {number(row['base'])} under “trial” with equal folds"
    if row.get("excess") is not None:
        points = 100 * float(row["excess"])
        reach = ""
        if row.get("low") is not None and row.get("high") is not None:
            reach = f" [{number(100 * float(row['low']), 0)}, {number(100 * float(row['high']), 0)}]"
        text += f": an excess of {number(points, 0)}{reach} points"
    text += f" (p {_p(row['p'])})." if row.get("p") is not None else "."
    again = row.get("again") if row.get("decides") == "one by one" else None
    if again and again.get("excess") is not None:
        text += f" What decides is the excess with labels drawn for each trial one by one: {_excess(again)} points."
    return text


def _excess(row: Mapping[str, Any]) -> str:
    low, high = (number(100 * float(row[end]), 0) for end in ("low", "high"))
    return f"{number(100 * float(row['excess']), 0)} [{low}, {high}]"


def _stimulus(row: Mapping[str, Any] | None) -> str:
    """Say what a random label for each stimulus gave."""
    if not row or row.get("score") is None:
        return ""
    text = f"With one random label for each stimulus, shared by all subjects, it scores {number(row['score'])}"
    if row.get("chance") is not None:
        text += f" (chance {number(row['chance'])}" + (f", p {_p(row['p'])})" if row.get("p") is not None else ")")
    return text + "."


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def gain(run: Run) -> str:
    """Say what the model adds to a predictor that uses no signal; empty where stimuli are not shared, or unknown."""
    row = _with(run, "gain")
    if row is None or row.get("no_signal") is None:
        return ""
    low, high = row.get("gain_low"), row.get("gain_high")
    if low is None or high is None:
        what = "too few subjects for an interval"
    elif float(low) <= 0 <= float(high):
        what = "not shown to differ from nothing"
    else:
        what = "its interval excludes 0" if float(row["gain"]) > 0 else "the model does worse than that"
    leaky = " of a leaky protocol" if run.leaky else ""
    reach = interval({"low": low, "high": high})
    return (
        f"Gain{leaky} over no signal {number(row['gain'])} {reach}".rstrip() + f": from the ratings that other "
        f"subjects gave the same stimulus one gets {number(row['no_signal'])}, this model {number(row['value'])} "
        f"({_what(row)}); {what}."
    )


def claims(run: Run) -> list[str]:
    """Return what the main figure is worth for new stimuli and over seeds.

    Empty where the metrics say nothing of it, as in older runs.
    """
    found = []
    row = _with(run, "low_new")
    if row is not None and row.get("high_new") is not None and not run.leaky:  # what is leaked is no claim about others
        reach = interval({"low": row["low_new"], "high": row["high_new"]})
        found.append(
            f"To speak for other stimuli as well as other subjects, read {number(row['value'])} {reach} ({_what(row)}; "
            f"{row.get('interval_new_how') or 'over subjects and stimuli'})."
        )
    row = _with(run, "seed_sd")
    if row is not None and int(row.get("seeds") or 1) > 1:
        found.append(
            f"Over {row['seeds']} seeds of training: standard deviation {number(row['seed_sd'], 3)} ({_what(row)})."
        )
    return found


def _with(run: Run, key: str) -> Mapping[str, Any] | None:
    """The first of the main figures that has `key`: the whole trial's before the window's."""
    for name in ("macro_f1", "balanced_accuracy", "accuracy"):
        for level in reversed(run.levels):
            row = run.metric(name, level)
            if row is not None and row.get(key) is not None:
                return row
    return None


def _what(row: Mapping[str, Any]) -> str:
    names = {"macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}
    return f"{names.get(str(row.get('name')), str(row.get('name')))} of {row.get('level')}s"


def guard_rows(run: Run) -> list[Row]:
    """Return what was fitted on how many rows of which parts, by the run's guard: a row a kind of fit, folds together.

    Returns
    -------
    list of dict
        ``kind``, ``what``, ``fits`` (how many), ``rows`` (fewest to most), ``parts`` (in words).
    """
    found = []
    for entry in run.record.get("guard") or []:
        low, high = entry.get("fewest_rows"), entry.get("most_rows")
        found.append(
            {
                "kind": entry.get("kind", ""),
                "what": entry.get("what", ""),
                "fits": entry.get("fits", ""),
                "rows": f"{low}" if low == high else f"{low} to {high}",
                "parts": entry.get("parts") or "–",
            }
        )
    return found
