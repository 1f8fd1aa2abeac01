"""What the page shows of the EEG: band power of windows and classes, components taken out, what preparation did."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    from pathlib import Path

    import pandas as pd

    from milmer.config import Config
    from milmer.store import Store
    from milmer.training.reading import EEGReader

BANDS = {"θ": (4.0, 8.0), "α": (8.0, 13.0), "β": (13.0, 30.0), "γ": (30.0, 45.0)}
NAMES = {"θ": "theta", "α": "alpha", "β": "beta", "γ": "gamma"}
FEWEST_CHANNELS = 4
MOST_WINDOWS = 1200  # read for the classes' means: enough for them, and a few seconds of work
MOST_COMPONENTS = 8
MOST_SECONDS = 12.0  # of an example's EEG that is kept
Array = NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Maps:
    """Relative band power less the mean of its recording, in decibels; NaN where a channel has none.

    Parameters
    ----------
    examples : ndarray, shape (m, C, 4)
    classes : ndarray, shape (k, C, 4)
        Means over the windows of each class.
    counts : ndarray of int, shape (k,)
        Windows behind each mean.
    positions : ndarray, shape (C, 3)
        Electrode places on the unit sphere.
    spread : float
        Standard deviation of a window around its recording's mean, median electrode, dB.
    step, windows, left_out : int
        Every `step`-th of `windows` was read, and `left_out` of those have no EEG of these channels.
    fault : str
        Why there is no map.
    """

    examples: Array
    classes: Array
    counts: NDArray[np.int64]
    positions: Array
    spread: float = float("nan")
    step: int = 1
    windows: int = 0
    left_out: int = 0
    fault: str = ""

    @classmethod
    def none(cls, fault: str = "") -> Maps:
        """No map, and why."""
        empty = np.zeros((0, 0, len(BANDS)))
        return cls(empty, empty, np.zeros(0, dtype=np.int64), np.zeros((0, 3)), fault=fault)


@dataclass(frozen=True)
class Removed:
    """Components that are taken out of one recording when it is read.

    Parameters
    ----------
    maps : ndarray, shape (C, n)
        Columns of the mixing matrix, each scaled to its own largest electrode; NaN for masked channels.
    """

    key: str
    maps: Array
    positions: Array  # (C, 3)
    labels: tuple[str, ...] = field(default=())
    numbers: tuple[int, ...] = ()
    scores: tuple[float | None, ...] = ()
    more: int = 0


def band_power(eeg: NDArray[np.float32], rate: float) -> Array:
    """Return relative band power of each channel in decibels, shape (C, 4).

    Parameters
    ----------
    eeg : ndarray, shape (C, S)
        Volts; channels without signal give NaN.
    rate : float
        Samples a second.

    Returns
    -------
    ndarray of float64, shape (C, 4)
        ``10 log10`` of the band's share of the power from 4 to 45 Hz, by the periodogram under a Hann window.
    """
    if eeg.shape[1] < rate / 2:
        return np.full((len(eeg), len(BANDS)), np.nan)
    taper = np.hanning(eeg.shape[1])  # (S,)
    centred = (eeg - eeg.mean(axis=1, keepdims=True)).astype(np.float64)  # (C, S)
    power = np.abs(np.fft.rfft(centred * taper, axis=1)) ** 2  # (C, F)
    hertz = np.fft.rfftfreq(eeg.shape[1], 1 / rate)  # (F,)
    found = np.stack([power[:, (hertz >= a) & (hertz < b)].sum(axis=1) for a, b in BANDS.values()], axis=1)  # (C, 4)
    whole = found.sum(axis=1, keepdims=True)  # (C, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((whole > 0) & (found > 0), 10 * np.log10(found / whole), np.nan)  # (C, 4)


class Reading:
    """Reads the EEG of windows as the models of a run were given it.

    Parameters
    ----------
    run : Path, optional
        The run's folder, of whose folds the operators are, with ``data.operators: fold``; without it, or where a fold
        has none, components are left in.
    """

    def __init__(self, store: Store, config: Config, run: Path | None = None) -> None:
        from milmer.training.reading import EEGReader

        self._run, self._plain = run, EEGReader(store, config.data)
        self._of_fold: dict[int, EEGReader] = {}

    def layout(self, key: str) -> tuple[tuple[str, ...], Array, NDArray[np.bool_]]:
        """Return names, places (C, 3) and presence (C,) of the channels of a recording."""
        return self._plain.layout(key)

    def reader(self, fold: int) -> EEGReader:
        """Return what reads the EEG as the model of a fold was given it."""
        if not self._plain.unfitted:
            return self._plain
        if fold not in self._of_fold:
            from milmer.training.reading import read_operators

            found = {} if self._run is None else read_operators(self._run / "folds" / str(fold))
            self._of_fold[fold] = self._plain.with_operators(found)
        return self._of_fold[fold]


def channels(reading: Reading, scored: pd.DataFrame) -> tuple[str, ...]:
    """Return the channels that most recordings of the scored rows have."""
    keys = sorted({str(k) for k in scored["store_key"]})
    sets = Counter(names for names in (reading.layout(k)[0] for k in keys) if names)
    return sets.most_common(1)[0][0] if sets else ()


def window_power(store: Store, reading: Reading, rows: pd.DataFrame, names: tuple[str, ...]) -> Array:
    """Return `band_power` of windows, shape (n, C, 4); all NaN where a recording has other channels than `names`.

    Raises
    ------
    UserError
        If the store is damaged.
    """
    found = np.full((len(rows), len(names), len(BANDS)), np.nan)  # (n, C, 4)
    for i, (key, eeg) in enumerate(_signals(store, reading, rows)):
        own, _, there = reading.layout(key)
        if eeg is not None and own == names:
            found[i] = band_power(eeg, store.eeg_rate)  # (C, 4)
            found[i, ~there] = np.nan
    return found


def read_windows(store: Store, reading: Reading, rows: pd.DataFrame) -> list[tuple[tuple[str, ...], Array]]:
    """Return names of channels and EEG (C, S) of examples, up to `MOST_SECONDS` of each; masked channels left out."""
    found: list[tuple[tuple[str, ...], Array]] = []
    for key, eeg in _signals(store, reading, rows):
        if eeg is None:
            found.append(((), np.zeros((0, 0))))
            continue
        own, _, keep = reading.layout(key)  # (C,)
        names = tuple(n for n, k in zip(own, keep, strict=True) if k)
        found.append((names, eeg[keep, : round(MOST_SECONDS * store.eeg_rate)].astype(np.float64)))
    return found


def _signals(store: Store, reading: Reading, rows: pd.DataFrame) -> Any:
    """Yield each row's recording and its EEG (C, S) in volts as the model was given it, None where there is none."""
    folds = rows["fold"].tolist() if "fold" in rows else [0] * len(rows)
    for key, row, start, stop, fold in zip(
        *(rows[c].tolist() for c in ("store_key", "trial_row", "start", "stop")), folds, strict=True
    ):
        there = bool(store.trials["has_eeg"].iloc[int(row)])
        yield str(key), reading.reader(int(fold)).read(int(row), start, stop) if there else None


