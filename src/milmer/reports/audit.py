"""`milmer audit`: its findings as one self-contained HTML page, the verdict first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milmer.errors import UserError
from milmer.evaluation.protocols import KINDS, PERMITTED, display_name
from milmer.reports import words
from milmer.reports.writing import fill, write_file

# Worst first: the page's colour is that of the worst verdict that is a finding.
SEVERITY = ("leaky", "confounded", "not judged", "not possible", "clean")
PLAIN = {
    "leaky": "Training has seen what the test asks for. The score is partly memory of it.",
    "confounded": "Nothing leaks, but something other than the feeling goes with the label and can be read.",
    "clean": "Nothing is shared that may not be, and labels that mean nothing are not found.",
    "not judged": "Something that the verdict needs was not given.",
    "not possible": "The study is too small, or lacks what this protocol holds out.",
}


def write_page(run: Path) -> Path:
    """Write ``audit.html`` beside the ``audit.json`` of a folder.

    The page holds everything it shows, opens from disk without a network, and asks nothing of one.

    Parameters
    ----------
    run : Path
        Folder with an ``audit.json``, as `milmer audit` writes it.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        If there is no audit in `run`, it is not readable, or the page cannot be written.
    """
    folder = Path(run)
    audit = read_audit(folder)
    return write_file(folder / "audit.html", fill("audit.html.j2", content(audit)))


def read_audit(folder: Path) -> dict[str, Any]:
    """Read the ``audit.json`` of a folder.

    Raises
    ------
    UserError
        If there is none, or it is no audit.
    """
    file = folder / "audit.json"
    if not file.is_file():
        raise UserError(f"{folder}: found no audit.json, expected one; 'milmer audit STORE --out {folder}' writes it")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable ({error}); run milmer audit again") from error
    if not isinstance(found, dict) or found.get("kind") != "audit" or not isinstance(found.get("protocols"), list):
        raise UserError(f"{file}: found no audit in it, expected what 'milmer audit' writes; run it again")
    return found


def content(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template shows."""
    entries = [_protocol(p) for p in audit["protocols"]]
    verdicts = [e["verdict"] for e in entries]
    alarms = [e for e in entries if e["verdict"] in ("leaky", "confounded")]
    sure = [e["name"].removesuffix(" (leaky)") for e in alarms if e["counted"]]
    counted = f"the verdict on {', '.join(sure)} rests on that or on another fact of the table, with no chance in it"
    worst = next((v for v in SEVERITY if v in verdicts), "not judged")
    alpha = float(audit.get("alpha", 0.005))
    return {
        "source": str(audit.get("source", words.MISSING)),
        "headline": str(audit.get("headline", "")),
        "groups": _groups(entries),
        "worst": worst,
        "plain": [(v, PLAIN[v]) for v in SEVERITY if v in verdicts],
        "alpha": f"{alpha * 100:g}",
        "counted": counted if sure else "",
        "protocols": entries,
        "single": entries[0] if len(entries) == 1 else None,
        "permits": [(display_name(name), [(kind in allowed) for kind in KINDS]) for name, allowed in PERMITTED.items()],
        "kinds": [words.KIND_WORDS[k] for k in KINDS],
        "structure": list(audit.get("structure") or []),
        "confounds": [_confound(c) for c in audit.get("confounds") or []],
        "recognised": [_recognised(r) for r in audit.get("recognised") or []],
        "inflation": [i for i in map(_inflation, audit.get("inflation") or []) if i is not None],
        "no_signal": _no_signal(audit.get("no_signal")),
        "label_rule": audit.get("label_rule"),
        "methods": _methods(entries),
        "seconds": words.duration(audit.get("seconds")),
        "versions": sorted(dict(audit.get("versions") or {}).items()),
    }


def _protocol(entry: Mapping[str, Any]) -> dict[str, Any]:
    # One study on both sides of its own split is no news.
    overlaps = [o for o in entry.get("overlaps") or [] if o.get("shared") and (o["kind"] != "study" or o["of"] > 1)]
    permuted, film, observed = (entry.get(k) or {} for k in ("permuted", "stimulus", "observed"))
    return {
        "name": str(entry.get("protocol_name") or entry.get("protocol")),
        "verdict": str(entry.get("verdict", "not judged")),
        "sentence": str(entry.get("sentence", "")),
        "forbidden": [_overlap(o) for o in overlaps if not o["permitted"]],
        "permitted": [_overlap(o) for o in overlaps if o["permitted"]],
        "excesses": _excesses(permuted),
        "counted": bool(entry.get("counted")),
        "film": words.number(film.get("score")) if film else "",
        "film_chance": _beside(film),
        "observed": words.number(observed.get("score")) if observed else "",
        "observed_interval": words.interval(observed) if observed else "",
        "observed_chance": _beside(observed),
        "folds": [(f["fold"], words.number(f["score"]), f["n"]) for f in observed.get("folds") or []],
        "how": [h for h in (permuted.get("how"), film.get("how"), observed.get("how")) if h],
        "notes": [str(n) for n in entry.get("notes") or []],
    }


