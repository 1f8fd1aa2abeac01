"""`milmer inspect --html`: what the recordings of a store are like, as one self-contained page."""

from __future__ import annotations

import base64
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from milmer.evaluation.samples_frames import picture
from milmer.labels import Labels, make_labels
from milmer.progress import Progress, silent
from milmer.reports import quality_plots as plots
from milmer.reports.brain import draw_maps
from milmer.reports.words import count, number
from milmer.reports.writing import fill, write_file
from milmer.store import Store
from milmer.store_recording import RecordingInfo

if TYPE_CHECKING:  # pandas takes half a second, and only the annotations need it
    from milmer.config import Data
    from milmer.inspection import Inspection

SHOWN_CROPS = 8
MOST_MAPS = 8
MOST_SECONDS = 300.0  # of a recording's EEG that the spectra are made of, evenly over its trials
FEW_FACES = 0.5  # of a trial's frames: fewer are worth a look
LEAST_BEYOND = 0.05  # correlation beyond that of other pairs: the colours end no lower, or noise would look like a find
UNSURE = 0.8  # median confidence of a trial's faces below which they are worth a look
Row = dict[str, Any]
Floats = NDArray[np.float64]


def write_quality(
    store: Store,
    found: Inspection,
    data: Data,
    *,
    file: Path | None = None,
    show_faces: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write the quality page of a store.

    The page holds everything it shows: it opens from disk without a network, and asks nothing of one.

    Parameters
    ----------
    store : Store
    found : Inspection
        What `milmer.inspection.inspect_store` said of it.
    data : Data
        Target, threshold, and the kinds of component that are taken out at read.
    file : Path, optional
        The page; by default ``quality.html`` in the store.
    show_faces : bool
        Show faces as they are. By default they are averaged to 8 x 8 cells, which cannot be undone.
    progress : Progress
        Told of every recording.

    Raises
    ------
    UserError
        If the page cannot be written.
    """
    cards = []
    for n, key in enumerate(store.keys):
        progress(n, len(store.keys), key)
        cards.append(_recording(store, key, data, show_faces))
    content = {
        "path": str(store.path),
        "study": store.name,
        "counts": [(name, f"{n:,}".replace(",", " ")) for name, n in found.counts.items()],
        "rule": found.label_rule,
        "classes": list(found.classes.items()),
        "body": _body(found),
        "look": _worth_a_look(found, cards),
        "faces": _face_cells(store),
        "eeg": _eeg_cells(store, cards),
        "ratings": _ratings(store, data),
        "alignment": _alignment(found),
        "notes": _together(found.notes),
        "missing": found.missing,
        "confounds": found.confounds,
        "recordings": cards,
        "reject": ", ".join(data.reject) or "nothing",
        "shown": show_faces,
        "parameters": _parameters(store),
    }
    return write_file(file or store.path / "quality.html", fill("quality.html.j2", content))


def _recording(store: Store, key: str, data: Data, show_faces: bool) -> Row:
    info = store.recording(key)
    rows = np.flatnonzero((store.trials["store_key"] == key).to_numpy())  # (n,)
    trials = store.trials.iloc[rows]
    frames, seen = int(trials["face_rows"].sum()), int(trials["faces_found"].sum())
    removed = Counter(k for k in info.components if k in data.reject)
    left = Counter(k for k in info.components if k not in data.reject)
    card: Row = {
        "key": key,
        "subject": str(trials["subject"].iloc[0]),
        "channels": len(info.names),
        "bad": ", ".join(c for c in info.bad if c not in info.masked) or "none",
        "masked": ", ".join(info.masked) or "none",
        "removed": ", ".join(f"{n} {k}" for k, n in removed.items()) or "none",
        "left": ", ".join(f"{n} {k}" for k, n in left.items()) or "none",
        "reason": info.reason,
        "notes": list(info.notes),
        "faces": f"{seen} of {count(frames, 'frame')}" if frames else "no video",
        "maps": _maps(store, info, data),
        "crops": _crops(store, key, show_faces),
    }
    card |= _spectra(store, rows, data)
    card["trials"] = _trials(store, rows, card.pop("swing_uv"))
    return card


def _trials(store: Store, rows: NDArray[np.int64], swing_uv: dict[int, float]) -> list[Row]:
    named = [str(c) for c in store.trials if str(c).startswith("rating_")]
    found = []
    for row in rows.tolist():
        trial = store.trials.iloc[row]
        share, sure = face_quality(store, row)
        ratings = {c.removeprefix("rating_"): float(trial[c]) for c in named if np.isfinite(trial[c])}
        found.append(
            {
                "trial": int(trial["trial"]),
                "stimulus": str(trial["stimulus"]) or "–",
                "seconds": number(trial["duration"], 1),
                "swing_uv": number(swing_uv.get(row), 1),
                "share": "–" if not np.isfinite(share) else f"{share:.0%}".replace("%", " %"),
                "sure": number(sure),
                "few": bool(np.isfinite(share) and (share < FEW_FACES or sure < UNSURE)),
                "label": str(trial["label"]) if trial.get("label") else "",
                "ratings": ", ".join(f"{k} {v:g}" for k, v in ratings.items()) or "–",
            }
        )
    return found


def face_quality(store: Store, row: int) -> tuple[float, float]:
    """Return the share of a trial's frames with a face, and the median confidence of those; NaN where there is none."""
    trial = store.trials.iloc[row]
    first, n = int(trial["face_start"]), int(trial["face_rows"])
    if not n:
        return float("nan"), float("nan")
    track = store.faces(str(trial["store_key"]))
    there = track.found[first : first + n]  # (n,)
    sure = track.confidence[first : first + n][there]  # (m,)
    return float(there.mean()), float(np.median(sure)) if sure.size else float("nan")


def _spectra(store: Store, rows: NDArray[np.int64], data: Data) -> Row:
    """Return spectra as stored and as a model is given them, and each trial's swing."""
    from scipy.signal import welch

    with_eeg = [r for r in rows.tolist() if store.trials["has_eeg"].iat[r]]
    if not with_eeg:
        return {"spectra": "", "swing_uv": {}, "alone": False}
    info = store.recording(str(store.trials["store_key"].iat[with_eeg[0]]))
    use = [i for i, name in enumerate(info.names) if name not in info.masked]
    before, after, swing_uv = [], [], {}
    each = MOST_SECONDS / len(with_eeg)
    freqs = np.zeros(0)  # (F,)
    changed = False
    for row in with_eeg:
        raw = np.asarray(store.eeg(row, 0.0, each), dtype=np.float64)[use]  # (C, S)
        clean = np.asarray(store.eeg(row, 0.0, each, data.reject), dtype=np.float64)[use]  # (C, S)
        swing_uv[row] = 1e6 * float(np.median(1.4826 * np.median(np.abs(clean), axis=1))) if clean.size else np.nan
        size = round(2 * store.eeg_rate)
        if raw.shape[1] < size:
            continue
        changed = changed or not np.array_equal(raw, clean)
        freqs, one = welch(raw, store.eeg_rate, nperseg=size)  # (F,), (C, F)
        _, two = welch(clean, store.eeg_rate, nperseg=size)  # (F,), (C, F)
        before.append(one.mean(axis=0))
        after.append(two.mean(axis=0))
    if not before:
        return {"spectra": "", "swing_uv": swing_uv, "alone": False}
    low, high = store.info["parameters"]["eeg"]["band"]
    shown = (freqs >= low) & (freqs <= min(high, store.eeg_rate / 2))  # (F,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a flat recording has no logarithm, and is not drawn
        lines = [10 * np.log10(1e12 * np.mean(x, axis=0)[shown]) for x in (before, after)]  # (F',) each
    drawn = [("train", lines[0]), ("f1", lines[1])] if changed else [("f1", lines[0])]
    says = "Mean power spectrum of the channels in dB of µV²/Hz" + (
        ": grey as stored, blue without the removed components" if changed else ""
    )
    return {"spectra": plots.spectra(freqs[shown], drawn, says), "swing_uv": swing_uv, "alone": not changed}


def _maps(store: Store, info: RecordingInfo, data: Data) -> list[Row]:
    """Return the topographies of the components that are taken out, the surest first; of all trials' own ones too."""
    out: list[tuple[float, str, int, Floats]] = []
    for file in sorted(store.folder(info.key).glob("ica*.npz")):
        with np.load(file) as ica:
            mixing, labels, scores = ica["mixing"], [str(x) for x in ica["labels"]], ica["scores"]
        out += [(float(scores[i]), k, i + 1, mixing[:, i]) for i, k in enumerate(labels) if k in data.reject]
    found: list[Row] = []
    for score, label, place, column in sorted(out, key=lambda c: -c[0])[:MOST_MAPS]:
        peak = float(np.abs(column).max()) or 1.0
        image = draw_maps((column / peak)[:, None], np.asarray(info.positions), 1.0)
        found.append({"image": image, "label": label, "score": number(score), "number": place})
    return found


def _crops(store: Store, key: str, show: bool) -> list[Row]:
    """Return crops evenly taken from all frames of a recording that have a face."""
    trials = store.trials[store.trials["store_key"] == key]
    if not int(trials["face_rows"].sum()):
        return []
    track = store.faces(key)
    there = np.flatnonzero(track.found)  # (n,)
    if not len(there):
        return []
    picked = there[np.unique(np.round((np.arange(SHOWN_CROPS) + 0.5) * len(there) / SHOWN_CROPS - 0.5).astype(int))]
    starts, numbers = trials["face_start"].to_numpy(), trials["trial"].to_numpy()  # (t,), (t,)
    order = np.argsort(starts, kind="stable")  # (t,)
    found = []
    for face in picked.tolist():
        trial = numbers[order][np.searchsorted(starts[order], face, side="right") - 1]
        jpeg = picture(store.crop(key, face), show)
        uri = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        found.append({"image": uri, "trial": int(trial), "time": number(track.time[face], 1)})
    return found


def _face_cells(store: Store) -> Any:
    if not store.trials["has_face"].any():
        return ""
    rows = []
    for key in store.keys:
        values, words = [], []
        for row in np.flatnonzero((store.trials["store_key"] == key).to_numpy()).tolist():
            share, sure = face_quality(store, row)
            trial = store.trials["trial"].iat[row]
            values.append(share)
            said = f"a face in {share:.0%} of frames, confidence {number(sure)}" if np.isfinite(share) else "no video"
            words.append(f"{key}, trial {trial}: {said}")
        rows.append((key, values, words))
    return plots.cells(rows, 0.0, 1.0, "Share of frames with a face, a row a recording, a cell a trial")


def _eeg_cells(store: Store, cards: list[Row]) -> Any:
    """Draw each trial's swing beside the middle one of the store: a loose electrode is a dark cell."""
    shown = {(c["key"], t["trial"]): t["swing_uv"] for c in cards for t in c["trials"]}
    numbers = {k: float(v.replace("−", "-")) for k, v in shown.items() if v != "–"}
    if not numbers:
        return ""
    high = float(np.quantile(list(numbers.values()), 0.95)) * 1.5
    rows = []
    for card in cards:
        at = [(card["key"], t["trial"]) for t in card["trials"]]
        words = [f"{k}, trial {t}: " + (f"{shown[k, t]} µV" if (k, t) in numbers else "no EEG") for k, t in at]
        rows.append((card["key"], [numbers.get(a, float("nan")) for a in at], words))
    return {"cells": plots.cells(rows, 0.0, high, "Size of the EEG, a row a recording, a cell a trial"), "high": high}


def _ratings(store: Store, data: Data) -> list[Row]:
    ranges = dict(store.info.get("rating_ranges", {}))
    labels = _labels(store, data, ranges)
    found = []
    for column in (str(c) for c in store.trials if str(c).startswith("rating_")):
        name, values = column.removeprefix("rating_"), store.trials[column].to_numpy(np.float64)  # (n,)
        seen = values[np.isfinite(values)]
        if not seen.size:
            continue
        low, high = ranges.get(name) or (float(seen.min()), float(seen.max()))
        if low >= high:
            continue
        cuts = labels.thresholds.get(name, np.zeros(0)) if labels else np.zeros(0)  # (n,)
        cuts = np.unique(cuts[np.isfinite(cuts)])  # (m,)
        people = store.trials.groupby("subject")[column].median().dropna()
        found.append(
            {
                "name": name,
                "plot": plots.histogram(values, low, high, cuts[:3].tolist(), f"{name}: how often each was rated"),
                "said": f"{count(seen.size, 'rating')} on {low:g} to {high:g}, median {np.median(seen):.2g}; "
                f"people's medians {people.min():.2g} to {people.max():.2g}",
                "outside": int(((seen < low) | (seen > high)).sum()),
            }
        )
    return found


def _labels(store: Store, data: Data, ranges: dict[str, Any]) -> Labels | None:
    from milmer.errors import UserError

    try:
        return make_labels(store.trials, data.target, data.threshold, ranges)
    except UserError:  # a store without this target has ratings to show all the same
        return None


def _worth_a_look(found: Inspection, cards: list[Row]) -> list[str]:
    look = [*(found.alignment.warnings() if found.alignment else ()), *found.confounds]
    for card in cards:
        if few := [t["trial"] for t in card["trials"] if t["few"]]:
            trials = ", ".join(map(str, few[:8])) + (" ..." if len(few) > 8 else "")
            look.append(f"{card['key']}: faces are rare or unsure in trial {trials}")
        if card["masked"] != "none":
            look.append(f"{card['key']}: channels without signal that could not be repaired: {card['masked']}")
    return look


def _alignment(found: Inspection) -> Row | None:
    """Return what the pulse says of videos and signals, and a picture of each recording's trials."""
    said = found.alignment
    if said is None or not (said.recordings or said.notes):
        return None
    beyond = [_standing_out(r.similarity) for r in said.recordings]  # (T, T) each
    high = max([LEAST_BEYOND, *(float(b.max()) for b in beyond)])
    rows = [
        {
            "key": r.key,
            "verdict": r.verdict,
            "signal": r.signal,
            "own": f"{r.own_best} of {len(r.trials)}",
            "lag": number(r.lag, 2),
            "image": plots.matrix(b, 0.0, high),
            "size": max(72, 4 * len(r.trials)),
        }
        for r, b in zip(said.recordings, beyond, strict=True)
    ]
    return {
        "high": number(high),
        "verdict": said.verdict,
        "lines": said.lines(),
        "warnings": said.warnings(),
        "rows": rows,
    }


def _standing_out(similarity: Floats) -> Floats:
    """Return by how much a video and a signal are more alike than each is with the others, shape (T, T).

    Any two hearts agree well at the best lag; a strong pulse does so with all signals.
    """
    rows, columns = similarity.mean(axis=1, keepdims=True), similarity.mean(axis=0, keepdims=True)  # (T, 1), (1, T)
    beyond: Floats = similarity - rows - columns + similarity.mean()  # (T, T)
    return beyond


def _body(found: Inspection) -> str:
    """Return which body signals there are, and the rates they give, in words."""
    kinds = ", ".join(f"{kind} in {n}" for kind, n in found.body.items())
    rates = "".join(f"; {name.replace('_', ' ')} {number(v, 0)} a minute" for name, v in found.rates.items())
    return f"{kinds}{rates}" if kinds else ""


def _together(lines: list[str]) -> list[str]:
    """Say once what many recordings say alike."""
    said: dict[str, list[str]] = {}
    for line in lines:
        key, _, text = line.partition(": ")
        said.setdefault(text or key, []).append(key)
    found = []
    for text, keys in said.items():
        where = ", ".join(keys[:4]) + (" ..." if len(keys) > 4 else "")
        found.append(text if text in keys else f"{where}: {text}")
    return found


def _parameters(store: Store) -> list[tuple[str, str]]:
    def flat(values: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
        out = []
        for name, value in values.items():
            out += flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, str(value))]
        return out

    return flat(store.info["parameters"])
