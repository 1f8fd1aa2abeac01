"""A store's EEG as MNE-Python's objects, for whoever goes on there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from milmer.errors import UserError, nearest
from milmer.sections import Component
from milmer.windows import build_windows

if TYPE_CHECKING:
    from milmer.store import Store

HEAD_RADIUS = 0.095  # m: electrodes are stored as places on a unit sphere


def to_raw(store: Store, row: int, *, reject: Sequence[str] = ()) -> Any:
    """Return the EEG of one trial as a Raw.

    Parameters
    ----------
    store : Store
    row : int
        Of ``store.trials``.
    reject : sequence of str
        Kinds of independent component taken out, such as ``"eye blink"``.

    Returns
    -------
    mne.io.RawArray
        Volts, average-referenced; masked channels are in ``info["bads"]``, electrodes have their places.

    Raises
    ------
    UserError
        If there is no such trial, or it has no EEG.
    """
    import mne

    _check_kinds(reject)
    if not 0 <= row < len(store.trials):
        raise UserError(f"{store.path}: row {row} of {len(store.trials)} trials; give one from 0")
    trial = store.trials.iloc[row]
    if not trial["has_eeg"]:
        raise UserError(f"{store.path}: subject {trial['subject']}, trial {trial['trial']} has no EEG")
    info = _info(store, str(trial["store_key"]))
    samples = np.asarray(store.eeg(row, reject=reject), dtype=np.float64)  # (C, S)
    return mne.io.RawArray(samples, info, verbose="error")


def to_epochs(
    store: Store,
    *,
    window: float = 3.0,
    step: float | None = None,
    reject: Sequence[str] = (),
    subjects: Sequence[str] = (),
    label: str | None = None,
) -> Any:
    """Return windows of EEG as Epochs.

    Parameters
    ----------
    store : Store
    window, step : float
        Length and distance in seconds; without `step`, windows do not overlap. A last window that is short is left out.
    reject : sequence of str
        Kinds of independent component taken out.
    subjects : sequence of str
        Only of these; without any of all.
    label : str, optional
        Column of the trials that names the events, such as ``label`` or ``stimulus``; without it all are ``window``.

    Returns
    -------
    mne.EpochsArray
        Volts; one epoch a window, time zero is its start. ``metadata`` has the trial's columns, and ``start`` and
        ``stop`` (s from the trial's start), for splits by trial, subject or stimulus.

    Raises
    ------
    UserError
        If no window is left, or the recordings have different channels.
    """
    import mne

    _check_kinds(reject)
    table = build_windows(store.trials, window, step, ("eeg",))
    size = round(window * store.eeg_rate)
    first = np.round(table["start"].to_numpy() * store.eeg_rate)  # (n,)
    whole = first + size <= table["eeg_samples"].to_numpy()  # (n,)
    if subjects:
        if missing := set(map(str, subjects)) - set(table["subject"].astype(str)):
            raise UserError(f"{store.path}: no subject {', '.join(sorted(missing))} with EEG in it")
        whole &= table["subject"].astype(str).isin([str(s) for s in subjects]).to_numpy()
    if label is not None and label not in table:
        raise UserError(f"{store.path}: trials have no column '{label}'; found {', '.join(map(str, store.trials))}")
    table = table[whole].reset_index(drop=True)
    keys = list(dict.fromkeys(table["store_key"].astype(str)))
    if not keys:
        raise UserError(f"{store.path}: no whole window of {window:g} s with EEG; give a shorter one")
    channels = {store.recording(k).names for k in keys}
    if len(channels) > 1:
        odd = next(k for k in keys if store.recording(k).names != store.recording(keys[0]).names)
        raise UserError(
            f"{store.path}: {keys[0]} and {odd} have different channels, which one Epochs cannot hold; name subjects "
            "of one cap"
        )
    samples = np.empty((len(table), len(next(iter(channels))), size))  # (n, C, S)
    for i, (row, start) in enumerate(zip(table["trial_row"], table["start"], strict=True)):
        samples[i] = store.eeg(int(row), float(start), float(start) + window, reject)[:, :size]  # (C, S)
    kinds = table[label].astype(str).to_numpy() if label is not None else np.full(len(table), "window")  # (n,)
    names, codes = np.unique(kinds, return_inverse=True)
    events = np.column_stack([np.arange(len(table)) * size, np.zeros(len(table)), codes + 1]).astype(int)  # (n, 3)
    info = _info(store, keys[0])
    bads = sorted({c for k in keys for c in store.recording(k).masked})
    info["bads"] = bads
    return mne.EpochsArray(
        samples,
        info,
        events,
        event_id={str(name) or "none": i + 1 for i, name in enumerate(names)},
        metadata=table,
        proj=False,
        verbose="error",
    )


def _check_kinds(reject: Sequence[str]) -> None:
    known = get_args(Component)
    for kind in reject:
        if kind not in known:
            names = ", ".join(known)
            raise UserError(f"reject: '{kind}' is no kind of component; known are {names}{nearest(kind, known)}")


def _info(store: Store, key: str) -> Any:
    import mne

    recording = store.recording(key)
    info = mne.create_info(list(recording.names), recording.rate, "eeg", verbose="error")
    placed = {
        name: HEAD_RADIUS * place
        for name, place in zip(recording.names, recording.positions, strict=True)
        if np.isfinite(place).all()
    }
    if placed:
        info.set_montage(
            mne.channels.make_dig_montage(placed, coord_frame="head"), on_missing="ignore", verbose="error"
        )
    low, high = store.info["parameters"]["eeg"]["band"]
    with info._unlock():  # what MNE's own filters would have written there
        info["highpass"], info["lowpass"] = float(low), float(min(high, recording.rate / 2))
    info["bads"] = list(recording.masked)
    return info