def scalp_maps(store: Store, reading: Reading, scored: pd.DataFrame, examples: pd.DataFrame, classes: int) -> Maps:
    """Return maps of the example windows and of the classes.

    Each value is relative band power less the mean of its recording, so that what tells subjects apart is out of the
    picture.

    Raises
    ------
    UserError
        If the store is damaged.
    """
    names = channels(reading, scored)
    positions = _positions(store, reading, names)  # (C, 3)
    placed = int(np.isfinite(positions).all(axis=1).sum())
    if placed < FEWEST_CHANNELS:
        return Maps.none(f"A map needs {FEWEST_CHANNELS} placed channels or more; this store has {placed}.")
    step = max(1, -(-len(scored) // MOST_WINDOWS))
    rows = scored.iloc[::step]
    power = window_power(store, reading, rows, names)  # (n, C, 4)
    keys = rows["store_key"].astype(str).to_numpy()
    means = {k: mean(power[keys == k]) for k in sorted(set(keys))}  # (C, 4) each
    power = power - np.stack([means[k] for k in keys])  # (n, C, 4)
    shown = window_power(store, reading, examples, names)  # (m, C, 4)
    empty = np.full(shown.shape[1:], np.nan)
    if len(shown):
        shown = shown - np.stack([means.get(str(k), empty) for k in examples["store_key"]])  # (m, C, 4)
    truth = rows["y_true"].to_numpy()
    usable = np.isfinite(power).any(axis=(1, 2))  # (n,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a masked channel has no spread
        spread = float(np.nanmedian(np.nanstd(power, axis=0)))
    return Maps(
        examples=shown,
        classes=np.stack([mean(power[(truth == c) & usable]) for c in range(classes)]),  # (k, C, 4)
        counts=np.array([int(((truth == c) & usable).sum()) for c in range(classes)]),  # (k,)
        positions=positions,
        spread=spread,
        step=step,
        windows=len(scored),
        left_out=int((~usable).sum()),
    )


def removed_components(store: Store, config: Config, recordings: int = 2) -> tuple[Removed, ...]:
    """Return the components that are taken out at read, of the first recordings that have some."""
    found: list[Removed] = []
    if config.data.operators == "fold":  # those of the store are not what was taken out
        return ()
    for key in store.keys:
        file = store.folder(key) / "ica.npz"
        about = store.recording(key)
        out = [i for i, label in enumerate(about.components) if label in config.data.reject]
        if not out or not file.exists() or len(about.names) < FEWEST_CHANNELS or len(found) == recordings:
            continue
        shown = out[:MOST_COMPONENTS]
        with np.load(file) as ica:
            mixing = np.asarray(ica["mixing"], dtype=np.float64)[:, shown]  # (C, n)
        if len(mixing) != len(about.names):  # of two stores read as one, a recording's own channels are others
            continue
        mixing = mixing / np.maximum(np.abs(mixing).max(axis=0), 1e-30)  # (C, n)
        mixing[np.isin(about.names, about.masked)] = np.nan
        scores = tuple(about.component_scores[i] if i < len(about.component_scores) else None for i in shown)
        labels = tuple(about.components[i] for i in shown)
        numbers = tuple(i + 1 for i in shown)
        found.append(Removed(key, mixing, about.positions, labels, numbers, scores, len(out) - len(shown)))
    return tuple(found)


def preparation_facts(store: Store, config: Config, keys: set[str]) -> list[Row]:
    """Return what preparation did to each recording of the run, as plain values."""
    rows = []
    for key in [k for k in store.keys if k in keys]:
        about = store.recording(key)
        counts = Counter(about.components)
        trials = store.trials[store.trials["store_key"] == key]
        removed = {k: n for k, n in sorted(counts.items()) if k in config.data.reject}
        rows.append(
            {
                "key": key,
                "channels": len(about.names),
                "bad": list(about.bad),
                "masked": list(about.masked),
                "removed": removed,
                "left": {k: n for k, n in sorted(counts.items()) if k not in removed},
                "by": about.labelled_by,
                "reason": about.reason,
                "frames": int(trials["face_rows"].sum()) if "face_rows" in trials else 0,
                "faces": int(trials["faces_found"].sum()) if "faces_found" in trials else 0,
                "notes": list(about.notes),
            }
        )
    return rows


def mean(values: Array) -> Array:
    """Mean over the first axis without NaN; NaN where nothing is left."""
    there = np.isfinite(values)
    n = there.sum(axis=0)
    return np.where(n > 0, np.where(there, values, 0).sum(axis=0) / np.maximum(n, 1), np.nan)


def _positions(store: Store, reading: Reading, names: tuple[str, ...]) -> Array:
    for key in store.keys:
        own, places, _ = reading.layout(key)
        if names and own == names:
            return np.asarray(places, dtype=np.float64)  # (C, 3)
    return np.zeros((0, 3))
