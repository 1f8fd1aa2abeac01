"""Verbs that make a backbone: pretrain faces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from milmer import console
from milmer.commands.app import ROAD, SAID, app
from milmer.errors import UserError
from milmer.options import LR, Device, Resume

HUB_NAME = "microsoft/swin-tiny-patch4-window7-224"

pretrain = typer.Typer(
    help="Fine-tune a backbone on pictures of faces, before any study is looked at.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(pretrain, name="pretrain", rich_help_panel=ROAD)


@pretrain.callback()
def _group() -> None: ...  # one command alone would take the group's place


@pretrain.command()
def faces(
    pictures: Annotated[Path, typer.Argument(metavar="DIR", help="A folder a class, or FER2013's CSV.")],
    out: Annotated[Path, typer.Option(metavar="BACKBONE", help="Folder to write, for --backbone.")],
    backbone: Annotated[str, typer.Option(help="Start: hub name, local folder, or random:<size>.")] = HUB_NAME,
    px: Annotated[int | None, typer.Option(help="Side of the pictures; default: the backbone's own (224).")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training; the best is kept.")] = 30,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 64,
    lr: LR = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training.")] = 0,
    trainable_stages: Annotated[
        str, typer.Option("--trainable-stages", help="Last backbone stages that are trained: 1 to 4, or all.")
    ] = "all",
    device: Device = None,
    group_by: Annotated[
        str | None, typer.Option(metavar="prefix", help="prefix: a file's name up to its first _ is the person in it.")
    ] = None,
    resume: Resume = False,
) -> None:
    """Fit a Swin on facial expressions; writes a folder that --backbone takes. The paper's first step."""
    if group_by not in (None, "prefix"):
        raise UserError(f"--group-by {group_by}: expected prefix")
    if trainable_stages != "all" and trainable_stages not in ("1", "2", "3", "4"):
        raise UserError(f"--trainable-stages {trainable_stages}: expected 1 to 4, or all")
    from milmer.datasets.expressions import open_expressions
    from milmer.reports.pretrained import figure_lines, write_pages
    from milmer.training.pretrain import check_pretraining, pretrain_faces

    stages: Any = "all" if trainable_stages == "all" else int(trainable_stages)
    options: dict[str, Any] = {"backbone": backbone, "px": px, "lr": lr, "trainable_stages": stages}
    options |= {"device": device or "auto", "resume": resume}
    with console.err.status("opening the backbone"):
        check_pretraining(out, **options)
    with console.progress_bar("read") as progress:
        found = open_expressions(pictures, group_by=cast("Literal['prefix'] | None", group_by), progress=progress)
    if found.bad:
        more = ", ..." if len(found.bad) > 3 else ""
        console.warn(f"{len(found.bad)} pictures are empty or cannot be read: {', '.join(found.bad[:3])}{more}")
    console.say(f"{pictures}: {len(found)} pictures; " + ", ".join(f"{n} {c}" for n, c in found.counts().items()))
    try:
        with console.progress_bar("pretrain") as progress:
            made = pretrain_faces(found, out, epochs=epochs, batch=batch, seed=seed, progress=progress, **options)
    except KeyboardInterrupt:
        console.fail("stopped; whole epochs are kept: the same command with --resume goes on")
        raise typer.Exit(SAID) from None
    write_pages(made.folder, made.record)
    console.say(f"validation: {made.record['validation']}; {made.record['class_balance']}")
    for line in figure_lines(made.record):
        console.say(line)
    console.say("The epoch was chosen on the validation pictures: their figures are somewhat too good.")
    console.say(f"{out}: epoch {made.record['best_epoch'] + 1} of {epochs}, {out / 'confusion.png'}")
    console.say(f"next: milmer evaluate STORE --backbone {out} --out RUN")
