"""The studies that can be read, and what is in a folder of one: both shown, nothing prepared."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milmer import console
from milmer.commands.app import HELP, app

if TYPE_CHECKING:
    from milmer.datasets.base import Study
    from milmer.datasets.catalog import Facts
    from milmer.preparation.check import Check

WIDTH = 80
_INDENT = 12
_STICKS = "\x00"  # stands for a space at which no line is broken
_MOST = 12  # lines of a kind


@app.command(rich_help_panel=HELP)
def studies(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List every study that can be read: what it holds, how much of it, how it is had."""
    from milmer.datasets.catalog import CATALOG

    if as_json:
        console.say(json.dumps([{"name": name, **dataclasses.asdict(facts)} for name, facts in CATALOG.items()]))
        return
    for name, facts in CATALOG.items():
        for line in study_lines(name, facts):
            console.say(line)
    console.say("'milmer prepare STUDY --check ROOT' tells what is in a folder.")


def study_lines(name: str, facts: Facts) -> list[str]:
    """Write what is known of a study in lines of at most 80 columns."""
    size = [f"{n} {what}" for n, what in ((facts.subjects, "subjects"), (facts.trials, "trials")) if n is not None]
    rows = [
        (name, facts.title),
        ("  has", ", ".join(facts.modalities) or "what your files have"),
        ("  labels", ", ".join(label.replace(" ", _STICKS) for label in facts.labels) or "what your files say"),
        ("  expect", "; ".join(p for p in (", ".join(size), facts.access) if p)),
    ]
    lines = []
    for head, text in rows:
        if text:
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=head.ljust(_INDENT), subsequent_indent=" " * _INDENT, break_on_hyphens=False
            )
    return [line.replace(_STICKS, " ") for line in lines]


def check(opened: Study, study: str, root: Path) -> None:
    """Show what `milmer prepare` would find in a folder; exit code 2 where there is nothing to prepare.

    Parameters
    ----------
    opened : Study
        The study, as `milmer.datasets.open_study` gives it.
    study : str
        Its layout, a name of the catalog.
    root : Path
        Its folder or table.
    """
    from milmer.datasets.catalog import CATALOG
    from milmer.preparation.check import check_study

    with console.progress_bar("check") as progress:
        found = check_study(opened, CATALOG[study], progress)
    for line in check_lines(found, root):
        console.say(line)
    if not found.ready:
        console.fail(f"{root}: found no trial that can be prepared; what is skipped, and why, stands above")
        raise typer.Exit(2)
    console.say("next: the same command with --out STORE instead of --check")


def check_lines(found: Check, root: Path) -> list[str]:
    """Write what was found: what is there, then what is missing, skipped and odd."""
    lines = [
        f"{root}: {found.study}, {found.subjects} subjects, {found.recordings} recordings, {found.trials} trials",
        *_counts("trials with ", found.modalities),
        *_counts("rated or labelled: ", found.labels),
    ]
    for title, all_said in (("missing", found.missing), ("skipped", found.skipped), ("odd", found.odd)):
        said = console.together(all_said) if title == "odd" else list(all_said)
        lines += [f"{title}: {line}" for line in said[:_MOST]]
        if len(said) > _MOST:
            lines.append(f"{title}: ... and {len(said) - _MOST} more")
    return lines


def _counts(head: str, counts: Mapping[str, int]) -> list[str]:
    text = ", ".join(f"{what}{_STICKS}{n}" for what, n in counts.items()) or "nothing"
    lines = textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace(_STICKS, " ") for line in lines]
