"""A small store and a run over it, written by the writers that real ones are written by; no network is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from milmer.config import dump, load_config
from milmer.evaluation.protocols import display_name, make_splits
from milmer.evaluation.scoring import figures
from milmer.labels import make_labels
from milmer.store import IDENTITY, Store, content_hash, write_json
from milmer.store_writing import RecordingWriter, finish_store
from milmer.windows import build_windows, choose_frames

NAMES = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "T7", "T8")
PLACES = (
    (-0.3, 0.95, 0.0),
    (0.3, 0.95, 0.0),
    (-0.5, 0.6, 0.6),
    (0.5, 0.6, 0.6),
    (-0.7, 0.0, 0.7),
    (0.7, 0.0, 0.7),
    (-0.5, -0.6, 0.6),
    (0.5, -0.6, 0.6),
    (-0.3, -0.95, 0.0),
    (0.3, -0.95, 0.0),
    (-1.0, 0.0, 0.0),
    (1.0, 0.0, 0.0),
)
RATE, FACE_RATE, SECONDS = 128.0, 10 / 3, 12.0
KINDS = ("eye blink", "muscle artifact", "brain", "brain", "other", "brain")


@dataclass(frozen=True)
class Made:
    """Where the run and its store are, and a crop that is in it."""

    run: Path
    store: Path
    crop: bytes


def noisy_face(rng: np.random.Generator, px: int = 64) -> bytes:
    """A picture with a face's large shapes and as much fine detail as a JPEG can hold."""
    rows, columns = np.mgrid[:px, :px] / px - 0.5
    head = (rows**2 + (1.3 * columns) ** 2 < 0.18)[..., None]
    image = np.where(head, (215, 170, 140), (90, 110, 130)) + rng.normal(0, 45, (px, px, 3))
    buffer = BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def write_recording(
    store: Path, subject: int, trials: int, modalities: tuple[str, ...], face: Callable[[np.random.Generator], bytes]
) -> str:
    rng = np.random.default_rng([subject, 1])
    key, samples, frames = f"s{subject:02d}", int(SECONDS * RATE), int(SECONDS * FACE_RATE)
    about: dict[str, Any] = {"key": key, "names": [], "positions": [], "rate": RATE, "notes": [f"a note of {key}"]}
    with RecordingWriter(store, key) as writer:
        rows = []
        for t in range(trials):
            row = dict.fromkeys(IDENTITY, "") | {"study": "made up", "subject": key, "trial": t + 1, "order": t + 1}
            row |= {"stimulus": f"clip {t + 1}", "onset": 60.0 * t, "label": "ab"[t % 2], "store_key": key}
            row |= {"rating_valence": 3.0 + 4 * (t % 2), "rating_arousal": 3.0 + 4 * (t // 2 % 2), "duration": SECONDS}
            row |= {"has_eeg": "eeg" in modalities, "eeg_start": t * samples, "eeg_samples": samples}
            row |= {"has_face": "face" in modalities, "face_start": t * frames}
            row |= {"face_rows": frames if "face" in modalities else 0}
            rows.append(row)
        if "eeg" in modalities:
            eeg = 1e-5 * rng.normal(size=(len(NAMES), trials * samples))
            for t in range(trials):  # alpha at the back goes with valence, so that maps have something to show
                time = np.arange(samples) / RATE
                wave = (1 + t % 2) * 1e-5 * np.sin(2 * np.pi * 10 * time + t)
                eeg[8:10, t * samples : (t + 1) * samples] += wave
            np.save(writer.folder / "eeg.npy", eeg.astype(np.float32))
            mixing = rng.normal(size=(len(NAMES), len(KINDS)))
            mixing[:, 0] = [3, 3, 1.5, 1.5, 0.5, 0.5, 0.1, 0.1, 0, 0, 0.4, 0.4]
            scores = np.linspace(0.95, 0.6, len(KINDS))
            np.savez(
                writer.folder / "ica.npz",
                mixing=mixing,
                unmixing=np.linalg.pinv(mixing),
                labels=np.array(KINDS),
                scores=scores,
            )
            about |= {"names": list(NAMES), "positions": [list(p) for p in PLACES], "bad": ["F3"], "masked": ["T8"]}
            about |= {"components": list(KINDS), "component_scores": scores.tolist()}
            about |= {"labelled_by": "iclabel+eog", "reason": "raw recording in ICLabel's range"}
        if "face" in modalities:
            pool = [face(rng) for _ in range(24)]
            crops = [pool[i % len(pool)] for i in range(trials * frames)]
            crops[3] = b""
            lengths = np.array([len(c) for c in crops])
            (writer.folder / "faces.bin").write_bytes(b"".join(crops))
            table = pd.DataFrame({"trial": np.repeat(np.arange(trials) + 1, frames)})
            table["time"] = np.tile((np.arange(frames) + 0.5) / FACE_RATE, trials)
            table["found"] = lengths > 0
            table["confidence"] = np.float32(0.9)
            table[["x", "y", "w", "h"]] = np.ones((len(table), 4), dtype=np.float32)
            table["offset"], table["length"] = np.cumsum(lengths) - lengths, lengths
            table.to_parquet(writer.folder / "faces.parquet", index=False)
        counts = {t + 1: 0 for t in range(trials)}
        if "face" in modalities:
            counts |= {int(k): int(v) for k, v in table.groupby("trial")["found"].sum().items()}
        for row in rows:
            row["faces_found"] = counts[row["trial"]]
        writer.commit(pd.DataFrame(rows), about, "none")
    return key


def write_store(path: Path, subjects: int, trials: int, modalities: tuple[str, ...], face: Any = noisy_face) -> Store:
    parameters = load_config().preparation.model_dump(mode="json")
    path.mkdir(parents=True)
    info = {"schema": 1, "study": "made up", "parameters": parameters, "parameters_hash": content_hash(parameters)}
    finish_store(path, info, [write_recording(path, s + 1, trials, modalities, face) for s in range(subjects)], {})
    return Store(path)


def write_run(path: Path, store: Store, overrides: dict[str, Any], kind: str = "evaluate", skill: float = 1.2) -> None:
    """Write what `milmer evaluate` writes, with answers that are random but for a little `skill`."""
    config = load_config(overrides={"evaluation.resamples": 200} | overrides)
    rng = np.random.default_rng(7)
    table = build_windows(store.trials, modalities=config.data.modalities)
    labels = make_labels(table, config.data.target)
    protocol, n = config.evaluation.protocol, config.data.frames
    faces = np.full((len(table), n), -1)
    if "face" in config.data.modalities:
        for i, row in table.iterrows():
            track = store.faces(row["store_key"])
            span = slice(int(row["face_start"]), int(row["face_start"] + row["face_rows"]))
            picked = choose_frames(track.time[span], row["start"], row["stop"], n) + span.start
            faces[i] = np.where(track.found[picked], picked, -1)
    weights = np.where(faces >= 0, np.exp(1.5 * rng.normal(size=faces.shape)), 0.0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    logits = rng.normal(size=(len(table), len(labels.classes)))
    logits[np.arange(len(table)), labels.y] += skill
    prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = []
    splits = make_splits(table, labels.y, protocol, config.evaluation.folds, 0, labels.classes)
    for split in splits[:1] if kind == "train" else splits:
        for part in ("train", "validation") if kind == "train" else ("train", "validation", "test"):
            mine = getattr(split, part)
            found = table.iloc[mine][[*IDENTITY, "store_key", "trial_row", "window", "start", "stop", "label"]]
            found = found.assign(protocol=protocol, budget="none", fold=split.fold, seed=0, part=part)
            found = found.assign(y_true=labels.y[mine], y_pred=prob[mine].argmax(1))
            found = found.assign(**{f"prob_{c}": prob[mine, i] for i, c in enumerate(labels.classes)})
            rows.append(found.assign(frame_weights=list(weights[mine]), face_rows=list(faces[mine])))
        folder = path / "folds" / str(split.fold)
        folder.mkdir(parents=True)
        epochs = np.arange(12.0)
        curve = {"epoch": epochs, "train_loss": 1.4 * 0.85**epochs, "val_loss": 0.7 + 0.02 * (epochs - 6) ** 2}
        curve |= {"val_macro_f1": 0.6 - 0.3 * 0.7**epochs, "val_accuracy": 0.5 + 0 * epochs, "lr": 1e-3 + 0 * epochs}
        pd.DataFrame(curve).to_csv(folder / "history.csv", index=False)
    predictions = pd.concat(rows, ignore_index=True)
    predictions.to_parquet(path / "predictions.parquet", index=False)
    (path / "config.yaml").write_text(dump(config), encoding="utf-8")
    (path / "log.txt").write_text("2026-01-02 03:04:05 evaluate started\n", encoding="utf-8")
    found = figures(predictions, config.evaluation, labels.classes)
    (path / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    record: dict[str, Any] = {"kind": kind, "protocol": protocol, "protocol_name": display_name(protocol)}
    record |= {"store": str(store.path), "study": store.name, "fingerprint": store.fingerprint, "complete": True}
    record |= {"versions": {"milmer": "0.1.0", "torch": "2.13.0"}, "notes": ["fold 1: validation has no trial of HAHV"]}
    record |= {"classes": list(labels.classes), "label_rule": labels.rule, "seconds": 83.2, "peak_memory_bytes": 9e8}
    write_json(path / "run.json", record)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """Return a function that makes a store and a run."""

    def make(
        kind: str = "evaluate",
        modalities: tuple[str, ...] = ("eeg", "face"),
        subjects: int = 3,
        trials: int = 8,
        **overrides: Any,
    ) -> Made:
        store = write_store(tmp_path / "store", subjects, trials, modalities)
        options = {"data.modalities": list(modalities), "evaluation.folds": 3}
        write_run(tmp_path / "run", store, options | {k.replace("__", "."): v for k, v in overrides.items()}, kind)
        return Made(tmp_path / "run", tmp_path / "store", noisy_face(np.random.default_rng(5)))

    return make
