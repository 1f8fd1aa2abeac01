"""Verbs that read what was fitted: report, predict, export, config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milmer import console
from milmer.commands.app import HELP, NEW, ROAD, app
from milmer.errors import UserError
from milmer.options import ConfigFile, Out, Preset, Sets, Step, resolve


@app.command(rich_help_panel=ROAD)
def report(
    run: Annotated[Path, typer.Argument(help="A run of train, evaluate or ablate.")],
    show_faces: Annotated[
        bool, typer.Option("--show-faces", help="Do not blur faces: they are personal data.")
    ] = False,
    store: Annotated[
        Path | None,
        typer.Option(help="The store of the run: for --show-faces, or where a run without samples lost it."),
    ] = None,
    beside: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="A run of another protocol to draw beside it; repeatable.")
    ] = None,
) -> None:
    """Write one self-contained report.html into a run."""
    from milmer.reports.page import write_report

    with console.err.status("writing the report"):
        if (run / "ablation.json").exists():
            from milmer.evaluation.ablations.results import read_ablations
            from milmer.reports.ablation import write_ablation_report

            if beside:
                raise UserError(f"{run}: an ablation has no --beside; give it with a run of evaluate")
            page = write_ablation_report(run, read_ablations(run))
        else:
            page = write_report(run, show_faces=show_faces, store=store, beside=beside or ())
    console.say(str(page))


@app.command(rich_help_panel=NEW)
def predict(
    model: Annotated[
        str,
        typer.Argument(
            help="A model folder, a run (its folds are averaged; models of single people are not, name one by --fold), "
            "a name on the Hugging Face hub: user/model, or a file that export wrote."
        ),
    ],
    out: Out,
    eeg: Annotated[Path | None, typer.Option(help="EEG recording in any format MNE reads.")] = None,
    video: Annotated[Path | None, typer.Option(help="Face video in any format FFmpeg reads.")] = None,
    video_start: Annotated[float, typer.Option(help="Second of the video at which the EEG starts.")] = 0.0,
    fold: Annotated[int | None, typer.Option(min=0, help="One fold of a run instead of all.")] = None,
    step: Step = None,
    show_faces: Annotated[bool, typer.Option("--show-faces", help="Do not blur faces in the picture.")] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            help="torch, onnx or openvino: of a model's folder the export in it, model.onnx or model.xml. "
            "An exported file needs none."
        ),
    ] = None,
) -> None:
    """Class probabilities per window over a recording, as CSV and as a picture."""
    from milmer.inference.predictor import predict_recording

    with console.progress_bar("predict") as progress:
        made = predict_recording(
            model,
            out,
            eeg=eeg,
            video=video,
            video_start=video_start,
            fold=fold,
            step=step,
            show_faces=show_faces,
            engine=engine,
            progress=progress,
        )
    for line in made.notes:
        console.warn(line)
    console.say(made.summary)
    console.say(f"{made.table} and {made.picture}")


@app.command(rich_help_panel=NEW)
def export(
    model: Annotated[
        str, typer.Argument(help="A model folder, a run of one fold (or --fold), or a name on the Hugging Face hub.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write, NAME.onnx or NAME.xml; others lie beside.")],
    engine: Annotated[str, typer.Option("--format", help="onnx or openvino.")],
    int8: Annotated[bool, typer.Option("--int8", help="The backbone in eight bits, by the crops of a store.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="Store whose crops serve for --int8 and the check; default: the run's own."),
    ] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="One fold of a run.")] = None,
) -> None:
    """A trained model as files for ONNX Runtime or OpenVINO, checked against PyTorch."""
    from milmer.inference.export import export_model

    with console.progress_bar("export") as progress:
        made = export_model(model, out, engine, fold=fold, int8=int8, calibration=calibration, progress=progress)
    for line in made.notes:
        console.warn(line)
    for line in made.checked.lines():
        console.say(line)
    console.say(" and ".join(str(f) for f in made.files))


@app.command("config", rich_help_panel=HELP)
def show_config(preset: Preset = None, config: ConfigFile = None, sets: Sets = None) -> None:
    """Print the whole configuration, with a comment a key."""
    arguments = locals()
    from milmer.config import dump

    console.out.print(dump(resolve(arguments)), end="", markup=False)
