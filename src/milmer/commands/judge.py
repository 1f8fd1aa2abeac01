"""Verbs that judge figures: compare (runs with one another) and plan (a study before it is run)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milmer import console
from milmer.commands.app import HELP, ROAD, app
from milmer.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from milmer.evaluation.comparison import Comparison
    from milmer.evaluation.planning import Plan, Shown

WIDTH = 110  # columns; output that is no terminal would be cut at 80
PAIRS_SHOWN = 21  # seven runs; more are in the page


@app.command(rich_help_panel=ROAD)
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more runs of evaluate, on the same test rows.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for comparison.html, compare.json and the pictures.", show_default=False)
    ] = None,
    figure: Annotated[
        str | None, typer.Option(help="accuracy, macro_f1 (default), log_loss, ...", show_default=False)
    ] = None,
    level: Annotated[str, typer.Option(help="trial (a trial's windows averaged), or window.")] = "trial",
    shared: Annotated[bool, typer.Option("--shared", help="Only the trials that all runs tested.")] = False,
    across: Annotated[
        bool, typer.Option("--across", help="Runs of other protocols or budgets: measures the inflation.")
    ] = False,
    alpha: Annotated[float, typer.Option(help="Level of the corrected tests.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Of random sign flips, beyond 16 subjects.")] = 0,
) -> None:
    """Tell whether one run is better than another: paired over subjects, corrected, with effect sizes."""
    from milmer.evaluation.comparison import compare as judge
    from milmer.reports.comparison import write_comparison

    if not 0 < alpha < 1:
        raise UserError(f"--alpha {alpha:g}: expected a share between 0 and 1, such as 0.05")
    with console.err.status("comparing"):
        found = judge(runs, figure=figure, level=level, shared=shared, across=across, alpha=alpha, seed=seed)
    _show_comparison(found)
    if out is not None:
        with console.err.status("writing the page"):
            written = write_comparison(out, found)
        console.say(f"{written[0]}, {written[1]} and {len(written) - 2} pictures")


def _print(table: Table) -> None:
    from rich.console import Console

    # A pipe counts as 80 columns, which would cut figures off.
    out = console.out
    wide = Console(
        file=out.file,
        width=max(WIDTH, out.width),
        force_terminal=out.is_terminal,
        highlight=False,
        no_color=out.no_color,
    )
    wide.print(table)


def _show_comparison(found: Comparison) -> None:
    from rich.markup import escape
    from rich.table import Table

    from milmer.reports.comparison import banners, describe, sentences
    from milmer.reports.comparison_plot import figure_word, shorten

    for line in banners(found):
        console.warn(line)
    word, content = figure_word(found.figure), describe(found)
    head = f"{len(found.units)} {found.unit}s, {found.trials} trials, by {found.level}"
    table = Table(title=head, title_justify="left", box=None, padding=(0, 1))
    table.add_column("", justify="right")
    for column in ("run", "protocol"):
        table.add_column(column, no_wrap=True)
    shown = [name for name in ("accuracy", "macro_f1", "log_loss") if name in found.pairs]
    for column in [*dict.fromkeys([found.figure, *shown]), "rank"]:
        table.add_column(figure_word(column), justify="right", no_wrap=True)
    for run, row in zip(found.runs, content["runs"], strict=True):
        values = [f"{run.mean(n):.2f}" for n in dict.fromkeys([found.figure, *shown])]
        cells = [str(row["number"]), shorten(run.name, 30), row["protocol"], *values, row["rank"]]
        table.add_row(*map(escape, cells))
    _print(table)
    what = f"inflation in {word} between protocols" if found.across else f"difference in {word}"
    table = Table(title=f"{what}, first less second", title_justify="left", box=None, padding=(0, 1))
    last = [] if found.for_new else ["apart"]
    for column in ("", "difference and interval", "p", "Holm", "Wilcoxon", "d_z", "r", "won-tied-lost", *last):
        table.add_column(column, justify="left" if column in ("", "apart") else "right", no_wrap=True)
    for row in content["pairs"][:PAIRS_SHOWN]:
        cells = [
            row["label"],
            f"{row['difference']} {row['interval']}",
            *(row[key] for key in ("p", "holm", "wilcoxon", "d_z", "rank_biserial", "score")),
            *(["yes" if row["apart"] else "no"] if last else []),
        ]
        table.add_row(*map(escape, cells), style="bold" if row["apart"] and last else "")
    _print(table)
    if not found.stimuli.why:
        _show_new(found, content["pairs"][:PAIRS_SHOWN])
    if len(found.main) > PAIRS_SHOWN:
        console.say(f"... and {len(found.main) - PAIRS_SHOWN} more pairs: --out FOLDER writes all")
    for line in [*sentences(found), *found.notes]:
        console.say(line)


def _show_new(found: Comparison, pairs: list[dict[str, Any]]) -> None:
    """Print the differences for new stimuli; runs are told apart by them where stimuli were new."""
    from rich.markup import escape
    from rich.table import Table

    of = f"{found.stimuli.subjects} subjects, {found.stimuli.count} stimuli"
    table = Table(title=f"also for new stimuli ({of})", title_justify="left", box=None, padding=(0, 1))
    last = ["apart"] if found.for_new else []
    for column in ("", "difference and interval", "p", "Holm", *last):
        table.add_column(column, justify="left" if column in ("", "apart") else "right", no_wrap=True)
    for row in pairs:
        cells = [row["label"], f"{row['new_difference']} {row['new_interval']}", row["new_p"], row["new_holm"]]
        cells += ["yes" if row["apart"] else "no"] if last else []
        table.add_row(*map(escape, cells), style="bold" if row["apart"] and last else "")
    _print(table)


@app.command(rich_help_panel=HELP)
def plan(
    subjects: Annotated[int, typer.Option(help="People in the study.")],
    stimuli: Annotated[int, typer.Option(help="Stimuli that each of them sees.")],
    classes: Annotated[
        int | None, typer.Option(help="Balanced classes; default 4 (valence-arousal).", show_default=False)
    ] = None,
    chance: Annotated[
        float | None, typer.Option(help="Chance level, where classes are not balanced.", show_default=False)
    ] = None,
    power: Annotated[float, typer.Option(help="How surely the difference is to be found.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Level of the tests.")] = 0.05,
    sd_subjects: Annotated[float, typer.Option(help="Spread of the true accuracy over subjects (assumed).")] = 0.10,
    sd_stimuli: Annotated[float, typer.Option(help="Spread of the true accuracy over stimuli (assumed).")] = 0.10,
    sessions: Annotated[int, typer.Option(help="Times that everybody sees every stimulus.")] = 1,
    correlation: Annotated[float, typer.Option(help="Of two models' hits on a trial (assumed).")] = 0.5,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what a study of some size can show, before it is run."""
    from milmer.evaluation.planning import as_json
    from milmer.evaluation.planning import plan as make

    found = make(
        subjects,
        stimuli,
        classes=classes,
        chance=chance,
        power=power,
        alpha=alpha,
        sd_subjects=sd_subjects,
        sd_stimuli=sd_stimuli,
        sessions=sessions,
        correlation=correlation,
    )
    if json:
        from json import dumps

        console.say(dumps(as_json(found), indent=1))
        return
    _show_plan(found)


