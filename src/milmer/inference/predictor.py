"""Class probabilities over a new recording: prepared as the model's own data were, then given to it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.config import Data, Preparation
from milmer.datasets.base import Recording, Trial
from milmer.errors import UserError
from milmer.faces.crop import decode_jpeg
from milmer.inference.exported import SUFFIXES, Exported, export_of, read_export
from milmer.inference.folders import find, fold_temperature, model_folders, unfinished, whole_answer
from milmer.preparation import prepare_study
from milmer.progress import Progress, silent
from milmer.sections import BODY
from milmer.store import Store
from milmer.windows import holds

THUMBNAIL = 96  # pixels of a frame in the picture


@dataclass(frozen=True)
class Predicted:
    """What `predict_recording` wrote."""

    table: Path
    picture: Path
    summary: str
    notes: tuple[str, ...]
    windows: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class _OneRecording:
    """A study of one recording with one trial, so that prediction takes the very road that training took."""

    trial: Trial
    sources: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    name: str = "recording"
    rating_ranges: Any = field(default_factory=dict)

    def recordings(self) -> list[Recording]:
        """Return the one recording."""
        return [Recording(key="recording", trials=[self.trial], sources=self.sources, notes=self.notes)]


def predict_recording(
    model: Path | str,
    out: Path,
    *,
    eeg: Path | None = None,
    video: Path | None = None,
    video_start: float = 0.0,
    fold: int | None = None,
    step: float | None = None,
    show_faces: bool = False,
    engine: str | None = None,
    progress: Progress = silent,
) -> Predicted:
    """Predict class probabilities for every window of a recording.

    Parameters
    ----------
    model : Path or str
        A model's folder, a run, whose folds are averaged unless `fold` names one (it must where each fold is a model
        of one person), a hub name (``user/model``), or a file that `milmer.inference.export.export_model` wrote.
        The answer for the whole recording is at each fold's temperature, where the run has fitted one.
    out : Path
        Folder for ``predictions.csv`` and ``timeline.png``.
    eeg, video : Path, optional
        The recording; either may be left out. The EEG is cleaned by components fitted on this recording itself.
    video_start : float
        Second of the video at which the EEG starts; negative where the video began later is not supported.
    step : float, optional
        Distance of the windows in seconds; without it, as in training. A frame of overlapping windows goes through the
        backbone once.
    engine : {"torch", "onnx", "openvino"}, optional
        Who computes. Without it PyTorch, or for an exported file its own; of a model's folder the export that lies in
        it is taken, as ``model.onnx`` or ``model.xml``.

    Returns
    -------
    Predicted

    Raises
    ------
    UserError
        If neither file is given, or none that the model uses, or a file cannot be read.
    """
    if step is not None and not step > 0:
        raise UserError(f"--step {step:g}: expected more than 0 s")
    if not video_start >= 0:
        raise UserError(
            f"--video-start {video_start:g}: expected 0 s or more; cut the EEG where the video begins later"
        )
    for flag, path in (("--eeg", eeg), ("--video", video)):
        if path is not None and not path.exists():
            raise UserError(f"{flag} {path}: no such file")
    folder, folders, exports = _meant(model, fold, engine)
    # What is wrong with the files is said before seconds go into loading networks.
    from milmer.inference.engines import torch_engine
    from milmer.inference.once import answer_rows
    from milmer.reports.timeline import write_timeline
    from milmer.training.data import Bags

    record = exports[0].about if exports else _record(folders[0])
    data = Data.model_validate(record["data"])
    if step is not None:
        data = data.model_copy(update={"step": step})
    data = data.model_copy(update={"operators": "stored"})  # components are those of the new recording itself
    notes = unfinished(folder, len(folders)) if fold is None and folder.is_dir() else []
    notes += _check_inputs(data, eeg, video)
    study = _one_recording(eeg, video, video_start)
    _make_folder(out)  # before minutes go into a recording whose answers could not be written
    with tempfile.TemporaryDirectory(prefix="milmer-") as scratch:
        prepared = prepare_study(
            study, Path(scratch) / "store", Preparation.model_validate(record["preparation"]), progress=progress
        )
        if prepared.failed:
            raise UserError(next(iter(prepared.failed.values())))
        notes += prepared.notes.get("recording", [])
        store = Store(Path(scratch) / "store")
        _check_usable(store, data, prepared.notes.get("recording", []))
        notes += [
            f"{eeg.name}: found no {kind}: predicted without it"
            for kind in data.modalities
            if eeg is not None and kind in BODY and not holds(store.trials, kind).any()
        ]
        bags = Bags(store, data, classes=tuple(record["classes"]))
        notes += bags.notes
        rows = np.arange(len(bags.table))
        answers = []
        for done, folder in enumerate(folders):
            progress(done, len(folders), f"model {done + 1} of {len(folders)}")
            answers.append(answer_rows(exports[done].open() if exports else torch_engine(folder), bags, rows))
        prob = np.mean([a.prob for a in answers], axis=0)  # (n, classes)
        weights = np.mean([a.weights for a in answers], axis=0)  # (n, W, N)
        table = _table(bags, prob, weights, tuple(record["classes"]))
        table.to_csv(out / "predictions.csv", index=False, float_format="%.5f")
        write_timeline(
            table,
            out / "timeline.png",
            tuple(record["classes"]),
            _crops(bags, weights),
            " and ".join(p.name for p in (eeg, video) if p is not None),
            show_faces=show_faces,
        )
    present = [m for m in data.modalities if holds(store.trials, m).any()]
    own = [e.temperature(present) for e in exports] or [fold_temperature(f, present) for f in folders]
    mean = whole_answer([a.prob for a in answers], own)  # (classes,)
    top = record["classes"][int(mean.argmax())]
    summary = (
        f"{len(table)} windows; as a whole {top} {mean.max():.0%} (chance if nothing is known {1 / len(mean):.0%})"
    )
    if len(folders) > 1:
        summary += f", mean of {len(folders)} folds"
    return Predicted(out / "predictions.csv", out / "timeline.png", summary, tuple(notes), table)


def _meant(model: Path | str, fold: int | None, engine: str | None) -> tuple[Path, list[Path], list[Exported]]:
    """Return what `model` names, the folder of each network in it, and their exported files where these compute."""
    if engine not in (None, "torch", *SUFFIXES):
        raise UserError(f"--engine {engine}: expected torch, {' or '.join(SUFFIXES)}")
    file = Path(model)
    if file.suffix in SUFFIXES.values() and not file.is_dir():
        found = read_export(file)
        if engine not in (None, found.engine):
            raise UserError(f"--engine {engine}: {file} is of {found.engine}; leave --engine out, or give its model")
        if fold is not None:
            raise UserError(f"--fold {fold}: {file} is one model; leave --fold out")
        return file, [file], [found]
    folder = find(model)
    folders = model_folders(folder, fold)
    if engine is None or engine == "torch":
        return folder, folders, []
    return folder, folders, [export_of(f, engine) for f in folders]


def _record(folder: Path) -> dict[str, Any]:
    from milmer.models.weights import load_model

    _, meta = load_model(folder)
    missing = [k for k in ("data", "preparation", "classes") if k not in meta]
    if missing:
        raise UserError(f"{folder / 'config.json'}: lacks {', '.join(missing)}; give a model that 'milmer train' wrote")
    return meta


def _check_inputs(data: Data, eeg: Path | None, video: Path | None) -> list[str]:
    # Signals of the body are channels of the file that the EEG is in.
    given: dict[str, Path | None] = {**dict.fromkeys(data.modalities, eeg), "eeg": eeg, "face": video}
    flags = {str(m): f"--eeg (its {m} channel)" for m in data.modalities} | {"eeg": "--eeg", "face": "--video"}
    usable = [m for m in data.modalities if given[m] is not None]
    if not usable:
        wanted = " or ".join(flags[m] for m in data.modalities)
        raise UserError(
            f"nothing to predict from: this model was trained on {' and '.join(data.modalities)}; give {wanted}"
        )
    used = {*data.modalities, *(["eeg"] if set(data.modalities) & set(BODY) else [])}
    notes = [f"this model does not use {flags[m]}" for m, p in given.items() if p is not None and m not in used]
    notes += [f"no {flags[m]} given: predicted without it" for m in data.modalities if given[m] is None]
    return notes


def _one_recording(eeg: Path | None, video: Path | None, video_start: float) -> _OneRecording:
    from milmer.datasets.mne_files import Span, read_header
    from milmer.datasets.opened import LastOpened
    from milmer.faces.video import probe

    duration = 0.0
    signal = eog = ecg = None
    body: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if eeg is not None:
        header = read_header(eeg)
        opened: LastOpened[Any] = LastOpened()
        clean = header.clean
        signal = Span(opened, eeg, tuple(clean.kept), tuple(clean.names), 0, header.samples, judged=True)
        if header.eog:
            eog = Span(opened, eeg, tuple(header.eog.values()), tuple(header.eog), 0, header.samples)
        if "ecg" in header.peripheral:
            ecg = Span(opened, eeg, (header.peripheral["ecg"].index,), ("ecg",), 0, header.samples)
        body = header.body(opened, 0, header.samples)
        duration, notes = header.samples / header.rate, header.warnings
    if video is not None:
        duration = max(duration, probe(video).duration - video_start)
    trial = Trial(
        study="recording",
        subject="recording",
        trial=1,
        stimulus="",
        recording="recording",
        duration=duration,
        eeg=signal,
        eog=eog,
        ecg=ecg,
        peripheral=body,
        video=video,
        video_start=video_start,
    )
    return _OneRecording(trial, tuple(p for p in (eeg, video) if p is not None), notes)


def _check_usable(store: Store, data: Data, notes: list[str]) -> None:
    """Say why there is nothing to predict from, where preparation found nothing that the model takes."""
    if not any(holds(store.trials, m)[0] for m in data.modalities):
        if not {"eeg", "face"} & set(data.modalities):  # what was odd about the EEG is not the reason
            raise UserError(f"nothing to predict from: found no {' and no '.join(data.modalities)}; give one with it")
        raise UserError(f"nothing to predict from: {'; '.join(notes) or 'no usable EEG and no face was found'}")
    seconds = float(store.trials["duration"].to_numpy()[0])
    if seconds < data.window / 2:
        raise UserError(
            f"the recording lasts {seconds:.1f} s, less than half of the model's window of {data.window:g} s"
        )


def _table(
    bags: Any, prob: NDArray[np.float32], weights: NDArray[np.float32], classes: tuple[str, ...]
) -> pd.DataFrame:
    table: pd.DataFrame = bags.table[["window", "start", "stop"]].copy()
    faces = bags.face_rows.reshape(len(table), -1)  # (n, W·N)
    table["has_eeg"] = bags.with_eeg
    table["faces"] = (faces >= 0).sum(axis=1)
    trials, spans = (bags.table[c].to_numpy() for c in ("trial_row", ["start", "stop"]))  # (n,), (n, 2)
    for kind in bags.body.kinds:
        table[f"has_{kind}"] = bags.body.there(kind, trials, spans)
    for i, name in enumerate(classes):
        table[f"prob_{name}"] = prob[:, i]
    table["predicted"] = [classes[i] for i in prob.argmax(axis=1)]
    flat = weights.reshape(len(table), -1)  # (n, W·N)
    track = bags.store.faces("recording") if (faces >= 0).any() else None
    best = []
    for row, weight in zip(faces, flat, strict=True):
        order = [i for i in np.argsort(-weight, kind="stable")[:3] if row[i] >= 0]
        best.append(" ".join(f"{track.time[row[i]]:.2f}" for i in sorted(order)) if track is not None else "")
    table["chosen_frames_s"] = best
    return table


def _crops(bags: Any, weights: NDArray[np.float32]) -> dict[int, list[tuple[float, float, NDArray[np.uint8] | None]]]:
    """Return (time, weight, picture) of every bag's three heaviest frames, by row of the table."""
    found: dict[int, list[tuple[float, float, NDArray[np.uint8] | None]]] = {}
    faces = bags.face_rows.reshape(len(bags.table), -1)  # (n, W·N)
    flat = weights.reshape(len(bags.table), -1)  # (n, W·N)
    for row, (face, weight) in enumerate(zip(faces, flat, strict=True)):
        order = [i for i in np.argsort(-weight, kind="stable")[:3] if face[i] >= 0]
        if order:
            track = bags.store.faces("recording")
            found[row] = [
                (
                    float(track.time[face[i]]),
                    float(weight[i]),
                    decode_jpeg(bags.store.crop("recording", int(face[i])), THUMBNAIL),  # (P, P, 3)
                )
                for i in order
            ]
    return found


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
