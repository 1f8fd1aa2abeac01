"""Windows whose EEG swings too far: their EEG is left out, the same in training and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from milmer.errors import UserError
from milmer.windows import holds

if TYPE_CHECKING:
    import pandas as pd

    from milmer.training.reading import EEGReader


def kept_windows(
    reader: EEGReader, windows: pd.DataFrame, faces: NDArray[np.int64]
) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.bool_], tuple[str, ...]]:
    """Leave out the EEG of windows that swing too far (``data.reject_uv``), and windows that then hold nothing.

    Parameters
    ----------
    windows : DataFrame, n_windows long
        As `milmer.windows.build_windows` makes them.
    faces : ndarray of int, shape (n_windows, N)
        Rows of the face track of each window, -1 for none.

    Returns
    -------
    windows : DataFrame, n_kept long
    faces : ndarray of int, shape (n_kept, N)
    there : ndarray of bool, shape (n_kept,)
        Which windows have EEG that a model is given.
    notes : tuple of str
        How many were left out, and what else was done to the EEG at read.

    Raises
    ------
    UserError
        If no window's EEG is left.
    """
    trials, data = reader.store.trials, reader.data
    rows = windows["trial_row"].to_numpy(np.int64)  # (n_windows,)
    seconds = trials["eeg_samples"].to_numpy(np.float64)[rows] / reader.store.eeg_rate  # (n_windows,)
    there = trials["has_eeg"].to_numpy(np.bool_)[rows] & (
        windows["start"].to_numpy(np.float64) < seconds
    )  # (n_windows,)
    if "eeg" not in data.modalities:
        return windows, faces, there, ()
    if data.reject_uv is None:
        return windows, faces, there, reader.notes
    swings = reader.swings(windows)  # (n_windows,)
    out = there & (swings > data.reject_uv)  # (n_windows,)
    other = (faces >= 0).any(axis=1)  # (n_windows,)
    for name in sorted(set(data.modalities) - {"eeg", "face"}):
        other |= holds(trials, name)[rows]  # (n_windows,)
    keep = ~out | other  # (n_windows,)
    if there.any() and out.sum() == there.sum():
        raise UserError(
            f"data.reject_uv {data.reject_uv:g}: the EEG of every window swings further (median "
            f"{np.nanmedian(swings):.0f} uV peak to peak); give a larger one (--reject-uv), or leave out eeg "
            "(--modalities)"
        )
    note = (
        f"{int(out.sum())} of {int(there.sum())} windows with EEG swing further than {data.reject_uv:g} uV peak to peak"
    )
    if reader.unfitted:
        note += " before components are taken out"
    note += ": their EEG is left out"
    if gone := int((~keep).sum()):
        note += f", and {gone} that hold nothing else are left out wholly"
    return windows[keep].reset_index(drop=True), faces[keep], there[keep] & ~out[keep], (*reader.notes, note)
