"""Scalp maps: band power of windows and of classes, and the components that preparation took out."""

from __future__ import annotations

import base64
import warnings
from collections import Counter
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.reports.reading import Run
from milmer.reports.words import count, number
from milmer.store import Store

BANDS = {"θ": (4.0, 8.0), "α": (8.0, 13.0), "β": (13.0, 30.0), "γ": (30.0, 45.0)}
NAMES = {"θ": "theta", "α": "alpha", "β": "beta", "γ": "gamma"}
FEWEST_CHANNELS = 4
MOST_WINDOWS = 1200  # read for the classes' means: enough for them, and a few seconds of work
MOST_COMPONENTS = 8
HEAD = 0.095  # radius in metres that MNE draws
Array = NDArray[np.float64]
Row = dict[str, Any]


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


def window_power(run: Run, rows: pd.DataFrame) -> Array:
    """Return `band_power` of windows, shape (n, C, 4); all NaN where a recording has other channels than the first.

    Raises
    ------
    UserError
        If the store is damaged.
    """
    store = run.store
    if store is None or not len(rows):
        return np.zeros((0, 0, len(BANDS)))
    names = _names(run)
    found = np.full((len(rows), len(names), len(BANDS)), np.nan)  # (n, C, 4)
    columns = ("store_key", "trial_row", "start", "stop")
    for i, (key, row, start, stop) in enumerate(zip(*(rows[c].tolist() for c in columns), strict=True)):
        about = store.recording(str(key))
        if about.names == names and store.trials["has_eeg"].iloc[int(row)]:
            found[i] = band_power(store.eeg(int(row), start, stop, run.config.data.reject), store.eeg_rate)  # (C, 4)
            found[i, np.isin(names, about.masked)] = np.nan
    return found


