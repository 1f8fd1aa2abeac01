"""Long checks, resumable: each step is kept under FOLDER, and the results are written to docs/acceptance.md and .json.

Usage: python tools/accept.py FOLDER [CHECK ...]; without names, all of them.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accept_believed import alarms, film, leaks
from accept_family import attention, fusion, joint, knows_faces, pretraining, published
from accept_parts import JOBS, MILMER, STUDY, evaluated, figure, made, measure, milmer
from accept_signals import signals

DOCS = Path(__file__).parents[1] / "docs"
NOTHING = ["--valence", "none", "--arousal", "none"]


def learns(folder: Path) -> dict[str, Any]:
    """The demo's macro-F1 is at least 0.60 under the trial protocol, for every seed."""
    found: dict[str, Any] = {}
    for seed in (0, 1, 2):
        store = made(folder / f"seed{seed}", [*STUDY, "--seed", str(seed)])
        rows = evaluated(store, folder / f"seed{seed}" / "run", *knows_faces(folder.parent))
        for level in ("window", "trial"):
            found[f"seed {seed}, macro-F1 by {level}"] = figure(rows, "macro_f1", level)
    values = [f["value"] for f in found.values()]
    return {"passed": min(values) >= 0.60, "figures": found}


def null(folder: Path) -> dict[str, Any]:
    """On a study with no emotion in it, the demo is not above chance, which re-runs with permuted labels give."""
    rows = evaluated(
        made(folder, [*STUDY, *NOTHING]), folder / "run", *knows_faces(folder.parent), "--permutations", "19"
    )
    found = {f"macro-F1 by {level}": figure(rows, "macro_f1", level) for level in ("window", "trial")}
    return {"passed": all(f["p"] > 0.05 for f in found.values()), "figures": found}


def resumes(folder: Path) -> dict[str, Any]:
    """A run killed with -9 goes on to the same bits."""
    store = made(folder.parent / "learns" / "seed0", [*STUDY, "--seed", "0"])
    quick = ["--modalities", "eeg", "--epochs", "6", "--preset", "demo"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    milmer("evaluate", store, "--out", folder / "whole", *quick)
    command = [str(MILMER), "evaluate", str(store), "--out", str(folder / "killed"), *quick]
    process = subprocess.Popen(command)
    while not (folder / "killed/folds/1/last.ckpt").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    milmer("evaluate", store, "--out", folder / "killed", *quick, "--resume")
    names = ["predictions.parquet", *(f"folds/{k}/model.safetensors" for k in range(5))]
    same = {n: (folder / "whole" / n).read_bytes() == (folder / "killed" / n).read_bytes() for n in names}
    return {"passed": all(same.values()), "figures": same}


def memory(folder: Path) -> dict[str, Any]:
    """Preparing long videos of full size, and training the demo, stay under 2 GB."""
    study = folder / "study"
    found = {}
    for seconds in (23, 123):
        shutil.rmtree(study, ignore_errors=True)
        milmer("simulate", study, "--subjects", "1", "--trials", "4", "--seconds", str(seconds), "--jobs", JOBS)
        shutil.rmtree(folder / "store", ignore_errors=True)
        peak = milmer("prepare", "deap", study, "--out", folder / "store", peak=True)
        found[f"prepare, videos of {seconds - 3} s, 720x576 at 50 fps (GB)"] = round(peak / 1e9, 3)
    shutil.rmtree(folder / "run", ignore_errors=True)
    store = made(folder.parent / "learns" / "seed0", [*STUDY, "--seed", "0"])
    peak = milmer("train", store, "--out", folder / "run", "--epochs", "2", "--preset", "demo", peak=True)
    found["train, demo preset (GB)"] = round(peak / 1e9, 3)
    return {"passed": max(found.values()) <= 2, "figures": found}


CHECKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "learns": learns,
    "null": null,
    "resumes": resumes,
    "memory": memory,
    "attention": attention,
    "fusion": fusion,
    "joint": joint,
    "published": published,
    "pretraining": pretraining,
    "leaks": leaks,
    "film": film,
    "alarms": alarms,
    "signals": signals,
}


def main() -> None:
    if sys.argv[1] == "--measure":
        measure(sys.argv[2:])
    root = Path(sys.argv[1])
    file = DOCS / "acceptance.json"
    results: dict[str, Any] = {}
    for name in sys.argv[2:] or CHECKS:
        begun = time.monotonic()
        outcome = CHECKS[name](root / name)
        results = json.loads(file.read_text()) if file.exists() else {}  # now: another check may have ended meanwhile
        results[name] = outcome | {"what": " ".join((CHECKS[name].__doc__ or "").split())}
        results[name]["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        results[name]["seconds of this call"] = round(time.monotonic() - begun)
        file.write_text(json.dumps(results, indent=1) + "\n")
        (DOCS / "acceptance.md").write_text(page(results))
        print(f"{name}: {'passed' if results[name]['passed'] else 'FAILED'}", flush=True)
    sys.exit(not all(r["passed"] for r in results.values()))


def page(results: dict[str, Any]) -> str:
    lines = ["# Acceptance", "", "What `make accept` measured; each check resumes where it was stopped.", ""]
    for name, result in results.items():
        lines += [f"## {name}: {'passed' if result['passed'] else 'failed'}", "", result["what"], ""]
        for what, value in result["figures"].items():
            if isinstance(value, dict):
                chance = ""
                if "chance" in value:
                    chance = f", chance {value['chance']:.3f} ({value['chance_how']}), p {value['p']:.3f}"
                    if value.get("above") is not None:
                        chance += f", above chance from {value['above']:.3f}"
                value = f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]{chance}, n {value['n']}"
            lines.append(f"* {what}: {value}")
        lines += ["", f"({result['machine']}; {result['seconds of this call']} s in the last call)", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
