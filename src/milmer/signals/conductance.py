"""Skin conductance: its slow level and its fast responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from milmer.datasets.base import Signal
from milmer.signals.body_channels import BODY_RATE
from milmer.signals.body_cycles import ODD_SIGNAL, Array, quietly
from milmer.signals.filters import fill_gaps, resample

SLOWEST_RESPONSE = 0.05  # Hz: what of skin conductance is faster is phasic
NOMINAL_OHM = 200e3  # a skin of 5 microsiemens: stands for the level where a resistance has lost it
_SKIN_OHM = (1e3, 5e7)  # a median outside is no resistance of a skin
_NOT_POSITIVE = 0.05  # share of values at or below zero beyond which the level has been taken off


def has_level(signals: Sequence[Signal]) -> bool:
    """Whether skin conductance or resistance of the trials of one recording can be absolute.

    Preprocessed files may have had their offset taken off (values around zero): then 1/x says nothing. One such trial
    is enough, for all trials of a recording went the same way.
    """
    for signal in signals:
        known = signal.samples[np.isfinite(signal.samples)]  # (n,)
        if len(known) and np.mean(known <= 0) > _NOT_POSITIVE:
            return False
        if len(known) and signal.unit == "ohm" and not _SKIN_OHM[0] <= np.median(known) <= _SKIN_OHM[1]:
            return False
    return True


def conductance(x: Array, rate: float, before: int, after: int, unit: str, absolute: bool) -> tuple[Array, list[str]]:
    """Take skin conductance apart with neurokit2's high-pass at `SLOWEST_RESPONSE`.

    Parameters
    ----------
    x : ndarray, shape (S',)
        Finite samples in `unit`.
    rate : float
        Hz.
    before, after : int
        Samples of padding in `x`, that help at the ends and are dropped.
    unit : str
        "S" or "ohm"; anything else is kept as it is.
    absolute : bool
        Whether the level is known; see `has_level`.

    Returns
    -------
    samples : ndarray, shape (2, S)
        Tonic and phasic at `BODY_RATE`, siemens; NaN where it cannot be had.
    notes : list of str
    """
    import neurokit2

    notes = []
    if unit == "ohm" and absolute:
        if (wrong := x <= 0).any():
            notes.append("values at or below zero, which no resistance has, are bridged")
            x = fill_gaps(np.where(wrong, np.nan, x)[None], rate)[0][0]  # (S',)
        x = 1.0 / x  # (S',)
    elif unit == "ohm":
        x = -(x - np.median(x)) / NOMINAL_OHM**2  # (S',)
        notes.append(
            f"no resistance of a skin (its level was taken off, or it is in another unit): phasic as around "
            f"{NOMINAL_OHM / 1e3:g} kOhm, no tonic"
        )
    elif unit != "S":
        notes.append(f"unit '{unit}', expected S or ohm: kept in its own")
    elif not absolute:
        notes.append("values around zero (its level was taken off): no tonic")
    level = np.median(x)  # filters start from zero
    scale = np.abs(x - level).max() or 1.0  # their thresholds are made for microsiemens
    try:
        clean = quietly(neurokit2.eda_clean, (x - level) / scale, sampling_rate=rate)  # (S',)
    except ODD_SIGNAL:
        clean = (x - level) / scale  # (S',)
    tonic, phasic = np.asarray(clean), np.full(len(x), np.nan)  # (S',), (S',)
    if len(x) / rate >= 1 / SLOWEST_RESPONSE:
        parts = quietly(neurokit2.eda_phasic, clean, sampling_rate=rate, method="highpass", cutoff=SLOWEST_RESPONSE)
        tonic, phasic = parts["EDA_Tonic"].to_numpy(), parts["EDA_Phasic"].to_numpy()  # (S',), (S',)
    else:
        notes.append(f"shorter than {1 / SLOWEST_RESPONSE:g} s: not taken apart, all of it is tonic")
    wanted = resample(np.nan_to_num(np.stack([tonic, phasic])), rate, BODY_RATE, before, after) * scale  # (2, S)
    wanted[0] += level
    if np.isnan(phasic).any():
        wanted[1] = np.nan
    if not absolute:
        wanted[0] = np.nan
    return wanted, notes
