"""Write a study in DEAP's layout of which all is known: what carries emotion, what is artifact, what is noise."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.datasets.base import MARKER
from milmer.datasets.simulated_plan import SimulationOptions, make_plan
from milmer.errors import UserError
from milmer.labels import FOUR_CLASSES
from milmer.processes import end_with, single_threaded
from milmer.progress import Progress, silent

__all__ = ["SimulationOptions", "SimulationSummary", "make_plan", "simulate_study", "write_python2_pickle"]

BASELINE = 3  # seconds before the stimulus that the signals have and the video has not
GENERATOR = 1  # raised when the same options no longer give the same study
_NO_FAMILIARITY = (2, 15, 23)  # participants of DEAP who were not asked
_IDENTITY, _FACE = 3, 4  # what a random draw is for; part of its seed


@dataclass(frozen=True)
class SimulationSummary:
    """What a call of `simulate_study` did: subjects made, and those found finished from an earlier call."""

    out: Path
    made: tuple[str, ...]
    reused: tuple[str, ...]
    trials: int
    videos: int


def simulate_study(
    out: Path, options: SimulationOptions, *, jobs: int = 1, progress: Progress = silent
) -> SimulationSummary:
    """Write a simulated study in the layout of DEAP, and its truth beside it.

    ``truth/`` holds study.json (the options), labels.csv (noise-free classes; with ``joint="xor"`` also what EEG and
    face each show), events.csv (every blink, burst,
    expression and distractor; seconds from the start of the stimulus) and a folder a subject: components.npz
    (``mixing`` (32, k), ``names``, ``kinds``, ``artifact``) and pulse.npz (heart beats in seconds, by ``trialNN``).
    Nothing but tests and reports reads it.

    A subject is written under another name and renamed when whole; a second call with the same options makes only
    those that are missing.

    Parameters
    ----------
    out : Path
        Folder to write; new, empty, or a simulated study with the same options.
    options : SimulationOptions
    jobs : int
        Processes; does not change what is written.
    progress : Progress
        Told of every trial (of every subject where there are several processes).

    Raises
    ------
    UserError
        On a wrong option, a folder that holds something else, or one that cannot be written.
    """
    options.check()
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: expected at least 1")
    try:
        return _simulate(Path(out), options, jobs, progress)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}); mend that and run again: "
            "finished subjects are kept"
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            f"{out}: a process was killed, perhaps for want of memory; run again with --jobs 1: "
            "finished subjects are kept"
        ) from error


def _simulate(out: Path, options: SimulationOptions, jobs: int, progress: Progress) -> SimulationSummary:
    _claim(out, options)
    plan = make_plan(options)
    _write_tables(out, plan)
    (out / MARKER).write_text("A simulated study in DEAP's layout, made by 'milmer simulate'. Nobody was recorded.\n")
    subjects = range(1, options.subjects + 1)
    missing = [s for s in subjects if not _finished(out, options, s)]
    total = options.subjects * options.trials
    done = total - len(missing) * options.trials
    progress(done, total, "")
    if min(jobs, len(missing)) <= 1:
        for subject in missing:
            tell = partial(_tell, progress, done, total, _name(subject))
            _write_subject(out, options, subject, tell)
            done += options.trials
    else:
        # spawn: a fork of a process with threads (torch, BLAS, a video decoder) may hang
        context = multiprocessing.get_context("spawn")
        with single_threaded(), ProcessPoolExecutor(min(jobs, len(missing)), context, end_with, (os.getpid(),)) as pool:
            work = {pool.submit(_write_subject, out, options, s): s for s in missing}
            try:
                for future in as_completed(work):
                    future.result()
                    done += options.trials
                    progress(done, total, _name(work[future]))
            except BaseException:  # also Ctrl-C: what waits is dropped, what runs is left to end
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    tables = [pd.read_csv(out / "truth" / _name(s) / "events.csv", dtype={"subject": str}) for s in subjects]
    _write_csv(pd.concat(tables, ignore_index=True), out / "truth" / "events.csv")
    return SimulationSummary(
        out=out,
        made=tuple(_name(s) for s in missing),
        reused=tuple(_name(s) for s in subjects if s not in missing),
        trials=total,
        videos=total if options.videos else 0,
    )


def _write_subject(out: Path, options: SimulationOptions, subject: int, progress: Progress = silent) -> None:
    """Make one subject under another name and move it into place; truth/sNN comes last and says that it is whole."""
    # Late: the writing process may be another one, and MNE and the video library are slow to import.
    from milmer.datasets.simulated_body import response_events
    from milmer.datasets.simulated_eeg import simulate_trial
    from milmer.datasets.simulated_head import make_head

    name = _name(subject)
    part = out / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "face").mkdir(parents=True)
    (part / "truth").mkdir()
    seed, stimuli = options.seed, options.trials if options.stimulus_signature else 0
    plan = make_plan(options)
    plan = plan[plan["subject"] == subject]
    data = np.zeros((options.trials, 40, 128 * options.seconds))  # (T, 40, S) by Experiment_id
    labels = np.zeros((options.trials, 4))  # (T, 4)
    events: list[dict[str, Any]] = []
    beats: dict[str, NDArray[np.floating]] = {}
    try:
        for count, row in enumerate(plan.to_dict("records")):
            stimulus = int(row["experiment_id"])
            truth = simulate_trial(
                seed,
                subject,
                stimulus,
                options.seconds,
                place=count / max(options.trials - 1, 1),
                valence=options.level(row, "valence", "eeg"),
                arousal=options.level(row, "arousal", "eeg"),
                stimulus=stimulus if stimuli else None,
                stimuli=stimuli,
                baseline=BASELINE,
                body=options.level(row, "valence", "body") + options.level(row, "arousal", "body"),
            )
            data[stimulus - 1] = truth.samples
            labels[stimulus - 1] = [row[r] for r in ("valence", "arousal", "dominance", "liking")]
            number = f"trial{row['trial']:02d}"
            beats[number] = truth.beats
            found = [{"signal": "eeg", **e} for e in truth.events]
            found += response_events(truth.responses)
            if options.videos:
                path = part / "face" / f"{name}_{number}.avi"
                found += _write_face(path, options, subject, row, truth.beats)
            place = {"subject": name, "trial": row["trial"], "experiment_id": stimulus}
            events += [{**place, **e} for e in sorted(found, key=lambda e: float(e["start"]))]
            progress(count + 1, options.trials, f"{name} trial {row['trial']}")
        head = make_head(seed, subject, stimuli)
        np.savez(
            part / "truth" / "components.npz",
            mixing=head.mixing,
            names=np.array(head.names),
            kinds=np.array(head.kinds),
            artifact=head.artifacts(),
        )
        np.savez(part / "truth" / "pulse.npz", **beats)  # type: ignore[arg-type]  # the stub takes ** for a flag
        columns = ["subject", "trial", "experiment_id", "signal", "kind", "start", "apex", "stop"]
        _write_csv(pd.DataFrame(events, columns=columns), part / "truth" / "events.csv")
        with (part / "signals.dat").open("wb") as file:
            write_python2_pickle(file, {"labels": labels, "data": data})
        if options.videos:
            _move(part / "face", out / "face_video" / name)
        _move(part / "signals.dat", out / "data_preprocessed_python" / f"{name}.dat")
        _move(part / "truth", out / "truth" / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_face(
    path: Path,
    options: SimulationOptions,
    subject: int,
    row: dict[Any, Any],
    beats: NDArray[np.floating],
) -> list[dict[str, Any]]:
    from milmer.datasets.simulated_eeg import pulse
    from milmer.datasets.simulated_face import make_identity, make_timeline, write_video

    stimulus = int(row["experiment_id"])
    seconds = options.seconds - BASELINE
    rng = np.random.default_rng([options.seed, _FACE, subject, stimulus])
    identity = make_identity(np.random.default_rng([options.seed, _IDENTITY, subject]))
    timeline = make_timeline(
        rng,
        seconds=seconds,
        fps=options.fps,
        valence=options.level(row, "valence", "face"),
        arousal=options.level(row, "arousal", "face"),
        pulse=pulse(beats, np.arange(seconds * options.fps) / options.fps),
        signature=stimulus if options.stimulus_signature else None,
    )
    write_video(path, identity, timeline, size=options.size, fps=options.fps, seed=int(rng.integers(2**31)))
    return [
        {"signal": "face", "kind": e.kind, "start": e.start, "apex": e.apex, "stop": e.stop} for e in timeline.events
    ]


def write_python2_pickle(file: IO[bytes], arrays: dict[str, NDArray[np.float64]]) -> None:
    """Write a dict of float64 arrays as Python 2 did: the pickle (protocol 2) of DEAP's files.

    Python 3's own protocol 2 would name other functions and be half as large again; a loader must read the real form.
    The values are written without a copy.

    Parameters
    ----------
    file : binary file
    arrays : dict of str to ndarray
        Names in ASCII; at most 2 GiB an array.
    """

    def text(value: str) -> bytes:
        return pickle.SHORT_BINSTRING + bytes([len(value)]) + value.encode("ascii")

    def name(module: str, attribute: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{attribute}\n".encode("ascii")

    def integer(value: int) -> bytes:
        return pickle.BININT + value.to_bytes(4, "little", signed=True)

    # numpy.dtype("f8", 0, 1), then its state (3, "<", None, None, None, -1, -1, 0)
    dtype = name("numpy", "dtype") + text("f8") + integer(0) + integer(1) + pickle.TUPLE3 + pickle.REDUCE
    dtype += pickle.MARK + integer(3) + text("<") + 3 * pickle.NONE + 2 * integer(-1) + integer(0) + pickle.TUPLE
    dtype += pickle.BUILD
    file.write(pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK)
    for key, values in arrays.items():
        array = np.ascontiguousarray(values, dtype="<f8")
        # _reconstruct(ndarray, (0,), "b"), then its state (1, shape, dtype, False, bytes)
        file.write(text(key) + name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray"))
        file.write(integer(0) + pickle.TUPLE1 + text("b") + pickle.TUPLE3 + pickle.REDUCE)
        file.write(pickle.MARK + integer(1) + pickle.MARK + b"".join(integer(n) for n in array.shape) + pickle.TUPLE)
        file.write(dtype + pickle.NEWFALSE + pickle.BINSTRING + array.nbytes.to_bytes(4, "little", signed=True))
        file.write(array.data)
        file.write(pickle.TUPLE + pickle.BUILD)
    file.write(pickle.SETITEMS + pickle.STOP)


def _claim(out: Path, options: SimulationOptions) -> None:
    """Make `out` ours, or refuse it."""
    record = out / "truth" / "study.json"
    given = json.loads(json.dumps(asdict(options)))
    if options.joint == "sum":
        del given["joint"]  # studies from before there was a choice say nothing of it, and stay as they are
    if options.body == "none":
        del given["body"]  # likewise
    if record.exists():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
            before, generator = dict(found["options"]), found["generator"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{record}: not readable; delete {out} or name another folder") from error
        if generator != GENERATOR:
            raise UserError(
                f"{record}: simulated by generator {generator}, this is {GENERATOR}; "
                f"delete {out} or name another folder"
            )
        for field in fields(options):
            default = {"joint": "sum", "body": "none"}.get(field.name)
            found, asked = (o.get(field.name, default) for o in (before, given))
            if found != asked:
                raise UserError(
                    f"{record}: simulated with {field.name} {found}, asked for {asked}; "
                    "name another folder or repeat the same options"
                )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: not empty and no simulated study (no truth/study.json); name another folder")
    for folder in ("truth", "data_preprocessed_python", "metadata_csv", *(["face_video"] if options.videos else [])):
        (out / folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps({"generator": GENERATOR, "options": given}, indent=2) + "\n"
    _write_text(text, record)


def _finished(out: Path, options: SimulationOptions, subject: int) -> bool:
    name = _name(subject)
    whole = (out / "truth" / name).is_dir() and (out / "data_preprocessed_python" / f"{name}.dat").is_file()
    videos = len(list((out / "face_video" / name).glob("*.avi")))
    return whole and videos == options.trials * options.videos


def _write_tables(out: Path, plan: pd.DataFrame) -> None:
    ratings = pd.DataFrame({"Participant_id": plan["subject"], "Trial": plan["trial"]})
    for column in ("experiment_id", "start_time", "valence", "arousal", "dominance", "liking"):
        ratings[column.capitalize()] = plan[column]
    asked = ~plan["subject"].isin(_NO_FAMILIARITY)
    ratings["Familiarity"] = plan["familiarity"].astype("Int64").where(asked)
    _write_csv(ratings, out / "metadata_csv" / "participant_ratings.csv")
    labels = plan[["trial", "experiment_id"]].copy()
    labels.insert(0, "subject", plan["subject"].map(_name))
    for dimension in ("valence", "arousal"):
        labels[dimension] = np.where(plan[f"high_{dimension}"], "high", "low")
    index = 2 * ~plan["high_arousal"] + ~plan["high_valence"]  # the paper's order, as FOUR_CLASSES
    labels["label"] = [FOUR_CLASSES[i] for i in index]
    for where in ("eeg", "face"):
        if f"high_{where}" in plan:
            labels[where] = np.where(plan[f"high_{where}"], "high", "low")
    _write_csv(labels, out / "truth" / "labels.csv")


def _tell(progress: Progress, done: int, total: int, name: str, count: int, of: int, text: str) -> None:
    progress(done + count, total, text)


def _name(subject: int) -> str:
    return f"s{subject:02d}"


def _move(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`, which an interrupted call may have left."""
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    _write_text(table.to_csv(index=False, lineterminator="\n"), path)


def _write_text(text: str, path: Path) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return  # a store knows its sources by their times: what has not changed is not touched
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
