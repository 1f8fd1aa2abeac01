"""A few windows to look at: chosen by rule, with their frames and attention weights."""

from __future__ import annotations

import base64
import math
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from milmer.errors import UserError
from milmer.evaluation.probes import learns_weights
from milmer.reports.reading import Run
from milmer.reports.words import clock, number

MOST = 6
MOST_WINDOWS = 4  # of a bag
KEEPS_ALL = frozenset({"mean", "gated", "softmax"})  # selection methods with which every frame goes on
BLUR_CELLS = 8  # a blurred face is this many numbers across, in each colour: too few to know anybody by
SIDE = 168  # pixels of an embedded frame: twice its size on the page
FACE_SIDE = 96
Row = dict[str, Any]


def choose_examples(run: Run) -> pd.DataFrame:
    """Choose windows to show, the same ones at every call.

    For each class the rightly answered window with the highest probability, then for each class the wrongly answered
    one with the highest probability of its wrong answer, up to `MOST`; of equals the first of the table. Windows with
    a face are preferred where the model was given faces.
    """
    rows = run.scored
    prob = run.probabilities(rows)  # (n, classes)
    given = prob.argmax(axis=1)  # (n,)
    sure = prob.max(axis=1) if len(rows) else np.zeros(0)  # (n,)
    truth = rows["y_true"].to_numpy()
    seen = np.array([bool((_numbers(f) >= 0).any()) for f in rows["face_rows"]]) if "face_rows" in rows else None
    picked: list[int] = []
    for right in (True, False):
        for c in range(len(run.classes)):
            mine = np.flatnonzero((truth == c) & ((given == truth) == right))
            if seen is not None and seen[mine].any():
                mine = mine[seen[mine]]
            if len(mine) and len(picked) < MOST:
                picked.append(int(mine[np.argmax(sure[mine])]))
    return rows.iloc[picked]


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


def frame_strip(run: Run, row: pd.Series[Any], show_faces: bool) -> list[list[Row]]:
    """Return the frames of a bag, one list a window, with weights and which were kept.

    Of a longer bag the `MOST_WINDOWS` windows with the heaviest frames are shown, in their order.

    Raises
    ------
    UserError
        If the store's face track is damaged.
    """
    n = run.config.data.frames
    faces, weights = _numbers(row["face_rows"]).astype(int), _numbers(row["frame_weights"])
    if run.store is None or not (faces >= 0).any():
        return []
    key = str(row["store_key"])
    try:
        times = run.store.faces(key).time
        shown = shown_windows(faces, weights, n)  # (V,)
        at_all = [i for w in shown for i in range(w * n, min((w + 1) * n, len(faces)))]
        images = [run.store.crop(key, int(faces[i])) if faces[i] >= 0 else b"" for i in at_all]
    except (OSError, KeyError, IndexError) as error:
        raise UserError(f"{key}: the face track is not readable ({error})") from error
    kept = kept_frames(run, faces, weights)
    top = max(float(np.nanmax(weights, initial=0.0)), 1e-9)
    cells: list[Row] = []
    digits = 2 if top >= 0.1 else 3  # the more frames, the smaller each weight
    for i, jpeg in zip(at_all, images, strict=True):
        present = bool(faces[i] >= 0)
        at = float(times[faces[i]]) if present else None
        cells.append(
            {
                "image": face_uri(jpeg, show_faces) if jpeg else "",
                "time": "" if at is None else f"{at:.1f} s",
                "weight": number(weights[i], digits) if present else "–",
                "height": round(100 * float(weights[i]) / top, 1) if present else 0,
                "kept": bool(kept[i]),
                "said": f"frame at {at:.1f} s, weight {number(weights[i], digits)}" if present else "no face found",
            }
        )
    return [cells[i : i + n] for i in range(0, len(cells), n)]


def shown_windows(faces: NDArray[np.int64], weights: NDArray[np.float64], n: int) -> list[int]:
    """Return which windows of a bag to show: those with a face, of many the ones with the heaviest frames."""
    seen = [w for w in range(-(-len(faces) // n)) if (faces[w * n : (w + 1) * n] >= 0).any()]
    seen.sort(key=lambda w: -float(weights[w * n : (w + 1) * n].max()))
    return sorted(seen[:MOST_WINDOWS])


def more_windows(run: Run, row: pd.Series[Any]) -> str:
    """Say that a bag has more windows with a face than are shown; nothing where it has not."""
    faces, n = _numbers(row.get("face_rows")), run.config.data.frames
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
        present = _numbers(weights)[_numbers(faces) >= 0]
        if len(present) > 1 and present.sum() > 0:
            share = present / present.sum()
            effective.append(float(np.exp(-(share * np.log(np.maximum(share, 1e-12))).sum())))
            had.append(len(present))
    if not effective:
        return ""
    spread, of = float(np.median(effective)), float(np.median(had))
    end = " That is close to equal weights: the choice of frames says little." if spread > 0.95 * of else ""
    return f"In the median bag the weights are spread over as much as {spread:.1f} of its {of:.0f} frames.{end}"


def blur(rgb: NDArray[np.uint8], side: int = FACE_SIDE) -> NDArray[np.uint8]:
    """Return a face that cannot be known: averaged to 8 x 8 cells, then drawn large and smooth.

    Parameters
    ----------
    rgb : ndarray of uint8, shape (H, W, 3)
    side : int
        Pixels of the picture that comes back, shape (side, side, 3). All it holds are 64 colours.
    """
    cells = Image.fromarray(rgb).resize((BLUR_CELLS, BLUR_CELLS), Image.Resampling.BOX)  # (8, 8, 3)
    return np.asarray(cells.resize((side, side), Image.Resampling.BICUBIC))  # (side, side, 3)


def face_uri(jpeg: bytes, show: bool) -> str:
    """Return a crop as a data URI, blurred unless `show`."""
    with Image.open(BytesIO(jpeg)) as opened:
        image = opened.convert("RGB")
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS) if show else Image.fromarray(blur(np.asarray(image)))
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _numbers(values: Any) -> NDArray[np.float64]:
    return np.asarray([] if values is None else list(values), dtype=np.float64)
