"""A head whose sources are known: dipoles in a sphere, an eye, line noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from milmer.datasets.base import Signal
from milmer.signals.channels import electrode_positions

DEAP = "Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 CP2 P4 P8 PO4 O2"


@dataclass
class Head:
    """EEG of several trials of one recording and what it was made from."""

    eeg: list[Signal]
    eog: list[Signal]
    brain: list[NDArray[np.float64]]  # (C, S) volts, without the blinks
    blink: list[NDArray[np.float64]]  # (S,) time course
    field: NDArray[np.float64]  # (C,) of a blink


def dipole(
    positions: NDArray[np.float64], place: NDArray[np.float64], moment: NDArray[np.float64]
) -> NDArray[np.float64]:
    r = positions - place
    return np.asarray((r @ moment) / np.linalg.norm(r, axis=1) ** 3)


@pytest.fixture(scope="session")
def make_head() -> Callable[..., Head]:
    def make(
        rate: float = 128.0,
        seconds: float = 30.0,
        trials: int = 3,
        names: list[str] | None = None,
        pad: float = 3.0,
        seed: int = 0,
        line: float = 0.0,
    ) -> Head:
        rng = np.random.default_rng([seed, 7])
        names = names or DEAP.split()
        positions = electrode_positions(names)
        n_sources = len(names) - 1
        places = rng.normal(size=(n_sources, 3))
        places *= 0.75 / np.linalg.norm(places, axis=1, keepdims=True)
        places[:, 2] = np.abs(places[:, 2])
        moments = places / 0.75 + 0.3 * rng.normal(size=places.shape)
        mixing = np.stack([dipole(positions, p, m) for p, m in zip(places, moments, strict=True)], axis=1)
        mixing *= 8e-6 / np.abs(mixing).max(axis=0)
        eyes = [np.array([x, 0.95, -0.35]) for x in (-0.3, 0.3)]
        field = sum(dipole(positions, e, np.array([0.0, 0.3, 1.0])) for e in eyes)
        field = field * 120e-6 / np.abs(field).max()
        head = Head([], [], [], [], field)
        for _ in range(trials):
            n = round((seconds + pad) * rate)
            t = np.arange(n) / rate
            spectrum = np.fft.rfft(rng.laplace(size=(n_sources, n)), axis=1)
            f = np.maximum(np.fft.rfftfreq(n, 1 / rate), 0.5)
            peak = 1 + 4 * np.exp(-((f - rng.uniform(6, 30, size=(n_sources, 1))) ** 2) / 4)
            sources = np.fft.irfft(spectrum * peak / np.sqrt(f), n, axis=1)
            # Bursts make sources tell-tale: components are found by their non-Gaussian distribution.
            envelope = np.repeat(rng.gamma(0.7, size=(n_sources, n // round(rate) + 1)), round(rate), axis=1)[:, :n]
            sources *= envelope
            sources /= sources.std(axis=1, keepdims=True)
            blink = np.zeros(n)
            for moment in np.arange(0.5, t[-1] - 0.5, 3.0) + rng.uniform(
                -0.4, 0.4, size=len(np.arange(0.5, t[-1] - 0.5, 3.0))
            ):
                blink += np.exp(-0.5 * ((t - moment) / 0.08) ** 2)
            brain = mixing @ sources + 0.3e-6 * rng.normal(size=(len(names), n))
            if line:
                brain = brain + 20e-6 * np.sin(2 * np.pi * line * t)
            x = brain + field[:, None] * blink
            eog = np.stack([200e-6 * blink + 5e-6 * rng.normal(size=n)])
            head.eeg.append(Signal(x, tuple(names), rate, pad_before=pad))
            head.eog.append(Signal(eog, ("vEOG",), rate, pad_before=pad))
            head.brain.append(brain[:, round(pad * rate) :])
            head.blink.append(blink[round(pad * rate) :])
        return head

    return make
