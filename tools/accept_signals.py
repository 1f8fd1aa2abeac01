"""Long check of the EEG's preparation: planted artifacts in simulated raw recordings, by each ICA method."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from milmer.config import Data, EEGPreparation
from milmer.datasets.base import Signal
from milmer.datasets.simulated_eeg import RawTruth, simulate_raw
from milmer.datasets.simulated_heart import add_heart
from milmer.signals.eeg import PreparedEEG, prepare_eeg

Array = NDArray[np.floating]

SEEDS = range(8)
METHODS = ("picard", "fastica", "infomax")
GUIDES = ("none", "eog and ecg")
TRIALS, SECONDS, RATE = 6, 40, 256.0
REJECT = tuple(Data().reject)


@dataclass(frozen=True)
class Recorded:
    """A simulated raw recording, cut into trials, and what is known of it."""

    truth: RawTruth
    eeg: list[Signal]
    eog: list[Signal]
    ecg: list[Signal]
    brain: list[Signal]  # the same without artifacts


def recorded(seed: int, trials: int = TRIALS, seconds: int = SECONDS) -> Recorded:
    """Simulate one: blinks, saccades, muscle bursts and a heart over 60 sources of the brain."""
    made = add_heart(simulate_raw(seed, 1, trials * seconds, RATE), seed)
    truth = made.raw
    kinds = np.array(truth.head.kinds)
    brain = truth.head.mixing[:, kinds == "brain"] @ truth.sources[kinds == "brain"]  # (32, S)
    blink, saccade = truth.sources[kinds == "eye blink"]
    noise = 2e-6 * np.random.default_rng([seed, 17]).standard_normal((2, blink.size))  # (2, S)
    eog = np.stack([2.5 * saccade + 0.05 * blink, 1.6 * blink + 0.1 * saccade]) + noise  # (2, S)

    def cut(x: Array, names: tuple[str, ...]) -> list[Signal]:
        size = round(seconds * RATE)
        return [Signal(x[:, k * size : (k + 1) * size], names, RATE) for k in range(trials)]

    return Recorded(
        truth,
        cut(truth.samples, truth.names),
        cut(eog, ("hEOG", "vEOG")),
        cut(made.ecg, ("ecg",)),
        cut(brain, truth.names),
    )


def judged(made: Recorded, prepared: PreparedEEG, reject: tuple[str, ...] = REJECT) -> dict[str, float]:
    """Hold a preparation against what was planted.

    A component is of the kind that most of its variance comes from, through the known mixing.
    """
    ica, head = prepared.ica, made.truth.head
    if ica is None:
        raise RuntimeError("no decomposition")
    kinds = np.array(head.kinds)
    pure = prepare_eeg(made.brain, EEGPreparation(ica="none", bad_channels=False))
    power = np.var(made.truth.sources, axis=1)  # (k,) of the sources; blinks and background fall far below 50 Hz
    share = (ica.unmixing @ head.mixing) ** 2 * power  # (n_comp, k)
    known = ("brain", "eye blink", "muscle artifact", "heart beat")
    by_kind = np.stack([share[:, kinds == k].sum(axis=1) for k in known], axis=1)  # (n_comp, 4)
    true = np.array(known)[by_kind.argmax(axis=1)]
    out = np.isin(ica.labels, reject)
    operator = ica.operator(reject)
    found: dict[str, float] = {}
    for kind in known:
        found[f"{kind} components"] = int(np.sum(true == kind))
        found[f"{kind} components removed"] = int(np.sum(out & (true == kind)))
    for name, kind in (("blink", "eye blink"), ("heart", "heart beat")):
        field = head.mixing[:, kinds == kind][:, 0]  # (32,)
        found[f"{name} variance removed"] = 1 - float(np.sum((operator @ field) ** 2) / np.sum(field**2))
    dirty, clean, want = (
        np.concatenate(x, axis=1) for x in (prepared.trials, [operator @ t for t in prepared.trials], pure.trials)
    )  # (32, S) each
    for name, x in (("before", dirty), ("after", clean)):
        corr = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x, want, strict=True)])  # (32,)
        found[f"correlation with true EEG {name}"] = float(corr.mean())
        found[f"lowest channel's correlation {name}"] = float(corr.min())
    lost = (np.eye(len(operator)) - operator) @ np.concatenate(pure.trials, axis=1)  # (32, S)
    found["brain variance lost"] = float(np.var(lost) / np.var(want))
    return found


def signals(folder: Path) -> dict[str, Any]:
    """Raw recordings with planted blinks, saccades, muscle bursts and heart beats.

    By every ICA method at least 90 % of the components that are blinks are removed, and at most 5 % of those that are
    brain; how well the cleaned EEG correlates with the EEG without artifacts is told. With ICLabel alone, and with EOG
    and ECG beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        made: Recorded | None = None
        for method in METHODS:
            for guide in GUIDES:
                file = folder / f"{seed}-{method}-{guide.replace(' ', '-')}.json"
                if not file.exists():
                    made = recorded(seed) if made is None else made
                    beside = {"eog": made.eog, "ecg": made.ecg} if guide != "none" else {}
                    begun = time.monotonic()
                    with threadpool_limits(1):
                        prepared = prepare_eeg(made.eeg, EEGPreparation(ica=method), **beside)
                    row = judged(made, prepared) | {"seconds": time.monotonic() - begun}
                    file.write_text(json.dumps({"method": method, "guide": guide, "seed": seed} | row) + "\n")
                rows.append(json.loads(file.read_text()))
    figures: dict[str, Any] = {}
    passed = True
    for method in METHODS:
        for guide in GUIDES:
            own = [r for r in rows if (r["method"], r["guide"]) == (method, guide)]
            line, good = _line(own)
            figures[f"{method}, {'ICLabel alone' if guide == 'none' else 'with EOG and ECG'}"] = line
            passed &= good
    return {"passed": passed, "figures": figures}


def _line(rows: list[dict[str, Any]]) -> tuple[str, bool]:
    """Sum up the seeds of one way: a line, and whether it is good enough."""

    def of(kind: str) -> tuple[int, int]:
        return sum(r[f"{kind} components removed"] for r in rows), sum(r[f"{kind} components"] for r in rows)

    def middle(name: str) -> str:
        values = [r[name] for r in rows]
        return f"{np.mean(values):.3f} (lowest {min(values):.3f})"

    (blinks, of_blinks), (brain, of_brain), (hearts, of_hearts) = of("eye blink"), of("brain"), of("heart beat")
    muscle, of_muscle = of("muscle artifact")
    good = blinks >= 0.9 * of_blinks and brain <= 0.05 * of_brain
    return (
        f"blink components removed {blinks} of {of_blinks}, brain components lost {brain} of {of_brain} "
        f"({brain / of_brain:.1%}), heart {hearts} of {of_hearts}, muscle {muscle} of {of_muscle}; variance of planted "
        f"blinks removed {middle('blink variance removed')}; correlation with the true EEG "
        f"{np.mean([r['correlation with true EEG before'] for r in rows]):.3f} before, "
        f"{middle('correlation with true EEG after')} after, of the worst channel "
        f"{np.mean([r['lowest channel' + chr(39) + 's correlation before'] for r in rows]):.3f} and "
        f"{np.mean([r['lowest channel' + chr(39) + 's correlation after'] for r in rows]):.3f}; brain variance lost "
        f"{np.mean([r['brain variance lost'] for r in rows]):.1%}; {len(rows)} seeds"
    ), good
