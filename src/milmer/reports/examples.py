"""The example windows on the page: their frames, attention weights and class probabilities."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milmer.evaluation.probes import learns_weights
from milmer.evaluation.samples_frames import MOST_WINDOWS, Frame, numbers
from milmer.reports.reading import Run
from milmer.reports.words import clock, number

KEEPS_ALL = frozenset({"mean", "gated", "softmax"})  # selection methods with which every frame goes on
Row = dict[str, Any]


def describe_example(run: Run, row: pd.Series[Any]) -> Row:
    """Return title, verdict and class probabilities of a window."""
    prob = np.array([float(row[f"prob_{c}"]) for c in run.classes])
    truth, given = run.classes[int(row["y_true"])], run.classes[int(prob.argmax())]
    title = f"Subject {row['subject']}"
    if str(row.get("session") or "") not in ("", "1", "nan", "None"):
        title += f", session {row['session']}"
    title += f", trial {row['trial']}, {clock(float(row['start']))} to {clock(float(row['stop']))}"
    bars = [
        {"name": c, "share": round(100 * float(p), 1), "value": number(p), "true": c == truth, "given": c == given}
        for c, p in zip(run.classes, prob, strict=True)
    ]
    return {
        "title": title,
        "right": truth == given,
        "truth": truth,
        "given": given,
        "p": number(prob.max()),
        "bars": bars,
    }


def frame_strip(run: Run, row: pd.Series[Any], frames: Sequence[Frame]) -> list[list[Row]]:
    """Return the frames of a bag, one list a window, with weights and which were kept.

    Parameters
    ----------
    row : Series
        A row of predictions.parquet.
    frames : sequence of Frame
        Those of its frames that there are pictures of; windows without any are left out.
    """
    if "face_rows" not in row or not frames:
        return []
    n = run.config.data.frames
    faces, weights = numbers(row["face_rows"]).astype(np.int64), numbers(row["frame_weights"])  # (W * N,) each
    found = {f.place: f for f in frames}
    kept = kept_frames(run, faces, weights)
    top = max(float(np.nanmax(weights, initial=0.0)), 1e-9)
    cells: list[Row] = []
    digits = 2 if top >= 0.1 else 3  # the more frames, the smaller each weight
    windows = sorted({place // n for place in found})
    for i in [i for w in windows for i in range(w * n, min((w + 1) * n, len(faces)))]:
        frame = found.get(i)
        weight = number(weights[i], digits) if frame else "–"
        cells.append(
            {
                "image": _uri(frame.jpeg) if frame and frame.jpeg else "",
                "time": f"{frame.time:.1f} s" if frame else "",
                "weight": weight,
                "height": round(100 * float(weights[i]) / top, 1) if frame else 0,
                "kept": bool(kept[i]),
                "said": f"frame at {frame.time:.1f} s, weight {weight}" if frame else "no face found",
            }
        )
    return [cells[i : i + n] for i in range(0, len(cells), n)]


def more_windows(run: Run, row: pd.Series[Any]) -> str:
    """Say that a bag has more windows with a face than are shown; nothing where it has not."""
    faces, n = numbers(row.get("face_rows")), run.config.data.frames
    windows = sum(bool((faces[i : i + n] >= 0).any()) for i in range(0, len(faces), n))
    return (
        f"Shown are {MOST_WINDOWS} of its {windows} windows: those with the heaviest frames."
        if windows > MOST_WINDOWS
        else ""
    )


def kept_words(run: Run) -> str:
    """Say which frames of a bag went on, and how that is drawn."""
    method, keep = run.config.model.selection.method, run.config.model.selection.keep
    if method in KEEPS_ALL:
        return "all frames are used"
    if method == "middle-frame":
        return "outlined frames were kept (the middle one of each window)"
    if run.config.data.windows_per_bag == 1:
        return f"outlined frames were kept (the best {math.ceil(keep)} of each window)"
    return f"outlined frames were kept (the best of the whole {run.row_word}, {keep:g} for each of its windows)"


def kept_frames(run: Run, faces: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which frames of a bag are marked as kept: the best `selection.keep` for each of its windows with a face.

    None where all frames go on; with ``middle-frame`` the one that has weight in each window.
    """
    kept = np.zeros(len(faces), dtype=bool)  # (W * N,)
    method = run.config.model.selection.method
    if method in KEEPS_ALL:
        return kept
    if method == "middle-frame":
        return (weights > 0) & (faces >= 0)
    n = run.config.data.frames
    windows = sum(bool((faces[i : i + n] >= 0).any()) for i in range(0, len(faces), n))
    order = np.argsort(np.where(faces >= 0, -weights, np.inf), kind="stable")  # (W * N,)
    kept[order[: math.ceil(run.config.model.selection.keep * windows)]] = True
    return kept & (faces >= 0)


def attention_spread(run: Run) -> str:
    """Say over how many frames the attention is spread, as a check against learnt weights that are all alike."""
    asked = "face" in run.config.data.modalities and learns_weights(run.config.model)
    if "face_rows" not in run.scored or not asked:
        return ""
    effective, had = [], []
    for faces, weights in zip(run.scored["face_rows"], run.scored["frame_weights"], strict=True):
        present = numbers(weights)[numbers(faces) >= 0]
        if len(present) > 1 and present.sum() > 0:
            share = present / present.sum()
            effective.append(float(np.exp(-(share * np.log(np.maximum(share, 1e-12))).sum())))
            had.append(len(present))
    if not effective:
        return ""
    spread, of = float(np.median(effective)), float(np.median(had))
    end = " That is close to equal weights: the choice of frames says little." if spread > 0.95 * of else ""
    return f"In the median bag the weights are spread over as much as {spread:.1f} of its {of:.0f} frames.{end}"


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
