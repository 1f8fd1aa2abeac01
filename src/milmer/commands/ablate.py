"""The verb ablate: the paper's tables, the selection methods and missing modalities, on any store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milmer import console
from milmer.commands.app import ROAD, SAID, app
from milmer.errors import UserError
from milmer.options import (
    LR,
    Backbone,
    BagOf,
    Balancing,
    Batch,
    ConfigFile,
    Device,
    EEGBand,
    EEGTokens,
    Epochs,
    Folds,
    Frames,
    Fusion,
    Jobs,
    Modalities,
    Montage,
    Operators,
    Preset,
    Reject,
    RejectUV,
    Selection,
    Sets,
    Stages,
    Step,
    Target,
    Threshold,
    Ties,
    Window,
    resolve,
)

if TYPE_CHECKING:
    from milmer.config import Config
    from milmer.evaluation.ablations.results import Ablation


@app.command(rich_help_panel=ROAD)
def ablate(
    kind: Annotated[str, typer.Argument(help="balancing, fusion, components, selection, modalities or eeg-band.")],
    store: Annotated[Path | None, typer.Argument(help="A store.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write, or to go on in.", show_default=False)] = None,
    cells: Annotated[str | None, typer.Option(metavar="A,B", help="Only these cells; names above.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2", help="Training seeds; default: the configuration's one.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the cells and what each sets; run nothing.")] = False,
    protocol: Annotated[
        str | None,
        typer.Option(help="trial, subject, stimulus, subject-and-stimulus or window (leaky, to compare with)."),
    ] = None,
    folds: Folds = None,
    jobs: Jobs = 1,
    modalities: Modalities = None,
    target: Target = None,
    threshold: Threshold = None,
    ties: Ties = None,
    window: Window = None,
    step: Step = None,
    frames: Frames = None,
    reject: Reject = None,
    operators: Operators = None,
    eeg_band: EEGBand = None,
    montage: Montage = None,
    reject_uv: RejectUV = None,
    bag: BagOf = None,
    backbone: Backbone = None,
    trainable_stages: Stages = None,
    selection: Selection = None,
    balancing: Balancing = None,
    fusion: Fusion = None,
    eeg_tokens: EEGTokens = None,
    epochs: Epochs = None,
    batch: Batch = None,
    lr: LR = None,
    device: Device = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Compare choices of the model, each evaluated alike: the paper's Tables 4, 5 and 6, and more.

    A run that was stopped goes on by the same command; cells that are in the folder already are not run again.

    [bold]balancing[/]: 16-queries, 32-queries, 64-queries, 147-queries, 196-queries, none, mlp.
    [bold]fusion[/]: transformer, concatenation, deepcca, cross-modal, ensemble, eeg-only, face-only,
    bandpower-logistic.
    [bold]components[/]: tuned or frozen, -mil or -middle, -attention or -none, such as frozen-mil-none.
    [bold]selection[/]: gated-topk, gated, straight-through, perturbed-topk, softmax, mean, middle-frame, published.
    [bold]modalities[/]: what a missing one costs: one model, shown every subset of --modalities at test (eeg+face, eeg,
    face); each alone (eeg-alone, face-alone); all of them without-dropout.
    [bold]eeg-band[/]: how much of it is muscle: stored-band, stored-band-with-muscle, 1-30, 1-30-with-muscle.
    """
    given = {k: v for k, v in locals().items() if k not in ("kind", "store", "out", "cells", "seeds", "show", "jobs")}
    names = [] if cells is None else [w.strip() for w in cells.split(",") if w.strip()]
    if cells is not None and not names:
        raise UserError("--cells: found no name, expected names of cells with commas between them (--list shows them)")
    resolved = resolve(given)
    if show:
        _list(kind, resolved, names)
        return
    if store is None or out is None:
        raise UserError(f"ablate {kind}: found no {'STORE' if store is None else '--out'}, expected both")
    _ablate(kind, store, out, resolved, names, _seeds(seeds), jobs)


def _ablate(kind: str, store: Path, out: Path, config: Config, cells: list[str], seeds: list[int], jobs: int) -> None:
    from milmer.evaluation.ablations.ablate import ablate as run
    from milmer.evaluation.ablations.plans import choose, dropout_of, plan
    from milmer.evaluation.ablations.runs import notes_of
    from milmer.reports.ablation import write_ablation_report
    from milmer.store import Store

    opened = Store(store)
    for cell in choose(plan(kind, config), cells):
        for note in notes_of(cell.apply(config, config.training.seed)):
            console.warn(f"{cell.name}: {note} ({config.model.backbone}): give --backbone with a trained network")
    configured, used = config.model.modality_dropout, dropout_of(config)
    if kind == "modalities" and used > configured:
        console.say(
            f"model.modality_dropout is {configured:g}: trained with {used:g}, so that any may be missing at test"
        )
    try:
        with console.progress_bar(f"ablate {kind}") as progress:
            found = run(opened, config, kind, out, seeds=seeds, cells=cells, jobs=jobs, progress=progress)
    except KeyboardInterrupt:
        console.fail(f"stopped; nothing finished is lost: the same command goes on in {out}")
        raise typer.Exit(SAID) from None
    with console.err.status("writing the report"):
        page = write_ablation_report(out, found)
    _show(found[0])
    console.say(f"{page}, {out / 'table.md'}, {out / 'table.csv'}")


def _seeds(text: str | None) -> list[int]:
    words = [] if text is None else [w.strip() for w in text.split(",") if w.strip()]
    if not all(w.isdecimal() for w in words) or (text is not None and not words):
        raise UserError(f"--seeds {text}: expected numbers from 0 with commas between them, such as 0,1,2")
    return [int(w) for w in words]


def _list(kind: str, config: Config, names: list[str]) -> None:
    from milmer.evaluation.ablations.plans import PAPER_COLUMN, choose, plan

    for cell in choose(plan(kind, config), names):
        sets = ", ".join(
            f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in cell.overrides.items()
        )
        sets += f"; shown at test: {','.join(cell.present)}" if cell.present else ""
        paper = f" [{PAPER_COLUMN}: {cell.paper:.2f}]" if cell.paper is not None else ""
        console.say(f"{cell.name}: {sets}{paper}")


def _show(ablation: Ablation) -> None:
    """Print the accuracies; the report has the rest."""
    from rich.table import Table

    from milmer.evaluation.protocols import display_name

    seeds = "one seed" if len(ablation.seeds) == 1 else f"{len(ablation.seeds)} seeds"
    title = f"{ablation.kind}, {display_name(ablation.protocol)} protocol, {seeds}: accuracy"
    title += f", and over windows its difference from {ablation.reference}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    table.add_column("cell", no_wrap=True)
    for head in ("windows", "trials", "chance", "difference"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in ablation.rows:
        if row["state"] != "done":
            continue
        trials, chance = (_number(row[f"accuracy_{key}"]) for key in ("trial", "window_chance"))
        figures = [_interval(row, "accuracy_window", end) for end in ("", "_difference")]
        table.add_row(row["cell"], figures[0], trials, chance, figures[1])
    console.out.print(table)
    for row in ablation.rows:
        if row["state"] != "done":
            console.warn(f"{row['cell']}: not run: {row['reason']}")


def _interval(row: dict[str, Any], key: str, of: str) -> str:
    value, low, high = (row[f"{key}{of}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "-"
    return _number(value) + ("" if low is None else f" \\[{_number(low)}, {_number(high)}]")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
