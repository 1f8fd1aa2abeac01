"""What the terminal shows: progress with an estimate, tables, one-line errors. Nothing here computes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from milmer.progress import Progress

if TYPE_CHECKING:
    from milmer.inspection import Inspection

LOG_EVERY = 30.0  # seconds between lines of progress where there is no terminal
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line."""
    out.print(escape(text))


def warn(text: str) -> None:
    """Print a warning line to standard error."""
    err.print(f"[yellow]warning:[/] {escape(text)}")


def fail(text: str) -> None:
    """Print an error as one line to standard error."""
    err.print(f"[red]milmer:[/] {escape(' '.join(text.split()))}")


def together(lines: Sequence[str]) -> list[str]:
    """Say once what was said of many recordings or files: lines that end alike after their first names are one."""
    groups: dict[str, list[str]] = {}
    for line in lines:
        *names, rest = line.split(": ", 2)
        groups.setdefault(rest, []).append(": ".join(names))
    found = []
    for rest, names in groups.items():
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        found.append(f"{names[0]}{others}: {rest}" if names[0] else rest)
    return found


def show_warnings(lines: Sequence[str], store: Path, most: int = 8) -> None:
    """Print the first warnings, and where the others are."""
    lines = together(lines)
    for line in lines[:most]:
        warn(line)
    if len(lines) > most:
        warn(f"... and {len(lines) - most} more; 'milmer inspect {store}' shows all")


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Show a bar with what is in hand, time gone and an estimate of the time left; a line now and then in a log."""
    if not err.is_terminal:
        yield _log_lines(title)
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("[bold]{task.fields[title]}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None, title=title)

        def tell(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=max(total, 1), description=escape(text))

        yield tell


def _log_lines(title: str) -> Progress:
    """Return a progress that prints a line every half minute, for output that is no terminal."""
    begun = last = time.monotonic()

    def tell(done: int, total: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LOG_EVERY and done:
            last = now
            left = (now - begun) * (total - done) / done
            err.print(escape(f"{title}: {done / max(total, 1):.0%}, about {left:.0f} s left: {text}"))

    return tell


def show_figures(figures: Sequence[Mapping[str, Any]]) -> None:
    """Print the main figures: value, interval, and all that a reader must hold them against, in one table.

    At most 80 columns wide. A value that counts as better than chance (`milmer.evaluation.chance.differs`) is bold;
    what the abbreviations mean stands below.
    """
    from milmer.evaluation.chance import differs  # late: numpy is not needed to ask for help

    main = [f for f in figures if f["name"] in ("accuracy", "balanced_accuracy", "macro_f1") and not f.get("subject")]
    main = [f for f in main if not f.get("calibrated") and f.get("target") == main[0].get("target")]
    part = "test" if any(f["part"] == "test" for f in main) else "validation"
    main = [f for f in main if f["part"] == part]
    if not main:
        return
    first = main[0]
    name = f"{first['protocol']}{' (leaky)' if first['protocol'] == 'window' else ''} protocol, {part}"
    of = f": {first['target']}" if first.get("target") else ""
    table = Table(title=name + of, title_justify="left", box=None, padding=(0, 1))
    for column in ("figure", "by", "value and interval", "chance", "majority", "above"):
        table.add_column(column, justify="left" if column in ("figure", "by") else "right", no_wrap=True)
    for f in main:
        value, level, passed = f["value"], f.get("above"), differs(f)
        table.add_row(
            str(f["name"]).replace("_", " ").replace("f1", "F1"),
            str(f["level"]),
            f"{'[bold]' if passed else ''}{_number(value)}{'[/]' if passed else ''} "
            f"\\[{_number(f.get('low'))}, {_number(f.get('high'))}]",
            _number(f.get("chance")),
            _number(f.get("majority")),
            _number(level),
        )
    out.print(table)
    counts = dict.fromkeys(f"{f['n']} {f['n_of']}" for f in main if "n" in f)
    seeds = first.get("seeds") or 1
    if counts:
        say(f"of {', '.join(counts)}{f', pooled over {seeds} seeds' if seeds > 1 else ''}; intervals: {_how(main)}")
    hows = list(dict.fromkeys(str(f["chance_how"]) for f in main if f.get("chance_how")))
    for how in hows:
        levels = dict.fromkeys(str(f["level"]) for f in main if f.get("chance_how") == how)
        say(f"chance{' by ' + ', '.join(levels) if len(hows) > 1 else ''}: {how}")
    if levelled := [f for f in main if f.get("above") is not None]:
        say(f"above: from here on a figure can differ from chance at 5 % ({_rules(levelled)})")
    if any(f.get("above") is not None or f.get("p") is not None for f in main):
        ps = [f"{f['level']} {_number(f['p'], 3)}" for f in main if f["name"] == "macro_f1" and f.get("p") is not None]
        say(f"bold: from above on and p 0.05 at most{' (macro F1 by ' + ', '.join(ps) + ')' if ps else ''}")
    else:
        say("whether anything here is above chance is not known")
    gains = [f"{f['level']} {_signed(f)}" for f in main if f["name"] == "accuracy" and f.get("gain") is not None]
    said = ", ".join(gains) or "not known, training had no other subject's rating of the tested stimuli"
    say(f"gain over no signal{', accuracy by' if gains else ':'} {said}")
    if part == "validation":
        say("These are validation figures: the epoch was chosen on them. Use 'milmer evaluate' for held-out ones.")


def _how(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(f["interval_how"]) for f in rows if f.get("interval_how"))) or "none"


def _rules(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say by which rule each figure's level above chance was found: what goes by another than most is named."""
    hows = [str(f.get("above_how")) for f in rows]
    most = max(dict.fromkeys(hows), key=hows.count)
    apart: dict[str, list[str]] = {}
    for f, how in zip(rows, hows, strict=True):
        if how != most:
            levels = {str(h) for r, h in zip(rows, hows, strict=True) if r["name"] == f["name"]}
            by = f" by {f['level']}" if len(levels) > 1 else ""
            apart.setdefault(how, []).append(str(f["name"]).replace("_", " ").replace("f1", "F1") + by)
    said = [f"{', '.join(dict.fromkeys(names))}: {how}" for how, names in apart.items()]
    return "; ".join([*said, f"{'others: ' if said else ''}{most}"])


