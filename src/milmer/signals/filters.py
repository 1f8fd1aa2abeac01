"""Filters that stay within one trial: gaps, notch, band and resampling, on (channels, samples) arrays."""

from __future__ import annotations

from fractions import Fraction

import mne
import numpy as np
from numpy.typing import NDArray
from scipy import signal as sps

Array = NDArray[np.float64]

LONGEST_GAP = 0.5  # seconds: a longer gap holds whole cycles of the slow bands, so a straight line would invent signal
NOTCH_WIDTH = 2.0  # Hz at -3 dB: narrow enough for the bands, short enough in time for 3 s of padding


def fill_gaps(x: NDArray[np.floating], rate: float) -> tuple[Array, Array]:
    """Bridge samples that are not finite with straight lines.

    Parameters
    ----------
    x : ndarray, shape (C, S)
        Any unit; NaN or infinite where missing.
    rate : float
        Samples a second.

    Returns
    -------
    filled : ndarray of float64, shape (C, S)
        A copy without gaps; a channel without any finite sample becomes zeros.
    longest : ndarray of float64, shape (C,)
        The longest gap of each channel in seconds.
    """
    filled = np.array(x, dtype=np.float64)  # (C, S)
    missing = ~np.isfinite(filled)  # (C, S)
    longest = np.zeros(len(filled))  # (C,)
    time = np.arange(filled.shape[1])  # (S,)
    for c in np.flatnonzero(missing.any(axis=1)):
        gap = missing[c]  # (S,)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], gap, [False]]).astype(np.int8)))  # (2 * gaps,)
        longest[c] = np.max(edges[1::2] - edges[::2]) / rate
        filled[c, gap] = 0.0 if gap.all() else np.interp(time[gap], time[~gap], filled[c, ~gap])
    return filled, longest


def fitting_band(band: tuple[float | None, float | None], rate: float) -> tuple[float | None, float | None]:
    """Return the band with an upper edge only where a low-pass of a sensible length fits below half the rate."""
    low, high = band
    if high is not None and high > rate / 2 - 1.0:
        high = None
    if low is not None and low <= 0:
        low = None
    return low, high


def bandpass(x: Array, rate: float, low: float | None, high: float | None) -> Array:
    """Filter with a zero-phase FIR; the ends are mirrored.

    The transition below `low` is 1 Hz wide at 1 Hz, so the filter reaches 1.65 s to either side.

    Parameters
    ----------
    x : ndarray, shape (C, S)
        Finite samples.
    rate : float
        Samples a second.
    low, high : float or None
        Edges of the pass band in Hz, or None for none.

    Returns
    -------
    ndarray of float64, shape (C, S)
    """
    if low is None and high is None:
        return x
    return np.asarray(  # (C, S)
        mne.filter.filter_data(
            x, rate, low, high, method="fir", phase="zero", fir_design="firwin", pad="reflect_limited", verbose="ERROR"
        )
    )


def lowpass_edge(high: float | None, rate: float) -> float:
    """Return the frequency in Hz above which `bandpass` lets nothing through."""
    half = rate / 2
    return half if high is None else min(high + max(0.25 * high, 2.0), half)


def notch(x: Array, rate: float, line_freq: float, highest: float) -> Array:
    """Take out mains hum and its harmonics up to `highest` Hz, without a phase shift.

    Parameters
    ----------
    x : ndarray, shape (C, S)
        Finite samples.
    rate, line_freq, highest : float
        Hz.

    Returns
    -------
    ndarray of float64, shape (C, S)
    """
    top = min(highest, rate / 2 - NOTCH_WIDTH)
    padding = min(x.shape[1] - 1, round(1.5 * rate))  # a 2 Hz notch rings for about 0.5 s
    for freq in np.arange(line_freq, top + 1e-9, line_freq):
        b, a = sps.iirnotch(freq, freq / NOTCH_WIDTH, fs=rate)
        x = sps.filtfilt(b, a, x, axis=-1, padlen=padding)  # (C, S)
    return x


def resample(x: Array, rate: float, new_rate: float, before: int = 0, after: int = 0) -> Array:
    """Resample with an anti-alias filter and drop the pads.

    The low-pass falls from 0.84 times to once half the lower rate (-80 dB), and reaches 32 samples of the lower rate
    to either side.

    Parameters
    ----------
    x : ndarray, shape (C, S)
        Samples with `before` and `after` samples of padding.
    rate, new_rate : float
        Samples a second of `x` and of the result.
    before, after : int
        Samples of padding in `x`; the result starts exactly at sample `before`.

    Returns
    -------
    ndarray of float64, shape (C, round((S - before - after) / rate * new_rate))
    """
    length = x.shape[1] - before - after
    wanted = round(length / rate * new_rate)
    if rate == new_rate:
        return x[:, before : before + wanted]  # (C, S')
    ratio = Fraction(new_rate / rate).limit_denominator(2000)
    up, down = ratio.numerator, ratio.denominator
    widest = max(up, down)
    half = 32 * widest
    taps = sps.firwin(2 * half + 1, 0.92 / widest, window=("kaiser", 8.0))  # (2 * half + 1,)
    # Both ends are mirrored, then cut where a whole number of new samples lies before the start: time stays exact.
    margin = -(-half // (up * down)) * down
    if x.shape[1] == 0:
        return np.zeros((len(x), 0))
    x = np.pad(x, ((0, 0), (margin, margin)), mode="reflect", reflect_type="odd")  # (C, S + 2 * margin)
    skip = (margin + before) // down * down
    out = sps.resample_poly(x[:, margin + before - skip :], up, down, axis=-1, window=taps)
    start = skip * up // down
    out = out[:, start : start + wanted]  # (C, S')
    if out.shape[1] < wanted:  # a rate that is no simple fraction of the other can end one sample early
        out = np.pad(out, ((0, 0), (0, wanted - out.shape[1])), mode="edge")  # (C, S')
    return np.asarray(out)
