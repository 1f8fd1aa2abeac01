"""How cost grows with subjects, frames, tokens and batch: linear where it should be."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.rivals import SAMPLES, Embedded, Rival, Scale, build, make_bag
from benchmarks.stores import draw_store
from benchmarks.timing import growth, interleaved
from milmer.config import load_config
from milmer.evaluation.protocols import make_splits
from milmer.store import Store
from milmer.training.data import Bags, make_loader


@dataclass(frozen=True)
class Growth:
    """Cost against one size.

    Parameters
    ----------
    what, along : str
        What is done, and the size that grows.
    sizes : list of int
    seconds : list of float
        Median seconds of a call at each size.
    fixed, each : float
        Seconds of the line ``fixed + each * size`` that fits best.
    worst : float
        Largest relative error of that line.
    """

    what: str
    along: str
    sizes: list[int]
    seconds: list[float]
    fixed: float
    each: float
    worst: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def measure(scale: Scale, repeats: int, small: bool = False) -> list[Growth]:
    """Measure growth along every size."""
    found = [_network(scale, repeats, small, *of) for of in _ALONG]
    return [*found, *_subjects((2, 4, 8) if small else (4, 8, 16, 32), repeats)]


def _network(
    scale: Scale, repeats: int, small: bool, what: str, along: str, sizes: Sequence[int], make: Callable[..., Any]
) -> Growth:
    sizes = sizes[:3] if small else sizes
    return _grown(what, along, {n: make(scale, n) for n in sizes}, repeats)


def _grown(what: str, along: str, calls: Mapping[int, Callable[[], object]], repeats: int) -> Growth:
    times = interleaved({str(n): (run, 1.0) for n, run in calls.items()}, repeats)
    seconds = [times[str(n)].middle for n in calls]
    return Growth(what, along, list(calls), seconds, *growth(list(calls), seconds))


def _of_frames(scale: Scale, n: int) -> Callable[[], object]:
    model, _ = build(Rival("", "default"), scale)
    bag = make_bag(1, scale, frames=n)
    return _answer(model.eval(), bag)


def _of_batch(scale: Scale, n: int) -> Callable[[], object]:
    model, _ = build(Rival("", "default"), scale)
    return _answer(model.eval(), make_bag(n, scale, frames=2))


def _of_channels(scale: Scale, n: int) -> Callable[[], object]:
    """EEG tokens: one a channel and second; all the frames embedded, so that nothing else is seen."""
    model, _ = build(Rival("", "paper"), scale, channels=n)
    bag = make_bag(4, scale, frames=2, channels=n)
    model.backbone = Embedded(model.backbone, bag)  # type: ignore[assignment]  # stands in for it
    return _answer(model.eval(), bag)


def _of_queries(scale: Scale, n: int) -> Callable[[], object]:
    model, _ = build(Rival("", "paper", switches=(f"model.balancing.queries={n}",)), scale)
    bag = make_bag(4, scale, frames=2)
    model.backbone = Embedded(model.backbone, bag)  # type: ignore[assignment]  # stands in for it
    return _answer(model.eval(), bag)


def _answer(model: Any, bag: Any) -> Callable[[], object]:
    def answer() -> object:
        with torch.inference_mode():
            return model(bag)

    return answer


_ALONG: tuple[tuple[str, str, tuple[int, ...], Callable[[Scale, int], Callable[[], object]]], ...] = (
    ("inference, default preset", "frames of a bag", (1, 2, 5, 10, 20), _of_frames),
    ("inference, default preset, 2 frames a bag", "bags of a batch", (1, 2, 4, 8), _of_batch),
    ("inference after the backbone, paper preset, batch 4", "EEG channels", (8, 16, 32, 64, 128), _of_channels),
    ("inference after the backbone, paper preset, batch 4", "visual tokens", (8, 16, 32, 64, 128), _of_queries),
)


def _subjects(sizes: Sequence[int], repeats: int) -> list[Growth]:
    """Opening, splitting and reading an epoch of stores with more and more subjects."""
    config = load_config("demo").data.model_copy(update={"modalities": ("eeg",)})
    opening, splitting, reading = {}, {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for n in sizes:
            store = Store(draw_store(Path(scratch) / f"of{n}", subjects=n, trials=8, seconds=12.0, faces=False))
            bags = Bags(store, config)
            opening[n] = lambda store=store: Bags(store, config)
            splitting[n] = lambda bags=bags: make_splits(bags.table, bags.labels.y, "trial")
            reading[n] = lambda bags=bags: _epoch(bags)
        return [
            _grown("bags of a store, 8 trials of 12 s a subject", "subjects", opening, repeats),
            _grown("five folds by trial", "subjects", splitting, repeats),
            _grown("reading one epoch of EEG, batch 24", "subjects", reading, repeats),
        ]


def _epoch(bags: Bags) -> float:
    import numpy as np

    begun = time.perf_counter()
    for bag, _, _ in make_loader(bags, np.arange(len(bags)), 24):
        assert bag.eeg.shape[-1] <= SAMPLES
    return time.perf_counter() - begun


def to_markdown(found: Sequence[Growth]) -> str:
    """Return the table of growth."""
    lines = ["| what | along | sizes | milliseconds | line that fits best | farthest from it |"]
    lines += ["|---|---|---|---|---|---|"]
    for g in found:
        sizes, times = (", ".join(x) for x in (map(str, g.sizes), (f"{s * 1e3:.3g}" for s in g.seconds)))
        line = f"{g.fixed * 1e3:.3g} ms + {g.each * 1e3:.3g} ms each"
        lines.append(f"| {g.what} | {g.along} | {sizes} | {times} | {line} | {g.worst:.0%} |")
    return "\n".join(lines)
