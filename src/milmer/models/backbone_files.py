"""Opening a published network: its files, its weights, the constants that its pictures were normalised by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from milmer.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROCESSOR = "preprocessor_config.json"


def from_hub(name: str, local_only: bool) -> Any:
    """Open a network by its hub name, from the local cache where it is there.

    Raises
    ------
    UserError
        If it is not there and not to be had, or its files are of no use.
    """
    try:
        return from_pretrained(name, local=True)
    except OSError as error:
        if local_only:
            raise _not_there(name, error) from error
    try:
        return from_pretrained(name, local=False)
    except (OSError, RuntimeError) as error:  # no network reads as either
        raise _not_there(name, error) from error


def _not_there(name: str, error: Exception) -> UserError:
    why = " ".join(str(error).split())[:160]
    return UserError(
        f"backbone '{name}': not in the local cache and not to be had from the hub ({why}); run once with a network, "
        "or give --backbone FOLDER (written by save_pretrained) or --backbone random:demo"
    )


def from_pretrained(source: str, *, local: bool) -> Any:
    """Open a network from a folder or by hub name, quietly, with all of its weights.

    Raises
    ------
    UserError
        If its files are of no use, or weights are missing.
    OSError
        If a hub name is not there.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # transformers leaves its types out
    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # the classifier head that is left out is no news
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # half a second of reading a file needs none, and ours says what goes on
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        extra = {"add_pooling_layer": False} if config.model_type in ("swin", "vit") else {}
        net, info = AutoModel.from_pretrained(
            source, config=config, local_files_only=local, output_loading_info=True, dtype=torch.float32, **extra
        )
    except (ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(f"backbone '{source}': {' '.join(str(error).split())[:300]}") from error
    except OSError as error:
        if Path(source).is_dir():
            why = " ".join(str(error).split())[:200]
            raise UserError(f"backbone '{source}': no readable weights, expected model.safetensors ({why})") from error
        raise
    finally:
        logging.set_verbosity(shown)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(info["missing_keys"])
    if missing:  # transformers fills these with random numbers, silently
        raise UserError(f"backbone '{source}': {len(missing)} tensors are missing from its weights, first {missing[0]}")
    return net


def normalisation(source: str, name: str, *, local: bool) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Return mean and deviation of what a network was trained on, and where they come from.

    Raises
    ------
    UserError
        If its file of them makes no sense.
    """
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(source, PROCESSOR, local_files_only=local, _raise_exceptions_for_missing_entries=False)
    except OSError:
        found = None
    if found is None:
        return IMAGENET_MEAN, IMAGENET_STD, f"ImageNet constants ({name} has no {PROCESSOR})"
    try:
        values = json.loads(Path(found).read_text(encoding="utf-8"))
        if not values.get("do_normalize", True):
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), f"{PROCESSOR} of {name}: not normalised"
        mean, std = tuple(map(float, values["image_mean"])), tuple(map(float, values["image_std"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{found}: found no image_mean and image_std, expected three numbers each") from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"{found}: image_mean {mean} and image_std {std}, expected three numbers each, std above 0")
    return mean, std, f"{PROCESSOR} of {name}"
