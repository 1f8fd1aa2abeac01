"""A tiny prepared store with planted effects, made by the store's own writer."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from milmer.config import Preparation
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE
from milmer.store import SCHEMA, content_hash, write_json
from milmer.store_writing import RecordingWriter, finish_store

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: more threads would wait for each other
NAMES = ("Fp1", "Fp2", "C3", "C4", "P3", "P4", "O1", "O2")
RATE = 128.0
SAMPLES = Path(__file__).parents[1] / ".samples"
LONGEST = "test_every_command_runs"


def jpeg(rng: np.random.Generator, smile: bool, px: int = 64) -> bytes:
    """A noisy square with a bright bar in its upper or lower half."""
    image = rng.normal(110, 12, (px, px, 3))  # (P, P, 3)
    top = px // 6 if smile else px // 2 + px // 6
    image[top : top + px // 6] += 90
    stream = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def body_signal(kind: str, rng: np.random.Generator, seconds: float, high_v: bool, high_a: bool) -> np.ndarray:
    """A kind of body signal of a trial, (P, S) float32; the first half second of its first channel is missing."""
    time = np.arange(round(seconds * BODY_RATE)) / BODY_RATE  # (S,)
    found = rng.normal(0, 1, (len(BODY_CHANNELS[kind]), len(time)))  # (P, S)
    if kind == "gsr":
        found[0] = (6e-6 if high_v else 4e-6) + 3e-7 * found[0]
        found[1] = (4e-7 if high_a else 1e-7) * np.sin(2 * np.pi * 0.3 * time + rng.uniform(0, 6.3)) + 3e-8 * found[1]
    found[0, : round(BODY_RATE / 2)] = np.nan
    return found.astype(np.float32)


def make_store(
    path: Path,
    *,
    subjects: int = 4,
    trials: int = 8,
    seconds: float = 12.0,
    eeg: bool = True,
    face: bool = True,
    px: int = 64,
    seed: int = 0,
    body: tuple[str, ...] = (),
) -> Path:
    """Write a store whose arousal is in the alpha power and whose valence is in the crops.

    Of `body`, gsr has valence in its level and arousal in its phasic part; what else is named says nothing, and the
    third trial of every recording lacks it.
    """
    keys = []
    info = {
        "schema": SCHEMA,
        "study": "tiny",
        "parameters": Preparation().model_dump(mode="json"),
        "parameters_hash": content_hash("tiny"),
        "detector": "none",
        "rating_ranges": {"valence": [1, 9], "arousal": [1, 9]},
        "versions": {},
    }
    path.mkdir(parents=True)
    angles = np.linspace(0, 2 * np.pi, len(NAMES), endpoint=False)  # (C,)
    places = np.stack([np.cos(angles) * 0.8, np.sin(angles) * 0.8, np.full(len(NAMES), 0.6)], 1)  # (C, 3)
    for s in range(subjects):
        rng = np.random.default_rng([seed, s])
        key = f"s{s + 1:02d}"
        keys.append(key)
        length = round(seconds * RATE)
        time = np.arange(length) / RATE  # (S,)
        rows, blocks, tables, blob = [], [], [], b""
        signals: dict[str, list[np.ndarray]] = {kind: [] for kind in body}
        spans: dict[str, dict[str, list[int]]] = {kind: {} for kind in body}
        of_body = np.random.default_rng([seed, s, 7])
        order = rng.permutation(trials)
        for t in range(trials):
            high_v, high_a = bool(order[t] % 2), bool(order[t] // 2 % 2)
            samples = rng.normal(0, 8e-6, (len(NAMES), length))  # (C, S)
            samples += (2e-5 if high_a else 4e-6) * np.sin(2 * np.pi * 10 * time + rng.uniform(0, 6.3))  # (C, S)
            blocks.append(samples.astype(np.float32))
            track = pd.DataFrame({"trial": t + 1, "time": (np.arange(int(seconds / 0.3)) + 0.5) * 0.3})
            crops = [jpeg(rng, high_v, px) if k % 7 else b"" for k in range(len(track))]
            track["found"] = [bool(c) for c in crops]
            track["confidence"] = np.where(track["found"], 0.9, np.nan)
            track[["x", "y", "w", "h"]] = 10.0
            track["length"] = [len(c) for c in crops]
            track["offset"] = len(blob) + np.concatenate([[0], np.cumsum(track["length"])[:-1]])
            blob += b"".join(crops)
            rows.append(
                {"study": "tiny", "site": "", "subject": key, "session": "", "recording": key, "block": ""}
                | {"trial": t + 1, "order": t, "stimulus": f"e{order[t] + 1:02d}", "onset": np.nan, "label": ""}
                | {"rating_valence": 7.0 if high_v else 3.0, "rating_arousal": 7.0 if high_a else 3.0}
                | {"store_key": key, "has_eeg": eeg, "eeg_start": t * length, "eeg_samples": length if eeg else 0}
                | {"duration": seconds, "has_face": face, "face_start": t * len(track)}
                | {"face_rows": len(track) if face else 0, "faces_found": int(track["found"].sum()) if face else 0}
            )
            tables.append(track)
            for kind in body:
                there = kind == "gsr" or t != 2
                rows[-1][f"has_{kind}"] = there
                if there:
                    at = sum(x.shape[1] for x in signals[kind])
                    signals[kind].append(body_signal(kind, of_body, seconds, high_v, high_a))
                    spans[kind][str(t + 1)] = [at, at + signals[kind][-1].shape[1]]
        with RecordingWriter(path, key) as writer:
            about = {"key": key, "names": [], "positions": [], "rate": RATE, "peripheral": {}}
            if eeg:
                np.save(writer.folder / "eeg.npy", np.concatenate(blocks, axis=1))
                about |= {"names": list(NAMES), "positions": places.tolist()}
                mixing = rng.normal(0, 1, (len(NAMES), 3))  # (C, k)
                np.savez(
                    writer.folder / "ica.npz",
                    mixing=mixing,
                    unmixing=np.linalg.pinv(mixing),
                    labels=np.array(["brain", "brain", "other"]),
                    scores=np.array([0.9, 0.8, 0.7]),
                )
                about |= {"components": ["brain", "brain", "other"], "component_scores": [0.9, 0.8, 0.7]}
                about |= {"labelled_by": "planted", "reason": "planted"}
            for kind in body:
                np.save(writer.folder / f"body_{kind}.npy", np.concatenate(signals[kind], axis=1))
            about["body"] = {
                k: {"channels": list(BODY_CHANNELS[k]), "rate": BODY_RATE, "spans": spans[k]} for k in body
            }
            if face:
                (writer.folder / "faces.bin").write_bytes(blob)
                pd.concat(tables).to_parquet(writer.folder / "faces.parquet", index=False)
            writer.commit(pd.DataFrame(rows), about, "sources")
    write_json(path / "study.json", info)
    finish_store(path, info, keys, {})
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: at the end it would keep one core waiting for the other."""
    items.sort(key=lambda item: item.name != LONGEST)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects, eight trials of 12 s, eight channels, faces; not to be written to."""
    return make_store(tmp_path_factory.mktemp("tiny") / "store")


@pytest.fixture(scope="session")
def body_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny store without faces, with gsr and ppg; not to be written to."""
    return make_store(tmp_path_factory.mktemp("body") / "store", face=False, body=("gsr", "ppg"))


@pytest.fixture(scope="session")
def samples() -> Path:
    """The real recordings that `make install` fetches; a test that needs them fails without."""
    if not SAMPLES.is_dir():
        raise FileNotFoundError(f"{SAMPLES} is missing: run 'make install'")
    return SAMPLES