def _excesses(permuted: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the excess that decides, and the other look beside it where there were two."""
    again = permuted.get("again")
    looks = [("permuted", "permuted within subjects" if again else "", permuted)]
    if again:
        looks.append(("one by one", "drawn one by one", again))
    looks.sort(key=lambda look: look[0] != permuted.get("decides", "permuted"))
    return [
        {
            "points": points(look.get("excess")),
            "interval": _points_interval(look),
            "pair": _pair(look.get("score"), look.get("base"), "for"),
            "name": f"labels {name}{', decides' if i == 0 else ''}" if name else "",
        }
        for i, (_, name, look) in enumerate(looks)
        if look.get("excess") is not None
    ]


def _groups(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which protocols got which verdict, the worst first: ``Leaky: window.``"""
    found = []
    for verdict in SEVERITY:
        names = [e["name"].removesuffix(" (leaky)") for e in entries if e["verdict"] == verdict]
        if names:
            found.append(f"{verdict.capitalize()}: {', '.join(names)}.")
    return found


def _methods(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Gather protocols that were judged alike."""
    by_text: dict[str, list[str]] = {}
    for entry in entries:
        for how in entry["how"]:
            by_text.setdefault(how, []).append(entry["name"])
    return [(", ".join(names), how) for how, names in by_text.items()]


def _overlap(found: Mapping[str, Any]) -> str:
    dose = found.get("dose")
    kind = (
        "test rows by seconds" if found["kind"] == "time" else words.KIND_WORDS.get(found["kind"], str(found["kind"]))
    )
    text = f"{found['shared']} of {found['of']} {kind}"
    return f"{text} ({dose:.0%} of test rows)" if dose is not None and not found["permitted"] else text


def _confound(found: Mapping[str, Any]) -> dict[str, Any]:
    p = found.get("p")
    beside = [] if found.get("chance") is None else [f"{words.number(found.get('value'))}"]
    beside += [] if found.get("chance") is None else [f"chance {words.number(found['chance'])}"]
    beside += [] if p is None else [words.p_words(float(p))]
    return {
        "what": str(found.get("what", "")),
        "found": bool(found.get("found")),
        "sentence": str(found.get("sentence", "")),
        "beside": ", ".join(beside),
    }


def _recognised(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        "what": str(found.get("what", "")),
        "score": words.number(found.get("score")),
        "chance": words.number(found.get("chance"), 3 if (found.get("chance") or 1) < 0.1 else 2),
    }


def _inflation(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return one pair with its places on a scale from 0 to 1, in percent; None where nothing could be compared."""
    if found.get("difference") is None:
        return None
    one, other = float(found["one"]), float(found["other"])
    return {
        "what": str(found.get("what", "")),
        "one": words.number(one),
        "other": words.number(other),
        "gap": points(found["difference"]),
        "interval": _points_interval(found),
        "n": found.get("n"),
        "left": f"{100 * min(one, other):.2f}",
        "width": f"{100 * abs(one - other):.2f}",
        "at_one": f"{100 * one:.2f}",
        "at_other": f"{100 * other:.2f}",
    }


def _no_signal(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not found or found.get("gain") is None:
        return None
    low = found.get("low")
    return {
        "score": words.number(found.get("score")),
        "probe": words.number(found.get("probe")),
        "gain": points(found["gain"]),
        "interval": _points_interval(found),
        "n": found.get("n"),
        "how": str(found.get("how", "")),
        "protocol": str(found.get("protocol", "")),
        "sure": low is not None and low > 0,
    }


def points(share: Any) -> str:
    """Write a difference of shares as signed points: ``+46.2``; nothing where there is none."""
    if share is None:
        return ""
    text = words.number(100 * float(share), 1)
    return text if text.startswith("−") or float(share) <= 0 else f"+{text}"


def _points_interval(found: Mapping[str, Any]) -> str:
    if found.get("low") is None or found.get("high") is None:
        return ""
    return f"[{words.number(100 * found['low'], 1)}, {words.number(100 * found['high'], 1)}]"


def _beside(found: Mapping[str, Any]) -> str:
    """Write ``chance 0.25, p = 0.012``, as far as it is known."""
    parts = [] if found.get("chance") is None else [f"chance {words.number(found['chance'])}"]
    parts += [] if found.get("p") is None else [words.p_words(found["p"])]
    return ", ".join(parts).replace(" ", "\u00a0").replace(",\u00a0", ", ")


def _pair(one: Any, other: Any, between: str) -> str:
    return "" if one is None or other is None else f"{words.number(one)} {between} {words.number(other)}"
