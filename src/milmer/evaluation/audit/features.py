"""Coarse features of every window of a store: band powers of the EEG, light of the face, level and spread of the body.

No network, no torch. They need not be good at emotion. They must be good at what leaks are made of: which trial, which
film, which person.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milmer.errors import UserError
from milmer.progress import Progress, silent
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE

if TYPE_CHECKING:
    import pandas as pd

    from milmer.config import Data
    from milmer.store import Store
    from milmer.training.reading import EEGReader

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BANDS = ((1.0, 4.0), (4.0, 8.0), (8.0, 13.0), (13.0, 30.0), (30.0, 45.0))  # Hz: delta, theta, alpha, beta, gamma
LINES = tuple((low, low + 2.0) for low in np.arange(1.0, 45.0, 2.0).tolist())  # Hz, averaged over the channels
CELLS, FRAMES = 4, 2  # grey cells along a side of a face, and faces looked at in a window
MOST_WINDOWS, FEWEST_OF_TRIAL = 4000, 2
FLOOR = 1e-4  # µV²: the log of a flat channel's power is not minus infinity
ROUNDING = 1e-12  # of a feature's largest value: less is no difference
CLIP = 6.0  # robust deviations: one wild window must not be all there is


@dataclass(frozen=True)
class Features:
    """Features of windows.

    Parameters
    ----------
    table : DataFrame, n_rows long
        One row a window, as `milmer.windows.build_windows` makes them.
    values : ndarray, shape (n_rows, F)
        As measured; NaN where the window has no such thing.
    modality : ndarray of int, shape (F,)
        0 for EEG, 1 for the face, from 2 on signals of the body.
    notes : tuple of str
        What was left out.
    """

    table: pd.DataFrame
    values: Floats
    modality: Ints
    notes: tuple[str, ...] = ()


def window_features(store: Store, data: Data, progress: Progress = silent, most: int = MOST_WINDOWS) -> Features:
    """Measure every window of a store, or of each trial as many windows as make `most` in all.

    Parameters
    ----------
    store : Store
    data : Data
        Window length and step, modalities, and the components to take out.
    most : int
        More windows than this are thinned out evenly within each trial, down to two a trial.

    Raises
    ------
    UserError
        If no window is left, or none has anything to measure.
    """
    from milmer.training.reading import EEGReader
    from milmer.windows import build_windows, holds

    reader = EEGReader(store, data)
    table = build_windows(store.trials, data.window, data.step, data.modalities)
    total = len(table)
    table = table[_thinned(table["trial_row"].to_numpy(np.int64), most)]
    notes = [] if len(table) == total else [f"{len(table)} of {total} windows looked at, evenly within each trial"]
    rows = table["trial_row"].to_numpy(np.int64)  # (n,)
    bounds = table[["start", "stop"]].to_numpy(np.float64)  # (n, 2)
    channels: list[str] = []
    if "eeg" in data.modalities:
        channels = list(reader.names) or shared_channels(store)
        notes += reader.notes
        if reader.unfitted:
            notes.append("components are left in the EEG: the operators of a fold are fitted by 'milmer evaluate'")
            reader = reader.with_operators({})
        if not channels and bool(store.trials["has_eeg"].any()):
            notes.append("the recordings have no EEG channel in common: their EEG was not looked at")
    blocks = [np.full((len(table), len(channels) * len(BANDS) + len(LINES) * bool(channels)), np.nan)]  # (n, F_eeg)
    face = "face" in data.modalities and bool(store.trials["has_face"].any())
    blocks.append(np.full((len(table), (CELLS * CELLS + 3) * face), np.nan))  # (n, F_face)
    there = {k: holds(store.trials, k) for k in BODY_CHANNELS if k in data.modalities}  # (n_trials,) each
    kinds = [k for k, has in there.items() if has.any()]
    blocks += [np.full((len(table), 2 * len(BODY_CHANNELS[k])), np.nan) for k in kinds]  # (n, 2 P) each
    trials = np.unique(rows)
    for done, row in enumerate(trials.tolist()):
        mine = np.flatnonzero(rows == row)
        trial = store.trials.iloc[row]
        if done % 8 == 0:
            progress(done, trials.size, f"features: {trial['store_key']}")
        if channels and bool(trial["has_eeg"]):
            blocks[0][mine] = _eeg(reader, row, bounds[mine], channels)  # (w, F_eeg)
        if face and bool(trial["has_face"]):
            blocks[1][mine] = _face(store, row, bounds[mine])  # (w, F_face)
        for kind, block in zip(kinds, blocks[2:], strict=True):
            if there[kind][row]:
                block[mine] = _body(store, row, bounds[mine], kind)  # (w, 2 P)
    values = np.concatenate(blocks, axis=1)  # (n, F)
    modality = np.repeat(np.arange(len(blocks)), [b.shape[1] for b in blocks])  # (F,)
    kept = np.isfinite(values).any(axis=0)  # (F,)
    if not kept.any():
        raise UserError(
            f"{store.path}: no window has anything to measure in {' or '.join(data.modalities)}; name other modalities"
        )
    return Features(table.reset_index(drop=True), values[:, kept], modality[kept], tuple(notes))


def standardised(values: ArrayLike, modality: ArrayLike | None = None, within: ArrayLike | None = None) -> Floats:
    """Centre and scale each feature by median and spread; what is missing becomes 0, the middle.

    No label is looked at, so that every test that draws labels at random over these features is exact.

    Parameters
    ----------
    values : array, shape (n, F)
        NaN where missing.
    modality : array of int, shape (F,), optional
        Features of one number share one weight: 19 numbers of a face weigh as much as 180 of the EEG.
    within : array of int, shape (n,), optional
        Centre within each of these groups (a person) instead of over all rows.

    Returns
    -------
    ndarray, shape (n, F)
        Constant features are left out.
    """
    x = np.array(values, dtype=np.float64)  # (n, F)
    x[~np.isfinite(x)] = np.nan
    groups = np.zeros(len(x), dtype=np.int64) if within is None else np.asarray(within)  # (n,)
    for group in np.unique(groups):
        mine = groups == group
        x[mine] -= _median(x[mine])  # (m, F)
    known = np.isfinite(x)  # (n, F)
    x[~known] = 0.0
    spread = 1.4826 * _median(np.where(known, np.abs(x), np.nan))  # (F,)
    counts = np.maximum(known.sum(axis=0), 1)  # (F,)
    plain = np.sqrt((x**2).sum(axis=0) / counts)  # (F,)
    scale = np.where(spread > 0.05 * plain, spread, plain)  # (F,), for a feature that is constant but now and then
    alive = scale > 1e-12 * max(float(scale.max(initial=0.0)), 1e-300)  # (F,)
    x = np.clip(x[:, alive] / scale[alive], -CLIP, CLIP)  # (n, F')
    if modality is not None and alive.any():
        kinds = np.asarray(modality)[alive]  # (F',)
        x /= np.sqrt(np.bincount(kinds)[kinds])  # (n, F')
    return x


UNVARYING = (
    "What a model can read from the signal was not judged: no feature differs between two rows of one subject, so "
    "there is nothing in them to read but who it is; give features that vary."
)


def varies(values: ArrayLike, within: ArrayLike) -> bool:
    """Whether any feature, shape (n, F), differs between two rows of one group, shape (n,), beyond rounding."""
    x = np.asarray(values, dtype=np.float64)  # (n, F)
    known = np.isfinite(x)  # (n, F)
    size = np.abs(np.where(known, x, 0.0)).max(axis=0, initial=0.0)  # (F,)
    groups = np.asarray(within)  # (n,)
    for group in np.unique(groups):
        part, there = x[groups == group], known[groups == group]  # (m, F), (m, F)
        span = np.where(there, part, -np.inf).max(axis=0) - np.where(there, part, np.inf).min(axis=0)  # (F,)
        if (span > ROUNDING * size).any():
            return True
    return False


def _median(x: Floats) -> Floats:
    """Median of each column over what is there, (F,); 0 where nothing is."""
    out = np.zeros(x.shape[1])  # (F,)
    some = np.isfinite(x).any(axis=0)  # (F,)
    if some.any():
        part = x[:, some]  # (n, F')
        out[some] = np.median(part, axis=0) if np.isfinite(part).all() else np.nanmedian(part, axis=0)
    return out


def shared_channels(store: Store) -> list[str]:
    """Names of the EEG channels that every recording with EEG has, in the first one's order."""
    keys = sorted(set(store.trials.loc[store.trials["has_eeg"], "store_key"].astype(str)))
    names = [store.recording(key).names for key in keys]
    return [n for n in names[0] if all(n in other for other in names)] if names else []


