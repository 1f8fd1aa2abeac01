from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import make_store

from milmer.config import load_config
from milmer.errors import UserError
from milmer.evaluation.evaluate import train
from milmer.inference import export as exporting
from milmer.inference.engines import torch_engine
from milmer.inference.export import export_model
from milmer.inference.export_check import material
from milmer.inference.exported import export_of, read_export
from milmer.inference.once import answer_rows
from milmer.inference.predictor import predict_recording
from milmer.models.bag import Bag
from milmer.models.milmer import Milmer
from milmer.models.weights import load_model, save_model
from milmer.store import Store
from milmer.training.data import Bags
from milmer.training.fit import predict_bags

QUICK = {
    "training.epochs": 1,
    "training.threads": 1,
    "evaluation.resamples": 100,
    "model.fusion.layers": 1,
    "model.balancing.layers": 1,  # the more layers, the longer a graph takes to be written
}
MISSING = {name: f"{name} is not installed" for name in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")}
Export = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(Store(tiny_store), load_config("demo", overrides=QUICK), out)
    return out


@pytest.fixture(scope="module")
def graphs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX graphs of the run's model, written once: this is what takes seconds."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=MISSING[name])
    folder = tmp_path_factory.mktemp("graphs")
    exporting.write_graphs(load_model(run / "folds/0")[0], folder)
    return folder


@pytest.fixture
def export(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    def written(_: Milmer, folder: Path) -> dict[str, Path]:
        return {part: Path(shutil.copy(graphs / f"{part}.onnx", folder)) for part in ("frames", "answer")}

    monkeypatch.setattr(exporting, "write_graphs", written)
    return export_model


def bags_of(run: Path, store: Path, step: float | None = None) -> Bags:
    _, about = load_model(run / "folds/0")
    from milmer.config import Data

    data = Data.model_validate(about["data"]).model_copy(update={"step": step})
    return Bags(Store(store), data, classes=tuple(about["classes"]))


@pytest.mark.parametrize(("engine", "end"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_an_export_answers_as_pytorch_does(
    engine: str, end: str, run: Path, export: Export, tiny_store: Path, tmp_path: Path
) -> None:
    """Any number of bags, of frames and of channels; frames and modalities that are missing."""
    pytest.importorskip("onnxruntime" if engine == "onnx" else "openvino", reason=MISSING["openvino"])
    made = export(run, tmp_path / f"small{end}", engine)
    assert made.checked.decisions == 0 and made.checked.probability < 1e-5 and made.checked.chosen == 1.0
    assert made.checked.on.startswith("val") and made.notes == ()
    said = json.loads((tmp_path / f"small{end}.json").read_text())
    assert said["check"]["bags"] == made.checked.bags and said["about"]["classes"]
    other, mine = read_export(tmp_path / f"small{end}").open(threads=1), torch_engine(run / "folds/0")
    rng = torch.Generator().manual_seed(0)
    for b, n, c in ((1, 10, 8), (3, 4, 14), (2, 3, 1), (1, 7, 0)):
        frames = torch.randint(0, 256, (b * n, 3, 64, 64), dtype=torch.uint8, generator=rng)
        tokens = mine.embed(frames)
        np.testing.assert_allclose(other.embed(frames), tokens, atol=1e-4)
        bag = Bag.of(
            prefix=tokens.view(b, 1, n, *tokens.shape[1:]),
            frame_mask=torch.rand((b, 1, n), generator=rng) > 0.3,
            eeg=1e-5 * torch.randn((b, 1, c, 384), generator=rng),
            positions=torch.nn.functional.normalize(torch.randn((b, c, 3), generator=rng), dim=-1),
        )
        for shown in (bag, bag.only({"eeg"}), bag.only({"face"})):
            wanted, found = mine.answer(shown), other.answer(shown)
            np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-4)
            np.testing.assert_allclose(found.frame_weights, wanted.frame_weights, atol=1e-4)
    rows = np.arange(12)
    bags = bags_of(run, tiny_store)
    np.testing.assert_allclose(answer_rows(other, bags, rows).prob, answer_rows(mine, bags, rows).prob, atol=1e-5)


@pytest.mark.parametrize(("engine", "end"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_int8_is_smaller_and_decides_alike(
    engine: str, end: str, run: Path, export: Export, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime" if engine == "onnx" else "nncf", reason=MISSING["nncf"])
    monkeypatch.setattr(exporting, "CROPS", 16)
    export(run, tmp_path / f"whole{end}", engine)
    made = export(run, tmp_path / f"small{end}", engine, int8=True, calibration=tiny_store)
    said = json.loads((tmp_path / f"small{end}.json").read_text())
    assert said["int8"] and said["calibration"]["crops"] == 16 and said["calibration"]["rows"] == "training rows"
    heavy = ".frames.onnx" if engine == "onnx" else ".frames.bin"
    assert (tmp_path / f"small{heavy}").stat().st_size < 0.6 * (tmp_path / f"whole{heavy}").stat().st_size
    assert made.checked.token is not None and 1e-4 < made.checked.token < 1  # eight bits leave a trace
    assert made.checked.probability < 0.05 and made.checked.accuracy == made.checked.accuracy_torch


def test_a_frame_of_overlapping_windows_is_embedded_once_and_nothing_changes(run: Path, tiny_store: Path) -> None:
    bags = bags_of(run, tiny_store, step=0.3)
    rows = np.arange(40)
    plain, weights = predict_bags(run / "folds/0", bags, rows)
    for batch in (7, 64):
        found = answer_rows(torch_engine(run / "folds/0"), bags, rows, batch=batch)
        np.testing.assert_allclose(found.prob, plain, atol=1e-5)
        np.testing.assert_allclose(found.weights, weights, atol=1e-5)
        frames = {int(f) for r in rows for f in bags.face_rows[r].ravel() if f >= 0}
        assert found.embedded == len(frames) and found.shown > 5 * found.embedded


@pytest.mark.parametrize("fusion", ["ensemble"])
def test_models_of_one_modality_each_embed_once_too(fusion: str, tiny_store: Path, tmp_path: Path) -> None:
    train(Store(tiny_store), load_config("demo", overrides=QUICK | {"model.fusion.method": fusion}), tmp_path / "run")
    folder = tmp_path / "run/folds/0"
    bags, rows = bags_of(tmp_path / "run", tiny_store, step=1.0), np.arange(10)
    found = answer_rows(torch_engine(folder), bags, rows)
    np.testing.assert_allclose(found.prob, predict_bags(folder, bags, rows)[0], atol=1e-5)
    assert 0 < found.embedded < found.shown
    with pytest.raises(UserError, match="cannot be exported, expected one network"):
        export_model(tmp_path / "run", tmp_path / "x.onnx", "onnx")


def test_predict_takes_an_exported_file_or_the_one_in_a_models_folder(
    run: Path, export: Export, samples: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason=MISSING["onnxruntime"])
    own = tmp_path / "own"
    shutil.copytree(run, own)
    video = samples / "single_face.mp4"
    with pytest.raises(
        UserError, match=r"found no model\.onnx for --engine onnx; type: milmer export .* --format onnx"
    ):
        predict_recording(own, tmp_path / "a", video=video, engine="onnx")
    export(own, own / "folds/0/model.onnx", "onnx")
    wanted = predict_recording(own, tmp_path / "a", video=video)
    for model, engine in ((own, "onnx"), (own / "folds/0/model.onnx", None)):
        found = predict_recording(model, tmp_path / "b", video=video, engine=engine)
        assert found.summary == wanted.summary
        pd.testing.assert_frame_equal(found.windows, wanted.windows, atol=1e-5)
    net, about = load_model(own / "folds/0")
    with torch.no_grad():
        next(net.parameters()).add_(0.1)
    save_model(net, own / "folds/0", about)
    with pytest.raises(UserError, match="was made from other weights"):
        predict_recording(own, tmp_path / "a", video=video, engine="onnx")
    with pytest.raises(UserError, match=r"--engine openvino: .* is of onnx"):
        predict_recording(own / "folds/0/model.onnx", tmp_path / "a", video=video, engine="openvino")


def test_wrong_files_are_said_in_a_line(run: Path, export: Export, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason=MISSING["onnxruntime"])
    file = tmp_path / "m.onnx"
    export(run, file, "onnx")
    said = (tmp_path / "m.onnx.json").read_text()
    for change, expected in (
        (said.replace("milmer-export", "other"), "expected format 'milmer-export'"),
        (said.replace('"version": 1', '"version": 7'), "version 7, expected 1"),
        (said.replace('"engine": "onnx"', '"engine": "openvino"'), "is of an export for openvino"),
        ("{", "cannot be read"),
    ):
        (tmp_path / "m.onnx.json").write_text(change)
        with pytest.raises(UserError, match=expected) as caught:
            read_export(file)
        assert "\n" not in str(caught.value)
    (tmp_path / "m.onnx.json").write_text(said)
    frames = tmp_path / "m.frames.onnx"
    frames.write_bytes(frames.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"m\.frames\.onnx: not the file that m\.onnx\.json describes"):
        read_export(file)
    frames.unlink()
    with pytest.raises(UserError, match=r"m\.frames\.onnx: missing beside"):
        read_export(file)
    for name in ("absent.onnx", "m.bin"):
        with pytest.raises(UserError, match=r"no such file|expected \.onnx or \.xml"):
            read_export(tmp_path / name)
    with pytest.raises(UserError, match=r"--out .*: found the ending '.xml', expected .onnx"):
        export_model(run, tmp_path / "x.xml", "onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError, match=r"--out .*folder\.onnx: is a folder, expected a file"):
        export_model(run, tmp_path / "folder.onnx", "onnx")
    with pytest.raises(UserError, match="--format tflite: expected onnx or openvino"):
        export_model(run, tmp_path / "x.onnx", "tflite")


def test_exports_for_two_engines_lie_in_a_models_own_folder(run: Path, export: Export, tmp_path: Path) -> None:
    """No file of one is a file of the other, or of the model, whatever it is called."""
    for name in ("onnxruntime", "openvino"):
        pytest.importorskip(name, reason=MISSING[name])
    own = tmp_path / "own"
    shutil.copytree(run, own)
    folder = own / "folds/0"
    before = {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}
    for name in ("model", "config"):
        for engine, end in (("onnx", ".onnx"), ("openvino", ".xml")):
            export(own, folder / f"{name}{end}", engine)
    assert {f: (folder / f).read_bytes() for f in before} == before
    for engine in ("onnx", "openvino"):
        assert export_of(folder, engine).engine == engine


def test_ranges_are_of_training_rows_and_the_check_is_of_others(run: Path, tmp_path: Path) -> None:
    folder = run / "folds/0"
    given = material(folder, load_model(folder)[1], None, needed=True)
    assert given.bags is not None
    splits = pd.read_parquet(run / "splits.parquet")
    for rows, part in ((given.fitting, "train"), (given.testing, "validation")):
        table = given.bags.table.iloc[rows]
        wanted = splits[splits["part"] == part]
        by = ["subject", "trial", "window"]
        assert sorted(map(tuple, table[by].astype(str).to_numpy())) == sorted(
            map(tuple, wanted[by].astype(str).to_numpy())
        )
    assert len(given.fitting) and not set(given.fitting.tolist()) & set(given.testing.tolist())
    seen = {(k, f) for k, f in given._faces()}
    crops = np.concatenate(given.crops(8, 4))  # (8, 3, P, P)
    shown = {given.bags.frame(k, f).tobytes() for k, f in seen}
    assert len(crops) == 8 and all(c.transpose(1, 2, 0).tobytes() in shown for c in crops)
    other = material(folder, load_model(folder)[1], None, needed=False)
    assert np.array_equal(other.testing, given.testing) and not given.notes
    moved = make_store(tmp_path / "another", subjects=2, trials=3, seconds=6.0, seed=9)
    strange = material(folder, load_model(folder)[1], moved, needed=True)
    assert np.array_equal(strange.fitting, strange.testing) and "may be flattered" in strange.notes[0]


def test_int8_needs_crops_and_a_backbone(run: Path, export: Export, tmp_path: Path) -> None:
    faceless = make_store(tmp_path / "store", subjects=3, trials=5, face=False)
    with pytest.raises(UserError, match="found no face in this store"):
        export(run, tmp_path / "x.onnx", "onnx", int8=True, calibration=faceless)
    alone = shutil.copytree(run / "folds/0", tmp_path / "model")
    with pytest.raises(UserError, match="give --calibration STORE"):
        export(alone, tmp_path / "x.onnx", "onnx", int8=True)
    made = export(alone, tmp_path / "x.onnx", "onnx")
    assert made.checked.on == "noise" and "give --calibration STORE" in made.notes[0]
    overrides = QUICK | {"data.modalities": ["eeg"]}
    train(Store(faceless), load_config("demo", overrides=overrides), tmp_path / "eeg")
    with pytest.raises(UserError, match="has no backbone"):
        export_model(tmp_path / "eeg", tmp_path / "x.onnx", "onnx", int8=True)


def test_eeg_and_body_without_a_backbone(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason=MISSING["onnxruntime"])
    pytest.importorskip("onnxscript", reason=MISSING["onnxscript"])
    store = make_store(tmp_path / "store", subjects=3, trials=5, face=False, body=("gsr",))
    overrides = QUICK | {"data.modalities": ["eeg", "gsr"]}
    train(Store(store), load_config("demo", overrides=overrides), tmp_path / "run")
    made = export_model(tmp_path / "run", tmp_path / "x.onnx", "onnx", calibration=store)
    assert [f.name for f in made.files] == ["x.onnx", "x.onnx.json"]
    assert made.checked.probability < 1e-5 and made.checked.token is None and made.checked.bags > 0


def test_without_an_engine_a_line_says_what_to_type(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino is not installed; type: pip install 'milmer\[openvino\]'$"):
        export_model(run, tmp_path / "x.xml", "openvino")
