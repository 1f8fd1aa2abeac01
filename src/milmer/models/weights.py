"""Weights leave a run as safetensors beside a config.json that says all that is needed to use them. No pickles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from milmer.config import Model
from milmer.errors import UserError
from milmer.models.backbone import Backbone, BackboneSpec, build_net
from milmer.models.baselines import BandPowerLogistic, DeepCCA, Ensemble, Joined
from milmer.models.milmer import Milmer
from milmer.sections import Modality

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT, VERSION = "milmer-model", 1
AnyModel = Milmer | Ensemble | DeepCCA | BandPowerLogistic  # each answers a Bag with a Prediction


def save_model(model: AnyModel, folder: Path, extra: Mapping[str, Any]) -> None:
    """Write `model` to `folder` as model.safetensors and config.json.

    Each file is written under another name and then renamed, so that an interrupted write leaves the old one whole.

    Parameters
    ----------
    model : Milmer, Ensemble, DeepCCA or BandPowerLogistic
        Its weights, with the EEG scales fitted, and with what its backbone is: loading needs neither hub nor folder.
    folder : Path
        Made if it does not exist; other files in it are left alone.
    extra : mapping
        What else a user of the weights must know, as plain JSON values: class names, channel names and positions, rate,
        window, the data configuration. `load_model` returns it, and it becomes the model's `about`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.about = dict(extra)
    described = {
        "format": FORMAT,
        "version": VERSION,
        **_describe(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "extra": dict(extra),
    }
    text = json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    _replace(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    _replace(folder / CONFIG, lambda path: path.write_text(text + "\n", encoding="utf-8"))


def load_model(folder: Path) -> tuple[AnyModel, dict[str, Any]]:
    """Read what `save_model` wrote; the model comes in evaluation mode, on the CPU.

    Returns
    -------
    model : Milmer, Ensemble, DeepCCA or BandPowerLogistic
    extra : dict
        What was given to `save_model`.

    Raises
    ------
    UserError
        If a file is missing or unreadable, or a tensor is missing, unknown or of another shape; it names the first one.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: found no {name}, expected a model's folder (a run's are RUN/folds/0 and so on)")
    described = _read_config(folder / CONFIG)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS}: not readable as safetensors ({error}); write it again") from error
    try:
        model = _build(described)
        extra = dict(described["extra"])
    except (KeyError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / CONFIG}: does not describe a model ({type(error).__name__}: {why})") from error
    fill(model, tensors, str(folder / WEIGHTS))
    model.about = dict(extra)
    return model.eval(), extra


def _describe(model: AnyModel) -> dict[str, Any]:
    """Say what `_build` needs to make the model again, without its tensors."""
    config = model.config.model_dump(mode="json")
    folder = Path(config["backbone"]).expanduser()
    if folder.is_dir():
        config["backbone"] = folder.resolve().name  # weights travel: they say a folder's name, not where it lies
    if isinstance(model, Joined):
        return {
            "kind": model.kind,
            "model": config,
            "members": {name: _describe(member) for name, member in model.members().items()},
        }
    described = {
        "kind": "milmer" if isinstance(model, Milmer) else model.kind,
        "model": config,
        "n_classes": model.n_classes,
        "n_times": model.n_times,
        "sfreq": model.sfreq,
        "px": model.px,
        "n_frames": model.n_frames,
        "n_windows": model.n_windows,
    }
    if isinstance(model, BandPowerLogistic):
        return described | {"electrodes": len(model.positions)}
    backbone = None
    if "face" in model.modalities:
        backbone = model.backbone.spec.to_dict()
        config["backbone"] = backbone["name"]  # that of a folder which is no longer there, too
    eeg = model.eeg_tokens.architecture if "eeg" in model.modalities else None
    return described | {
        "n_chans": model.n_chans,
        "modalities": list(model.modalities),
        "backbone": backbone,
        "eeg_architecture": eeg,
    }


def _build(described: Mapping[str, Any]) -> AnyModel:
    """Make the model that `_describe` described; a folder of before there were kinds holds the network."""
    kind = described.get("kind", "milmer")
    config = Model.model_validate(described["model"])
    if kind in (Ensemble.kind, DeepCCA.kind):
        members: dict[Modality, Milmer] = {}
        for name, about in described["members"].items():
            member = _build(about)
            if not isinstance(member, Milmer):
                raise ValueError(f"member {name} is no network")
            members[name] = member
        return Ensemble(config, members) if kind == Ensemble.kind else DeepCCA(config, members)
    sizes: dict[str, Any] = {
        "n_classes": int(described["n_classes"]),
        "n_times": int(described["n_times"]),
        "sfreq": float(described["sfreq"]),
        "px": int(described["px"]),
        "n_frames": int(described.get("n_frames", 10)),
        "n_windows": int(described.get("n_windows", 1)),
    }
    if kind == BandPowerLogistic.kind:
        return BandPowerLogistic(config, electrodes=int(described["electrodes"]), **sizes)
    if kind != "milmer":
        raise ValueError(f"kind {kind!r} is unknown; use a matching milmer")
    backbone = None
    if described["backbone"] is not None:
        spec = BackboneSpec.from_dict(described["backbone"])
        stages = config.trainable_stages
        backbone = Backbone(build_net(spec), spec, px=sizes["px"], width=config.width, trainable_stages=stages)
    return Milmer(
        config,
        n_chans=int(described.get("n_chans", 32)),
        modalities=tuple(described["modalities"]),
        backbone=backbone,
        eeg_architecture=described.get("eeg_architecture"),
        **sizes,
    )


def fill(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Load `tensors` into `model`, all of them and nothing else.

    Raises
    ------
    UserError
        At the first tensor that is missing, unknown or of another shape; it names `source`.
    """
    wanted = model.state_dict()
    for name, mine in wanted.items():
        if name not in tensors:
            raise UserError(f"{source}: found no tensor {name}, expected shape {tuple(mine.shape)}; other model?")
        found = tuple(tensors[name].shape)
        if found != tuple(mine.shape) and not _resizable(name, found, tuple(mine.shape)):
            raise UserError(
                f"{source}: tensor {name} has shape {found}, expected {tuple(mine.shape)}; "
                "these weights belong to a model of another configuration"
            )
    unknown = next((name for name in tensors if name not in wanted), None)
    if unknown is not None:
        raise UserError(f"{source}: found the tensor {unknown} of shape {tuple(tensors[unknown].shape)}, expected none")
    model.load_state_dict(dict(tensors))


def _resizable(name: str, found: tuple[int, ...], mine: tuple[int, ...]) -> bool:
    table = name.removeprefix("eeg.").startswith("eeg_tokens.scale.") and name.rpartition(".")[2] in (
        "positions",
        "values",
    )
    return table and len(found) == len(mine) and found[1:] == mine[1:]  # as many rows as electrodes were fitted


def _read_config(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise UserError(f"{path}: not the description of a Milmer model, expected format '{FORMAT}'")
    if described.get("version") != VERSION:
        raise UserError(f"{path}: version {described.get('version')}, expected {VERSION}; use a matching milmer")
    return described


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as error:  # so a full disk shows
        raise UserError(f"{path}: cannot be written ({error}); make room and run the same command again") from error
    finally:
        temporary.unlink(missing_ok=True)
