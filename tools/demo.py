"""The whole road on a small simulated study, by the commands a user would type. What is done already is kept.

Usage: python tools/demo.py FOLDER [--null] (`--null`: the same study with no emotion in it).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

MILMER = Path(sys.executable).with_name("milmer")
EXPRESSIONS = ["--expressions", "240", "--subjects", "40", "--seed", "1"]  # other people than the study's
PEOPLE = ["--group-by", "prefix", "--resume"]
KNOWS_FACES = ["--trainable-stages", "0", "--backbone"]
STUDY = ["--subjects", "6", "--trials", "20", "--seconds", "12", "--size", "320x256", "--fps", "25"]


def step(*arguments: str | Path) -> None:
    words = [str(a) for a in arguments]
    print(f"\n$ milmer {' '.join(words)}", flush=True)
    begun = time.monotonic()
    code = subprocess.run([str(MILMER), *words], check=False).returncode
    if code:
        sys.exit(code)
    print(f"  ({time.monotonic() - begun:.0f} s)", flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    nothing = ["--valence", "none", "--arousal", "none"] if "--null" in sys.argv else []
    study, store, run = folder / "study", folder / "store", folder / "run"
    faces, backbone = folder / "expressions", folder / "backbone"
    jobs = str(min(2, os.cpu_count() or 1))
    begun = time.monotonic()
    step("simulate", study, *STUDY, *nothing, "--jobs", jobs)
    step("prepare", "deap", study, "--out", store, "--jobs", jobs)
    step("inspect", store)
    step("simulate", faces, *EXPRESSIONS, "--jobs", jobs)
    if not backbone.exists():
        step("pretrain", "faces", faces, "--backbone", "random:demo", "--epochs", "12", "--out", backbone, *PEOPLE)
    if (run / "run.json").exists() and json.loads((run / "run.json").read_text())["complete"]:
        shutil.rmtree(run)
    resume = ["--resume"] if (run / "run.json").exists() else []
    step(
        "evaluate",
        store,
        "--protocol",
        "trial",
        "--preset",
        "demo",
        *KNOWS_FACES,
        backbone,
        "--out",
        run,
        "--jobs",
        jobs,
        *resume,
    )
    step("audit", store, "--run", run, "--out", folder / "audit")
    step("report", run)
    print(f"\n{run / 'report.html'}")
    rows = json.loads((run / "metrics.json").read_text())
    for row in rows:
        own = row["target"] == rows[0]["target"] and "subject" not in row
        if own and row["part"] == "test" and row["name"] in ("accuracy", "macro_f1"):
            print(
                f"  {row['name'].replace('_', ' ')} by {row['level']}: {row['value']:.2f} "
                f"[{row['low']:.2f}, {row['high']:.2f}], chance {row['chance']:.2f}"
            )
    print(f"  {time.monotonic() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
