"""Operations and bytes of a call, counted as they are run, and what the machine can do of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_VIEWS = ("view", "reshape", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach")
_VIEWS += (
    "alias",
    "as_strided",
    "split",
    "unbind",
    "_unsafe_view",
    "lift_fresh",
    "empty",
    "empty_like",
    "split_with_sizes",
)


@dataclass
class Count:
    """What a call did.

    Parameters
    ----------
    kernels : int
        Operations that touch memory.
    flops : float
        Operations of matrix products, convolutions and attention (a multiplication and an addition are two).
    bytes : float
        Read and written by all kernels, each on its own: fused kernels move less.
    bound : float
        Sum over kernels of the longer of both times on a machine (s), where its rates were given.
    """

    kernels: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    bound: float = 0.0


class _Counter(TorchDispatchMode):
    def __init__(self, rates: dict[torch.dtype, float], bandwidth: float) -> None:
        super().__init__()
        self.count, self._rates, self._bandwidth = Count(), rates, bandwidth

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket not in flop_registry:
            with self:  # what is made of other operations is counted by these (in inference mode it comes whole)
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        out = func(*args, **(kwargs or {}))
        if func.__name__.split(".")[0] in _VIEWS:
            return out
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        moved = sum(x.numel() * x.element_size() for x in {id(x): x for x in given + made}.values())
        flops = 0.0
        if func._overloadpacket in flop_registry:
            flops = float(flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out))
        self.count.kernels += 1
        self.count.flops += flops
        self.count.bytes += moved
        if self._bandwidth:
            kind = made[0].dtype if made else torch.float32
            rate = self._rates.get(kind, max(self._rates.values()))
            self.count.bound += max(flops / rate, moved / self._bandwidth)
        return out


def count(run: Callable[[], object], rates: dict[torch.dtype, float] | None = None, bandwidth: float = 0.0) -> Count:
    """Count what a call does; with `rates` (FLOP/s by type) and `bandwidth` (bytes/s) its bound too."""
    counter = _Counter(rates or {torch.float32: 1.0}, bandwidth)
    with counter:
        run()
    return counter.count


def matmul_rate(
    dtype: torch.dtype = torch.float32, device: str = "cpu", size: int = 1536, seconds: float = 0.5
) -> float:
    """Measure the rate of a large matrix product in FLOP/s: the best of several."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))  # (n, n)
    return 2 * size**3 / _best(lambda: a @ b, device, seconds)


def memory_rate(device: str = "cpu", size: int = 2**27, seconds: float = 0.5) -> float:
    """Measure how fast memory is read and written together in bytes/s: the best of several additions in place."""
    x = torch.ones(size // 4, device=device)  # (n,)
    return 2 * size / _best(lambda: x.add_(1.0), device, seconds)


def reading_rate(size: int = 2**30, seconds: float = 0.5) -> float:
    """Measure how fast memory is read by a matrix-vector product, bytes/s: what bounds the published scorer."""
    n = int((size // 4) ** 0.5)
    a, x = torch.ones(n, n), torch.ones(n)  # (n, n), (n,)
    return 4 * n * n / _best(lambda: a @ x, "cpu", seconds)


def _best(run: Callable[[], object], device: str, seconds: float) -> float:
    times: list[float] = []
    run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        _wait(device)
        begun = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - begun)
    return min(times)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def steady(run: Callable[[], object], device: str, repeats: int) -> float:
    """Return the median seconds of a call, the device waited for."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        begun = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - begun)
    return median(times[1:])
