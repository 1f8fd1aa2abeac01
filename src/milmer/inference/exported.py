"""Exported files: which belong together, what they were made from, and whether they fit a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from milmer.errors import UserError
from milmer.inference.folders import told_temperature
from milmer.store import file_hash

if TYPE_CHECKING:
    from milmer.inference.engines import OnnxEngine, OpenVinoEngine

SUFFIXES: Mapping[str, str] = MappingProxyType({"onnx": ".onnx", "openvino": ".xml"})
FORMAT, VERSION = "milmer-export", 1
USUAL = "model"  # name of an export that lies in a model's own folder
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Parameters
    ----------
    answer : Path
        The file that was asked for: tokens, EEG and the body's signals in, logits out.
    frames : Path or None
        The one beside it: frames in, tokens out.
    engine : str
        ``onnx`` or ``openvino``.
    said : dict
        The JSON beside them, whole.
    """

    answer: Path
    frames: Path | None
    engine: str
    said: dict[str, Any]

    @property
    def about(self) -> dict[str, Any]:
        """What a model's config.json says beside its sizes: classes, data, preparation."""
        found: dict[str, Any] = self.said["about"]
        return found

    def temperature(self, present: Sequence[str]) -> float:
        """Return the temperature that the model's folder had, of answers by the modalities `present`; else 1."""
        told = self.said.get("temperatures")
        return 1.0 if told is None else told_temperature(told, present, description_file(self.answer))

    def open(self, threads: int | None = None) -> OnnxEngine | OpenVinoEngine:
        """Make the engine ready.

        Raises
        ------
        UserError
            If it is not installed, or cannot read the files.
        """
        from milmer.inference.engines import ENGINES

        kind = ENGINES[self.engine]
        try:
            return kind(self.answer, self.frames, body_samples=int(self.said["body_samples"]), threads=threads)
        except UserError:
            raise
        except Exception as error:  # each engine has errors of its own
            why = " ".join(str(error).split())[:200]
            raise UserError(f"{self.answer}: {self.engine} cannot read it ({why}); export it again") from error


def suffix_engine(file: Path) -> str | None:
    """Return the engine whose files end as `file` does."""
    return next((engine for engine, end in SUFFIXES.items() if file.suffix == end), None)


def frames_file(answer: Path) -> Path:
    """Name of the file for frames that lies beside `answer`."""
    return answer.with_name(f"{answer.stem}.frames{answer.suffix}")


def description_file(answer: Path) -> Path:
    """Name of the description of `answer`: with its ending, so that it is never a model's own config.json.

    Exports for two engines may so lie in one folder under one name.
    """
    return answer.with_name(f"{answer.name}.json")


def read_export(file: Path) -> Exported:
    """Read what `milmer.inference.export.export_model` wrote.

    Raises
    ------
    UserError
        If a file is missing, is not the one that was written, or is of another version.
    """
    engine, beside = suffix_engine(file), description_file(file)
    if engine is None:
        raise UserError(f"{file}: found the ending '{file.suffix}', expected {' or '.join(SUFFIXES.values())}")
    again = "export the model again (milmer export)"
    if not file.is_file():
        raise UserError(f"{file}: no such file; {again}")
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{beside}: cannot be read ({error}), expected what milmer export wrote; {again}") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise UserError(f"{beside}: not the description of an exported model, expected format '{FORMAT}'; {again}")
    if said.get("version") != VERSION:
        raise UserError(f"{beside}: version {said.get('version')}, expected {VERSION}; {again}")
    if said.get("engine") != engine:
        raise UserError(f"{file}: {beside.name} is of an export for {said.get('engine')}; {again} under another name")
    for name, digest in said["files"].items():
        part = file.with_name(name)
        if not part.is_file():
            raise UserError(f"{part}: missing beside {file.name}; {again}")
        if file_hash(part) != digest:
            raise UserError(f"{part}: not the file that {beside.name} describes; {again}")
    frames = frames_file(file) if said["frames"] else None
    if file.name not in said["files"] or (frames is not None and frames.name not in said["files"]):
        raise UserError(f"{file}: {beside.name} describes {', '.join(said['files'])}; {again} under this name")
    return Exported(file, frames, engine, said)


def export_of(folder: Path, engine: str) -> Exported:
    """Return the export that lies in a model's folder, made from the weights there.

    Raises
    ------
    UserError
        If there is none, or it was made from other weights.
    """
    file = folder / f"{USUAL}{SUFFIXES[engine]}"
    command = f"milmer export {folder} --out {file} --format {engine}"
    if not file.exists():
        raise UserError(f"{folder}: found no {file.name} for --engine {engine}; type: {command}")
    found = read_export(file)
    if found.said.get("weights") != file_hash(folder / WEIGHTS):
        raise UserError(f"{file}: was made from other weights than {folder / WEIGHTS}; type: {command}")
    return found
