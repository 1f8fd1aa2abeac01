"""Who computes: PyTorch, ONNX Runtime or OpenVINO, behind two questions: tokens of frames, the answer to a bag."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from milmer.inference.graphs import Ready, need, tensors
from milmer.models.bag import Bag, Prediction
from milmer.models.milmer import Milmer
from milmer.models.weights import load_model


class Engine(Protocol):
    """What answers bags whose frames were embedded before."""

    name: ClassVar[str]
    sees: bool
    """Whether it has use for frames."""

    def embed(self, frames: Tensor) -> Tensor:
        """Make tokens of `frames` (M, 3, P, P), uint8; (M, T, D)."""

    def answer(self, bag: Bag) -> Prediction:
        """Answer `bag`, with tokens of its frames (B, W, N, T, D) in ``bag.prefix``."""


class TorchEngine:
    """PyTorch, for every kind of model; `model` is changed: a stand-in takes the place of its backbone.

    Parameters
    ----------
    model : nn.Module
        As `milmer.models.weights.load_model` gives it.
    device : torch.device or str
    """

    name: ClassVar[str] = "torch"

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        looking = [m for m in model.modules() if isinstance(m, Milmer) and "face" in m.modalities]
        self.backbone = looking[0].backbone if looking else None
        for part in looking:
            ready: Any = Ready(part.backbone.tokens, part.backbone.width)
            part.backbone = ready
        self.sees = self.backbone is not None

    def embed(self, frames: Tensor) -> Tensor:
        """Make tokens of `frames` (M, 3, P, P), uint8; (M, T, D)."""
        if self.backbone is None:
            raise ValueError("this model looks at no frames")
        there = torch.ones((1, 1, len(frames)), dtype=torch.bool, device=self.device)  # (1, 1, M)
        with torch.inference_mode():
            found: Tensor = self.backbone(frames.to(self.device)[None, None], there)[0]  # (M, T, D)
        return found  # (M, T, D)

    def answer(self, bag: Bag) -> Prediction:
        """Answer `bag`, with tokens of its frames (B, W, N, T, D) in ``bag.prefix``."""
        with torch.inference_mode():
            found: Prediction = self.model(bag.to(self.device))
        return Prediction(found.logits.float().cpu(), found.frame_weights.float().cpu())


class _Graphs:
    """What the engines of exported files share: a file of frames, a file of answers, names of inputs."""

    name: ClassVar[str]

    def __init__(self, answer: Path, frames: Path | None, *, body_samples: int, threads: int | None = None) -> None:
        self.sees, self.samples = frames is not None, body_samples
        self.threads = int(os.environ.get("OMP_NUM_THREADS") or 0) if threads is None else threads
        self._frames = None if frames is None else self._open(frames)
        self._answer = self._open(answer)

    def embed(self, frames: Tensor) -> Tensor:
        """Make tokens of `frames` (M, 3, P, P), uint8; (M, T, D)."""
        if self._frames is None:
            raise ValueError("this model looks at no frames")
        return self._run(self._frames, {"frames": frames})["tokens"]  # (M, T, D)

    def answer(self, bag: Bag) -> Prediction:
        """Answer `bag`, with tokens of its frames (B, W, N, T, D) in ``bag.prefix``."""
        given = tensors(bag, self._names(self._answer), self.samples)
        found = self._run(self._answer, given)
        return Prediction(found["logits"], found.get("weights", torch.zeros(bag.frame_mask.shape)))

    def _open(self, file: Path) -> Any:
        raise NotImplementedError

    def _names(self, graph: Any) -> list[str]:
        raise NotImplementedError

    def _run(self, graph: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError


class OnnxEngine(_Graphs):
    """ONNX Runtime on the CPU; `threads` 0 takes all cores.

    Raises
    ------
    UserError
        If onnxruntime is not installed.
    """

    name = "onnx"

    def _open(self, file: Path) -> Any:
        need("onnxruntime", extra="onnx")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def _names(self, graph: Any) -> list[str]:
        return [i.name for i in graph.get_inputs()]

    def _run(self, graph: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        names = [o.name for o in graph.get_outputs()]
        found = graph.run(names, {k: v.contiguous().numpy() for k, v in given.items()})
        return {k: torch.from_numpy(v) for k, v in zip(names, found, strict=True)}


class OpenVinoEngine(_Graphs):
    """OpenVINO on the CPU, in float32 (or int8 where the file is), never in bfloat16 of its own accord.

    Raises
    ------
    UserError
        If openvino is not installed.
    """

    name = "openvino"

    def _open(self, file: Path) -> Any:
        need("openvino", extra="openvino")
        import openvino

        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if self.threads:
            options["INFERENCE_NUM_THREADS"] = self.threads
        return openvino.Core().compile_model(file, "CPU", options)

    def _names(self, graph: Any) -> list[str]:
        return [i.get_any_name() for i in graph.inputs]

    def _run(self, graph: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        found = graph({k: v.contiguous().numpy() for k, v in given.items()})
        return {o.get_any_name(): torch.tensor(found[o]) for o in graph.outputs}  # a copy: its memory is used again


ENGINES: dict[str, type[OnnxEngine] | type[OpenVinoEngine]] = {"onnx": OnnxEngine, "openvino": OpenVinoEngine}


def torch_engine(folder: Path, device: str = "auto") -> TorchEngine:
    """Return the model in `folder` on the GPU, where there is one, or on the CPU."""
    model, _ = load_model(folder)
    return TorchEngine(model, "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
