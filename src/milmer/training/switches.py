"""What makes training fast: which switches a configuration turns on, whether they suit it, and turning them on."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import sys
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from milmer.config import Config, Model, Training
from milmer.errors import UserError
from milmer.models.bag import Bag
from milmer.models.kept import score
from milmer.models.milmer import Milmer
from milmer.models.selection import SELECTIONS
from milmer.training.watch import top_frames

PAYS = 0.9  # share of the cost of all gradients under which `auto` takes those of kept frames only


def frames_that_teach(training: Training, model: Model, n_frames: int) -> Literal["all", "kept"]:
    """Settle ``training.gradients`` for bags of `n_frames` frames a window.

    ``auto`` counts passes through the backbone, a backward pass as two: with K of N frames kept, N + 3 K against 3 N.
    Frames that are kept in warm-up beyond K are not counted; the fit goes by what is cheaper at each of its steps.

    Raises
    ------
    UserError
        If ``kept`` is asked for of a selection in which all frames go on.
    """
    asked, method = training.gradients, model.selection.method
    hard = SELECTIONS[method].hard
    if asked == "kept" and not hard:
        able = ", ".join(name for name, kind in SELECTIONS.items() if kind.hard)
        raise UserError(
            f"training.gradients is kept: with selection {method} every frame goes on in training, so none could be "
            f"left out; use training.gradients=all, or one of these selections: {able}"
        )
    if asked != "auto":
        return asked
    keep = min(1 if method == "middle-frame" else model.selection.keep, n_frames)
    cheap = n_frames + 3 * keep < PAYS * 3 * n_frames
    return "kept" if hard and cheap and model.trainable_stages != 0 else "all"


def check_switches(config: Config) -> None:
    """Refuse what does not go together, before any data is read.

    Raises
    ------
    UserError
        If ``kept`` does not suit the selection, ``half`` scores the gradients, ``16`` the device, or there is no
        compiler for ``compile``.
    """
    if "face" in config.data.modalities:
        frames_that_teach(config.training, config.model, config.data.frames)
        if config.training.scoring != "exact" and config.training.gradients == "all":
            raise UserError(
                f"training.scoring is {config.training.scoring}, but with training.gradients=all no frame is scored "
                "apart, so it would change nothing; use training.gradients=kept (or auto)"
            )
    if config.training.precision == "16" and not (config.training.device != "cpu" and torch.cuda.is_available()):
        raise UserError("training.precision is 16: that needs a GPU, and none is used here; use bf16 or 32")
    if config.training.compile and not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        raise UserError("training.compile: found no C++ compiler, expected g++ or clang++; use training.compile=false")


def turn_on(model: nn.Module, training: Training) -> None:
    """Set the switches of `training` on a network that is about to be fitted; a network without a face has none.

    Raises
    ------
    UserError
        If its backbone cannot do what is asked.
    """
    if not isinstance(model, Milmer) or "face" not in model.modalities:
        return
    model.gradients = frames_that_teach(training, model.config, model.n_frames)
    model.scoring = training.scoring
    model.backbone.set_checkpointing(training.checkpointing)
    if training.checkpointing:
        give_memory_back()
    model.backbone.channels_last = training.channels_last
    model.backbone.set_compiled(training.compile)


def turn_off(model: nn.Module) -> None:
    """Undo `turn_on`, so that what was fitted answers as if it had just been loaded."""
    if isinstance(model, Milmer) and "face" in model.modalities:
        model.gradients, model.scoring = "all", "exact"
        model.backbone.set_checkpointing(False)
        model.backbone.channels_last = False
        model.backbone.set_compiled(False)


def give_memory_back() -> bool:
    """Let this process return large blocks as soon as they are free; return whether the C library knows how.

    Of its own accord glibc raises the size from which it does so to 32 MB, and keeps what is smaller for later: at
    the blocks that checkpointing frees, half of what was saved.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    m_mmap_threshold = -3  # its number in malloc.h
    return bool(library.mallopt(m_mmap_threshold, 128 * 1024))


@contextlib.contextmanager
def products(training: Training) -> Iterator[None]:
    """Let matrix products of float32 be rounded to TensorFloat-32 where ``training.precision`` says so; only there."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if training.precision == "tf32" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def agreement(model: Milmer, bag: Bag) -> float:
    """Return the share of frames that exact scores keep, of a `bag` with any, that those of training keep too."""
    given = bag.settled()
    mask = given.frame_mask  # (B, W, N)
    backbone, select = model.backbone, model.select
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            x = backbone.before(given.frames, mask, given.prefix)  # (M, T', F')
            kept = [
                top_frames(weights.cpu().double().numpy(), mask.cpu().numpy(), model.config.selection.keep)
                for how in ("exact", model.scoring)
                for weights in [select(backbone.placed(score(backbone, x, how), mask.flatten(1)), mask)[1].float()]
            ]  # (B, W·N) both
    finally:
        model.train(mode)
    return float((kept[0] & kept[1]).sum() / kept[0].sum())


def fused(training: Training, parameters: list[nn.Parameter]) -> dict[str, Any]:
    """Arguments for AdamW: one kernel for all, where the device has it.

    With ``16`` the loss is scaled, and Lightning's clipping wants an optimiser that leaves the scale alone.
    """
    plain = not training.fused or training.precision == "16" or (training.precision == "auto" and _half_of_auto())
    kinds = {p.device.type for p in parameters}
    return {"fused": True} if not plain and kinds <= {"cpu", "cuda"} and kinds else {}


def _half_of_auto() -> bool:
    """Whether ``auto`` means 16 here: a GPU without bfloat16."""
    return torch.cuda.is_available() and not torch.cuda.is_bf16_supported()
