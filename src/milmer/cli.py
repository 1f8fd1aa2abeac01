"""The command line: one verb a step, from recordings to a report. Heavy imports happen inside the verbs."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from milmer import __version__, console
from milmer.errors import DamagedStore, UserError
from milmer.options import (
    LR,
    Backbone,
    Band,
    Batch,
    Confidence,
    ConfigFile,
    Detector,
    Device,
    Epochs,
    FaceRate,
    Folds,
    Frames,
    ICALabels,
    ICAMethod,
    Jobs,
    LineFreq,
    Margin,
    Modalities,
    Out,
    Pixels,
    Preset,
    Reject,
    Resume,
    Seed,
    Sets,
    Step,
    Target,
    Threshold,
    Window,
    resolve,
)

if TYPE_CHECKING:
    from milmer.config import Config

VERBS = ("prepare", "inspect", "evaluate", "train", "report", "predict", "simulate", "config")


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


@app.command(rich_help_panel=HELP)
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write; DEAP's layout, and truth/ beside it.")],
    subjects: Annotated[int, typer.Option(min=1, help="People.")] = 6,
    trials: Annotated[int, typer.Option(min=1, help="Trials of each.")] = 12,
    seconds: Annotated[int, typer.Option(help="Seconds of a trial, 3 s of baseline included.")] = 63,
    size: Annotated[str, typer.Option(metavar="WxH", help="Video size in pixels.")] = "720x576",
    fps: Annotated[int, typer.Option(min=5, help="Video frames a second.")] = 50,
    valence: Annotated[str, typer.Option(help="What carries valence: eeg, face, both or none.")] = "both",
    arousal: Annotated[str, typer.Option(help="What carries arousal: eeg, face, both or none.")] = "both",
    stimulus_signature: Annotated[
        bool, typer.Option("--stimulus-signature", help="Give every stimulus a trace of its own, and its own label.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    jobs: Jobs = CORES,
) -> None:
    """Write a study with a known truth, in DEAP's exact layout."""
    from milmer.datasets.simulated import SimulationOptions, simulate_study

    width, _, height = size.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise UserError(f"--size {size}: expected WIDTHxHEIGHT, such as 720x576")
    options = SimulationOptions(
        subjects=subjects,
        trials=trials,
        seconds=seconds,
        size=(int(width), int(height)),
        fps=fps,
        valence=valence,
        arousal=arousal,
        seed=seed,
        stimulus_signature=stimulus_signature,
    )
    with console.progress_bar("simulate") as progress:
        simulate_study(out, options, jobs=jobs, progress=progress)
    console.say(f"{out}: {subjects} subjects, {trials} trials each; next: milmer prepare deap {out} --out STORE")


@app.command(rich_help_panel=ROAD)
def prepare(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="deap (also simulated studies) or table (your own).")],
    root: Annotated[Path, typer.Argument(help="The study's folder; for 'table' a CSV or Parquet, one row a trial.")],
    out: Out,
    jobs: Jobs = 1,
    band: Band = None,
    line_freq: LineFreq = None,
    ica: ICAMethod = None,
    ica_labels: ICALabels = None,
    face_rate: FaceRate = None,
    detector: Detector = None,
    confidence: Confidence = None,
    margin: Margin = None,
    px: Pixels = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Write the store of a study: filtered EEG, components, face tracks. Stopped halfway, it goes on."""
    settings = resolve(locals()).preparation
    from milmer.datasets import open_study
    from milmer.preparation import prepare_study
    from milmer.store import Store

    opened = open_study(study, root)
    with console.progress_bar("prepare") as progress:
        done = prepare_study(opened, out, settings, jobs=jobs, progress=progress)
    console.show_warnings([f"{k}: {n}" for k, notes in sorted(done.notes.items()) for n in notes], out)
    if done.done + done.kept > 0:
        store = Store(out)
        for reason in sorted({store.recording(k).reason for k in store.keys} - {""}):
            console.say(f"components: {reason}")
        size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
        console.say(
            f"{out}: {len(store.trials)} trials in {done.done + done.kept} recordings ({done.kept} were there), "
            f"{size / 1e6:.0f} MB; next: milmer inspect {out}"
        )
    for why in done.failed.values():
        console.fail(why)
    if done.failed:
        raise typer.Exit(2)


@app.command(rich_help_panel=ROAD)
def inspect(
    store: Annotated[Path, typer.Argument(help="A store.")],
    target: Target = None,
    threshold: Threshold = None,
    window: Window = None,
) -> None:
    """What is in a store, what is missing, what its labels are confounded with; checks every file."""
    arguments = locals()
    from milmer.inspection import inspect_store
    from milmer.store import Store

    try:
        opened = Store(store)
        total = sum(len(f) for f in opened.info.get("recordings", {}).values())
        faults = []
        with console.progress_bar("verify") as progress:
            for done, (file, fault) in enumerate(opened.verify()):
                progress(done, total, file)
                if fault:
                    faults.append(f"{store / file}: {fault}")
        if not faults:
            if target is None and "rating_valence" not in opened.trials and opened.trials["label"].astype(bool).any():
                arguments["target"] = "label"
            data = resolve(arguments).data
            console.show_inspection(inspect_store(opened, data), store)
    except DamagedStore as error:
        faults = [str(error)]
    for fault in faults:
        mend = "" if "milmer prepare" in fault else "; delete the recording's folder and run 'milmer prepare' again"
        console.fail(f"{fault}{mend}")
    if faults:
        raise typer.Exit(1)
    console.say(f"every file is as it was written ({total} files)")


def _learn(kind: str, store: Path, out: Path, resume: bool, jobs: int, config: Config) -> None:
    from milmer.evaluation.evaluate import evaluate, train
    from milmer.store import Store

    opened = Store(store)
    for key, why in opened.info.get("failed", {}).items():
        console.warn(f"{key} is not in the store: {why}")
    try:
        with console.progress_bar(kind) as progress:
            if kind == "train":
                figures = train(opened, config, out, resume=resume, progress=progress)
            else:
                figures = evaluate(opened, config, out, resume=resume, jobs=jobs, progress=progress)
    except KeyboardInterrupt:
        console.fail(f"stopped; nothing finished is lost: the same command with --resume goes on in {out}")
        raise typer.Exit(SAID) from None
    console.show_figures(figures)
    console.say(f"{out}; next: milmer report {out}")


@app.command(rich_help_panel=ROAD)
def evaluate(
    store: Annotated[Path, typer.Argument(help="A store.")],
    out: Out,
    protocol: Annotated[str | None, typer.Option(help="trial, subject or window (leaky, for comparison only).")] = None,
    folds: Folds = None,
    permutations: Annotated[
        int | None, typer.Option(min=0, help="Re-runs with permuted labels that give the chance level.")
    ] = None,
    jobs: Jobs = 1,
    resume: Resume = False,
    target: Target = None,
    threshold: Threshold = None,
    window: Window = None,
    step: Step = None,
    frames: Frames = None,
    modalities: Modalities = None,
    reject: Reject = None,
    backbone: Backbone = None,
    epochs: Epochs = None,
    batch: Batch = None,
    lr: LR = None,
    seed: Seed = None,
    device: Device = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Train and test every fold of a protocol; figures with interval, chance and majority baseline."""
    _learn("evaluate", store, out, resume, jobs, resolve(locals()))


