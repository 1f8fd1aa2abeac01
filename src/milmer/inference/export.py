"""A trained model leaves PyTorch: two files any ONNX Runtime or OpenVINO can run, checked against PyTorch."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.inference.export_check import Checked, check_export, material
from milmer.inference.exported import FORMAT, SUFFIXES, VERSION, WEIGHTS, description_file, frames_file, read_export
from milmer.inference.folders import find, fold_temperature, model_folders
from milmer.inference.graphs import body_samples, need, write_graphs
from milmer.inference.quantised import quantise_onnx, quantise_openvino
from milmer.models.milmer import Milmer
from milmer.models.weights import load_model
from milmer.progress import Progress, silent
from milmer.store import file_hash, write_json

CROPS, AT_ONCE = 256, 4  # that ranges are measured on; of them at a time
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}


@dataclass(frozen=True)
class Exporting:
    """What `export_model` wrote.

    Parameters
    ----------
    files : tuple of Path
        All files, the one that was asked for first.
    checked : Checked
        How far its answers are from PyTorch's.
    notes : tuple of str
        What a reader must know.
    """

    files: tuple[Path, ...]
    checked: Checked
    notes: tuple[str, ...]


def export_model(
    model: Path | str,
    out: Path,
    engine: str,
    *,
    fold: int | None = None,
    int8: bool = False,
    calibration: Path | None = None,
    progress: Progress = silent,
) -> Exporting:
    """Write a model for another engine, and hold it against PyTorch.

    ``NAME.onnx`` (or ``NAME.xml``) takes tokens of frames, EEG and the body's signals and gives logits and frame
    weights; ``NAME.frames.onnx`` takes frames (M, 3, P, P), uint8, and gives their tokens; ``NAME.onnx.json`` says
    what a user must know, with the result of the check. Of a model without faces there is no file for frames.

    Parameters
    ----------
    model : Path or str
        A model's folder, a run of one fold (or `fold`), or a hub name.
    out : Path
        Ends in ``.onnx`` or ``.xml``.
    engine : {"onnx", "openvino"}
    int8 : bool
        The backbone in eight bits; all else stays float32.
    calibration : Path, optional
        A store: its crops are what ranges are measured on and what the check is made with. Without it the run's own
        store, where it is still there.

    Returns
    -------
    Exporting

    Raises
    ------
    UserError
        If an engine is not installed, the model is not one network, or there is nothing to measure ranges on.
    """
    if engine not in SUFFIXES:
        raise UserError(f"--format {engine}: expected {' or '.join(SUFFIXES)}")
    if out.suffix != SUFFIXES[engine]:
        raise UserError(f"--out {out}: found the ending '{out.suffix}', expected {SUFFIXES[engine]} with {engine}")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder, expected a file to write; give a name in it")
    need(*PACKAGES[engine], *(("nncf",) if int8 and engine == "openvino" else ()), extra=engine)
    folders = model_folders(find(model), fold)
    if len(folders) > 1:
        raise UserError(f"{model}: a run of {len(folders)} models, expected one; name it with --fold {folders[0].name}")
    folder = folders[0]
    net, about = load_model(folder)
    if not isinstance(net, Milmer):
        raise UserError(
            f"{folder}: holds a model of kind {type(net).__name__}, which cannot be exported, expected one network; "
            "predict with --engine torch"
        )
    if int8 and "face" not in net.modalities:
        raise UserError(f"--int8: {folder} has no backbone, which is all that is made int8; leave it out")
    given = material(folder, about, calibration, needed=int8)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out.parent}: cannot be written ({error.strerror}); give another --out") from error
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as scratch:
        progress(0, 3, "graphs")
        graphs = write_graphs(net, Path(scratch))
        parts = {"answer": out} | ({"frames": frames_file(out)} if "frames" in graphs else {})
        ready = Path(scratch) / "ready"
        ready.mkdir()
        for part, final in parts.items():
            progress(1, 3, f"{engine}{' int8' if int8 else ''}")
            crops = given.crops(CROPS, AT_ONCE) if int8 and part == "frames" else ()
            _convert(engine, graphs[part], ready / final.name, crops)
        made = sorted(ready.iterdir())
        said: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "engine": engine,
            "int8": int8,
            "milmer": importlib.metadata.version("milmer"),
            "packages": {n: importlib.metadata.version(n) for n in PACKAGES[engine]},
            "weights": file_hash(folder / WEIGHTS),
            "files": {f.name: file_hash(f) for f in made},
            "frames": "frames" in parts,
            "body_samples": body_samples(net),
            "sizes": {"px": net.px, "n_times": net.n_times, "sfreq": net.sfreq, "n_classes": net.n_classes},
            "calibration": given.said(CROPS) if int8 else None,
            "temperatures": _temperatures(folder),
            "about": about,
        }
        write_json(description_file(ready / out.name), said)
        progress(2, 3, "checking against PyTorch")
        exported = read_export(ready / out.name)
        checked = check_export(net, exported.open(), given)
        write_json(description_file(ready / out.name), said | {"check": checked.to_dict()})
        files = [out.with_name(f.name) for f in sorted(ready.iterdir(), key=lambda f: f.name != out.name)]
        for file in files:
            shutil.move(ready / file.name, file)
    return Exporting(tuple(files), checked, given.notes)


def _temperatures(folder: Path) -> Any:
    """What the model's calibration.json says; None where there is none."""
    fold_temperature(folder)  # refuses what cannot be used
    file = folder / "calibration.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _convert(engine: str, graph: Path, out: Path, crops: Sequence[NDArray[np.uint8]]) -> None:
    """Write the ONNX file `graph` as `engine` takes it, in int8 where there are `crops`."""
    if engine == "onnx":
        if crops:
            quantise_onnx(graph, out, crops)
        else:
            shutil.copy(graph, out)
        return
    import openvino

    found = openvino.convert_model(graph)
    if crops:
        found = quantise_openvino(found, crops)
    openvino.save_model(found, out, compress_to_fp16=False)
