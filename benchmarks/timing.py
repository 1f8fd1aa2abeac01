"""Time of rivals, interleaved: each repeat runs every rival once, so that a busy neighbour meets all of them."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

LEAST = 0.05  # seconds that a timed call lasts at least: a faster one is called several times
MOST_CALLS = 64


@dataclass(frozen=True)
class Times:
    """Seconds a sample of one rival, one value a repeat.

    Parameters
    ----------
    wall : list of float
        On the clock.
    processor : list of float
        Of all threads of this process together: says whether a neighbour was in the way.
    """

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @property
    def middle(self) -> float:
        """Median seconds a sample."""
        return median(self.wall)

    def spread(self) -> tuple[float, float]:
        """Return the quickest and the slowest repeat."""
        return min(self.wall), max(self.wall)


@dataclass(frozen=True)
class Ratio:
    """How many times quicker, over paired repeats.

    Parameters
    ----------
    median, low, high : float
        Median, least and greatest ratio of one repeat.
    quarter, three_quarters : float
        Quartiles.
    repeats : int
        Number of pairs.
    """

    median: float
    low: float
    high: float
    quarter: float
    three_quarters: float
    repeats: int


def interleaved(
    rivals: Mapping[str, tuple[Callable[[], object], float]],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    processor: Callable[[], float] = time.process_time,
) -> dict[str, Times]:
    """Time all rivals `repeats` times, in turn, each repeat beginning with another of them.

    Parameters
    ----------
    rivals : mapping of str to (callable, samples)
        What is called, and how many samples one call handles.
    repeats : int
        Repeats after one that is thrown away (first calls allocate memory and choose kernels).
    clock, processor : callable
        Seconds; replaced in tests.
    """
    calls = {}
    for name, (run, _) in rivals.items():
        begun = clock()
        run()
        calls[name] = min(MOST_CALLS, max(1, math.ceil(LEAST / max(clock() - begun, 1e-9))))
    found = {name: Times() for name in rivals}
    order = list(rivals)
    gc.collect()
    for repeat in range(repeats):
        for name in order[repeat % len(order) :] + order[: repeat % len(order)]:
            run, samples = rivals[name]
            begun, used = clock(), processor()
            for _ in range(calls[name]):
                run()
            found[name].wall.append((clock() - begun) / calls[name] / samples)
            found[name].processor.append((processor() - used) / calls[name] / samples)
    return found


def ratio_of(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """How many times less `fast` is than `slow`, repeat by repeat.

    Raises
    ------
    ValueError
        If there are not as many of one as of the other, or none.
    """
    if len(slow) != len(fast) or not slow:
        raise ValueError(f"ratio of {len(slow)} and {len(fast)} repeats, expected as many of both, and one at least")
    each = np.asarray(slow, float) / np.asarray(fast, float)  # (repeats,)
    quarter, middle, three = np.quantile(each, [0.25, 0.5, 0.75])
    return Ratio(float(middle), float(each.min()), float(each.max()), float(quarter), float(three), len(each))


def growth(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Fit ``fixed + each * size`` with neither below zero, by least squares of relative errors.

    Returns
    -------
    fixed : float
        Seconds whatever the size.
    each : float
        Seconds for one more.
    worst : float
        Largest relative error of the line at any of the sizes: linear growth has a small one.
    """
    from scipy.optimize import nnls

    x, y = np.asarray(sizes, float), np.asarray(seconds, float)  # (n,), (n,)
    design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]  # (n, 2)
    (fixed, each), _ = nnls(design, np.ones_like(y))
    return float(fixed), float(each), float(np.max(np.abs((fixed + each * x) / y - 1)))
