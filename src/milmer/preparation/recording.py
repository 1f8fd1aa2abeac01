"""One recording made ready and put in the store: EEG, the body's other signals, faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.config import Preparation
from milmer.datasets.base import Recording, Signal, Trial
from milmer.errors import UserError
from milmer.store import content_hash
from milmer.store_writing import RecordingWriter

Tick = Callable[[str], None]


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
        writer.commit(pd.DataFrame(rows), about, sources_hash(recording))
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


def sources_hash(recording: Recording) -> str:
    """Hash of the names, sizes and times of the files a recording is made from."""
    found: list[list[str | int]] = [[recording.digest]] if recording.digest else []
    for source in recording.sources:
        stat = source.stat()
        found.append([source.name, stat.st_size, stat.st_mtime_ns])
    return content_hash(found)
