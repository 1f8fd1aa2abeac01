"""The pulse: from the colour of skin, and brought to one form with what a plethysmograph or an ECG shows of it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import signal as sps

from milmer.errors import UserError

Array = NDArray[np.float64]

BAND = (0.7, 4.0)  # Hz: 42 to 240 beats a minute
WINDOW = 1.6  # seconds: one beat at least, and light that hardly drifts (Wang et al. 2017, section V)
QRS = (8.0, 20.0)  # Hz: where an ECG has its sharp wave and little else
EVEN = 4.0  # seconds over which the size of a wave is made even
LIMIT = 3.0  # deviations at which what is left of a movement is cut
_POS = np.array([[0.0, 1.0, -1.0], [-2.0, 1.0, 1.0]])  # (2, 3) plane orthogonal to the skin tone


def pos(rgb: NDArray[np.floating], rate: float) -> Array:
    """Pulse wave from skin colour by a plane orthogonal to the skin tone.

    In each window of 1.6 s the colour is divided by its mean and projected on two axes, S1 = G - B and
    S2 = G + B - 2 R; h = S1 + (std S1 / std S2) S2; the windows, without their means, are added up.

    Parameters
    ----------
    rgb : ndarray, shape (n, 3)
        Mean red, green and blue of the skin, any positive unit, equally spaced; NaN where missing.
    rate : float
        Samples a second, more than 8.

    Returns
    -------
    ndarray, shape (n,)
        0.7-4 Hz, without unit, rising with the light that the skin sends back (less blood); NaN where `rgb` has NaN.

    Raises
    ------
    UserError
        If `rate` cannot carry 4 Hz.

    References
    ----------
    Wang, den Brinker, Stuijk, de Haan: Algorithmic principles of remote PPG. IEEE Transactions on Biomedical
    Engineering 64 (2017) 1479, algorithm 1.
    """
    colour, missing = _ready(rgb, rate)  # (n, 3), (n,)
    length = min(max(2, round(WINDOW * rate)), len(colour))
    wave = np.zeros(len(colour))  # (n,)
    if length < 2:
        return np.where(missing, np.nan, wave)
    windows = sliding_window_view(colour, length, axis=0)  # (n - l + 1, 3, l)
    even = windows / np.maximum(windows.mean(axis=2, keepdims=True), 1e-12)  # (n - l + 1, 3, l)
    first, second = np.moveaxis(_POS @ even, 1, 0)  # (n - l + 1, l) each
    size = second.std(axis=1)  # (n - l + 1,)
    share = np.divide(first.std(axis=1), size, out=np.zeros_like(size), where=size > 1e-12)  # (n - l + 1,)
    both = first + share[:, None] * second  # (n - l + 1, l)
    both -= both.mean(axis=1, keepdims=True)  # (n - l + 1, l)
    for k in range(length):
        wave[k : k + len(both)] += both[:, k]
    return _band(wave, missing, rate)  # (n,)


def chrom(rgb: NDArray[np.floating], rate: float) -> Array:
    """Pulse wave from skin colour by two colour differences that white light and its shine leave alone.

    With the colour divided by its mean over 1.6 s around each sample, X = 3 R - 2 G and Y = 1.5 R + G - 1.5 B, both
    filtered to 0.7-4 Hz; in windows of 1.6 s that overlap by half and are faded in and out (Hann) the wave is
    (std X / std Y) Y - X. The sign is turned against the paper's, so that it rises together with that of `pos`.

    Parameters, returns and errors are those of `pos`.

    References
    ----------
    de Haan, Jeanne: Robust pulse rate from chrominance-based rPPG. IEEE Transactions on Biomedical Engineering 60
    (2013) 2878, equations 9-15.
    """
    colour, missing = _ready(rgb, rate)  # (n, 3), (n,)
    half = max(1, round(WINDOW * rate / 2))
    n = len(colour)
    if n < 2:
        return np.where(missing, np.nan, np.zeros(n))
    # Padded by a window on either side, so that every sample is in two windows.
    padded = np.pad(colour, ((2 * half, 2 * half), (0, 0)), mode="reflect" if n > 2 * half else "edge")  # (n', 3)
    smooth = sps.fftconvolve(
        np.pad(padded, ((half, half), (0, 0)), mode="edge"), np.full((2 * half + 1, 1), 1 / (2 * half + 1)), "valid", 0
    )  # (n', 3) the mean of the window around each sample
    even = padded / np.maximum(smooth, 1e-12)  # (n', 3)
    x = _filtered(3 * even[:, 0] - 2 * even[:, 1], rate)  # (n',)
    y = _filtered(1.5 * even[:, 0] + even[:, 1] - 1.5 * even[:, 2], rate)  # (n',)
    fade = sps.windows.hann(2 * half, sym=False)  # (2 half,) two that overlap by half add to one
    wave = np.zeros(len(padded))  # (n',)
    for start in range(0, len(padded) - 2 * half + 1, half):
        a, b = x[start : start + 2 * half], y[start : start + 2 * half]  # (2 half,)
        share = a.std() / b.std() if b.std() > 1e-12 else 0.0
        wave[start : start + 2 * half] += fade * (share * b - a)
    return _band(wave[2 * half : 2 * half + n], missing, rate)  # (n,)


def body_wave(samples: NDArray[np.floating], rate: float, kind: Literal["ppg", "ecg"]) -> Array:
    """Bring a plethysmograph or an ECG to a wave with one hump a beat, 0.7-4 Hz.

    Of an ECG it is the energy between 8 and 20 Hz, where the sharp wave of each beat is, cut at its 98th percentile.

    Parameters
    ----------
    samples : ndarray, shape (S,)
        Any unit; NaN where missing.
    rate : float
        Samples a second: more than 8 for ``ppg``, more than 40 for ``ecg``.
    kind : {"ppg", "ecg"}

    Returns
    -------
    ndarray, shape (S,)
        Without unit; NaN where `samples` has NaN.

    Raises
    ------
    UserError
        If `rate` is too low.
    """
    if kind == "ecg" and rate <= 2 * QRS[1]:
        raise UserError(f"ECG at {rate:g} Hz: expected more than {2 * QRS[1]:g} Hz to see single beats in it")
    filled, missing = _filled(np.asarray(samples, dtype=np.float64)[:, None])  # (S, 1), (S,)
    wave = filled[:, 0]  # (S,)
    if kind == "ecg":
        energy = _filtered(wave, rate, QRS) ** 2  # (S,)
        wave = np.minimum(energy, np.quantile(energy, 0.98)) if energy.size else energy  # (S,)
    _carries(rate)
    return _band(wave, missing, rate)  # (S,)


def evened(wave: NDArray[np.floating], rate: float) -> Array:
    """Make the size of a wave even over time and cut what sticks out, so that a movement does not outweigh the pulse.

    Parameters
    ----------
    wave : ndarray, shape (n,)
        Zero mean; NaN where missing, which becomes 0.
    rate : float
        Samples a second.

    Returns
    -------
    ndarray, shape (n,)
        About unit deviation.
    """
    known = np.isfinite(wave)  # (n,)
    x = np.where(known, wave, 0.0)  # (n,)
    if not known.any() or not x.any():
        return np.zeros(len(x))  # (n,)
    length = min(len(x), max(3, round(EVEN * rate)))
    box = np.ones(length)  # (l,)
    power = sps.fftconvolve(x * x, box, "same") / np.maximum(sps.fftconvolve(known.astype(float), box, "same"), 1.0)
    floor = 0.1 * float(np.median(power[known]))  # a stretch without pulse must not be blown up
    out = x / np.sqrt(np.maximum(power, floor) + 1e-300)  # (n,)
    return np.asarray(np.clip(out, -LIMIT, LIMIT))  # (n,)


def heart_rate(wave: NDArray[np.floating], rate: float) -> float:
    """Strongest frequency of a pulse wave between 0.7 and 4 Hz.

    Parameters
    ----------
    wave : ndarray, shape (n,)
        NaN where missing.
    rate : float
        Samples a second.

    Returns
    -------
    float
        Beats a second (Hz); NaN where there are less than 3 s of wave, or nothing in it.
    """
    x = np.where(np.isfinite(wave), wave, 0.0)  # (n,)
    if np.isfinite(wave).sum() < 3 * rate or not x.any():
        return float("nan")
    size = int(2 ** np.ceil(np.log2(max(len(x), 60 * rate))))  # steps of a sixtieth hertz at most
    power = np.abs(np.fft.rfft(x * np.hanning(len(x)), size)) ** 2  # (F,)
    freqs = np.fft.rfftfreq(size, 1 / rate)  # (F,)
    inside = np.flatnonzero((freqs >= BAND[0]) & (freqs <= BAND[1]))  # (f,)
    peak = int(inside[np.argmax(power[inside])])
    left, middle, right = np.log(power[peak - 1 : peak + 2] + 1e-300)
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return float((peak + np.clip(shift, -0.5, 0.5)) * rate / size)


def _ready(rgb: NDArray[np.floating], rate: float) -> tuple[Array, NDArray[np.bool_]]:
    _carries(rate)
    return _filled(np.asarray(rgb, dtype=np.float64))


def _carries(rate: float) -> None:
    if rate <= 2 * BAND[1]:
        raise UserError(f"pulse at {rate:g} Hz: expected more than {2 * BAND[1]:g} Hz, which 4 Hz needs")


def _filled(x: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Bridge missing rows of (n, c) by straight lines; say which they were."""
    missing: NDArray[np.bool_] = np.asarray(~np.isfinite(x).all(axis=1))  # (n,)
    if missing.all():
        return np.zeros_like(x), missing
    if missing.any():
        at = np.arange(len(x))  # (n,)
        x = np.stack([np.interp(at, at[~missing], column[~missing]) for column in x.T], axis=1)  # (n, c)
    return x, missing


def _filtered(x: Array, rate: float, band: tuple[float, float] = BAND) -> Array:
    """Zero-phase band-pass of (n,); the mean alone is taken off where there are too few samples for it."""
    sections = sps.butter(2, band, "bandpass", fs=rate, output="sos")
    pad = min(len(x) - 1, round(2 * rate))
    x = x - x.mean() if x.size else x  # (n,)
    return np.asarray(sps.sosfiltfilt(sections, x, padlen=pad)) if pad > 0 else x  # (n,)


def _band(wave: Array, missing: NDArray[np.bool_], rate: float) -> Array:
    return np.where(missing, np.nan, _filtered(wave, rate))  # (n,)
