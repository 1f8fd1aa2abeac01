"""Where to look for faces: in the whole picture now and then, and in between where they were.

Between two looks at the whole picture every face is looked for around its last box, which costs a quarter. A face that
is not surely there sends the look back to the whole picture at once. Where nobody was for a while, small faces (which
cost most) are looked for just as rarely. A look at the whole picture that finds somebody new looks at the whole of the
pictures before it too, so that nobody is missed who is there at one such look.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from milmer.config import FacePreparation
from milmer.faces.crop import crop_face, encode_jpeg
from milmer.faces.detect import Face, FaceDetector, LocalDetector
from milmer.faces.video import Shown

CANDIDATES = 4  # faces of a frame that are followed, the largest and surest
OVERLAP = 0.2  # intersection over union of one face in two frames, at least
STEADY = 0.35  # the same for a face that was only looked for where it was: what moved further is looked for everywhere
ONE_FACE = 0.5  # intersection over union of two boxes that are one face


@dataclass(frozen=True)
class Seen:
    """A face at one moment of the track, and its crop."""

    index: int  # place on the grid
    face: Face
    jpeg: bytes


@dataclass(frozen=True)
class Looked:
    """The faces of one wanted frame: place on the grid, seconds in the video, the faces, largest and surest first."""

    index: int
    time: float
    seen: list[Seen]


@dataclass(frozen=True)
class _Held:
    looked: Looked
    shown: Shown


class Looks:
    """Finds and crops the faces of wanted frames, which are given one after the other.

    Parameters
    ----------
    detector : FaceDetector
        One that is also a `LocalDetector` is asked for the whole picture only every `settings.full_look` seconds.
    settings : FacePreparation
        Rate, confidence, margin, size, JPEG quality and `full_look`.
    """

    def __init__(self, detector: FaceDetector, settings: FacePreparation) -> None:
        self._detector = detector
        self._local = detector if isinstance(detector, LocalDetector) else None
        self._settings = settings
        self._every = max(1, round(settings.full_look * settings.rate)) if self._local else 1
        self._last: list[Face] = []  # in the frame before
        self._empty = 0  # whole looks in a row that found nobody
        self._held: list[_Held] = []  # not looked at as a whole since the last whole look

    @property
    def delay(self) -> float:
        """Seconds that a frame may wait for its answer."""
        return (self._every - 1) / self._settings.rate

    def add(self, index: int, time: float, shown: Shown) -> list[Looked]:
        """Look at a frame; return what is settled by it, oldest first."""
        faces = self._cheaply(shown.image) if len(self._held) + 1 < self._every else None
        if faces is not None:
            self._last = faces
            # The frame is kept, the picture made of it (twice its size) is not.
            kept = Shown(shown.frame, shown.start, shown.length)
            self._held.append(_Held(self._cropped(index, time, shown.image, faces), kept))
            return []
        faces = self._whole(shown.image)
        settled = self._settled(faces)
        self._last = faces
        self._empty = 0 if faces else self._empty + 1
        return [*settled, self._cropped(index, time, shown.image, faces)]

    def rest(self) -> list[Looked]:
        """Return what no further frame will settle."""
        return self._settled(self._whole(self._held[-1].shown.image)) if self._held else []

    def _settled(self, faces: list[Face]) -> list[Looked]:
        """Give the frames held; if `faces`, those of a later whole picture, show somebody new, look at them wholly."""
        held, self._held = self._held, []
        known = all(any(overlap(face, one) >= OVERLAP for one in self._last) for face in faces)
        if not held or (known and len(faces) <= len(self._last)):
            return [h.looked for h in held]
        pictures = ((h.looked, replace(h.shown).image) for h in held)
        return [self._cropped(one.index, one.time, image, self._whole(image)) for one, image in pictures]

    def _whole(self, image: NDArray[np.uint8]) -> list[Face]:
        return _foremost([f for f in self._detector.detect(image) if self._sure(f)])

    def _sure(self, face: Face) -> bool:
        return face.confidence >= self._settings.confidence

    def _cheaply(self, image: NDArray[np.uint8]) -> list[Face] | None:
        """Return the last frame's faces as they are in this one; None where that calls for a look at the whole."""
        if self._local is None:
            return None
        if not self._last:
            if self._empty < self._every:
                return None
            return None if any(self._sure(f) for f in self._local.glance(image)) else []
        found: list[Face] = []
        for before in self._last:
            near = [f for f in self._local.near(image, before.box) if self._sure(f)]
            best = max(near, key=lambda f: overlap(f, before), default=None)
            if best is None or overlap(best, before) < STEADY:
                return None
            if any(overlap(best, other) >= ONE_FACE for other in found):
                return None
            found.append(best)
        return _foremost(found)

    def _cropped(self, index: int, time: float, image: NDArray[np.uint8], faces: list[Face]) -> Looked:
        margin, px, quality = self._settings.margin, self._settings.px, self._settings.jpeg_quality
        crops = [encode_jpeg(crop_face(image, f.box, margin, px), quality) for f in faces]
        return Looked(index, time, [Seen(index, f, jpeg) for f, jpeg in zip(faces, crops, strict=True)])


def side(face: Face) -> float:
    """Return the side of the square as large as a face's box, in pixels."""
    return float(np.sqrt(face.w * face.h))


def overlap(a: Face, b: Face) -> float:
    """Return intersection over union of two boxes."""
    across = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    down = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / (a.w * a.h + b.w * b.h - across * down)


def _foremost(faces: list[Face]) -> list[Face]:
    return sorted(faces, key=lambda f: f.confidence * side(f), reverse=True)[:CANDIDATES]