def _show_plan(found: Plan) -> None:
    from rich.table import Table

    sessions = f" x {found.sessions} sessions" if found.sessions > 1 else ""
    stimuli = "1 stimulus" if found.stimuli == 1 else f"{found.stimuli} stimuli"
    console.say(
        f"{found.subjects} subjects x {stimuli}{sessions} = {found.trials} trials, "
        f"chance {100 * found.chance:.3g} %, power {100 * found.power:.3g} %, tests at {100 * found.alpha:.3g} %"
    )
    table = Table(title="smallest difference that is found, in points", title_justify="left", box=None, padding=(0, 1))
    for column in ("protocol", "speaks of"):
        table.add_column(column, no_wrap=True)
    for column in ("from chance", "that is", "between two models"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found.shown:
        level = "-" if row.difference is None else f"{100 * (found.chance + row.difference):.1f} %"
        table.add_row(row.protocol, row.claim, _points(row.difference), level, _points(row.models))
    _print(table)
    _show_needed("subjects needed to tell from chance, with as many stimuli", found, "needed")
    _show_needed("subjects needed to tell two models apart", found, "needed_models")
    console.say(_needed_accuracy(found))
    for line in found.notes:
        console.warn(line)
    console.say("Assumed:")
    for line in found.assumptions:
        console.say(f"  {line}")


def _show_needed(title: str, found: Plan, key: str) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    table.add_column("protocol", no_wrap=True, min_width=20)
    targets = list(getattr(found.shown[0], key))
    for target in targets:
        table.add_column(f"by {100 * target:g} points", justify="right", no_wrap=True)
    for row in found.shown:
        table.add_row(row.protocol, *(_count(row, key, target) for target in targets))
    _print(table)


def _count(row: Shown, key: str, target: float) -> str:
    n = getattr(row, key)[target]
    return "none is enough" if n is None else f"{n:,}".replace(",", " ")


def _needed_accuracy(found: Plan) -> str:
    if found.accuracy_needed is None:
        return f"No accuracy on {found.trials} trials is above chance at {100 * found.alpha:.3g} %: too few."
    text = (
        f"Above chance at {100 * found.alpha:.3g} % (exact binomial over trials): {found.right_needed} right of "
        f"{found.trials}, {100 * found.accuracy_needed:.1f} %"
    )
    if found.accuracy_needed_one is not None:
        text += f"; of one subject's own {found.stimuli * found.sessions}, {100 * found.accuracy_needed_one:.1f} %"
    return f"{text}."


def _points(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}"