def scalp_maps(run: Run, examples: pd.DataFrame) -> Row:
    """Return maps of the example windows and of the classes.

    Each value is relative band power less the mean of its recording, so that what tells subjects apart is out of the
    picture.

    Returns
    -------
    dict
        ``examples`` (data URI or "" each), ``limit`` (dB, of their colours), ``classes`` (name, n, image, text),
        ``class_limit``, ``spread`` (dB, median standard deviation of a window), ``notes``; or ``fault``.
    """
    store = run.store
    if store is None or "eeg" not in run.config.data.modalities:
        return {"fault": "" if store is not None else run.store_fault}
    names = _names(run)
    positions = _positions(store, names)
    placed = np.isfinite(positions).all(axis=1) if len(positions) else np.zeros(0, dtype=bool)
    if placed.sum() < FEWEST_CHANNELS:
        return {"fault": f"A map needs {FEWEST_CHANNELS} placed channels or more; this store has {int(placed.sum())}."}
    scored = run.scored
    step = max(1, -(-len(scored) // MOST_WINDOWS))
    rows = scored.iloc[::step]
    power = window_power(run, rows)  # (n, C, 4)
    keys = rows["store_key"].astype(str).to_numpy()
    means = {k: _mean(power[keys == k]) for k in sorted(set(keys))}  # (C, 4) each
    power = power - np.stack([means[k] for k in keys])  # (n, C, 4)
    shown = window_power(run, examples)  # (m, C, 4)
    empty = np.full(shown.shape[1:], np.nan)
    shown = shown - np.stack([means.get(str(k), empty) for k in examples["store_key"]]) if len(shown) else shown
    limit = _limit(shown)
    found: Row = {"limit": number(limit, 1), "fault": "", "notes": []}
    found["examples"] = [_maps(x, positions, limit) for x in shown]
    truth = rows["y_true"].to_numpy()
    usable = np.isfinite(power).any(axis=(1, 2))  # (n,)
    averages = [_mean(power[(truth == c) & usable]) for c in range(len(run.classes))]
    class_limit = _limit(np.stack(averages))
    found["classes"] = [
        {
            "name": name,
            "n": count(int(((truth == c) & usable).sum()), "window"),
            "image": _maps(averages[c], positions, class_limit),
        }
        for c, name in enumerate(run.classes)
    ]
    found["class_limit"] = number(class_limit, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a masked channel has no spread
        found["spread"] = number(np.nanmedian(np.nanstd(power, axis=0)), 1)
    if step > 1:
        found["notes"].append(f"Classes: every {step}th of {count(len(scored), 'window')}.")
    if not usable.all():
        found["notes"].append(f"{count(int((~usable).sum()), 'window')} without EEG of these channels left out.")
    return found


def removed_components(run: Run, recordings: int = 2) -> list[Row]:
    """Return maps of the components that are taken out at read, for the first recordings that have some."""
    if run.store is None:
        return []
    found: list[Row] = []
    for key in run.store.keys:
        file = run.store.folder(key) / "ica.npz"
        about = run.store.recording(key)
        out = [i for i, label in enumerate(about.components) if label in run.config.data.reject]
        if not out or not file.exists() or len(about.names) < FEWEST_CHANNELS or len(found) == recordings:
            continue
        with np.load(file) as ica:
            mixing = np.asarray(ica["mixing"], dtype=np.float64)  # (C, k)
        maps = []
        for i in out[:MOST_COMPONENTS]:
            column = mixing[:, i] / max(float(np.abs(mixing[:, i]).max()), 1e-30)  # (C,)
            column = np.where(np.isin(about.names, about.masked), np.nan, column)  # (C,)
            score = number(about.component_scores[i]) if i < len(about.component_scores) else "–"
            image = _maps(column[:, None], about.positions, 1.0)
            maps.append({"label": about.components[i], "score": score, "image": image, "number": i + 1})
        more = len(out) - len(maps)
        found.append({"key": key, "maps": maps, "more": f"and {more} more" if more > 0 else ""})
    return found


def preparation_table(run: Run) -> list[Row]:
    """Return what preparation did to each recording of the run."""
    store = run.store
    if store is None:
        return []
    used = {str(k) for k in run.predictions["store_key"]} if "store_key" in run.predictions else set(store.keys)
    rows = []
    for key in [k for k in store.keys if k in used]:
        about = store.recording(key)
        counts = Counter(about.components)
        trials = store.trials[store.trials["store_key"] == key]
        frames = int(trials["face_rows"].sum()) if "face_rows" in trials else 0
        faces = int(trials["faces_found"].sum()) if "faces_found" in trials else 0
        removed = {k: n for k, n in sorted(counts.items()) if k in run.config.data.reject}
        rows.append(
            {
                "key": key,
                "channels": len(about.names),
                "bad": ", ".join(about.bad) or "–",
                "masked": ", ".join(about.masked) or "–",
                "removed": ", ".join(f"{n} {k}" for k, n in removed.items()) or "–",
                "left": ", ".join(f"{n} {k}" for k, n in sorted(counts.items()) if k not in removed) or "–",
                "by": about.labelled_by or "–",
                "reason": about.reason,
                "faces": _percent(faces, frames),
                "notes": list(about.notes),
            }
        )
    return rows


def _names(run: Run) -> tuple[str, ...]:
    """Return the channels that most recordings of the run have."""
    if run.store is None:
        return ()
    keys = sorted({str(k) for k in run.scored["store_key"]})
    sets = Counter(run.store.recording(k).names for k in keys if run.store.recording(k).names)
    return sets.most_common(1)[0][0] if sets else ()


def _positions(store: Store, names: tuple[str, ...]) -> Array:
    for key in store.keys:
        if store.recording(key).names == names:
            return store.recording(key).positions  # (C, 3)
    return np.zeros((0, 3))


def _percent(part: int, whole: int) -> str:
    """Write a share so that 100 % is said of all only, and 0 % of none only."""
    if not whole:
        return "–"
    digits = 1 if 0 < part < whole and not 0.01 <= part / whole <= 0.99 else 0
    return f"{min(100 * part / whole, 99.9) if part < whole else 100:.{digits}f} %"


def _mean(values: Array) -> Array:
    """Mean over the first axis without NaN; NaN where nothing is left."""
    there = np.isfinite(values)
    n = there.sum(axis=0)
    return np.where(n > 0, np.where(there, values, 0).sum(axis=0) / np.maximum(n, 1), np.nan)


def _limit(values: Array) -> float:
    """Return the end of a symmetrical colour scale; a few extreme electrodes may lie beyond it."""
    seen = np.abs(values[np.isfinite(values)])
    return max(float(np.quantile(seen, 0.98)), 0.1) if seen.size else 1.0


def _spans_a_plane(positions: Array) -> bool:
    """Whether electrodes seen from above are neither on one line nor on one spot."""
    flat = positions[:, :2] - positions[:, :2].mean(axis=0)  # (C, 2)
    return bool(np.linalg.svd(flat, compute_uv=False)[1] > 0.1)


def _maps(values: Array, positions: Array, limit: float) -> str:
    """Draw columns of `values` (C, k) as scalp maps side by side; a PNG as data URI, or "" where none can be drawn."""
    use = np.isfinite(values).all(axis=1) & np.isfinite(positions).all(axis=1)  # (C,)
    if use.sum() < FEWEST_CHANNELS or not _spans_a_plane(positions[use]):
        return ""
    import mne
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k = values.shape[1]
    names = [str(i) for i in np.flatnonzero(use)]
    # Electrodes on one circle have no unique triangulation and MNE gives up: move each by less than a tenth of a mm.
    moved = positions[use] + 5e-4 * np.random.default_rng([0]).standard_normal((int(use.sum()), 3))  # (C', 3)
    places = dict(zip(names, moved * HEAD, strict=True))
    info = mne.create_info(names, 100.0, "eeg", verbose="error")
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    figure = Figure(figsize=(1.05 * k, 1.05), dpi=160)
    FigureCanvasAgg(figure)
    for i in range(k):
        axes = figure.add_axes((i / k + 0.03 / k, 0.02, 0.94 / k, 0.94))
        mne.viz.plot_topomap(
            values[use, i],
            info,
            axes=axes,
            show=False,
            cmap="RdBu_r",
            vlim=(-limit, limit),
            sphere=HEAD,
            contours=0,
            res=48,
            sensors="k.",
        )
        for line in axes.lines:
            line.set_linewidth(min(line.get_linewidth(), 0.9))
            line.set_markersize(min(line.get_markersize(), 1.2))
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=160, transparent=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
