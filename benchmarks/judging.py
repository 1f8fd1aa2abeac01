"""The audit and the folds: seconds of a whole audit, and of all folds of a small model, one and several at a time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.stores import draw_store
from benchmarks.table import Row
from milmer.config import load_config
from milmer.evaluation.audit.run import audit_store
from milmer.evaluation.evaluate import evaluate
from milmer.store import Store

SECTION, TRIALS = "Audit and folds", 8


def measure(subjects: int, seconds: float, epochs: int, jobs: tuple[int, ...] = (1, 2)) -> list[Row]:
    """Audit a drawn store, then evaluate it with the demo preset, folds one by one and side by side."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = Store(draw_store(folder / "store", subjects=subjects, trials=TRIALS, seconds=seconds))
        what = f"{subjects} subjects, {TRIALS} trials of {seconds:g} s, 32 channels"
        config = load_config("demo", overrides=[f"training.epochs={epochs}", f"training.patience={epochs}"])
        begun, used = time.perf_counter(), time.process_time()
        found = audit_store(store, config, folder / "audit", protocols=None if seconds > 6 else ["trial"])
        clock, busy = time.perf_counter() - begun, time.process_time() - used
        said = f"{len(found['protocols'])} protocols, page included"
        rows.append(
            Row(SECTION, f"audit: {what}", said, clock, busy, clock, unit="s", note="the least: without neighbours")
        )
        clocks = {}
        for n in jobs:
            begun = time.perf_counter()
            evaluate(store, config, folder / f"run{n}", jobs=n)
            clocks[n] = time.perf_counter() - begun
            said = f"--jobs {n}, {epochs} epochs, demo preset"
            note = "" if n == jobs[0] else f"{clocks[jobs[0]] / clocks[n]:.2f} times as quick as --jobs {jobs[0]}"
            rows.append(Row(SECTION, f"five folds: {what}", said, clocks[n], unit="s", note=note))
    return rows
