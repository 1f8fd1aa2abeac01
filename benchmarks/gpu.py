"""Training the whole Swin-Tiny on a GPU: samples a second, memory, and how near to what the machine can do.

The bound is a roofline: each kernel of a step, run one by one, takes at least the longer of its operations at the
measured rate of a large matrix product of its type and its bytes at the measured rate of memory; their sum is the least
time of a step whose kernels are not fused.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.counting import count, matmul_rate, memory_rate, steady
from benchmarks.machine import describe
from benchmarks.rivals import CLASSES, Rival, Scale, build, make_bag, precision, tiny_scale
from benchmarks.stores import draw_store
from milmer.config import load_config
from milmer.store import Store
from milmer.training.data import Bags, make_loader
from milmer.training.module import MilmerModule

KEPT = ("training.gradients=kept", "training.scoring=exact")
RIVALS = (
    Rival("default", "default", switches=("training.gradients=all",)),
    Rival("default", "default", switches=KEPT),
    Rival("default", "default", switches=("training.gradients=all", "training.compile=true")),
    Rival("default", "default", switches=("training.gradients=all", "training.channels_last=true")),
    Rival("default", "default", switches=("training.gradients=all", "training.checkpointing=true")),
    Rival("paper", "paper", switches=("training.gradients=all",)),
    Rival("paper", "paper", switches=KEPT),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("benchmarks-gpu.json"))
    options.add_argument("--device", default="cuda")
    options.add_argument("--batch", type=int, default=24)
    options.add_argument("--repeats", type=int, default=10)
    options.add_argument("--tiny", action="store_true", help="tiny sizes: only to see that it runs")
    given = options.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("bench-gpu: skipped, no GPU was found")
        return
    found = measure(given.device, given.batch, given.repeats, given.tiny)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(to_markdown(found))


def measure(device: str, batch: int, repeats: int, tiny: bool = False) -> dict[str, Any]:
    """Measure all rivals in bf16, then the loader against the quickest."""
    scale = tiny_scale() if tiny else Scale()
    size = 256 if tiny else 8192
    rates = {kind: matmul_rate(kind, device, size) for kind in (torch.bfloat16, torch.float32)}
    bandwidth = memory_rate(device, 2**22 if tiny else 2**31)
    rows = [_row(rival, scale, device, batch, repeats, rates, bandwidth) for rival in RIVALS[: 2 if tiny else None]]
    best = max((r["samples_per_second"] for r in rows if "error" not in r), default=0.0)
    return {
        "machine": describe(device),
        "matmul_flops": {str(kind).removeprefix("torch."): rate for kind, rate in rates.items()},
        "memory_bytes_per_second": bandwidth,
        "batch": batch,
        "rows": rows,
        "loader": _loader(scale, batch, best, tiny),
    }


def _row(
    rival: Rival, scale: Scale, device: str, batch: int, repeats: int, rates: dict[torch.dtype, float], bandwidth: float
) -> dict[str, Any]:
    found: dict[str, Any] = {"preset": rival.model, "switches": f"bf16, {rival.words()}"}
    try:
        step = _step(replace(rival, batch=batch, switches=(*rival.switches, "training.precision=bf16")), scale, device)
        begun = time.perf_counter()
        step()
        found["first_step_s"] = time.perf_counter() - begun  # compilation, where there is any
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = steady(step, device, repeats)
        did = count(step, rates, bandwidth) if "compile" not in rival.words() else None
    except (RuntimeError, ValueError) as error:  # out of memory, or a switch that this version cannot take
        return found | {"error": " ".join(str(error).split())[:200]}
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()
    found |= {"step_s": seconds, "samples_per_second": batch / seconds}
    if did:
        found |= {"tflop_a_step": did.flops / 1e12, "gb_a_step": did.bytes / 1e9, "kernels": did.kernels}
        found |= {"share_of_matmul": did.flops / seconds / rates[torch.bfloat16], "share_of_bound": did.bound / seconds}
    if device == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def _step(rival: Rival, scale: Scale, device: str) -> Callable[[], object]:
    """Return a function that makes one step on the device, its batch there already."""
    model, config = build(rival, scale)
    module = MilmerModule(model, config.training, steps=1_000_000).to(device)
    module.train()
    model.set_exploration(rival.warmth)
    optimizer = module.configure_optimizers()["optimizer"]
    bag = make_bag(rival.batch, scale).to(device)
    y = torch.arange(rival.batch, device=device) % CLASSES  # (B,)
    items = torch.stack([torch.zeros_like(y), torch.arange(rival.batch, device=device)], 1)  # (B, 2)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        with precision(config, device.partition(":")[0]):
            loss = module.training_step((bag, y, items), 0)  # ()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.training.clip)
        optimizer.step()
        module._losses.clear()
        return loss.detach()

    return step


def _loader(scale: Scale, batch: int, wanted: float, tiny: bool) -> list[dict[str, Any]]:
    """Samples a second of the loader alone, and how that compares with what the GPU takes."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        path = draw_store(Path(scratch) / "store", subjects=2 if tiny else 8, trials=4, px=scale.px)
        config = load_config("default", overrides=[f"data.px={scale.px}", f"data.frames={scale.frames}"])
        begun = time.perf_counter()
        bags = Bags(Store(path), config.data)
        opened = time.perf_counter() - begun
        for workers in (0,) if tiny else (0, 2, 4, 8):
            loader = make_loader(bags, np.arange(len(bags)), batch, shuffle=True, workers=workers)
            for _ in loader:
                break
            begun = time.perf_counter()
            seen = sum(len(bag) for _ in range(1 if tiny else 4) for bag, _, _ in loader)
            rate = seen / (time.perf_counter() - begun)
            rows.append(
                {
                    "workers": workers,
                    "samples_per_second": rate,
                    "times_what_is_taken": rate / wanted if wanted else None,
                }
            )
        rows[0]["opening_s"] = opened
    return rows


def to_markdown(found: dict[str, Any]) -> str:
    """Return the figures as tables."""
    lines = [f"{found['machine']['device']}; batch {found['batch']}, 10 frames of 224 px", ""]
    lines += [
        "| preset | switches | samples/s | share of matmul rate | share of bound | peak GB |",
        "|---|---|---|---|---|---|",
    ]
    for r in found["rows"]:
        if "error" in r:
            lines.append(f"| {r['preset']} | {r['switches']} | not measured: {r['error']} | | | |")
            continue
        shares = [f"{r[k]:.0%}" if k in r else "" for k in ("share_of_matmul", "share_of_bound")]
        peak = f"{r['peak_gb']:.1f}" if "peak_gb" in r else ""
        lines.append(
            f"| {r['preset']} | {r['switches']} | {r['samples_per_second']:.1f} | {' | '.join(shares)} | {peak} |"
        )
    lines += ["", "| loader's processes | samples/s | times what the quickest row takes |", "|---|---|---|"]
    for r in found["loader"]:
        times = r["times_what_is_taken"]
        lines.append(f"| {r['workers']} | {r['samples_per_second']:.0f} | {'' if times is None else f'{times:.1f}'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
