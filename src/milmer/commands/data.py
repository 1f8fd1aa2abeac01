"""Verbs that make data ready: simulate, prepare, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from milmer import console
from milmer.commands import studies
from milmer.commands.app import CORES, HELP, ROAD, app
from milmer.errors import DamagedStore, UserError
from milmer.options import (
    Band,
    Confidence,
    ConfigFile,
    Detector,
    EEGBand,
    FaceRate,
    ICALabels,
    ICAMethod,
    Jobs,
    LineFreq,
    Margin,
    Montage,
    Pixels,
    Preset,
    RejectUV,
    Sets,
    Target,
    Threshold,
    Ties,
    Window,
    resolve,
)


@app.command(rich_help_panel=HELP)
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write; DEAP's layout, and truth/ beside it.")],
    subjects: Annotated[int, typer.Option(min=1, help="People.")] = 6,
    trials: Annotated[int, typer.Option(min=1, help="Trials of each.")] = 12,
    seconds: Annotated[int, typer.Option(help="Seconds of a trial, 3 s of baseline included.")] = 63,
    size: Annotated[str, typer.Option(metavar="WxH", help="Video size in pixels.")] = "720x576",
    fps: Annotated[int, typer.Option(min=5, help="Video frames a second.")] = 50,
    valence: Annotated[
        str | None, typer.Option(help="What carries valence: eeg, face, both or none.", show_default="both")
    ] = None,
    arousal: Annotated[str, typer.Option(help="What carries arousal: eeg, face, both or none.")] = "both",
    joint: Annotated[
        str, typer.Option(help="sum, or xor: arousal is high where exactly one of EEG and face says so.")
    ] = "sum",
    body: Annotated[
        str, typer.Option(help="What heart rate and skin conductance follow: none, valence or arousal.")
    ] = "none",
    stimulus_signature: Annotated[
        bool, typer.Option("--stimulus-signature", help="Give every stimulus a trace of its own, and its own label.")
    ] = False,
    expressions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Write N still faces a class instead, to pretrain on.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    jobs: Jobs = CORES,
) -> None:
    """Write a study with a known truth, in DEAP's exact layout."""
    if expressions is not None:
        if valence is not None or arousal != "both" or joint != "sum" or body != "none" or stimulus_signature:
            raise UserError(
                "--expressions writes still faces, of no study; leave --valence, --arousal, --joint, --body and "
                "--stimulus-signature out"
            )
        _simulate_expressions(out, subjects, expressions, seed, jobs)
        return
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
        valence=valence if valence is not None else "none" if joint == "xor" else "both",
        arousal=arousal,
        joint=joint,
        body=body,
        seed=seed,
        stimulus_signature=stimulus_signature,
    )
    with console.progress_bar("simulate") as progress:
        simulate_study(out, options, jobs=jobs, progress=progress)
    console.say(f"{out}: {subjects} subjects, {trials} trials each; next: milmer prepare deap {out} --out STORE")


def _simulate_expressions(out: Path, people: int, per_class: int, seed: int, jobs: int) -> None:
    from milmer.datasets.simulated_expressions import CLASSES, simulate_expressions

    with console.progress_bar("simulate") as progress:
        simulate_expressions(out, people=people, per_class=per_class, seed=seed, jobs=jobs, progress=progress)
    console.say(
        f"{out}: {people} people, {per_class} pictures of each of {len(CLASSES)} classes; "
        f"next: milmer pretrain faces {out} --group-by prefix --out BACKBONE"
    )


@app.command(rich_help_panel=ROAD)
def prepare(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="deap (also simulated studies), table (your own), or of 'milmer studies'."
        ),
    ],
    root: Annotated[Path, typer.Argument(help="The study's folder; for 'table' a CSV or Parquet, one row a trial.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; needed unless --check.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: say what is there, missing and would be skipped, and why.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="What to call the study, to tell it from others; default: deap, simulated, or the table's."),
    ] = None,
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
    events: Annotated[
        str | None, typer.Option(help="bids: events that are trials, with commas; default: all that last 1 s or more.")
    ] = None,
    event_seconds: Annotated[
        float | None, typer.Option(min=1, help="bids: length of a trial whose event has no duration.")
    ] = None,
    rating_range: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="table: scale of the ratings; default 1,9.")
    ] = None,
) -> None:
    """Write the store of a study: filtered EEG, components, face tracks. Stopped halfway, it goes on."""
    settings = resolve(locals()).preparation
    if out is None and not check:
        raise UserError(
            "prepare: got no --out, wanted a folder for the store; give --out STORE, or --check to look without writing"
        )
    from milmer.datasets import open_study
    from milmer.preparation import prepare_study
    from milmer.store import Store

    opened = open_study(study, root, name, **_loader(study, events, event_seconds, rating_range))
    if out is None or check:
        studies.check(opened, study, root)
        return
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
    for why in dict.fromkeys(done.failed.values()):  # what concerns every recording alike is said once
        console.fail(why)
    if done.failed:
        raise typer.Exit(2)


def _loader(study: str, events: str | None, seconds: float | None, limits: str | None) -> dict[str, Any]:
    """Return what only one loader understands: events of EEG-BIDS, the scale of a table's ratings."""
    if study != "bids" and (events is not None or seconds is not None):
        raise UserError(f"--events and --event-seconds are for bids, not for {study}; leave them out")
    if study != "table" and limits is not None:
        raise UserError(f"--rating-range is for table, {study} has ranges of its own; leave it out")
    if study == "bids":
        named = tuple(e.strip() for e in (events or "").split(",") if e.strip())
        if seconds is not None and not named:
            raise UserError("--event-seconds needs --events: which of the events are trials?")
        return {"events": named, "event_seconds": seconds}
    if limits is None:
        return {}
    try:
        low, high = (float(v) for v in limits.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise UserError(f"--rating-range {limits}: expected the lowest and highest rating, such as 1,5")
    return {"rating_range": (low, high)}


@app.command(rich_help_panel=ROAD)
def inspect(
    store: Annotated[Path, typer.Argument(help="A store.")],
    target: Target = None,
    threshold: Threshold = None,
    ties: Ties = None,
    window: Window = None,
    eeg_band: EEGBand = None,
    montage: Montage = None,
    reject_uv: RejectUV = None,
    html: Annotated[bool, typer.Option("--html", help="Write STORE/quality.html: every recording to look at.")] = False,
    show_faces: Annotated[
        bool, typer.Option("--show-faces", help="Show faces on the page as they are (personal data), not blurred.")
    ] = False,
) -> None:
    """What is in a store, what is missing, what its labels are confounded with; checks every file."""
    arguments = locals()
    if show_faces and not html:
        raise UserError("--show-faces is about the page: give --html too")
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
            found = inspect_store(opened, data)
            console.show_inspection(found, store)
            if html:
                from milmer.reports.quality import write_quality

                with console.progress_bar("page") as progress:
                    page = write_quality(opened, found, data, show_faces=show_faces, progress=progress)
                console.say(f"{page}: open it in a browser")
    except DamagedStore as error:
        faults = [str(error)]
    for fault in faults:
        mend = "" if "milmer prepare" in fault else "; delete the recording's folder and run 'milmer prepare' again"
        console.fail(f"{fault}{mend}")
    if faults:
        raise typer.Exit(1)
    console.say(f"every file is as it was written ({total} files)")
