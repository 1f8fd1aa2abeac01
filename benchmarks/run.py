"""One command for all figures: python -m benchmarks.run --quick|--full [--only inference,...] --out docs/benchmarks.

Writes OUT.json, and OUT.md where the tables stand between two marks: what is written around them by hand stays.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import inference, judging, preparation, scaling, training
from benchmarks.counting import count, matmul_rate, memory_rate, reading_rate
from benchmarks.machine import describe
from benchmarks.published import Published
from benchmarks.rivals import Rival, Scale, answering, learning, tiny_scale
from benchmarks.table import Row, number, to_markdown

SECTIONS = ("memory", "inference", "training", "preparation", "judging", "scaling", "bounds")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    scale: Scale
    tiny: bool
    inference: int  # repeats
    training: int
    batches: tuple[int, ...]
    presets: tuple[str, ...]
    eeg_trials: int
    eeg_rates: tuple[float, ...]
    video: float  # seconds
    subjects: int
    seconds: float  # of a trial
    epochs: int
    jobs: tuple[int, ...]  # folds at a time
    some: int | None = None  # rows of memory
    match: str = ""  # of training: rows that hold it
    engines: bool = True  # exporting takes longer than all the rest of a quick run


FULL = Size(Scale(), False, 6, 3, (1, 4), ("default", "paper"), 40, (128.0, 512.0), 15.0, 4, 12.0, 2, (1, 2))
QUICK = Size(tiny_scale(), True, 2, 2, (1,), ("default",), 2, (128.0,), 3.0, 3, 6.0, 1, (1,), 1, engines=False)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure what is asked for, and write it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    much = options.add_mutually_exclusive_group()
    much.add_argument("--full", dest="size", action="store_const", const=FULL, default=FULL, help="the real sizes")
    much.add_argument("--quick", dest="size", action="store_const", const=QUICK, help="tiny sizes, to see that it runs")
    options.add_argument("--only", default=",".join(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    options.add_argument("--repeats", type=int, help="instead of the size's own")
    options.add_argument("--batches", help="of inference, such as 1,4")
    options.add_argument("--presets", help="of inference and training, such as default,paper")
    options.add_argument("--match", default="", help="of training: rows that hold this text")
    options.add_argument("--no-engines", action="store_true", help="PyTorch only")
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--out", type=Path, default=Path("benchmarks-run"), help="without ending")
    options.add_argument("--merge", action="store_true", help="keep what OUT.json has of other sections")
    given = options.parse_args(arguments)
    only = given.only.split(",")
    if unknown := set(only) - set(SECTIONS):
        options.error(f"--only {','.join(sorted(unknown))}: known are {','.join(SECTIONS)}")
    torch.set_num_threads(given.threads)
    size: Size = given.size
    if given.repeats:
        size = replace(size, inference=given.repeats, training=given.repeats)
    if given.batches:
        size = replace(size, batches=tuple(int(n) for n in given.batches.split(",")))
    if given.presets:
        size = replace(size, presets=tuple(given.presets.split(",")))
    size = replace(size, match=given.match)
    if given.no_engines:
        size = replace(size, engines=False)
    found = measure(size, only, given.threads)
    data = given.out.with_suffix(".json")
    if given.merge and data.exists():
        found = merged(json.loads(data.read_text(encoding="utf-8")), found)
    data.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_page(given.out.with_suffix(".md"), page(found))
    print(page(found))
    return found


def measure(size: Size, only: list[str], threads: int) -> dict[str, Any]:
    """Measure some sections; a section that fails says so and leaves the others."""
    torch.manual_seed(0)
    begun = time.perf_counter()
    found: dict[str, Any] = {"machine": describe(), "sizes": "tiny: the figures mean nothing" if size.tiny else "real"}
    rows: dict[str, list[dict[str, Any]]] = {}
    spent: dict[str, float] = {}

    def section(name: str, make: Callable[[], list[Row]]) -> None:
        if name in only:
            since = time.perf_counter()
            print(f"benchmarks: {name} ...", flush=True)
            rows[name] = [r.to_dict() for r in make()]
            spent[name] = round(time.perf_counter() - since, 1)

    # First what runs in processes of its own, while this one is small.
    section("memory", lambda: training.measure_memory(threads, size.tiny, size.some))
    section("preparation", lambda: _prepared(size))
    section("judging", lambda: judging.measure(size.subjects, size.seconds, size.epochs, size.jobs))
    if {"inference", "training"} & set(only):
        published = Published(size.scale.published)
        asked = (size.batches, size.presets, size.engines)
        section("inference", lambda: inference.measure(size.scale, published, size.inference, *asked))
        section("training", lambda: training.measure(size.scale, published, size.training, 1, size.presets, size.match))
        del published
    if "scaling" in only:
        print("benchmarks: scaling ...", flush=True)
        since = time.perf_counter()
        found["scaling"] = [g.to_dict() for g in scaling.measure(size.scale, size.training, size.tiny)]
        spent["scaling"] = round(time.perf_counter() - since, 1)
    if "bounds" in only:
        found["bounds"] = bounds(size)
    seconds = round(time.perf_counter() - begun, 1)
    return found | {"rows": rows, "spent_s": spent, "seconds": seconds}


def bounds(size: Size) -> dict[str, float]:
    """Count what must be done, and measure what the machine can do: least seconds a sample by either."""
    rates = {kind: matmul_rate(kind) for kind in (torch.float32, torch.bfloat16)}
    memory, reading = memory_rate(), reading_rate()
    scale = size.scale
    ours = answering(Rival("", "default"), scale)
    step = learning(Rival("", "default", switches=(training.WHOLE,)), scale)
    answer, learn = count(ours, rates, memory), count(step, rates, memory)
    with torch.device("meta"):
        weights = sum(p.numel() * 4 for p in Published(scale.published).scorer.parameters())
    swin = answer.flops - _rest(scale)
    peak = rates[torch.float32]
    return {
        "matmul_gflops_float32": peak / 1e9,
        "matmul_gflops_bf16": rates[torch.bfloat16] / 1e9,
        "memory_gb_per_second": memory / 1e9,
        "reading_gb_per_second": reading / 1e9,
        "swin_gflop_a_bag": swin / 1e9,
        "default_gflop_a_bag": answer.flops / 1e9,
        "default_step_gflop": learn.flops / 1e9,
        "swin_least_s": swin / peak,
        "default_least_s": answer.bound,
        "default_step_least_s": learn.bound,
        "scorer_gb": weights / 1e9,
        "scorer_least_s": max(weights / reading, 2 * weights / 4 * scale.frames / peak),
        "scorer_gflop_a_bag": 2 * weights / 4 * scale.frames / 1e9,
    }


def _rest(scale: Scale) -> float:
    """Operations of all but the backbone."""
    return count(answering(Rival("", "default", given="tokens"), scale)).flops


def _prepared(size: Size) -> list[Row]:
    return preparation.measure_eeg(size.eeg_trials, size.eeg_rates) + preparation.measure_faces(size.video)


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the new figures, and those of rows that were not measured anew."""
    both = {**old, **new, "spent_s": {**old.get("spent_s", {}), **new.get("spent_s", {})}}
    both["rows"] = dict(old.get("rows", {}))
    for section, rows in new["rows"].items():
        known = {(r["what"], r["switches"]): r for r in (*both["rows"].get(section, []), *rows)}
        both["rows"][section] = list(known.values())
    return both


