"""A few windows to look at: chosen by rule, with the frames that are shown of them, blurred unless asked otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milmer.errors import UserError

if TYPE_CHECKING:  # importing pandas takes half a second, and only the annotations need it
    import pandas as pd

    from milmer.store import Store

MOST = 6
MOST_WINDOWS = 4  # of a bag
BLUR_CELLS = 8  # a blurred face is this many numbers across, in each colour: too few to know anybody by
SIDE = 168  # pixels of a frame: twice its size on the page
FACE_SIDE = 96


@dataclass(frozen=True)
class Frame:
    """One frame of an example.

    Parameters
    ----------
    place : int
        Its place in the bag, 0 to W * N - 1.
    time : float
        Seconds from the trial's start.
    jpeg : bytes
        The picture; empty where the store holds none.
    """

    place: int
    time: float
    jpeg: bytes


def scored_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    """Labelled rows of the test part (validation where there is none), of the first seed."""
    part = "test" if (predictions["part"] == "test").any() else "validation"
    rows = predictions[(predictions["part"] == part) & (predictions["y_true"] >= 0)]
    if "seed" in rows and len(rows):
        rows = rows[rows["seed"] == rows["seed"].iloc[0]]
    return rows.reset_index(drop=True)


def choose_examples(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Choose windows to show, the same ones at every call.

    For each class the rightly answered window with the highest probability, then for each class the wrongly answered
    one with the highest probability of its wrong answer, up to `MOST`; of equals the first of the table. Windows with
    a face are preferred where the model was given faces.

    Parameters
    ----------
    rows : DataFrame
        Labelled rows of predictions.parquet, as from `scored_rows`.
    classes : sequence of str
        Names in index order.
    """
    prob = rows[[f"prob_{c}" for c in classes]].to_numpy(dtype=np.float64)  # (n, classes)
    given = prob.argmax(axis=1)  # (n,)
    sure = prob.max(axis=1) if len(rows) else np.zeros(0)  # (n,)
    truth = rows["y_true"].to_numpy()
    seen = np.array([bool((numbers(f) >= 0).any()) for f in rows["face_rows"]]) if "face_rows" in rows else None
    picked: list[int] = []
    for right in (True, False):
        for c in range(len(classes)):
            mine = np.flatnonzero((truth == c) & ((given == truth) == right))
            if seen is not None and seen[mine].any():
                mine = mine[seen[mine]]
            if len(mine) and len(picked) < MOST:
                picked.append(int(mine[np.argmax(sure[mine])]))
    return rows.iloc[picked]


def shown_windows(faces: NDArray[np.int64], weights: NDArray[np.float64], n: int) -> list[int]:
    """Return which windows of a bag to show: those with a face, of many the ones with the heaviest frames.

    Parameters
    ----------
    faces : ndarray of int64, shape (W * N,)
        Rows of the face track, -1 for a frame without a face.
    weights : ndarray, shape (W * N,)
    n : int
        Frames of a window (N).
    """
    seen = [w for w in range(-(-len(faces) // n)) if (faces[w * n : (w + 1) * n] >= 0).any()]
    seen.sort(key=lambda w: -float(weights[w * n : (w + 1) * n].max()))
    return sorted(seen[:MOST_WINDOWS])


def read_frames(store: Store, row: pd.Series[Any], n: int, show: bool) -> tuple[Frame, ...]:
    """Read the frames that are shown of an example, as pictures for the page.

    Parameters
    ----------
    row : Series
        A row of predictions.parquet with ``face_rows``, ``frame_weights`` and ``store_key``.
    n : int
        Frames of a window.
    show : bool
        Keep faces as they are instead of averaged to 8 x 8 cells.

    Raises
    ------
    UserError
        If the store's face track is damaged.
    """
    if "face_rows" not in row or "frame_weights" not in row:
        return ()
    faces, weights = numbers(row["face_rows"]).astype(np.int64), numbers(row["frame_weights"])  # (W * N,) each
    if not (faces >= 0).any():
        return ()
    key = str(row["store_key"])
    places = [i for w in shown_windows(faces, weights, n) for i in range(w * n, min((w + 1) * n, len(faces)))]
    try:
        times = store.faces(key).time
        return tuple(
            Frame(i, float(times[faces[i]]), picture(store.crop(key, int(faces[i])), show))
            for i in places
            if faces[i] >= 0
        )
    except (OSError, KeyError, IndexError) as error:
        raise UserError(f"{key}: the face track is not readable ({error})") from error


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


def picture(jpeg: bytes, show: bool) -> bytes:
    """Return a crop as the JPEG that is shown of it, blurred unless `show`; empty where there is none."""
    if not jpeg:
        return b""
    with Image.open(BytesIO(jpeg)) as opened:
        image = opened.convert("RGB")
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS) if show else Image.fromarray(blur(np.asarray(image)))
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def numbers(values: Any) -> NDArray[np.float64]:
    """Return a cell that holds a list as an array, shape (n,); a missing one as an empty array."""
    return np.asarray([] if values is None else list(values), dtype=np.float64)