def _thinned(trial: Ints, most: int) -> NDArray[np.bool_]:
    """Mark the windows to look at: the first of each of some even stretches of every trial; (n,)."""
    if trial.size <= most:
        return np.ones(trial.size, dtype=np.bool_)
    _, of, counts = np.unique(trial, return_inverse=True, return_counts=True)
    allowed = max(FEWEST_OF_TRIAL, most // counts.size)
    n = counts[of]  # (n,)
    place = np.arange(trial.size) - np.concatenate([[0], np.cumsum(counts)[:-1]])[of]  # (n,), index within the trial
    first = np.floor(place * allowed / n) != np.floor((place - 1) * allowed / n)  # (n,)
    return np.asarray((n <= allowed) | (place == 0) | first, dtype=np.bool_)


def _eeg(reader: EEGReader, row: int, bounds: Floats, channels: list[str]) -> Floats:
    """Log band powers of the windows of one trial, (w, F_eeg); NaN for a channel that is all zeros."""
    read = reader.read(row)  # (C, S)
    names, _, _ = reader.layout(str(reader.store.trials.iloc[row]["store_key"]))
    samples = read[[names.index(c) for c in channels]].astype(np.float64) * 1e6  # (C', S), µV
    rate = reader.store.eeg_rate
    out = np.full((len(bounds), len(channels) * len(BANDS) + len(LINES)), np.nan)  # (w, F_eeg)
    for k, (start, stop) in enumerate(bounds.tolist()):
        piece = samples[:, round(start * rate) : round(stop * rate)]  # (C', S_w)
        if piece.shape[1] < rate / 2:
            continue
        piece = piece - piece.mean(axis=1, keepdims=True)  # (C', S_w)
        taper = np.hanning(piece.shape[1])  # (S_w,)
        density = np.abs(np.fft.rfft(piece * taper, axis=1)) ** 2 * (2 / (rate * (taper**2).sum()))  # (C', L)
        lines = np.fft.rfftfreq(piece.shape[1], 1 / rate)  # (L,)
        powers = density @ _pooling(lines, BANDS)  # (C', 5)
        logs = np.log(powers + FLOOR)  # (C', 5)
        logs[~piece.any(axis=1)] = np.nan
        narrow = np.log(density @ _pooling(lines, LINES) + FLOOR)  # (C', 22)
        out[k] = np.concatenate([logs.ravel(), narrow.mean(axis=0)])  # (F_eeg,)
    return out


def _pooling(lines: NDArray[np.floating], bands: tuple[tuple[float, float], ...]) -> Floats:
    """Matrix (L, n_bands) that averages spectral lines over bands."""
    inside = np.array([(lines >= low) & (lines < high) for low, high in bands], dtype=np.float64).T  # (L, n_bands)
    return np.asarray(inside / np.maximum(inside.sum(axis=0), 1))  # (L, n_bands)


def _face(store: Store, row: int, bounds: Floats) -> Floats:
    """Grey cells and mean colours of the faces of one trial's windows, (w, 19); NaN where there is no face."""
    from milmer.windows import choose_frames

    trial = store.trials.iloc[row]
    key, first, count = str(trial["store_key"]), int(trial["face_start"]), int(trial["face_rows"])
    faces = store.faces(key)
    there = first + np.flatnonzero(faces.found[first : first + count])  # (f,)
    times = faces.time[there]  # (f,)
    out = np.full((len(bounds), CELLS * CELLS + 3), np.nan)  # (w, 19)
    for k, (start, stop) in enumerate(bounds.tolist()):
        chosen = choose_frames(times, start, stop, FRAMES)
        seen = [look(store.crop(key, int(there[i]))) for i in chosen.tolist() if i >= 0]
        if seen:
            out[k] = np.mean(seen, axis=0)  # (19,)
    return out


def _body(store: Store, row: int, bounds: Floats, kind: str) -> Floats:
    """Mean and log spread of each channel of a body signal in the windows of one trial, (w, 2 P); NaN where missing."""
    signal = store.body(row, kind).astype(np.float64)  # (P, S)
    out = np.full((len(bounds), 2 * len(signal)), np.nan)  # (w, 2 P)
    for k, (start, stop) in enumerate(bounds.tolist()):
        for p, values in enumerate(signal[:, round(start * BODY_RATE) : round(stop * BODY_RATE)]):  # (S_w,) each
            there = values[np.isfinite(values)]  # (S',)
            if there.size > 1:
                spread = float(there.std())
                out[k, p] = there.mean()
                out[k, len(signal) + p] = np.log(spread) if spread > 0 else np.nan
    return out


def look(jpeg: bytes) -> Floats:
    """Return 4 x 4 grey cells and three mean colours of a picture, shape (19,), 0 to 1.

    The picture is decoded at an eighth of its size, which takes a tenth of the time.
    """
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (CELLS, CELLS))
        pixels = np.asarray(image.convert("RGB"), dtype=np.float64) / 255  # (P, Q, 3)
    grey = pixels.mean(axis=2)  # (P, Q)
    rows = np.array_split(grey, CELLS, axis=0) if min(grey.shape) >= CELLS else []
    cells = [c.mean() for r in rows for c in np.array_split(r, CELLS, axis=1)] or [grey.mean()] * CELLS**2
    return np.concatenate([cells, pixels.mean(axis=(0, 1))])  # (19,)
