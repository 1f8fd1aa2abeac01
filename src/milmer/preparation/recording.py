"""One recording made ready and put in the store: EEG, the body's other signals, faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.config import Preparation
from milmer.datasets.base import Recording, Signal, Trial, body_kind
from milmer.errors import UserError
from milmer.preparation.body import write_peripheral
from milmer.preparation.lengths import disagreements
from milmer.store import content_hash
from milmer.store_writing import RecordingWriter

if TYPE_CHECKING:
    from milmer.signals.eeg import PreparedEEG

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
            # Promises, not signals: one trial at a time is in memory before it is filtered.
            made = prepare_eeg(
                [partial(_load, t.eeg, notes) for _, t in with_eeg],
                settings.eeg,
                eog=[partial(_load, t.eog, notes) for _, t in with_eeg] if all(t.eog for _, t in with_eeg) else None,
                ecg=[partial(_load, t.ecg, notes) for _, t in with_eeg] if all(t.ecg for _, t in with_eeg) else None,
                iclabel_off=recording.ica_labels_off,
            )
            notes += made.notes
            lengths = [0 if k in made.unusable else x.shape[1] for k, x in enumerate(made.trials)]
            ends = np.cumsum([0, *lengths])
            spans = {i: (int(ends[k]), lengths[k]) for k, (i, _) in enumerate(with_eeg)}
            _write_eeg(
                writer.folder / "eeg.npy", [x for x, n in zip(made.trials, lengths, strict=True) if n], made.names
            )
            about |= {"names": list(made.names), "positions": made.positions.round(6).tolist(), "rate": made.rate}
            about |= {"bad": list(made.bad), "masked": list(made.masked)}
            about |= _write_components(made, [t.trial for _, t in with_eeg], writer.folder)
        about |= write_peripheral(
            recording, writer.folder, _load, notes, clean=settings.body, line_freq=settings.eeg.line_freq
        )
        for i, row in enumerate(rows):
            start, length = spans.get(i, (0, 0))
            row |= {"store_key": recording.key, "has_eeg": length > 0, "eeg_start": start, "eeg_samples": length}
            row |= {f"has_{k}": str(row["trial"]) in b["spans"] for k, b in about["body"].items()}
            row["duration"] = _duration(recording.trials[i], length / settings.eeg.rate)
        notes += disagreements(recording.trials, rows, settings.eeg.rate)
        about["skin"] = _write_faces(recording, rows, writer.folder, settings, notes, tick)
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


def _write_components(made: PreparedEEG, trials: Sequence[int], folder: Path) -> dict[str, Any]:
    """Write ``ica.npz``, or ``ica_t<trial>.npz`` for each trial with components of its own; return what is said."""
    files = {"ica.npz": made.ica} if made.ica is not None else {}
    files |= {f"ica_t{trials[k]}.npz": ica for k, ica in made.ica_of.items()}
    if not files:
        return {}
    for name, ica in files.items():
        np.savez(
            folder / name,
            mixing=ica.mixing,
            unmixing=ica.unmixing,
            labels=np.array(ica.labels),
            scores=np.asarray(ica.scores, dtype=np.float64),
        )
    return {
        "components": [label for ica in files.values() for label in ica.labels],
        "component_scores": [round(float(s), 4) for ica in files.values() for s in ica.scores],
        "component_trials": [trials[k] for k, ica in made.ica_of.items() for _ in ica.labels],
        "labelled_by": "; ".join(dict.fromkeys(ica.labelled_by for ica in files.values())),
        "reason": "; ".join(dict.fromkeys(ica.reason for ica in files.values())),
    }


def _write_faces(
    recording: Recording,
    rows: list[dict[str, Any]],
    folder: Path,
    settings: Preparation,
    notes: list[str],
    tick: Tick,
) -> dict[str, list[int]]:
    """Write crops, their table and the skin's colour; return each trial's rows of the latter."""
    from milmer.faces.detect import load_detector
    from milmer.faces.track import face_track

    skins: dict[str, NDArray[np.float32]] = {}  # trial -> (n, 4)
    detector = load_detector(settings.face) if any(t.video for t in recording.trials) else None
    tables = []
    begin = offset = 0
    with (folder / "faces.bin").open("wb") as crops:
        for trial, row in zip(recording.trials, rows, strict=True):
            row |= {"has_face": False, "face_start": begin, "face_rows": 0, "faces_found": 0}
            if trial.video is None or detector is None:
                continue
            tick(f"{recording.key}: {trial.video.name}")
            rate = _skin_rate(trial, settings)
            track = face_track(trial.video, trial.video_start, row["duration"], settings.face, detector, rate)
            if rate:
                skins[str(trial.trial)] = track.skin
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
    if not skins:
        return {}
    np.save(folder / "skin.npy", np.concatenate(list(skins.values())))
    ends = np.cumsum([0, *(len(s) for s in skins.values())]).tolist()
    return {trial: [ends[k], ends[k + 1]] for k, trial in enumerate(skins)}


def _skin_rate(trial: Trial, settings: Preparation) -> float | None:
    """Return how often the skin's colour is taken, a second: where nothing else has the pulse it proves nothing."""
    from milmer.faces.skin import AUTO_RATE

    asked = settings.face.skin
    if isinstance(asked, str):
        pulse = any(body_kind(name) in ("ppg", "ecg") for name in trial.peripheral)
        return AUTO_RATE if asked == "auto" and pulse else None
    return asked


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
