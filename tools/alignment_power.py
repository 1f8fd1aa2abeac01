"""How often the check of alignment is right: many studies of skin colour and pulse signals, without videos.

Usage: python tools/alignment_power.py [STUDIES] (by default 50 of each kind). Prints the table of docs/alignment.md.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from milmer.alignment import judge
from milmer.alignment_judging import RATE, compare
from milmer.datasets.simulated_eeg import pulse
from milmer.datasets.simulated_face import PULSE_DEPTH
from milmer.signals.pulse import BAND, body_wave, evened, pos

SKIN = np.array([150.0, 110.0, 90.0])
DELAY = 0.1  # seconds by which the finger's pulse comes after the face's
Array = NDArray[np.float64]


def beats(rng: np.random.Generator, rate: float, seconds: float) -> Array:
    """Times of heart beats: breathing makes the rate wander by 4 %, chance by 2 %."""
    at, phase = [-3 - rng.uniform()], rng.uniform(0, 2 * np.pi)
    while at[-1] < seconds + 3:
        at.append(at[-1] + (1 + 0.04 * np.sin(1.6 * at[-1] + phase) + 0.02 * rng.standard_normal()) / rate)
    return np.array(at)


def coloured(rng: np.random.Generator, n: int, low: float, high: float) -> Array:
    """Noise of unit deviation between two frequencies, (n,)."""
    freqs = np.fft.rfftfreq(n, 1 / RATE)
    spectrum = np.fft.rfft(rng.standard_normal(n)) * ((freqs >= low) & (freqs <= high))
    wave = np.fft.irfft(spectrum, n)
    return np.asarray(wave / wave.std())


def trial(rng: np.random.Generator, rate: float, seconds: float, decibels: float | None) -> tuple[Array, Array]:
    """Waves of a trial's face and finger; `decibels`: pulse against noise in green, 0.7-4 Hz; None: no pulse."""
    n = round(seconds * RATE)
    t, at = np.arange(n) / RATE, beats(rng, rate, seconds)
    size = PULSE_DEPTH[1] * 10 ** (-(decibels or 0.0) / 20)
    noise = np.stack([coloured(rng, n, *BAND) for _ in range(3)], axis=1) * size
    light = 0.02 * coloured(rng, n, 0.02, 1.5)[:, None]
    shown = 0.0 if decibels is None else pulse(at, t)[:, None] * PULSE_DEPTH
    face = evened(pos(SKIN * (1 + shown + noise + light), RATE), RATE)
    finger = evened(body_wave(pulse(at, t - DELAY) + 0.2 * rng.standard_normal(n), RATE, "ppg"), RATE)
    return face, finger


def study(seed: int, people: int, trials: int, seconds: float, decibels: float | None, order: str) -> str:
    """Return the verdict on one study whose videos are in `order`."""
    compared = []
    for person in range(people):
        rng = np.random.default_rng([seed, person, trials])
        rate = rng.uniform(0.95, 1.5)
        drift = 1 + 0.05 * coloured(rng, max(trials, 60), 0.0, 2.0)[:trials]  # from trial to trial
        pairs = [trial(rng, rate * d, seconds, decibels) for d in drift]
        place = np.arange(trials)
        if order == "reversed":
            place = place[::-1]
        elif order == "shuffled":
            place = rng.permutation(trials)
        elif order == "two swapped":
            place[[1, 4]] = place[[4, 1]]
        compared.append(compare([pairs[i][0] for i in place], [p[1] for p in pairs], key=f"s{person}"))
    return judge(compared).verdict


def main() -> None:
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    print("| people x trials | pulse in the face | order of videos | studies | proved | wrong | cannot tell |")
    print("|---|---|---|---|---|---|---|")
    for people, trials, seconds in ((1, 12, 60.0), (4, 12, 60.0)):
        for decibels in (None, -15.0, -10.0, 0.0):
            for order in ("mapped", "reversed", "shuffled", "two swapped"):
                if decibels is None and order != "mapped":
                    continue
                found = [study(k, people, trials, seconds, decibels, order) for k in range(studies)]
                counts = " | ".join(str(found.count(v)) for v in ("proved", "wrong", "unknown"))
                size = "none" if decibels is None else f"{decibels:g} dB"
                print(f"| {people} x {trials} | {size} | {order} | {studies} | {counts} |", flush=True)


if __name__ == "__main__":
    main()