def page(found: dict[str, Any]) -> str:
    """Return all tables as Markdown."""
    machine = found["machine"]
    said = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    lines = [
        f"Measured on {machine['device']}, {machine['memory_gib']} GiB of memory, {machine['threads']} threads, shared "
        f"with other work (load {machine['load_at_start']} when it began); {said}. Sizes: {found['sizes']}.",
        "",
    ]
    order = [name for name in SECTIONS if name in found["rows"]]
    lines.append(to_markdown([_row(r) for name in order for r in found["rows"][name]]))
    if "scaling" in found:
        lines += ["### Growth", "", scaling.to_markdown([scaling.Growth(**g) for g in found["scaling"]]), ""]
    if "bounds" in found:
        lines += ["### Bounds", "", "| figure | value |", "|---|---|"]
        lines += [f"| {k.replace('_', ' ')} | {number(v)} |" for k, v in found["bounds"].items()] + [""]
    return "\n".join(lines)


def write_page(file: Path, text: str) -> None:
    """Put the tables between the marks of a page; a page without them is made of the tables alone."""
    block = f"{BEGIN}\n\n{text.strip()}\n\n{END}"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    if BEGIN in old and END in old:
        before, after = old.partition(BEGIN)[0], old.partition(END)[2]
        file.write_text(before + block + after, encoding="utf-8")
    else:
        file.write_text(block + "\n", encoding="utf-8")


def _row(values: dict[str, Any]) -> Row:
    from benchmarks.timing import Ratio

    ratio = Ratio(**values["ratio"]) if values["ratio"] else None
    return Row(**{k: v for k, v in values.items() if k not in ("reached", "ratio")}, ratio=ratio)


if __name__ == "__main__":
    main()
