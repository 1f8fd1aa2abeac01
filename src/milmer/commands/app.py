"""The application that the verbs register with, and the panels of its help."""

from __future__ import annotations

import os
from typing import Any

import typer
from typer.core import TyperGroup

VERBS = (
    "prepare",
    "inspect",
    "audit",
    "pretrain",
    "evaluate",
    "compare",
    "ablate",
    "train",
    "report",
    "predict",
    "export",
    "plan",
    "studies",
    "simulate",
    "config",
)


class _InOrder(TyperGroup):
    """Lists the verbs in the order of the road, not of the file."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)


app = typer.Typer(
    cls=_InOrder,
    help="Emotion recognition from EEG and face video together, with numbers that can be believed.\n\n"
    "The road: [bold]prepare[/] a study into a store, [bold]evaluate[/] it under a named protocol, "
    "read the [bold]report[/]; or [bold]train[/] a model and [bold]predict[/] on new recordings. "
    "[bold]simulate[/] writes a study to try it all on.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
STOPPED = 130  # what shells give a command that Ctrl-C ended
SAID = -STOPPED  # the same, after a line that says how to go on
CORES = os.cpu_count() or 1
ROAD = "From recordings to a report"
NEW = "Answers on new recordings"
HELP = "Help and trial data"
