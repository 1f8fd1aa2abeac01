"""Skin colour of a followed face, often enough to carry a pulse, taken while the face track is made.

A face track knows the face about three times a second; the pulse needs twenty and more. So frames between two moments
of the track are kept, much reduced, until the next moment says where the face was in them; none is kept for longer
than `LONGEST_GAP`, so memory does not grow with the trial.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from milmer.faces.video import Shown

AUTO_RATE = 25.0  # Hz: what ``preparation.face.skin: auto`` stands for
LONGEST_GAP = 1.0  # seconds between two boxes; over more, nobody knows where the face was
REDUCED = 160  # pixels of the longer side of the reduced frames: a face of DEAP's size is about 40 across
INNER = 0.6  # share of the box's sides that is averaged: forehead, cheeks and nose, without hair and background
SMOOTHING = 0.5  # weight of the new box: a detector's boxes tremble, and at up to 1.7 Hz that would look like a pulse
TREMBLE = (
    0.06  # of a box's width and height: what moves by more than this is a head that moves, and is followed at once
)

Box = NDArray[np.float64]  # (4,) x, y, width, height in pixels of the upright frame
Colours = dict[int, NDArray[np.float64]]  # sample number -> (3,) mean red, green, blue


@dataclass(frozen=True)
class _Small:
    number: int  # of the sample
    time: float
    pixels: NDArray[np.uint16]  # (h, w, 3)
    scale: tuple[float, float]  # reduced pixels a pixel, across and down


class SkinWatch:
    """Keeps reduced frames until it is known where the face was in them.

    Parameters
    ----------
    count : int
        Samples of skin colour in the trial.
    reach : float
        Seconds around a box in which it also stands for moments at which no second box is known: half of the
        track's step.
    delay : float
        Seconds after which a face's box may become known.
    """

    def __init__(self, count: int, reach: float, delay: float = 0.0) -> None:
        self.times = np.full(count, np.nan)  # (n,)
        self._reach = reach
        self._delay = delay
        self._kept: deque[_Small] = deque()
        self._reformatter = VideoReformatter()
        self._last: Shown | None = None

    def see(self, number: int, time: float, shown: Shown, start: float) -> None:
        """Keep the frame of sample `number`, asked for at `time`; a frame that was sampled already is no new sample.

        The sample's time is the frame's own, in seconds from `start`.
        """
        if shown is self._last:
            return
        self._last = shown
        self.times[number] = shown.start - start
        while self._kept and self._kept[0].time < time - LONGEST_GAP - self._reach - self._delay:
            self._kept.popleft()
        pixels = self._reduce(shown)  # (h, w, 3)
        across, down = shown.frame.width, shown.frame.height
        if shown.quarter_turns % 2:
            across, down = down, across
        self._kept.append(_Small(number, time, pixels, (pixels.shape[1] / across, pixels.shape[0] / down)))

    def grown(self, colours: Colours, time: float, box: Box, before: tuple[float, Box] | None) -> None:
        """Add to `colours` the samples between a face's box at `before` and its box at `time`."""
        first = time - self._reach if before is None or time - before[0] > LONGEST_GAP else before[0]
        for small in self._kept:
            if first <= small.time <= time and small.number not in colours:
                at = box  # (4,)
                if before is not None and first == before[0]:
                    share = (small.time - first) / (time - first)
                    at = (1 - share) * before[1] + share * box  # (4,)
                colours[small.number] = mean_colour(small.pixels, at, small.scale)  # (3,)

    def ended(self, colours: Colours, time: float, box: Box) -> None:
        """Add the samples after the last moment of the track, which is up to a step and a half from the trial's end."""
        for small in self._kept:
            if time < small.time <= time + 3 * self._reach:
                colours[small.number] = mean_colour(small.pixels, box, small.scale)  # (3,)

    def table(self, colours: Colours) -> NDArray[np.float32]:
        """Return the samples, (n, 4): time in seconds from the trial's start, red, green, blue; NaN without a face."""
        rows = np.full((len(self.times), 4), np.nan)  # (n, 4)
        rows[:, 0] = self.times
        for number, colour in colours.items():
            rows[number, 1:] = colour
        return np.asarray(rows[np.isfinite(self.times)], dtype=np.float32)  # (n', 4)

    def _reduce(self, shown: Shown) -> NDArray[np.uint16]:
        """Average over areas, with 16 bits: a pulse is less than one step of 8."""
        frame = shown.frame
        factor = min(1.0, REDUCED / max(frame.width, frame.height))
        small = self._reformatter.reformat(
            frame,
            width=max(2, round(frame.width * factor)),
            height=max(2, round(frame.height * factor)),
            format="rgb48le",
            interpolation="AREA",
        )
        pixels = np.asarray(small.to_ndarray(), dtype=np.uint16)  # (h, w, 3)
        return np.rot90(pixels, shown.quarter_turns)  # (h, w, 3)


def mean_colour(pixels: NDArray[np.uint16], box: Box, scale: tuple[float, float]) -> NDArray[np.float64]:
    """Average the inner part of a box.

    Pixels at its border count by the share that is inside, so that a box that moves by less than a pixel makes no step.

    Parameters
    ----------
    pixels : ndarray of uint16, shape (h, w, 3)
        Reduced frame, RGB, 0 to 65535.
    box : ndarray, shape (4,)
        x, y, width, height in pixels of the frame before it was reduced.
    scale : tuple of float
        Reduced pixels a pixel, across and down.

    Returns
    -------
    ndarray, shape (3,)
        Red, green and blue, 0 to 255; NaN where the box is outside the frame.
    """
    height, width = pixels.shape[:2]
    x, y, w, h = box * np.array([scale[0], scale[1], scale[0], scale[1]])
    border = (1 - INNER) / 2
    columns = _cover(width, x + border * w, x + (1 - border) * w)  # (w,)
    rows = _cover(height, y + border * h, y + (1 - border) * h)  # (h,)
    inside_x, inside_y = np.flatnonzero(columns), np.flatnonzero(rows)
    if not inside_x.size or not inside_y.size:
        return np.full(3, np.nan)
    a, b, c, d = inside_y[0], inside_y[-1] + 1, inside_x[0], inside_x[-1] + 1
    weights = np.outer(rows[a:b], columns[c:d]).ravel()  # (p,)
    patch = pixels[a:b, c:d].reshape(-1, 3).astype(np.float64)  # (p, 3)
    return np.asarray(weights @ patch / weights.sum() / 257.0)  # (3,) 65535 is 255 * 257


def smoothed(before: Box | None, box: Box) -> Box:
    """Return a box that follows what the detector found without its tremble."""
    if before is None or (np.abs(box - before) > TREMBLE * np.tile(box[2:], 2)).any():
        return box  # (4,)
    return (1 - SMOOTHING) * before + SMOOTHING * box  # (4,)


def _cover(count: int, start: float, stop: float) -> NDArray[np.float64]:
    """Share of each of `count` unit cells that lies between `start` and `stop`, (count,)."""
    cells = np.arange(count)  # (count,)
    return np.asarray(np.clip(np.minimum(stop, cells + 1) - np.maximum(start, cells), 0.0, 1.0))  # (count,)
