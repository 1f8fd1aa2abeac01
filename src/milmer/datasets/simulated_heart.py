"""A heart in a simulated raw recording: what the electrodes see of it, and an ECG beside."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from milmer.datasets.simulated_eeg import RawTruth
from milmer.datasets.simulated_head import Array
from milmer.signals.channels import electrode_positions

_HEART = 16  # what a random draw is for; part of its seed
VOLTS = 50e-6  # of an R peak at the electrode that sees it most
LEAD = 1e-3  # volts of an R peak in the ECG
# Centre (s from the R peak), width (s) and height of the waves; the scalp sees them from another side than the chest.
CHEST = ((-0.17, 0.025, 0.12), (-0.03, 0.010, -0.12), (0.0, 0.011, 1.0), (0.03, 0.011, -0.25), (0.28, 0.05, 0.3))
SCALP = ((-0.17, 0.025, 0.05), (-0.022, 0.012, 0.45), (0.006, 0.013, -1.0), (0.04, 0.014, 0.2), (0.28, 0.06, -0.15))


@dataclass(frozen=True)
class HeartTruth:
    """A raw recording with a heart in it.

    Parameters
    ----------
    raw : RawTruth
        With one more source, of the kind ``heart beat``.
    ecg : ndarray, shape (1, n_samples)
        Volts.
    beats : ndarray, shape (n_beats,)
        R peaks, s.
    """

    raw: RawTruth
    ecg: Array
    beats: Array


def add_heart(truth: RawTruth, seed: int, volts: float = VOLTS) -> HeartTruth:
    """Add the field of a heart to a raw recording.

    Far below the head, a heart is seen as a slope over it, from one lower side to the other; breathing and chance
    make its rate vary.

    Parameters
    ----------
    truth : RawTruth
        The recording.
    seed : int
        Of the beats, the direction and the ECG's noise.
    volts : float
        Height of the R peak at the electrode that sees it most.
    """
    rng = np.random.default_rng([seed, _HEART])
    times = np.arange(truth.samples.shape[1]) / truth.rate  # (S,)
    beats = [0.3 * rng.uniform()]
    while beats[-1] < times[-1]:
        sway = 0.05 * np.sin(2 * np.pi * 0.25 * beats[-1])
        beats.append(beats[-1] + 60 / truth.head.heart_rate * (1 + sway + rng.normal(0, 0.02)))
    at = np.array(beats[:-1])  # (n_beats,)
    slope = np.array([-0.8, 0.25, -0.5]) + rng.normal(0, 0.15, 3)
    field = electrode_positions(truth.names) @ slope  # (32,)
    field = field - field.mean()
    field = field / np.abs(field).max()
    source = volts * _waves(times, at, SCALP)  # (S,)
    head = replace(
        truth.head,
        mixing=np.column_stack([truth.head.mixing, field]),
        names=(*truth.head.names, "heart"),
        kinds=(*truth.head.kinds, "heart beat"),
    )
    raw = replace(
        truth,
        samples=truth.samples + field[:, None] * source,
        sources=np.vstack([truth.sources, source]),
        head=head,
    )
    drift = 5e-5 * np.sin(2 * np.pi * 0.25 * times)  # (S,) breathing
    ecg = LEAD * _waves(times, at, CHEST) + drift + 2e-5 * rng.standard_normal(times.size)  # (S,)
    return HeartTruth(raw, ecg[None], at)


def _waves(times: Array, beats: Array, waves: tuple[tuple[float, float, float], ...]) -> Array:
    out = np.zeros(times.size)  # (S,)
    for centre, width, height in waves:
        for beat in beats + centre:
            near = slice(*np.searchsorted(times, [beat - 5 * width, beat + 5 * width]))
            out[near] += height * np.exp(-0.5 * ((times[near] - beat) / width) ** 2)
    return out
