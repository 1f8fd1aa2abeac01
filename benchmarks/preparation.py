"""Preparation: seconds of EEG a second, ICA included, and wanted video frames a second, both of one core."""

from __future__ import annotations

import time
from functools import partial

from threadpoolctl import threadpool_limits

from benchmarks.faces import measure_faces as measure_faces
from benchmarks.table import Row
from milmer.config import EEGPreparation
from milmer.datasets.base import Signal
from milmer.datasets.simulated_eeg import simulate_raw
from milmer.signals.eeg import prepare_eeg

SECTION = "Preparation"
TRIAL, PADDING = 63.0, 3.0  # seconds of a DEAP trial, and of it before the stimulus


def measure_eeg(trials: int, rates: tuple[float, ...] = (128.0, 512.0), method: str = "picard") -> list[Row]:
    """Prepare the EEG of one subject: `trials` of 63 s, 32 channels, drawn when asked for (not counted)."""
    rows = []
    for rate in rates:
        spent: list[tuple[float, float]] = []  # in drawing, on the clock and of the processor
        begun, used = time.perf_counter(), time.process_time()
        with threadpool_limits(1):
            made = prepare_eeg(
                [partial(_drawn, t, rate, spent) for t in range(trials)],
                EEGPreparation(ica=method),  # type: ignore[arg-type]  # validated
                iclabel_off="" if rate >= 200 else "as if cleaned before",
            )
        seconds = time.perf_counter() - begun - sum(clock for clock, _ in spent)
        processor = time.process_time() - used - sum(busy for _, busy in spent)
        labels = made.ica.labelled_by if made.ica else "no ICA"
        rows.append(
            Row(
                SECTION,
                f"EEG at {rate:g} Hz, {trials} trials of {TRIAL:g} s, 32 channels",
                f"ica={method}, labelled by {labels}, one thread",
                trials * TRIAL / processor,
                trials * TRIAL / max(seconds, processor),
                trials * TRIAL / processor,
                unit="x real time a core",
                target=40.0 if trials >= 40 else None,
                note="seconds of EEG a second of one core's work; the least is by the clock, neighbours included",
            )
        )
    return rows


def _drawn(part: int, rate: float, spent: list[tuple[float, float]]) -> Signal:
    """Draw one trial when it is asked for, as a file would be read."""
    begun, used = time.perf_counter(), time.process_time()
    truth = simulate_raw(0, 1, TRIAL, rate, part=part + 1)
    spent.append((time.perf_counter() - begun, time.process_time() - used))
    return Signal(truth.samples, truth.names, rate, pad_before=PADDING)