@app.command(rich_help_panel=ROAD)
def train(
    store: Annotated[Path, typer.Argument(help="A store.")],
    out: Out,
    protocol: Annotated[
        str | None, typer.Option(help="Rule by which validation is held out: trial or subject.")
    ] = None,
    resume: Resume = False,
    target: Target = None,
    threshold: Threshold = None,
    window: Window = None,
    step: Step = None,
    frames: Frames = None,
    modalities: Modalities = None,
    reject: Reject = None,
    backbone: Backbone = None,
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
    _learn("train", store, out, resume, 1, resolve(locals()))


@app.command(rich_help_panel=ROAD)
def report(
    run: Annotated[Path, typer.Argument(help="A run of train or evaluate.")],
    show_faces: Annotated[
        bool, typer.Option("--show-faces", help="Do not blur faces: they are personal data.")
    ] = False,
    store: Annotated[Path | None, typer.Option(help="The store of the run, where it has moved.")] = None,
) -> None:
    """Write one self-contained report.html into a run."""
    from milmer.reports.page import write_report

    with console.err.status("writing the report"):
        page = write_report(run, show_faces=show_faces, store=store)
    console.say(str(page))


@app.command(rich_help_panel=NEW)
def predict(
    model: Annotated[Path, typer.Argument(help="A model folder, or a run: its folds are averaged.")],
    out: Out,
    eeg: Annotated[Path | None, typer.Option(help="EEG recording in any format MNE reads.")] = None,
    video: Annotated[Path | None, typer.Option(help="Face video in any format FFmpeg reads.")] = None,
    video_start: Annotated[float, typer.Option(help="Second of the video at which the EEG starts.")] = 0.0,
    fold: Annotated[int | None, typer.Option(min=0, help="One fold of a run instead of all.")] = None,
    step: Step = None,
    show_faces: Annotated[bool, typer.Option("--show-faces", help="Do not blur faces in the picture.")] = False,
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
            progress=progress,
        )
    for line in made.notes:
        console.warn(line)
    console.say(made.summary)
    console.say(f"{made.table} and {made.picture}")


@app.command("config", rich_help_panel=HELP)
def show_config(preset: Preset = None, config: ConfigFile = None, sets: Sets = None) -> None:
    """Print the whole configuration, with a comment a key."""
    arguments = locals()
    from milmer.config import dump

    console.out.print(dump(resolve(arguments)), end="", markup=False)


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"milmer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
        if code == STOPPED:  # the option parser turns Ctrl-C into a code of its own
            raise KeyboardInterrupt
    except UserError as error:
        console.fail(str(error))
        code = 2
    except KeyboardInterrupt:
        console.fail("stopped; what was finished is kept, and the same command goes on from there")
        code = STOPPED
    except OSError as error:
        if error.errno == errno.EPIPE:
            code = 0
        elif error.errno == errno.ENOSPC:
            console.fail(f"{error.filename or 'the disk'}: no space left; make room and run the same command again")
            code = 2
        else:
            raise
    except Exception as error:
        if not hasattr(error, "format_message"):  # what the option parser raises, whichever click it comes from
            raise
        console.fail(f"{error.format_message()} (--help shows what there is)")
        code = 2
    sys.exit(abs(code or 0))
