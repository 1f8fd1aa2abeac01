"""Signals that go in cycles: pulse, ECG and breathing. Their waves, and how fast they go, by neurokit2's methods.

Makowski et al. (2021), NeuroKit2: A Python toolbox for neurophysiological signal processing, Behavior Research Methods
53, 1689-1696. Pulse: Elgendi et al. (2013), PLoS ONE 8(10), e76585. Breathing: Khodadad et al. (2018), Physiological
Measurement 39, 094001.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from milmer.signals.body_channels import BODY_RATE
from milmer.signals.filters import resample

Array = NDArray[np.float64]
Cycles = tuple[Array, dict[str, float], list[str]]  # (2, S) at BODY_RATE, quality, notes
T = TypeVar("T")

BEAT_WIDTH = 0.05  # s, standard deviation of the bump that marks a beat: 1.6 samples at 32 Hz
# What neurokit2 raises where it finds no wave, no crossing, or a signal shorter than its filters.
ODD_SIGNAL = (ValueError, TypeError, IndexError, ZeroDivisionError, UnboundLocalError)


def quietly(call: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a method of neurokit2 without its warnings: what they would say becomes a note of ours."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return call(*args, **options)


def pulse(x: Array, rate: float, before: int, after: int) -> Cycles:
    """Pulse wave and heart rate of a plethysmogram.

    Parameters
    ----------
    x : ndarray, shape (S',)
        Finite samples, any unit.
    rate : float
        Hz; at least 20.
    before, after : int
        Samples of padding in `x`, that help at the ends and are dropped.

    Returns
    -------
    samples : ndarray, shape (2, S)
        The cleaned wave (0.5-8 Hz) of unit deviation, and the heart rate in Hz, at `BODY_RATE`; NaN where not found.
    quality : dict
        ``heart_rate``: the median, Hz.
    notes : list of str
    """
    import neurokit2

    def clean() -> Array:
        return np.asarray(neurokit2.ppg_clean(x, sampling_rate=rate))  # (S',)

    def peaks(wave: Array) -> NDArray[np.int64]:
        return np.asarray(neurokit2.ppg_findpeaks(wave, sampling_rate=rate)["PPG_Peaks"])  # (n,)

    wave, _, pace, notes = _cycles(clean, peaks, "beats", len(x), rate)
    return _on_clock(_standard(wave, before, after), pace, "heart_rate", rate, before, after, notes)


def heart(x: Array, rate: float, before: int, after: int) -> Cycles:
    """Heart rate and beats of an ECG; as `pulse`, but first comes the rate in Hz, then a bump of 1 at each beat."""
    import neurokit2

    def clean() -> Array:
        return np.asarray(neurokit2.ecg_clean(x, sampling_rate=rate))  # (S',)

    def peaks(wave: Array) -> NDArray[np.int64]:
        return np.asarray(neurokit2.ecg_peaks(wave, sampling_rate=rate)[1]["ECG_R_Peaks"])  # (n,)

    _, found, pace, notes = _cycles(clean, peaks, "beats", len(x), rate)
    both, quality, notes = _on_clock(np.full(len(x), np.nan), pace, "heart_rate", rate, before, after, notes)
    times = _clock(len(x), rate, before, after)  # (S,)
    if len(found):
        apart = times[:, None] - found[None] / rate  # (S, n)
        both[0] = np.exp(-0.5 * (np.abs(apart).min(axis=1) / BEAT_WIDTH) ** 2)  # (S,)
    return both[::-1], quality, notes


def breathing(x: Array, rate: float, before: int, after: int) -> Cycles:
    """Breathing wave (0.05-3 Hz, unit deviation) and rate in Hz, from trough to trough; as `pulse`."""
    import neurokit2

    def clean() -> Array:
        return np.asarray(neurokit2.rsp_clean(x, sampling_rate=rate))  # (S',)

    def troughs(wave: Array) -> NDArray[np.int64]:
        return np.asarray(neurokit2.rsp_peaks(wave, sampling_rate=rate)[1]["RSP_Troughs"])  # (n,)

    wave, _, pace, notes = _cycles(clean, troughs, "breaths", len(x), rate)
    return _on_clock(_standard(wave, before, after), pace, "respiration_rate", rate, before, after, notes)


def _cycles(
    clean: Callable[[], Array],
    find: Callable[[Array], NDArray[np.int64]],
    what: str,
    length: int,
    rate: float,
) -> tuple[Array, NDArray[np.int64], Array, list[str]]:
    """Wave (S',), places of the cycles (n,), and cycles a second (S',); NaN and a note where there are too few."""
    from neurokit2 import signal_rate

    nothing = np.full(length, np.nan)  # (S',)
    none = np.zeros(0, dtype=np.int64)  # (0,)
    try:
        wave = quietly(clean)  # (S',)
    except ODD_SIGNAL:
        return nothing, none, nothing, [f"too short to find {what}"]
    try:
        found = quietly(find, wave)  # (n,)
        pace = np.asarray(quietly(signal_rate, found, sampling_rate=rate, desired_length=length)) / 60  # (S',)
    except ODD_SIGNAL:
        return wave, none, nothing, [f"no {what} found"]
    if not np.isfinite(pace).any():
        return wave, found, nothing, [f"too few {what} for a rate (four are needed)"]
    return wave, found, pace, []


def _clock(length: int, rate: float, before: int, after: int) -> Array:
    """Seconds from the start of the padded signal of each sample at `BODY_RATE`, (S,)."""
    wanted = round((length - before - after) / rate * BODY_RATE)
    return before / rate + np.arange(wanted) / BODY_RATE  # (S,)


def _standard(wave: Array, before: int, after: int) -> Array:
    """Bring the part within the trial to zero mean and unit deviation, (S',)."""
    inner = wave[before : len(wave) - after]  # (S'',)
    deviation = inner.std()
    return (wave - inner.mean()) / deviation if deviation > 0 else np.full_like(wave, np.nan)  # (S',)


def _on_clock(wave: Array, pace: Array, name: str, rate: float, before: int, after: int, notes: list[str]) -> Cycles:
    times = _clock(len(wave), rate, before, after)  # (S,)
    slow = np.interp(times, np.arange(len(pace)) / rate, pace)  # (S,)
    if np.isfinite(wave).all():
        wave = resample(wave[None], rate, BODY_RATE, before, after)[0]  # (S,)
    else:
        wave = np.full(len(times), np.nan)  # (S,)
    quality = {name: float(np.median(slow))} if np.isfinite(slow).any() else {}
    return np.stack([wave, slow]), quality, notes
