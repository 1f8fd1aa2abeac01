"""What the long checks share: commands run to their end, studies made once, figures read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MILMER = Path(sys.executable).with_name("milmer")
STUDY = ["--subjects", "6", "--trials", "20", "--seconds", "12", "--size", "320x256", "--fps", "25"]
JOBS = str(min(2, os.cpu_count() or 1))


def milmer(*arguments: str | Path, peak: bool = False) -> int:
    """Run a command to its end; return its peak memory in bytes (children included) where asked for."""
    command = [str(MILMER), *map(str, arguments)]
    print("$ milmer", *command[1:], flush=True)
    if peak:
        command = ["/usr/bin/env", sys.executable, Path(__file__).with_name("accept.py"), "--measure", *command]
    found = subprocess.run(command, check=False, capture_output=peak, text=True)
    if found.returncode:
        sys.exit(f"milmer {arguments[0]} ended with {found.returncode}: {found.stderr if peak else ''}")
    return int(found.stdout.split()[-1]) if peak else 0


def measure(command: list[str]) -> None:
    """Print the peak memory of a command: that of its largest process."""
    import resource

    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
    sys.exit(code)


def made(folder: Path, study: list[str]) -> Path:
    """Simulate a study and prepare it, where that has not been done; return the store."""
    store = folder / "store"
    milmer("simulate", folder / "study", *study, "--jobs", JOBS)
    milmer("prepare", "deap", folder / "study", "--out", store, "--jobs", JOBS)
    return store


def evaluated(store: Path, run: Path, *extra: str) -> list[dict[str, Any]]:
    """Evaluate with the demo's preset, where that has not been done; return metrics.json."""
    record = run / "run.json"
    if not (record.exists() and json.loads(record.read_text())["complete"]):
        resume = ["--resume"] if record.exists() else []
        milmer("evaluate", store, "--preset", "demo", "--out", run, "--jobs", JOBS, *extra, *resume)
    return [dict(r) for r in json.loads((run / "metrics.json").read_text())]


def figure(rows: list[dict[str, Any]], name: str, level: str) -> dict[str, Any]:
    """One test figure of metrics.json, over all subjects."""
    place = (name, level, "test", rows[0].get("target"))  # the run's own target comes first
    (row,) = [
        r
        for r in rows
        if (r["name"], r["level"], r["part"], r.get("target")) == place and "subject" not in r and "calibrated" not in r
    ]
    return {
        k: row.get(k)
        for k in ("name", "value", "low", "high", "chance", "chance_high", "chance_how", "p", "above", "n")
    }
