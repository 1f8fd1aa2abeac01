from __future__ import annotations

import json
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.reports.conftest import write_run, write_store

from milmer.config import load_config
from milmer.errors import UserError
from milmer.evaluation.samples import gather, read_samples, write_samples
from milmer.evaluation.samples_eeg import BANDS, Reading, band_power, removed_components, window_power
from milmer.evaluation.samples_frames import blur, choose_examples, scored_rows, shown_windows
from milmer.store import Store

CLASSES = ("HAHV", "HALV", "LAHV", "LALV")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store, pd.DataFrame]:
    """A run, its store and its predictions; not to be written to."""
    path = tmp_path_factory.mktemp("samples")
    store = write_store(path / "store", 3, 8, ("eeg", "face"))
    write_run(path / "run", store, {"evaluation.folds": 3})
    return path / "run", store, pd.read_parquet(path / "run" / "predictions.parquet")


def config(**overrides: Any) -> Any:
    return load_config(overrides={k.replace("__", "."): v for k, v in overrides.items()})


def grey(jpeg: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(BytesIO(jpeg)).convert("L"), dtype=float)


def detail(image: np.ndarray[Any, Any]) -> float:
    """Share of a picture's variance that is finer than an eighth of its side."""
    power = np.abs(np.fft.fft2(image - image.mean())) ** 2
    rate = np.abs(np.fft.fftfreq(len(image)) * len(image))
    return float(power[np.maximum.outer(rate, rate) > 8].sum() / power.sum())


def test_what_is_read_back_is_what_was_gathered(made: Any, tmp_path: Path) -> None:
    _, store, predictions = made
    found = gather(store, config(), predictions, CLASSES)
    write_samples(tmp_path, store, config(), predictions, CLASSES)
    again = read_samples(tmp_path)
    assert again is not None and not again.shows_faces and not again.faults
    assert again.frames == found.frames and sum(map(len, found.frames)) > 40
    assert again.preparation == found.preparation and again.failed == found.failed
    for (names, one), (others, other) in zip(found.eeg, again.eeg, strict=True):
        assert names == others and one.shape == (11, 384)  # T8 is masked
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for name in ("examples", "classes", "counts", "positions", "spread"):
        np.testing.assert_array_equal(getattr(found.maps, name), getattr(again.maps, name))
    assert len(found.removed) == len(again.removed) == 2
    np.testing.assert_array_equal(found.removed[0].maps, again.removed[0].maps)
    assert found.removed[0].labels == again.removed[0].labels == ("eye blink", "muscle artifact")
    columns = ["subject", "trial", "window", "y_true", *(f"prob_{c}" for c in CLASSES)]
    pd.testing.assert_frame_equal(found.examples[columns], again.examples[columns])
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 3e6
    assert {f.suffix for f in tmp_path.rglob("*") if f.is_file()} == {".json", ".npz", ".parquet", ".jpg"}
    assert [f.name for f in tmp_path.iterdir()] == ["samples"]  # nothing half-written is left


def test_written_again_it_replaces_what_was_there(made: Any, tmp_path: Path) -> None:
    _, store, predictions = made
    write_samples(tmp_path, store, config(evaluation__samples="faces"), predictions, CLASSES)
    (tmp_path / "samples" / "frames" / "9-999.jpg").write_bytes(b"old")
    write_samples(tmp_path, store, config(), predictions, CLASSES)
    assert not (tmp_path / "samples" / "frames" / "9-999.jpg").exists()
    again = read_samples(tmp_path)
    assert again is not None and not again.shows_faces


def test_faces_are_kept_only_where_asked_for(made: Any, tmp_path: Path) -> None:
    _, store, predictions = made
    found = {}
    for kind in ("blurred", "faces", "none"):
        (tmp_path / kind).mkdir()
        write_samples(tmp_path / kind, store, config(evaluation__samples=kind), predictions, CLASSES)
        found[kind] = [detail(grey(f.read_bytes())) for f in sorted((tmp_path / kind).rglob("*.jpg"))]
    assert max(found["blurred"]) < 0.02 and min(found["faces"]) > 0.2
    assert list((tmp_path / "none").iterdir()) == []
    assert read_samples(tmp_path / "none") is None


