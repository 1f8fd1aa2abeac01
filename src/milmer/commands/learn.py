"""Verbs that fit networks: evaluate, train."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milmer import console
from milmer.commands.app import ROAD, SAID, app
from milmer.options import (
    LR,
    Backbone,
    BagOf,
    Balancing,
    Batch,
    Budget,
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
    Out,
    Preset,
    Protocol,
    Reject,
    RejectUV,
    Resume,
    Scope,
    Seed,
    Seeds,
    Selection,
    Sets,
    SplitsFile,
    Stages,
    Step,
    Target,
    TestStore,
    Threshold,
    Ties,
    Window,
    resolve,
)

if TYPE_CHECKING:
    from milmer.config import Config


def typed() -> str:
    """What was typed, as a line that a shell reads; the program by its name, wherever it is installed."""
    return shlex.join(["milmer", *sys.argv[1:]])


def _learn(
    kind: str,
    store: Path,
    out: Path,
    resume: bool,
    config: Config,
    jobs: int = 1,
    test_store: Path | None = None,
    splits: Path | None = None,
) -> None:
    from milmer.evaluation.evaluate import evaluate, train
    from milmer.store import Store

    opened = Store(store)
    other = None if test_store is None else Store(test_store)
    for one in filter(None, (opened, other)):
        for key, why in one.info.get("failed", {}).items():
            console.warn(f"{key} is not in the store: {why}")
    command = typed()
    try:
        with console.progress_bar(kind) as progress:
            if kind == "train":
                figures = train(opened, config, out, resume=resume, progress=progress, command=command)
            else:
                figures = evaluate(
                    opened,
                    config,
                    out,
                    test_store=other,
                    splits=splits,
                    resume=resume,
                    jobs=jobs,
                    progress=progress,
                    command=command,
                )
    except KeyboardInterrupt:
        console.fail(f"stopped; nothing finished is lost: the same command with --resume goes on in {out}")
        raise typer.Exit(SAID) from None
    console.show_figures(figures)
    notes = json.loads((out / "run.json").read_text(encoding="utf-8"))["notes"]
    for note in console.together([n for n in notes if "attention has collapsed" in n]):
        console.warn(note)
    console.say(f"{out}; next: milmer report {out}")


@app.command(rich_help_panel=ROAD)
def evaluate(
    store: Annotated[Path, typer.Argument(help="A store.")],
    out: Out,
    protocol: Protocol = None,
    test_store: TestStore = None,
    scope: Scope = None,
    budget: Budget = None,
    folds: Folds = None,
    seeds: Seeds = None,
    splits: SplitsFile = None,
    permutations: Annotated[
        int | None, typer.Option(min=0, help="Re-runs with permuted labels that give the chance level.")
    ] = None,
    jobs: Jobs = 1,
    resume: Resume = False,
    target: Target = None,
    threshold: Threshold = None,
    ties: Ties = None,
    window: Window = None,
    step: Step = None,
    frames: Frames = None,
    modalities: Modalities = None,
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
    seed: Seed = None,
    device: Device = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Train and test every fold of a protocol; figures with interval, chance and majority baseline.

    A fold that fails leaves the others running; --resume tries what is not finished, and never what is.
    """
    _learn("evaluate", store, out, resume, resolve(locals()), jobs, test_store, splits)


@app.command(rich_help_panel=ROAD)
def train(
    store: Annotated[Path, typer.Argument(help="A store.")],
    out: Out,
    protocol: Annotated[
        str | None,
        typer.Option(help="Rule by which validation is held out: trial, subject, stimulus or subject-and-stimulus."),
    ] = None,
    budget: Budget = None,
    resume: Resume = False,
    target: Target = None,
    threshold: Threshold = None,
    ties: Ties = None,
    window: Window = None,
    step: Step = None,
    frames: Frames = None,
    modalities: Modalities = None,
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
    seed: Seed = None,
    device: Device = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Fit one model on everything but a validation part, to predict with."""
    _learn("train", store, out, resume, resolve(locals()))
