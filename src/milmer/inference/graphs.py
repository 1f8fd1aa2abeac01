"""A network as two graphs: frames become tokens, tokens and the rest become an answer. Any engine can run them."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from milmer.errors import UserError
from milmer.models.bag import Bag
from milmer.models.milmer import Milmer
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE

OPSET = 18
SIGNALS = ("eeg", "eeg_mask", "sample_mask", "positions")
FACES = ("tokens", "frame_mask")
ALWAYS = ("window_mask", "modality_mask")
LEAST_CHANNELS = 2  # fewer are filled up with masked ones: a graph that is dynamic in a size counts on two


class Ready(nn.Module):
    """Stands where a backbone was: the tokens of the frames are in ``bag.prefix`` already, (B, W, N, T, D)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width

    def forward(self, frames: Tensor, mask: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Return the tokens that the bag brought; (B, W·N, T, D)."""
        if prefix is None:
            raise ValueError("the bag has no tokens of its frames, expected them in Bag.prefix (B, W, N, T, D)")
        return prefix.flatten(1, 2)  # (B, W·N, T, D)


class FrameGraph(nn.Module):
    """Frames (M, 3, P, P), uint8, become tokens (M, T, D)."""

    def __init__(self, model: Milmer) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, frames: Tensor) -> Tensor:
        """Embed `frames` (M, 3, P, P); (M, T, D)."""
        if self.backbone.has_prefix:
            return self.backbone.suffix(self.backbone.prefix(frames))  # (M, T, D)
        x = (frames.to(self.backbone.mean.dtype) / 255 - self.backbone.mean) / self.backbone.std  # (M, 3, P, P)
        return self.backbone.suffix(x)  # (M, T, D)


class AnswerGraph(nn.Module):
    """What `graph_inputs` names becomes logits (B, n_classes) and, with faces, frame weights (B, W, N)."""

    def __init__(self, model: Milmer) -> None:
        super().__init__()
        self.model = model
        self.names = graph_inputs(model)
        if "face" in model.modalities:
            ready: Any = Ready(model.backbone.tokens, model.backbone.width)
            model.backbone = ready

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Answer the tensors in `values`, in the order of `names`."""
        given = dict(zip(self.names, values, strict=True))
        windows = given["window_mask"]  # (B, W)
        b, w = windows.shape
        tokens = given.get("tokens")  # (B, W, N, T, D)
        mask = given.get("frame_mask")  # (B, W, N)
        n = 0 if tokens is None else tokens.shape[2]
        answer = self.model(
            Bag(
                frames=torch.zeros((b, w, n, 3, 1, 1), dtype=torch.uint8),  # (B, W, N, 3, 1, 1)
                frame_mask=torch.zeros((b, w, 0), dtype=torch.bool) if mask is None else mask,  # (B, W, N)
                eeg=given.get("eeg", torch.zeros((b, w, 0, 0))),  # (B, W, C, S)
                eeg_mask=given.get("eeg_mask", torch.zeros((b, w, 0), dtype=torch.bool)),  # (B, W, C)
                sample_mask=given.get("sample_mask", torch.zeros((b, w, 0), dtype=torch.bool)),  # (B, W, S)
                positions=given.get("positions", torch.zeros((b, 0, 3))),  # (B, C, 3)
                window_mask=windows,  # (B, W)
                modality_mask=given["modality_mask"],  # (B, 2)
                body={k: given[f"body_{k}"] for k in self.model.body},  # (B, W, P, S_b) each
                body_mask={k: given[f"body_mask_{k}"] for k in self.model.body},  # (B, W, P, S_b) each
                prefix=tokens,  # (B, W, N, T, D)
            )
        )
        return (answer.logits,) if tokens is None else (answer.logits, answer.frame_weights)


def graph_inputs(model: Milmer) -> tuple[str, ...]:
    """Names of what the answering graph of `model` is given, in order."""
    names = (*(FACES if "face" in model.modalities else ()), *(SIGNALS if "eeg" in model.modalities else ()), *ALWAYS)
    return (*names, *(f"{part}_{kind}" for kind in model.body for part in ("body", "body_mask")))


def body_samples(model: Milmer) -> int:
    """Samples of a body signal in a window of `model`."""
    return round(model.n_times / model.sfreq * BODY_RATE)


def tensors(bag: Bag, names: Sequence[str], samples: int) -> dict[str, Tensor]:
    """Take from `bag`, whose prefix holds tokens of its frames, what `names` asks for.

    Too few channels are filled up with masked ones, and body signals to `samples` or cut to it: a rate may round a
    window up by one.
    """
    found: dict[str, Tensor] = {}
    more = max(0, LEAST_CHANNELS - bag.eeg.shape[2])
    for name in names:
        if name == "tokens":
            if bag.prefix is None:
                raise ValueError("the bag has no tokens of its frames, expected them in Bag.prefix (B, W, N, T, D)")
            found[name] = bag.prefix  # (B, W, N, T, D)
        elif name.startswith("body_"):
            part, kind = ("body_mask", name[10:]) if name.startswith("body_mask_") else ("body", name[5:])
            value: Tensor | None = getattr(bag, part).get(kind)  # (B, W, P, S_b)
            if value is None:
                shape = (*bag.window_mask.shape, len(BODY_CHANNELS[kind]), samples)
                value = torch.zeros(shape, dtype=torch.bool if part == "body_mask" else torch.float32)
            found[name] = nn.functional.pad(value, (0, samples - value.shape[-1]))  # (B, W, P, S_b)
        else:
            value = cast(Tensor, getattr(bag, name))
            if more and name in ("eeg", "positions"):
                value = nn.functional.pad(value, (0, 0, 0, more))  # (B, W, C, S) or (B, C, 3)
            elif more and name == "eeg_mask":
                value = nn.functional.pad(value, (0, more))  # (B, W, C)
            found[name] = value
    return found


def write_graphs(model: Milmer, folder: Path) -> dict[str, Path]:
    """Write `model` as ONNX into `folder`: ``answer.onnx`` and, with faces, ``frames.onnx``.

    Bags, frames of a window, channels and, where a bag has more than one, windows may be of any number; of frames at
    least as many as are kept.

    Raises
    ------
    UserError
        If onnx or onnxscript are not installed, or a part of the network has no counterpart there.
    """
    need("onnx", "onnxscript", extra="onnx")
    model = copy.deepcopy(model).cpu().eval()
    files = {}
    if "face" in model.modalities:
        plain = getattr(model.backbone.net, "set_attn_implementation", None)
        if plain is not None:
            plain("eager")  # fused attention has strides that cannot be followed with any number of frames
        frames = torch.zeros((3, 3, model.px, model.px), dtype=torch.uint8)  # (M, 3, P, P)
        many = torch.export.Dim("frames")
        files["frames"] = folder / "frames.onnx"
        _export(FrameGraph(model), (frames,), ["frames"], ["tokens"], {"frames": {0: many}}, files["frames"])
    example, dims = _example(model)
    graph = AnswerGraph(model)
    outputs = ["logits", "weights"] if "face" in model.modalities else ["logits"]
    files["answer"] = folder / "answer.onnx"
    shapes = {"values": tuple(dims[n] for n in graph.names)}
    _export(graph, tuple(example[n] for n in graph.names), list(graph.names), outputs, shapes, files["answer"])
    return files


def _example(model: Milmer) -> tuple[dict[str, Tensor], dict[str, dict[int, Any]]]:
    """Make tensors to trace with, all sizes unlike, and say which of their sizes may change."""
    b, w, n, c, s = 3, max(1, model.n_windows), max(model.n_frames, 1), 5, model.n_times
    dim: dict[str, Any] = {"b": torch.export.Dim("bags"), "c": torch.export.Dim("channels")}
    if w > 1:
        dim["w"] = torch.export.Dim("windows")
    if n > model.config.selection.keep:
        dim["n"] = torch.export.Dim("frames", min=max(2, model.config.selection.keep))

    def some(**of: int) -> dict[int, Any]:
        return {place: dim[name] for name, place in of.items() if name in dim}

    values: dict[str, Tensor] = {
        "eeg": 1e-5 * torch.randn(b, w, c, s),
        "eeg_mask": torch.ones(b, w, c, dtype=torch.bool),
        "sample_mask": torch.ones(b, w, s, dtype=torch.bool),
        "positions": nn.functional.normalize(torch.randn(b, c, 3), dim=-1),
        "window_mask": torch.ones(b, w, dtype=torch.bool),
        "modality_mask": torch.ones(b, 2, dtype=torch.bool),
    }
    dims = {
        "eeg": some(b=0, w=1, c=2),
        "eeg_mask": some(b=0, w=1, c=2),
        "sample_mask": some(b=0, w=1),
        "positions": some(b=0, c=1),
        "window_mask": some(b=0, w=1),
        "modality_mask": some(b=0),
    }
    if "face" in model.modalities:
        values["tokens"] = torch.randn(b, w, n, model.backbone.tokens, model.backbone.width)
        values["frame_mask"] = torch.ones(b, w, n, dtype=torch.bool)
        dims["tokens"] = dims["frame_mask"] = some(b=0, w=1, n=2)
    for kind in model.body:
        values[f"body_{kind}"] = torch.randn(b, w, len(BODY_CHANNELS[kind]), body_samples(model))
        values[f"body_mask_{kind}"] = torch.ones_like(values[f"body_{kind}"], dtype=torch.bool)
        dims[f"body_{kind}"] = dims[f"body_mask_{kind}"] = some(b=0, w=1)
    return values, dims


def _export(
    graph: nn.Module, example: tuple[Tensor, ...], inputs: list[str], outputs: list[str], dims: Any, file: Path
) -> None:
    try:
        with _quiet(), torch.no_grad():
            made: Any = torch.onnx.export(
                graph.eval(),
                example,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=dims,
                opset_version=OPSET,
            )
            made.save(file)
    except UserError:
        raise
    except Exception as error:  # the exporter raises errors of many kinds, with pages of advice
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = " ".join(str(cause).split())[:200]
        raise UserError(
            f"this network has no counterpart in ONNX ({type(cause).__name__}: {why}); predict with --engine torch"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice off the screen."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    try:
        log.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def need(*names: str, extra: str) -> None:
    """Raise `UserError` with what to type where one of the packages `names` is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{name} is not installed; type: pip install 'milmer[{extra}]'") from error


def noise_bag(model: Milmer, engine: Any) -> tuple[Bag, Tensor | None]:
    """Make a batch of noise, of the sizes of `model`, with tokens by `engine`; and its frames (M, 3, P, P)."""
    torch.manual_seed(0)
    values, _ = _example(model)
    frames, tokens = None, None
    if engine.sees:
        shape = values["tokens"].shape  # (B, W, N, T, D)
        number = shape[0] * shape[1] * shape[2]
        frames = torch.randint(0, 256, (number, 3, model.px, model.px), dtype=torch.uint8)  # (M, 3, P, P)
        tokens = torch.as_tensor(engine.embed(frames)).cpu().view(shape)  # (B, W, N, T, D)
    b, w = values["window_mask"].shape
    n = 0 if tokens is None else tokens.shape[2]
    bag = Bag(
        frames=torch.zeros((b, w, n, 3, 0, 0), dtype=torch.uint8),  # (B, W, N, 3, 0, 0)
        frame_mask=torch.ones((b, w, n), dtype=torch.bool),  # (B, W, N)
        body={k: values[f"body_{k}"] for k in model.body},  # (B, W, P, S_b) each
        body_mask={k: values[f"body_mask_{k}"] for k in model.body},  # (B, W, P, S_b) each
        prefix=tokens,  # (B, W, N, T, D)
        **{k: values[k] for k in (*SIGNALS, *ALWAYS)},
    )
    return bag, frames
