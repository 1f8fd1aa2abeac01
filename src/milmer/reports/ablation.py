"""An ablation as a page, a table to paste, and a picture a kind."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milmer.evaluation.ablations.plans import ENOUGH, PAPER_COLUMN, PAPER_NOTE, TITLES, dropout_of
from milmer.evaluation.ablations.results import Ablation
from milmer.evaluation.chance import ALPHA
from milmer.evaluation.protocols import LEAKY, display_name
from milmer.reports.ablation_plot import draw
from milmer.reports.words import FIGURES, PROTOCOLS, count, duration, number, p_words
from milmer.reports.writing import fill, write_file

SHOWN = ("accuracy", "balanced_accuracy", "macro_f1")
LEVELS = ("window", "trial")
COMPARED = "accuracy"  # the paper's figure; table.csv has the differences of all three
LEAKY_WORDS = (
    "Leaky protocol. Windows of the same trial are in training and in the test, so these figures say little about new "
    "trials. They are for comparison with the protocol “trial” only."
)
DASH = "–"


def write_ablation_report(out: Path, found: Sequence[Ablation]) -> Path:
    """Write ``report.html``, ``table.md`` and ``plot-<kind>.png`` into an ablation's folder.

    Parameters
    ----------
    out : Path
        The folder.
    found : sequence of Ablation
        As `milmer.evaluation.ablations.ablate.ablate` or `read_ablations` returns them.

    Returns
    -------
    Path
        The page; it holds everything it shows.

    Raises
    ------
    UserError
        If a file cannot be written.
    """
    sections = []
    for ablation in found:
        section = describe(ablation)
        picture = draw(ablation)
        if picture:
            write_file(out / f"plot-{ablation.kind}.png", picture)
            section["picture"] = "data:image/png;base64," + base64.b64encode(picture).decode()
        sections.append(section)
    first = found[0]
    content = {
        "title": f"{first.study}: what each choice is worth",
        "protocol": display_name(first.protocol),
        "protocol_words": PROTOCOLS.get(first.protocol, ""),
        "leaky_words": LEAKY_WORDS if first.protocol in LEAKY else "",
        "sections": sections,
        "paper_column": PAPER_COLUMN,
        "paper_note": PAPER_NOTE,
    }
    write_file(out / "table.md", "\n".join(_markdown(a) for a in found).encode())
    return write_file(out / "report.html", fill("ablation.html.j2", content))


def describe(ablation: Ablation) -> dict[str, Any]:
    """Return what the page shows of one ablation, as words and plain values."""
    rows = []
    for row in ablation.rows:
        shown: dict[str, Any] = {"cell": row["cell"], "reason": row["reason"], "notes": _remarks(row)}
        shown["paper"] = number(row["paper"]) if row["paper"] is not None else DASH
        shown["is_reference"] = row["cell"] == ablation.reference
        if row["state"] == "done":
            shown["figures"] = [_figure(row, f"{name}_{level}", len(ablation.seeds)) for level, name in _columns()]
            shown["gaps"] = [_gap(row, f"{COMPARED}_{level}") for level in LEVELS]
            shown["parameters"] = _large(row["parameters"])
            shown["seconds"] = duration(row["seconds"])
        rows.append(shown)
    done = ablation.done
    how = done[0] if done else {}
    return {
        "kind": ablation.kind,
        "title": TITLES[ablation.kind],
        "rows": rows,
        "heads": [FIGURES[name][0] for _, name in _columns()],
        "has_paper": any(r["paper"] is not None for r in ablation.rows),
        "seeds": _seeds(ablation.seeds),
        "sentences": _sentences(ablation),
        "reference": ablation.reference,
        "compared": FIGURES[COMPARED][0].lower(),
        "method": _method(ablation, how),
        "overrides": [
            (r["cell"], ", ".join(f"{k}={_value(v)}" for k, v in r["overrides"].items())) for r in ablation.rows
        ],
        "preset": f"preset {ablation.config.preset}, backbone {ablation.config.model.backbone}",
        "picture": "",
    }


def _columns() -> list[tuple[str, str]]:
    return [(level, name) for level in LEVELS for name in SHOWN]


def _figure(row: Mapping[str, Any], key: str, seeds: int) -> dict[str, str]:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return {
        "value": number(row[key]),
        "interval": f"[{number(low)}, {number(high)}]" if low is not None else "",
        "spread": f"seeds {number(row[f'{key}_min'])} to {number(row[f'{key}_max'])}" if seeds > 1 else "",
        "chance": f"chance {number(row[f'{key}_chance'])}, {p_words(row[f'{key}_p'])}",
    }


def _gap(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    value, low, high = (row[f"{key}_difference{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return {"value": DASH, "interval": "", "apart": False}
    sign = "+" if value > 0 else ""
    apart = low is not None and (low > 0 or high < 0)
    interval = f"[{number(low)}, {number(high)}]" if low is not None else ""
    return {"value": sign + number(value), "interval": interval, "apart": apart}


def _remarks(row: Mapping[str, Any]) -> str:
    shared = f"the same run as {', '.join(row['shared_with'])}" if row["shared_with"] else ""
    return "; ".join(filter(None, [*row["notes"], shared]))


def _seeds(seeds: Sequence[int]) -> str:
    return f"one seed ({seeds[0]})" if len(seeds) == 1 else f"{len(seeds)} seeds ({', '.join(map(str, seeds))})"


def _sentences(ablation: Ablation) -> list[str]:
    """Say what came out, with no more than the intervals allow."""
    done = ablation.done
    if not done:
        return ["No cell has been run."]
    leaky = ", leaky" if ablation.protocol in LEAKY else ""
    best = max(done, key=lambda r: r["accuracy_window"])
    found = [
        f"Highest accuracy over windows: {best['cell']}, {number(best['accuracy_window'])}{leaky} "
        f"(chance {number(best['accuracy_window_chance'])}, {_seeds(ablation.seeds)})."
    ]
    if ablation.kind == "modalities":
        found += _missing(ablation)
    above = [r["cell"] for r in done if (r["accuracy_window_p"] or 1.0) <= ALPHA]
    found.append(f"Above chance at 5 %: {_listed(above, len(done))}.")
    others = [r for r in done if r["cell"] != ablation.reference]
    if others and all(r["accuracy_window_difference_low"] is None for r in others):
        found.append("There are too few subjects or trials for an interval: no difference can be called one.")
    elif others:
        clear = [r["cell"] for r in others if _gap(r, "accuracy_window")["apart"]]
        found.append(
            f"Apart from {ablation.reference}, the interval of the difference leaving out zero: "
            f"{_listed(clear, len(others))}. Of twenty comparisons without any difference one is expected to look so."
        )
    return found


def _missing(ablation: Ablation) -> list[str]:
    """Say how the rows of missing modalities came about, and which single one costs most when it is gone."""
    config, names = ablation.config, ablation.config.data.modalities
    said = "A row such as a+b is one model of all modalities, shown these at test and no other; a test window that has "
    said += "nothing of them is answered without evidence. NAME-alone is a model that never had another."
    if any("model.modality_dropout" in r["overrides"] for r in ablation.rows):
        configured, used = config.model.modality_dropout, dropout_of(config)
        own = (
            ""
            if configured == used
            else f" (model.modality_dropout was {configured:g}; less than {ENOUGH:g} is not used)"
        )
        said += f" Modality dropout while training: {used:g}{own}; without-dropout had none."
    figures = {r["cell"]: r["accuracy_window"] for r in ablation.done}
    whole = figures.get("+".join(names))
    left = {n: figures.get("+".join(m for m in names if m != n)) for n in names}
    costs = {n: whole - value for n, value in left.items() if whole is not None and value is not None}
    if not costs:
        return [said]
    worst = max(costs, key=lambda n: costs[n])
    told = ", ".join(f"{n} {number(-cost)}" for n, cost in costs.items())
    most = f"; {worst} is missed most" if costs[worst] > 0 else ""
    return [said, f"Accuracy over windows without one of them, less all: {told}{most}."]


def _listed(names: Sequence[str], of: int) -> str:
    """Write ``2 of 7 cells (mean, none)``: the count first, since a cell may be called none."""
    return f"{len(names)} of {count(of, 'cell')}" + (f" ({', '.join(names)})" if names else "")


def _method(ablation: Ablation, row: Mapping[str, Any]) -> str:
    level = f"{100 * ablation.config.evaluation.confidence:g} %"
    how = row.get("interval_how", DASH)
    many = len(ablation.seeds) > 1
    seeds = "Figures are means over the seeds; the range over seeds stands below. " if many else "One seed. "
    return (
        f"{seeds}Intervals at {level}: {how}, the same one left out of every cell{' and seed' if many else ''}, so "
        "that differences are paired; they do not say how much another seed would change. Chance: labels permuted "
        "between a subject's trials (between stimuli where those of the test are new), "
        "predictions held. Trials: a trial's windows averaged."
    )


def _markdown(ablation: Ablation) -> str:
    """Return the table in Markdown."""
    section = describe(ablation)
    protocol = display_name(ablation.protocol)
    leaky = " (leaky)" if ablation.protocol in LEAKY else ""
    heads = ["cell", *(f"{FIGURES[n][0][0].lower()}{FIGURES[n][0][1:]}, {level}s{leaky}" for level, n in _columns())]
    heads += [f"{section['compared']} less {ablation.reference or 'reference'}, {level}s" for level in LEVELS]
    heads += [PAPER_COLUMN, "parameters", "time", "notes"]
    lines = [
        f"## {section['title']}",
        "",
        f"Study {ablation.study}, protocol {protocol}, {section['seeds']}, {section['preset']}.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in section["rows"]:
        if row["reason"]:
            cells = [row["cell"], f"not run: {row['reason']}", *[""] * 7, row["paper"], "", "", row["notes"]]
        else:
            figures = [" ".join(filter(None, f.values())) for f in row["figures"]]
            gaps = [f"{g['value']} {g['interval']}".strip() for g in row["gaps"]]
            name = row["cell"] + (" (reference)" if row["is_reference"] else "")
            cells = [name, *figures, *gaps, row["paper"], row["parameters"], row["seconds"], row["notes"]]
        lines.append("| " + " | ".join(str(c).replace("|", "/") for c in cells) + " |")
    return "\n".join([*lines, "", section["method"], "", PAPER_NOTE, ""])


def _large(n: int | None) -> str:
    if n is None:
        return DASH
    return f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.0f} k" if n >= 1e4 else str(n)


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
