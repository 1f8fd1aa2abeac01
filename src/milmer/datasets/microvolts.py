"""EEG of files that hold plain numbers, which their publishers give in microvolts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError

PLAUSIBLE_UV = (0.1, 1000.0)  # median size of EEG around its median


def to_volts(samples: NDArray[Any], path: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Turn microvolts into volts, and warn where they cannot have been microvolts.

    Parameters
    ----------
    samples : ndarray, shape (n_channels, n_samples)
        EEG as the file has it.
    path : Path
        The file, for what is said.

    Returns
    -------
    volts : ndarray of float64, shape (n_channels, n_samples)
        A copy, so that the file's own array can be let go.
    warnings : tuple of str
        One line where the size is not that of EEG.

    Raises
    ------
    UserError
        If the values are no real numbers.
    """
    if samples.dtype.kind not in "fiu":
        raise UserError(f"{path}: found EEG of type {samples.dtype}, expected real numbers; get the file again")
    volts = samples.astype(np.float64) * 1e-6  # (C, S)
    some = volts[:, :: max(1, volts.shape[1] // 5000)] * 1e6  # (C, <= 10000): enough for a median
    some = some[np.isfinite(some).all(axis=1)]  # (C', <= 10000)
    if not some.size:
        return volts, ()
    typical = float(np.median(np.abs(some - np.median(some, axis=1, keepdims=True))))
    low, high = PLAUSIBLE_UV
    if typical == 0 or low <= typical <= high:  # flat is reported as flat, later
        return volts, ()
    # Rounded to a power of ten, so that a file's trials say the same line.
    size = f"{10.0 ** round(float(np.log10(typical))):.0e}"
    return volts, (
        f"{path.name}: EEG is read as microvolts, but its size is of the order of {size}, expected {low:g}-{high:g}: "
        "the file may be in another unit",
    )
