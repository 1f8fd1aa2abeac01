"""Training: seconds a sample and peak memory of one step, in the three modes, under each switch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import memory
from benchmarks.counting import count
from benchmarks.published import Published
from benchmarks.rivals import NotThereError, Rival, Scale, agrees, learning, tiny_scale
from benchmarks.table import NOT_MEASURED, Row, timed_row
from benchmarks.timing import Ratio, Times, interleaved
from milmer.errors import UserError

SECTION, MEMORY = "Training", "Peak memory"
KEPT = "training.gradients=kept"
LAST, NONE = "model.trainable_stages=1", "model.trainable_stages=0"
WHOLE = "training.gradients=all"


def rivals(preset: str, batch: int) -> list[tuple[Rival, float | None]]:
    """What is measured of a preset, and its target (the default preset's only)."""

    def target(value: float) -> float | None:
        return value if preset == "default" else None

    whole, last, frozen = f"{preset}, whole Swin", f"{preset}, last stage only", f"{preset}, Swin frozen"
    exact = (KEPT, "training.scoring=exact")
    found: list[tuple[Rival, float | None]] = [(Rival(whole, preset, batch, exact), target(2.0))]
    if preset == "default":
        found += [
            (Rival(whole, preset, batch, (WHOLE,)), None),
            (Rival(whole, preset, batch, exact, warmth=0.35), None),
            (Rival(whole, preset, batch, (KEPT, "training.scoring=half")), 3.0),
            (Rival(whole, preset, batch, (*exact, "training.precision=bf16")), 3.0),
            (Rival(whole, preset, batch, (WHOLE, "training.precision=bf16")), None),
            (Rival(whole, preset, batch, (*exact, "training.checkpointing=true")), None),
            (Rival(last, preset, batch, (LAST,)), None),
        ]
    found += [
        (Rival(last, preset, batch, (LAST,), given="prefix"), target(12.0)),
        (Rival(frozen, preset, batch, (NONE,), given="prefix"), target(60.0)),
    ]
    return found


def measure(
    scale: Scale,
    published: Published,
    repeats: int,
    batch: int = 1,
    presets: tuple[str, ...] = ("default", "paper"),
    match: str = "",
) -> list[Row]:
    """Time a step of all; the published design trains its whole Swin, whatever ours does."""
    rows = []
    known: Times | None = None
    for preset in presets:
        entered = [(r, target) for r, target in rivals(preset, batch) if match in f"{r.name}, {r.words()}"]
        runs: dict[str, tuple[Callable[[], object], float]] = {
            "published": (learning(Rival("published", "published", batch), scale, published), batch)
        }
        missing: dict[int, str] = {}
        for i, (rival, _) in enumerate(entered):
            why = lacks(rival)
            if not why:
                runs[str(i)] = (learning(rival, scale), batch)
            else:
                missing[i] = why
        times = interleaved(runs, repeats)
        known = times["published"]
        rows.append(
            timed_row(SECTION, f"published, batch {batch} (beside {preset})", "whole Swin, all ten frames", known)
        )
        for i, (rival, target) in enumerate(entered):
            name = f"{rival.name}, batch {batch}"
            note = missing.get(i, "")
            if not note and _scoring(rival):
                note = f"keeps {agrees(rival, scale):.0%} of what exact scores keep, of noise by random weights"
            rows.append(timed_row(SECTION, name, rival.words(), times.get(str(i)), known, target, note))
    return rows


def _scoring(rival: Rival) -> bool:
    """Whether its frames are scored by other than the exact road."""
    return any(s.startswith("training.scoring=") and not s.endswith("=exact") for s in rival.switches)


def lacks(rival: Rival) -> str:
    """Say why a rival cannot be measured: a switch that changes nothing of what is computed is not there yet."""
    small = tiny_scale()
    try:
        with_it = _work(rival, small)
        unknown = [
            s for s in rival.switches if s.startswith("training.") and s != WHOLE and s != "training.scoring=exact"
        ]
        for switch in unknown:
            others = tuple(s for s in rival.switches if s != switch)
            if switch == KEPT:
                others = tuple(s for s in others if not s.startswith("training.scoring"))
            plain = Rival(rival.name, rival.model, rival.batch, others, rival.given, rival.warmth)
            if _work(plain, small) == with_it:
                return f"{switch} changes nothing in this version: {NOT_MEASURED}"
    except (NotThereError, UserError) as error:
        return f"not in this version ({error}): {NOT_MEASURED}"
    return ""


def _work(rival: Rival, scale: Scale) -> tuple[int, float, float]:
    torch.manual_seed(0)
    step = learning(rival, scale)
    step()
    found = count(step)
    return found.kernels, found.flops, found.bytes


def memory_rivals() -> list[tuple[Rival, str, float | None]]:
    """What peak memory is measured of: rival, task, target."""
    exact = (KEPT, "training.scoring=exact")
    saving = (*exact, "training.checkpointing=true")
    found: list[tuple[Rival, str, float | None]] = []
    for preset in ("default", "paper"):
        first = preset == "default"
        found += [
            (Rival(f"{preset}, whole Swin", preset, 2, (WHOLE,)), "training", None),
            (Rival(f"{preset}, whole Swin", preset, 2, exact), "training", 4.0 if first else None),
            (Rival(f"{preset}, whole Swin", preset, 2, saving), "training", 6.0 if first else None),
        ]
    found += [
        (Rival("default, last stage only", "default", 2, (LAST,), given="prefix"), "training", None),
        (Rival("default, Swin frozen", "default", 2, (NONE,), given="prefix"), "training", None),
        (Rival("default", "default", 1), "inference", None),
    ]
    return found


def measure_memory(threads: int, tiny: bool = False, some: int | None = None) -> list[Row]:
    """Measure peaks, each rival in a process of its own."""
    rows: list[Row] = []
    base: dict[str, float] = {}
    for task, batch in (("training", 2), ("inference", 1))[:some]:
        found = memory.measure(Rival("published", "published", batch), task, threads, tiny)
        rows.append(_memory_row("published", task, batch, "whole Swin, all ten frames", found))
        if "peak" in found:
            base[task] = found["peak"]
    for rival, task, target in memory_rivals()[:some]:
        why = lacks(rival) if task == "training" else ""
        found = {"error": why} if why else memory.measure(rival, task, threads, tiny)
        rows.append(_memory_row(rival.name, task, rival.batch, rival.words(), found, base.get(task), target))
    return rows


def _memory_row(
    name: str,
    task: str,
    batch: int,
    words: str,
    found: dict[str, float],
    base: float | None = None,
    target: float | None = None,
) -> Row:
    what = f"{name}, {task}, batch {batch}"
    if "peak" not in found:
        return Row(MEMORY, what, words, unit="GB", target=target, note=str(found.get("error", "")))
    peak = found["peak"]
    ratio = Ratio(*[base / peak] * 5, repeats=1) if base else None
    note = f"of which Python and its libraries {found['imports'] / 1e9:.2f} GB"
    return Row(MEMORY, what, words, peak / 1e9, unit="GB", ratio=ratio, target=target, note=note)
