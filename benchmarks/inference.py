"""Inference: seconds a sample, batch 1 and 4, of the published design, of ours, and of ours in other engines."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.published import Published
from benchmarks.rivals import Rival, Scale, answering
from benchmarks.table import NOT_MEASURED, Row, timed_row
from benchmarks.timing import interleaved

SECTION = "Inference"


def rivals(batch: int) -> list[tuple[Rival, float | None]]:
    """What is measured at a batch size, and its target."""
    first = batch == 1
    return [
        (Rival("default, PyTorch", "default", batch), 3.0 if first else None),
        (Rival("default, PyTorch", "default", batch, ("training.precision=bf16",)), None),
        (Rival("paper, PyTorch", "paper", batch), None),
        (Rival("default, overlapping window", "default", batch, given="tokens"), 20.0 if first else None),
        (Rival("paper, overlapping window", "paper", batch, given="tokens"), None),
    ]


def measure(scale: Scale, published: Published, repeats: int, batches: tuple[int, ...] = (1, 4)) -> list[Row]:
    """Time all, a batch size at a time, with the engines that this version has."""
    rows = []
    for batch in batches:
        base = Rival("published", "published", batch)
        entered = rivals(batch)
        runs: dict[str, tuple[Callable[[], object], float]] = {"published": (answering(base, scale, published), batch)}
        for i, (rival, _) in enumerate(entered):
            runs[str(i)] = (answering(rival, scale), batch)
        engines = measure_engines(scale, batch)
        runs |= {f"engine {name}": (run, batch) for name, run in engines.items()}
        times = interleaved(runs, repeats)
        known = times["published"]
        rows.append(timed_row(SECTION, f"published, batch {batch}", "ten passes, scorer of 1.4 billion", known))
        for i, (rival, target) in enumerate(entered):
            rows.append(timed_row(SECTION, f"{rival.name}, batch {batch}", rival.words(), times[str(i)], known, target))
        for name in engines:
            target = (4.5 if "int8" in name else 3.0) if batch == 1 else None
            rows.append(timed_row(SECTION, f"default, batch {batch}", name, times[f"engine {name}"], known, target))
        if not engines and batch == batches[0]:
            rows.append(Row(SECTION, f"default, batch {batch}", "other engines", note=NOT_MEASURED))
    return rows


def measure_engines(scale: Scale, batch: int) -> dict[str, Callable[[], object]]:
    """Return, by the name of each engine, a function that classifies one batch with the default preset."""
    return {}
