"""Drawn stores and videos to measure on, written by the package's own writers; what is in them does not matter."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from milmer.config import Preparation
from milmer.store import SCHEMA, content_hash, write_json
from milmer.store_writing import RecordingWriter, finish_store

CHANNELS, RATE, STEP = 32, 128.0, 0.3  # Hz of the EEG; seconds between crops


def draw_store(
    path: Path, *, subjects: int, trials: int = 8, seconds: float = 30.0, px: int = 64, faces: bool = True
) -> Path:
    """Write a store: noise with an alpha rhythm that goes with arousal, crops whose light goes with valence."""
    path.mkdir(parents=True)
    angles = np.arange(CHANNELS) * 2.4  # a spiral from the crown down
    height = np.linspace(0.95, 0.1, CHANNELS)
    across = np.sqrt(1 - height**2)
    places = np.stack([across * np.cos(angles), across * np.sin(angles), height], 1)  # (C, 3)
    length, count = round(seconds * RATE), int(seconds / STEP)
    time = np.arange(length) / RATE  # (S,)
    crops = [_jpeg(np.random.default_rng([9, light]), 90 + 50 * light, px) for light in range(2)]
    keys = []
    for s in range(subjects):
        rng = np.random.default_rng([1, s])
        key = f"s{s + 1:02d}"
        keys.append(key)
        rows, blocks, tables, blob = [], [], [], b""
        for t, kind in enumerate(rng.permutation(trials)):
            bright, calm = bool(kind % 2), bool(kind // 2 % 2)
            samples = rng.normal(0, 8e-6, (CHANNELS, length))  # (C, S)
            samples += (2e-5 if calm else 4e-6) * np.sin(2 * np.pi * 10 * time)  # (C, S)
            blocks.append(samples.astype(np.float32))
            track = pd.DataFrame({"trial": t + 1, "time": (np.arange(count) + 0.5) * STEP, "found": True})
            track["confidence"] = 0.9
            track[["x", "y", "w", "h"]] = 10.0
            track["length"] = len(crops[bright])
            track["offset"] = len(blob) + len(crops[bright]) * np.arange(count)
            blob += crops[bright] * count
            tables.append(track)
            rows.append(
                {"study": "drawn", "site": "", "subject": key, "session": "", "recording": key, "block": ""}
                | {"trial": t + 1, "order": t, "stimulus": f"e{kind + 1:02d}", "onset": np.nan, "label": ""}
                | {"rating_valence": 7.0 if bright else 3.0, "rating_arousal": 3.0 if calm else 7.0}
                | {"store_key": key, "has_eeg": True, "eeg_start": t * length, "eeg_samples": length}
                | {"duration": seconds, "has_face": faces, "face_start": t * count if faces else 0}
                | {"face_rows": count if faces else 0, "faces_found": count if faces else 0}
            )
        with RecordingWriter(path, key) as writer:
            np.save(writer.folder / "eeg.npy", np.concatenate(blocks, axis=1))
            about = {"key": key, "names": [f"E{c + 1}" for c in range(CHANNELS)], "positions": places.tolist()}
            about |= {"rate": RATE, "peripheral": {}, "components": [], "component_scores": []}
            if faces:
                (writer.folder / "faces.bin").write_bytes(blob)
                pd.concat(tables).to_parquet(writer.folder / "faces.parquet", index=False)
            writer.commit(pd.DataFrame(rows), about, "drawn")
    info = {
        "schema": SCHEMA,
        "study": "drawn",
        "parameters": Preparation(eeg={"ica": "none"}).model_dump(mode="json"),  # type: ignore[arg-type]  # validated
        "parameters_hash": content_hash("drawn"),
        "detector": "none",
        "rating_ranges": {"valence": [1, 9], "arousal": [1, 9]},
        "versions": {},
    }
    write_json(path / "study.json", info)
    finish_store(path, info, keys, {})
    return path


def draw_video(path: Path, seconds: float, size: tuple[int, int] = (720, 576), fps: int = 50) -> Path:
    """Draw a face video as DEAP's are: 720x576, 50 frames a second, H.264."""
    from milmer.datasets.simulated_drawing import make_identity
    from milmer.datasets.simulated_face import make_timeline, write_video

    still = np.zeros(round(seconds * fps))  # (frames,)
    timeline = make_timeline(np.random.default_rng(0), seconds=seconds, fps=fps, valence=1, arousal=1, pulse=still)
    write_video(path, make_identity(np.random.default_rng(1)), timeline, size=size, fps=fps)
    return path


def _jpeg(rng: np.random.Generator, light: int, px: int) -> bytes:
    stream = io.BytesIO()
    image = np.clip(rng.normal(light, 15, (px, px, 3)), 0, 255).astype(np.uint8)  # (P, P, 3)
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    return stream.getvalue()