def test_a_damaged_recording_costs_its_own_part_only(made: Any, tmp_path: Path) -> None:
    _, store, predictions = made
    shutil.copytree(store.path, tmp_path / "store")
    (tmp_path / "store" / "recordings" / "s01" / "eeg.npy").write_bytes(b"broken")
    write_samples(tmp_path, Store(tmp_path / "store"), config(), predictions, CLASSES)
    again = read_samples(tmp_path)
    assert again is not None and any("eeg.npy: not readable" in f for f in again.faults)
    assert again.maps.fault and any(again.frames) and again.preparation


def test_damaged_samples_are_named(made: Any, tmp_path: Path) -> None:
    _, store, predictions = made
    write_samples(tmp_path, store, config(), predictions, CLASSES)
    told = json.loads((tmp_path / "samples" / "samples.json").read_text())
    (tmp_path / "samples" / "samples.json").write_text(json.dumps(told | {"version": 99}))
    with pytest.raises(UserError, match="upgrade milmer"):
        read_samples(tmp_path)
    (tmp_path / "samples" / "samples.json").write_text(json.dumps(told))
    (tmp_path / "samples" / "eeg.npz").write_bytes(b"broken")
    with pytest.raises(UserError, match="--store"):
        read_samples(tmp_path)


def test_examples_are_right_then_wrong_and_the_surest(made: Any) -> None:
    scored = scored_rows(made[2])
    rows = choose_examples(scored, CLASSES)
    right = (rows["y_true"] == rows["y_pred"]).tolist()
    assert right == sorted(right, reverse=True) and 4 < len(rows) <= 6
    for _, row in rows[:4].iterrows():
        c = row["y_true"]
        mine = scored[(scored["y_true"] == c) & (scored["y_pred"] == c)]
        assert row[f"prob_{CLASSES[c]}"] == mine[f"prob_{CLASSES[c]}"].max()
    twice = pd.concat([made[2], made[2].assign(seed=1)], ignore_index=True)  # of two seeds the first is shown
    pd.testing.assert_frame_equal(choose_examples(scored_rows(twice), CLASSES), rows)


def test_of_a_long_bag_the_heaviest_windows_are_shown() -> None:
    faces = np.where(np.arange(30) // 3 == 4, -1, np.arange(30))  # ten windows of three frames, one without a face
    weights = np.zeros(30)
    weights[[2, 13, 20, 25, 28]] = [0.5, 9.0, 0.4, 0.3, 0.2]
    assert shown_windows(faces, weights, 3) == [0, 6, 8, 9]
    assert shown_windows(faces[:9], weights[:9], 3) == [0, 1, 2]


def test_blur_keeps_64_colours_only() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    # Another picture with the same means of 28 x 28 cells is blurred to the same: nothing finer is left.
    cells = one.reshape(8, 28, 8, 28, 3)
    other = cells[:, ::-1, :, ::-1].reshape(224, 224, 3)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(blur(one), blur(other))


def test_band_power_finds_the_band_whatever_the_volts() -> None:
    time = np.arange(384) / 128
    for i, (low, high) in enumerate(BANDS.values()):
        wave = np.sin(2 * np.pi * (low + high) / 2 * time)
        eeg = np.stack([1e-5 * wave, 1e-3 * wave, np.zeros(384)]).astype(np.float32)
        power = band_power(eeg, 128.0)
        assert power.shape == (3, 4)
        assert power[0].argmax() == i and power[0, i] > -0.1
        np.testing.assert_allclose(power[0, i], power[1, i], atol=1e-3)
        assert np.isnan(power[2]).all()


def test_masked_channels_are_left_out_and_rejected_components_too(made: Any) -> None:
    _, store, predictions = made
    rows, names = scored_rows(predictions)[:4], store.recording("s01").names
    power = window_power(store, Reading(store, config()), rows, names)
    assert np.isnan(power[:, 11]).all() and np.isfinite(power[:, :11]).all()
    kept = config(data__reject=[])
    assert not np.allclose(power[:, :11], window_power(store, Reading(store, kept), rows, names)[:, :11])
    assert removed_components(store, kept) == ()


def test_samples_need_neither_torch_nor_reports() -> None:
    code = "import sys, milmer.evaluation.samples; sys.exit(bool({'torch', 'milmer.reports'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
