"""Inference: seconds a sample, batch 1 and 4, of the published design, of ours, and of ours in other engines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.published import Published
from benchmarks.rivals import Rival, Scale, answering, build, make_bag
from benchmarks.table import NOT_MEASURED, Row, timed_row
from benchmarks.timing import interleaved
from milmer.errors import UserError

SECTION = "Inference"


def rivals(batch: int) -> list[tuple[Rival, float | None]]:
    """What is measured at a batch size, and its target."""
    first = batch == 1
    return [
        (Rival("default, PyTorch", "default", batch), 3.0 if first else None),
        (Rival("default, PyTorch", "default", batch, ("training.precision=bf16",)), None),
        (Rival("paper, PyTorch", "paper", batch), None),
        (Rival("default, overlapping window", "default", batch, given="tokens"), 20.0 if first else None),
        (Rival("paper, overlapping window", "paper", batch, given="tokens"), None),
    ]


def measure(
    scale: Scale,
    published: Published,
    repeats: int,
    batches: tuple[int, ...] = (1, 4),
    presets: tuple[str, ...] = ("default", "paper"),
    engines: bool = True,
) -> list[Row]:
    """Time all, a batch size at a time, with the engines that this version has."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) if engines else None
        return [row for n in batches for row in _of_batch(scale, published, repeats, n, presets, place)]


def _of_batch(
    scale: Scale, published: Published, repeats: int, batch: int, presets: tuple[str, ...], folder: Path | None
) -> list[Row]:
    rows = []
    base = Rival("published", "published", batch)
    entered = [(rival, target) for rival, target in rivals(batch) if rival.model in presets]
    runs: dict[str, tuple[Callable[[], object], float]] = {"published": (answering(base, scale, published), batch)}
    for i, (rival, _) in enumerate(entered):
        runs[str(i)] = (answering(rival, scale), batch)
    engines = measure_engines(scale, batch, folder) if folder else {}
    runs |= {f"engine {name}": (run, batch) for name, run in engines.items()}
    times = interleaved(runs, repeats if batch == 1 else max(2, repeats // 2))
    known = times["published"]
    rows.append(timed_row(SECTION, f"published, batch {batch}", "ten passes, scorer of 1.4 billion", known))
    for i, (rival, target) in enumerate(entered):
        rows.append(timed_row(SECTION, f"{rival.name}, batch {batch}", rival.words(), times[str(i)], known, target))
    for name in engines:
        target = (4.5 if "int8" in name else 3.0) if batch == 1 else None
        rows.append(timed_row(SECTION, f"default, batch {batch}", name, times[f"engine {name}"], known, target))
    if not engines:
        rows.append(Row(SECTION, f"default, batch {batch}", "other engines", note=NOT_MEASURED))
    return rows


def measure_engines(scale: Scale, batch: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Return, by the name of each engine that is installed, a function that classifies one batch with `default`.

    Ranges of int8 are measured on drawn crops: its speed does not hang on them (its answers do, and are checked where
    a model is exported).
    """
    try:
        from milmer.inference.engines import OnnxEngine, OpenVinoEngine
        from milmer.inference.graphs import write_graphs
        from milmer.inference.quantised import quantise_onnx, quantise_openvino
    except ImportError:
        return {}
    model, _ = build(Rival("", "default", batch), scale)
    bag = make_bag(batch, scale)
    pixels = bag.frames.flatten(0, 2)  # (M, 3, P, P)
    bare = replace(bag, frames=bag.frames[..., :0, :0])  # (B, W, N, 3, 0, 0)
    threads = torch.get_num_threads()
    crops = [pixels[:4].numpy()] * 2  # (4, 3, P, P) each

    def answering_with(engine: Any) -> Callable[[], object]:
        def answer() -> object:
            tokens = engine.embed(pixels)  # (M, T, D)
            return engine.answer(replace(bare, prefix=tokens.view(*bag.frame_mask.shape, *tokens.shape[1:])))

        return answer

    found: dict[str, Callable[[], object]] = {}
    try:
        files = {name: folder / f"{name}.onnx" for name in ("frames", "answer")}
        small = folder / "frames.int8.onnx"
        if not small.exists():  # they take any batch
            files = write_graphs(model, folder)
            quantise_onnx(files["frames"], small, crops)
        for name, frames in (("onnx, float32", files["frames"]), ("onnx, int8", small)):
            found[name] = answering_with(OnnxEngine(files["answer"], frames, body_samples=0, threads=threads))
    except (UserError, ImportError) as error:
        print(f"benchmarks: no ONNX Runtime here: {error}")
        return found
    try:
        import openvino

        answer, whole, small = (folder / f"{n}.xml" for n in ("answer", "frames", "frames.int8"))
        if not small.exists():
            graph = openvino.convert_model(files["frames"])
            openvino.save_model(openvino.convert_model(files["answer"]), answer, compress_to_fp16=False)
            openvino.save_model(graph, whole, compress_to_fp16=False)
            openvino.save_model(quantise_openvino(graph, crops), small, compress_to_fp16=False)
        for name, frames in (("openvino, float32", whole), ("openvino, int8", small)):
            found[name] = answering_with(OpenVinoEngine(answer, frames, body_samples=0, threads=threads))
    except (UserError, ImportError) as error:
        print(f"benchmarks: no OpenVINO here: {error}")
    return found