def _signed(row: Mapping[str, Any]) -> str:
    """Write the gain over the predictor without a signal, with its interval."""
    value, low, high = (f"{row[k]:+.2f}" if row.get(k) is not None else "-" for k in ("gain", "gain_low", "gain_high"))
    return f"{value} [{low}, {high}]"


def _number(value: Any, digits: int = 2) -> str:
    return "-" if value is None or value != value else f"{float(value):.{digits}f}"


def show_inspection(found: Inspection, path: Path) -> None:
    """Print what `inspect_store` found."""
    say(f"{path}: " + ", ".join(f"{v} {k}" for k, v in found.counts.items()))
    if found.classes:
        total = max(1, sum(found.classes.values()))
        shares = ", ".join(f"{c} {n} ({n / total:.0%})" for c, n in found.classes.items())
        say(f"classes ({found.label_rule}): {shares}")
    if found.faces_missing or found.components:
        table = Table(box=None, padding=(0, 2))
        table.add_column("recording")
        table.add_column("frames without a face", justify="right")
        table.add_column("components, by kind")
        for key in sorted(set(found.faces_missing) | set(found.components)):
            missing = found.faces_missing.get(key)
            kinds: Mapping[str, int] = found.components.get(key, {})
            text = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items(), key=lambda k: -k[1]))
            table.add_row(key, "-" if missing is None else f"{missing:.1%}", text)
        out.print(table)
    if found.body:
        rates = "".join(f"; {k.replace('_', ' ')} {v:.0f} a minute" for k, v in found.rates.items())
        say("body: trials with " + ", ".join(f"{k} {n}" for k, n in found.body.items()) + rates)
    if found.alignment is not None:
        for line in found.alignment.lines():
            say(f"alignment: {line}")
        for line in found.alignment.warnings():
            warn(line)
    for title, all_lines in (("missing", found.missing), ("notes", found.notes), ("confounded", found.confounds)):
        lines = together(all_lines)
        for line in lines[:20]:
            say(f"{title}: {line}")
        if len(lines) > 20:
            say(f"{title}: ... and {len(lines) - 20} more")
    if not found.confounds and found.classes:
        say("confounded: no recording holds one class only, and the stimulus does not give the label away")
