"""How long the EEG of one subject of DEAP's size takes to prepare, in one process: 40 trials of 63 s, 32 channels.

Usage: python tools/time_eeg.py [RATE [METHOD [TRIALS]]]; 512 Hz is raw, 128 Hz as DEAP's cleaned files are.
"""

from __future__ import annotations

import resource
import sys
import time
from functools import partial

from threadpoolctl import threadpool_limits

from milmer.config import EEGPreparation
from milmer.datasets.base import Signal
from milmer.datasets.simulated_eeg import simulate_raw
from milmer.signals.eeg import prepare_eeg


def drawn(part: int, rate: float, spent: list[tuple[float, float]]) -> Signal:
    """Draw one trial when it is asked for, as a file would be read."""
    begun, used = time.monotonic(), time.process_time()
    truth = simulate_raw(0, 1, 63.0, rate, part=part + 1)
    spent.append((time.monotonic() - begun, time.process_time() - used))
    return Signal(truth.samples, truth.names, rate, pad_before=3.0)


def main() -> None:
    rate = float(sys.argv[1]) if len(sys.argv) > 1 else 512.0
    method = sys.argv[2] if len(sys.argv) > 2 else "picard"
    trials = int(sys.argv[3]) if len(sys.argv) > 3 else 40
    spent: list[tuple[float, float]] = []  # in drawing, on the clock and on the processor
    off = "" if rate >= 200 else "as if cleaned before"
    begun, used = time.monotonic(), time.process_time()
    with threadpool_limits(1):
        made = prepare_eeg(
            [partial(drawn, t, rate, spent) for t in range(trials)], EEGPreparation(ica=method), iclabel_off=off
        )
    seconds = time.monotonic() - begun - sum(clock for clock, _ in spent)
    processor = time.process_time() - used - sum(busy for _, busy in spent)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    labels = made.ica.labelled_by if made.ica else "no ICA"
    what = f"{trials} trials at {rate:g} Hz, {method}, labelled by {labels}"
    print(f"{what}: {seconds:.1f} s, {processor:.1f} s of the processor; peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
