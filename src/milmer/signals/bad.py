"""Find channels that carry no usable EEG, and the matrix that repairs them from their neighbours."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import mne
import numpy as np
from numpy.typing import NDArray
from scipy import signal as sps

Array = NDArray[np.float64]

FEWEST_NEIGHBOURS = 8  # good channels with known positions that a spherical spline needs here
MOST_NOISY = 1 / 3  # share of the channels; where more look noisy, the measure is at fault and not the channels


def noisy_channels(chunks: NDArray[np.floating], rate: float, skip: NDArray[np.bool_]) -> dict[int, str]:
    """Find channels far noisier, far quieter or far less like the others than the rest.

    Every measure is a median over windows of one second, so that blinks and bursts, which fill a minority of them,
    do not count against the channels that show them; loud channels that another channel agrees with are kept.

    Parameters
    ----------
    chunks : ndarray, shape (E, C, L)
        Stretches of filtered signal before re-referencing.
    rate : float
        Samples a second.
    skip : ndarray of bool, shape (C,)
        Channels already known to be bad.

    Returns
    -------
    dict
        Channel index to the reason in words.
    """
    good = np.flatnonzero(~skip)  # (G,)
    n_channels, length = len(good), chunks.shape[2]
    if n_channels < 6 or not chunks.size:
        return {}
    size = max(2, min(length, round(rate)))
    per_chunk = length // size
    sos = sps.butter(4, min(30.0, 0.3 * rate), "highpass", fs=rate, output="sos")
    amplitude, fast, likeness = [], [], []
    for chunk in chunks:
        x = np.asarray(chunk[good], dtype=np.float64)  # (G, L)
        high = sps.sosfilt(sos, x, axis=-1)  # (G, L)
        for k in range(per_chunk):
            part = x[:, k * size : (k + 1) * size]  # (G, size)
            spread = np.std(part, axis=1)  # (G,)
            amplitude.append(spread)
            fast.append(np.std(high[:, k * size : (k + 1) * size], axis=1))
            part = (part - part.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-30)[:, None]  # (G, size)
            corr = np.abs(part @ part.T) / size  # (G, G)
            np.fill_diagonal(corr, 0.0)
            likeness.append(corr.max(axis=1))
    loud, loud_z = _excess(np.asarray(np.median(amplitude, axis=0)))  # (G,), (G,)
    hiss, hiss_z = _excess(np.asarray(np.median(fast, axis=0)))  # (G,), (G,)
    like = np.asarray(np.median(likeness, axis=0))  # (G,)
    found: dict[int, str] = {}
    for i, c in enumerate(good):
        if loud[i] > np.log(5) and loud_z[i] > 5 and like[i] < 0.9:
            found[int(c)] = f"{np.exp(loud[i]):.0f} times as loud as the others"
        elif loud[i] < -np.log(10) and loud_z[i] < -5:
            found[int(c)] = f"{np.exp(-loud[i]):.0f} times as quiet as the others"
        elif hiss[i] > np.log(5) and hiss_z[i] > 5 and like[i] < 0.5:
            found[int(c)] = f"{np.exp(hiss[i]):.0f} times the fast noise of the others"
        elif like[i] < 0.3 and like[i] < 0.5 * np.median(like):
            found[int(c)] = "unlike every other channel"
    return found if len(found) <= MOST_NOISY * n_channels else {}


def _excess(value: Array) -> tuple[Array, Array]:
    """Natural logarithm of value over median, and its robust z-score: shape (G,) both."""
    log = np.log(np.maximum(value, 1e-30))  # (G,)
    excess: Array = log - np.median(log)  # (G,)
    # Twelve good channels may agree to a percent: the floor keeps a harmless 30 % from looking like an outlier.
    scale = max(1.4826 * float(np.median(np.abs(excess))), 0.2)
    return excess, excess / scale


def repair_matrix(
    names: Sequence[str], positions: Array, bad: Collection[int], reference: bool
) -> tuple[Array, list[int]]:
    """Matrix that interpolates bad channels by spherical splines and applies the average reference.

    Parameters
    ----------
    names : sequence of str, length C
        Channel names.
    positions : ndarray, shape (C, 3)
        Electrode positions on the unit sphere; NaN where unknown.
    bad : collection of int
        Channels to replace.
    reference : bool
        Whether to subtract the mean of all channels that are present afterwards.

    Returns
    -------
    matrix : ndarray of float64, shape (C, C)
        ``matrix @ x`` is the repaired signal; rows of masked channels are zero.
    masked : list of int
        Bad channels that could not be interpolated: no position, or fewer than eight good neighbours.
    """
    n_channels = len(names)
    bad = set(bad)
    placed = np.asarray(np.isfinite(positions).all(axis=1))  # (C,)
    good = [c for c in range(n_channels) if placed[c] and c not in bad]
    can = len(good) >= FEWEST_NEIGHBOURS
    masked = sorted(c for c in bad if not (can and placed[c]))
    matrix = np.eye(n_channels)  # (C, C)
    matrix[sorted(bad)] = 0.0
    mend = sorted(bad - set(masked))
    if mend:
        matrix[mend] = _spline_rows(names, positions, good, mend)  # (bad, C)
    if reference:
        present = np.ones(n_channels)  # (C,)
        present[masked] = 0.0
        matrix -= np.outer(present, present @ matrix) / max(present.sum(), 1.0)  # (C, C)
    return matrix, masked


def _spline_rows(names: Sequence[str], positions: Array, good: list[int], mend: list[int]) -> Array:
    """Weights of the good channels in the mended ones, shape (len(mend), C), by interpolating unit impulses."""
    use = good + mend
    labels = [names[c] for c in use]
    info = mne.create_info(labels, 100.0, "eeg", verbose="ERROR")
    head = {names[c]: 0.095 * positions[c] for c in use}
    with mne.use_log_level("ERROR"):
        info.set_montage(mne.channels.make_dig_montage(head, coord_frame="head"))
        raw = mne.io.RawArray(np.eye(len(use)), info)  # interpolation is linear: an impulse a channel is its matrix
        raw.info["bads"] = [names[c] for c in mend]
        raw.interpolate_bads(origin=(0.0, 0.0, 0.0))
    rows = np.zeros((len(mend), len(names)))  # (bad, C)
    rows[:, good] = raw.get_data()[len(good) :, : len(good)]
    return rows
