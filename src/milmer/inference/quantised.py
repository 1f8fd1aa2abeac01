"""The graph of frames in eight bits: ranges measured on real crops, one scale a channel of every weight."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.inference.graphs import need

Crops = NDArray[np.uint8]


def quantise_onnx(file: Path, out: Path, crops: Sequence[Crops]) -> None:
    """Write `file` with matrix products and convolutions in int8, between quantise and dequantise nodes.

    Parameters
    ----------
    crops : sequence of ndarray of uint8, shape (M, 3, P, P)
        What ranges are measured on.

    Raises
    ------
    UserError
        If onnxruntime is not installed.
    """
    need("onnxruntime", "onnx", extra="onnx")
    with _quiet():
        from onnxruntime import quantization as q
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(q.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
            """Hands out the crops, a batch at a time."""

            def __init__(self) -> None:
                self.left = iter(crops)

            def get_next(self) -> dict[str, Crops] | None:
                """Return the next batch; None at the end."""
                batch = next(self.left, None)
                return None if batch is None else {"frames": batch}

        ready = out.with_suffix(".ready.onnx")
        try:
            quant_pre_process(file, ready, skip_symbolic_shape=True)
            q.quantize_static(
                ready,
                out,
                Reader(),
                quant_format=q.QuantFormat.QDQ,
                op_types_to_quantize=["MatMul", "Gemm", "Conv"],
                per_channel=True,
                activation_type=q.QuantType.QUInt8,
                weight_type=q.QuantType.QInt8,
            )
        finally:
            ready.unlink(missing_ok=True)


def quantise_openvino(graph: Any, crops: Sequence[Crops]) -> Any:
    """Return an OpenVINO model of frames in int8, made by NNCF for transformers.

    Parameters
    ----------
    graph : openvino.Model
    crops : sequence of ndarray of uint8, shape (M, 3, P, P)
        What ranges are measured on.

    Raises
    ------
    UserError
        If nncf is not installed.
    """
    need("nncf", extra="openvino")
    with _quiet():
        import nncf

        return nncf.quantize(
            graph,
            nncf.Dataset(list(crops)),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(crops),
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep bars and advice of both tools off the screen."""
    logs = [logging.getLogger(n) for n in ("nncf", "")]
    before = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
