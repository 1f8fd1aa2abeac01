"""Peripheral signals (pulse, skin conductance, respiration, temperature): resampled, without padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milmer.datasets.base import Signal
from milmer.errors import UserError
from milmer.signals.filters import fill_gaps, resample

HIGHEST_RATE = 128.0  # Hz: enough for the pulse wave's shape; skin conductance and temperature are far slower


def prepare_peripheral(signal: Signal, rate: float | None = None) -> tuple[NDArray[np.float32], float]:
    """Resample one peripheral channel with an anti-alias filter and drop its padding.

    Parameters
    ----------
    signal : Signal
        One channel, shape (1, S), any unit.
    rate : float, optional
        Samples a second to bring it to; without one the signal's own, at most 128 Hz.

    Returns
    -------
    samples : ndarray of float32, shape (round(seconds * rate),)
        Same unit. Missing samples are bridged by straight lines; a channel without any sample stays NaN.
    rate : float
        Samples a second.

    Raises
    ------
    UserError
        If the signal has not exactly one channel.
    """
    if len(signal.samples) != 1:
        raise UserError(
            f"peripheral signal {', '.join(signal.names)}: found {len(signal.samples)} channels, expected one; "
            "give each channel a name of its own"
        )
    rate = min(signal.rate, HIGHEST_RATE) if rate is None else rate
    before, after = round(signal.pad_before * signal.rate), round(signal.pad_after * signal.rate)
    x, _ = fill_gaps(signal.samples, signal.rate)  # (1, S)
    level = np.median(x)  # the filter starts from zero, and a temperature of 36 degrees does not
    out = resample(x - level, signal.rate, rate, before, after)[0] + level  # (S',)
    if not np.isfinite(signal.samples).any():
        out = np.full_like(out, np.nan)  # (S',)
    return out.astype(np.float32), rate
