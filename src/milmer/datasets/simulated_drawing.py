"""Draw a simulated face: flat shapes, no real person, large enough features that a small network can read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float64]
Colour = tuple[int, int, int, int]  # red, green, blue, and how much of it is blood-carrying skin (0 or 255)

ACTIONS = ("smile", "frown", "wide", "droop", "blink", "open", "round", "turn")
"""What a face can do, the columns of `FaceTimeline.actions`; 0 is neutral, 1 (or -1 for round and turn) is most."""

POSE = ("x", "y", "scale", "tilt", "yaw", "pitch")
"""Where the head is, the columns of `FaceTimeline.pose`: shares of the frame's width and height, head half-width as
a share of the frame's width, then radians."""

TURN = 0.31  # radians of a full head turn: further, and the detector is no longer sure of a drawn face

_ARC = np.linspace(-1.0, 1.0, 13)  # (13,) from one corner of a feature to the other
_BOW = 1.0 - _ARC**2  # (13,) 0 at the corners, 1 in the middle
_ROUND = np.linspace(0.0, 2 * np.pi, 20, endpoint=False)  # (20,)
_CIRCLE = np.stack([np.cos(_ROUND), np.sin(_ROUND)], axis=1)  # (20, 2)
_HEAD = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)  # (48,)
_DARK: Colour = (42, 18, 22, 0)
_TEETH: Colour = (240, 236, 226, 0)


@dataclass(frozen=True)
class Identity:
    """What a subject looks like; nothing of it goes with emotion.

    Lengths are in head half-widths, colours 0 to 255 RGB.
    """

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    iris: tuple[int, int, int]
    lips: tuple[int, int, int]
    shirt: tuple[int, int, int]
    background: tuple[int, int, int]
    width: float  # of the head, 1 is average
    height: float
    taper: float  # how much narrower the jaw is than the temples
    eye_distance: float
    eye_size: float
    brow_thickness: float
    brow_height: float
    nose: float
    mouth_width: float
    hairline: float
    fringe: float
    long_hair: bool
    glasses: bool


def make_identity(rng: np.random.Generator) -> Identity:
    """Draw a subject's looks at random.

    Parameters
    ----------
    rng : Generator
        The only source of randomness: the same state gives the same subject.

    Returns
    -------
    Identity
    """
    light, dark = np.array([238, 198, 172.0]), np.array([140, 94, 70.0])
    tone = rng.uniform(0, 1)
    skin = light + (dark - light) * tone + rng.uniform(-8, 8, 3)  # (3,)
    hairs = np.array([[34, 26, 24], [72, 46, 30], [120, 80, 44], [184, 148, 88], [150, 148, 146], [112, 50, 30]])
    hair = hairs[rng.integers(len(hairs) if tone < 0.5 else 3)] + rng.uniform(-10, 10, 3)  # (3,)
    irises = np.array([[70, 44, 26], [60, 96, 134], [72, 102, 62], [52, 38, 30]])
    return Identity(
        skin=_rgb(skin),
        hair=_rgb(hair),
        iris=_rgb(irises[rng.integers(len(irises))] + rng.uniform(-8, 8, 3)),
        lips=_rgb(skin * np.array([0.82, 0.56, 0.58]) + rng.uniform(-6, 6, 3)),
        shirt=_rgb(rng.uniform(40, 190, 3)),
        background=_rgb(rng.uniform(60, 180) + rng.uniform(-22, 22, 3)),
        width=rng.uniform(0.95, 1.03),
        height=rng.uniform(1.28, 1.39),
        taper=rng.uniform(0.08, 0.24),
        eye_distance=rng.uniform(0.395, 0.45),
        eye_size=rng.uniform(0.95, 1.12),
        brow_thickness=rng.uniform(0.045, 0.08),
        brow_height=rng.uniform(0.0, 0.05),
        nose=rng.uniform(0.85, 1.2),
        mouth_width=rng.uniform(0.9, 1.1),
        hairline=rng.uniform(0.76, 0.9),
        fringe=rng.uniform(-0.18, 0.18),
        long_hair=bool(rng.uniform() < 0.45),
        glasses=bool(rng.uniform() < 0.2),
    )


class Painter:
    """Paints the box of the frame that the head can reach, one frame at a time.

    Shapes are filled at `supersample` times the size and averaged, which smooths their edges. A fourth channel says
    how much of a pixel is skin, so that the pulse can be added afterwards at full precision.

    Parameters
    ----------
    identity : Identity
    size : tuple of int
        Width and height of the frame, pixels.
    pose : ndarray, shape (n_frames, len(POSE))
        All poses that will be painted: they give the box.
    """

    def __init__(self, identity: Identity, size: tuple[int, int], pose: Floats) -> None:
        self.identity = identity
        self.size = size
        self.supersample = 2 if size[0] >= 640 else 3
        width, height = size
        reach = pose[:, 2].max() * width * 1.3  # pixels from the centre to the furthest ear
        left, right = pose[:, 0].min() * width - reach, pose[:, 0].max() * width + reach
        top, bottom = pose[:, 1].min() * height - 1.45 * reach, pose[:, 1].max() * height + 1.55 * reach
        self.box = (
            max(0, int(left)) // 2 * 2,
            max(0, int(top)) // 2 * 2,
            min(width, int(right) + 2) // 2 * 2,
            min(height, int(bottom) + 2) // 2 * 2,
        )
        s = self.supersample
        scene = Image.new("CMYK", (width * s, height * s), (*identity.background, 0))
        draw = ImageDraw.Draw(scene)
        x, y, r = pose[:, 0].mean() * width * s, pose[:, 1].mean() * height * s, pose[:, 2].mean() * width * s
        shirt = (*identity.shirt, 0)
        draw.ellipse((x - 2.1 * r, y + 1.62 * r, x + 2.1 * r, y + 5.5 * r), fill=shirt)
        self.scene = np.asarray(scene.reduce(s))  # (H, W, 4)
        self._empty = scene.crop((self.box[0] * s, self.box[1] * s, self.box[2] * s, self.box[3] * s))
        self._colours()

    def _colours(self) -> None:
        skin = np.array(self.identity.skin, dtype=float)
        self._skin: Colour = (*_rgb(skin), 255)
        self._shade: Colour = (*_rgb(skin * 0.86), 255)
        self._lid: Colour = (*_rgb(skin * 0.90), 255)
        self._line: Colour = (*_rgb(skin * 0.62), 255)
        self._dark_skin: Colour = (*_rgb(skin * 0.3), 0)
        self._rim: Colour = (*_rgb(skin * 0.8), 0)  # fine and light: dark rims hide a face from the detector
        self._cheek: Colour = (*_rgb(skin * np.array([1.0, 0.86, 0.86])), 255)
        self._hair: Colour = (*self.identity.hair, 0)
        self._brow: Colour = (*_rgb(np.array(self.identity.hair) * 0.6), 0)
        self._lips: Colour = (*self.identity.lips, 0)

    def paint(self, actions: Floats, pose: Floats) -> NDArray[np.uint8]:
        """Paint one frame's box.

        Parameters
        ----------
        actions : ndarray, shape (len(ACTIONS),)
        pose : ndarray, shape (len(POSE),)

        Returns
        -------
        ndarray of uint8, shape (box height, box width, 4)
            Red, green, blue without light or pulse, and the share of skin (255: all).
        """
        image = self._empty.copy()
        _Canvas(self, ImageDraw.Draw(image), actions, pose).face()
        return np.asarray(image.reduce(self.supersample))  # (h, w, 4)


class _Canvas:
    """One frame being painted; coordinates are head half-widths from the head's centre, y downwards."""

    def __init__(self, painter: Painter, draw: ImageDraw.ImageDraw, actions: Floats, pose: Floats) -> None:
        self.p = painter
        self.who = painter.identity
        self.draw = draw
        self.smile, self.frown, self.wide, self.droop, self.blink, self.open, self.round, turn = actions.tolist()
        x, y, scale, tilt, yaw, pitch = pose.tolist()
        s = painter.supersample
        self.unit = scale * painter.size[0] * s  # pixels of a head half-width
        self.at = np.array([x * painter.size[0] - painter.box[0], y * painter.size[1] - painter.box[1]]) * s
        c, n = np.cos(tilt) * self.unit, np.sin(tilt) * self.unit
        self.turn2d = np.array([[c, n], [-n, c]])  # row vectors are multiplied from the left
        angle = yaw + TURN * turn
        self.yaw = (float(np.cos(angle)), float(np.sin(angle)))
        self.pitch = float(np.sin(pitch))

    def fill(self, points: Floats, colour: Colour, flat: bool = False) -> None:
        """Fill a polygon; `flat` shapes (hair, outline) do not move over the head when it turns."""
        self.draw.polygon(self._pixels(points, flat), fill=colour)

    def line(self, points: Floats, colour: Colour, width: float) -> None:
        self.draw.line(self._pixels(points, False), fill=colour, width=max(1, round(width * self.unit)), joint=None)

    def _pixels(self, points: Floats, flat: bool) -> list[float]:
        if not flat:
            x, y = points[:, 0], points[:, 1]
            depth = np.sqrt(np.maximum(0.05, 1.0 - 0.8 * x * x - 0.35 * y * y))  # (P,) how far out of the picture
            points = np.stack([x * self.yaw[0] + depth * self.yaw[1], y + depth * self.pitch], axis=1)  # (P, 2)
        pixels: list[float] = (points @ self.turn2d + self.at).ravel().tolist()
        return pixels

    def face(self) -> None:
        jaw = self.open + 0.35 * self.wide
        self._head(jaw)
        self._cheeks()
        self._nose()
        self._mouth(jaw)
        for side in (-1.0, 1.0):
            self._eye(side)
            self._brow(side)
        if self.frown > 0.1:
            for side in (-1.0, 1.0):
                furrow = np.array([[side * 0.05, -0.38], [side * 0.07, -0.24]])
                self.line(furrow, self.p._line, 0.035 * self.frown)
        self._hair()
        if self.who.glasses:
            self._glasses()

    def _glasses(self) -> None:
        apart = self.who.eye_distance
        for side in (-1.0, 1.0):
            rim = _CIRCLE * (0.33, 0.29) + (side * apart, -0.13)  # (20, 2)
            self.line(np.concatenate([rim, rim[:1]]), self.p._rim, 0.022)
        self.line(np.array([[0.33 - apart, -0.16], [apart - 0.33, -0.16]]), self.p._rim, 0.022)

    def _head(self, jaw: float) -> None:
        who = self.who
        if who.long_hair:
            back = np.stack([np.cos(_HEAD) * 1.2, np.sin(_HEAD) * 1.45 + 0.05], axis=1)  # (48, 2)
            self.fill(back, self.p._hair, flat=True)
        neck = np.array([[-0.52, 0.7], [0.52, 0.7], [0.6, 2.2], [-0.6, 2.2]])
        self.fill(neck, self.p._shade, flat=True)
        for side in (-1.0, 1.0):
            ear = _CIRCLE * (0.13, 0.24) + (side * 1.02 * who.width, 0.0)  # (20, 2)
            self.fill(ear, self.p._shade, flat=True)
        x, y = np.cos(_HEAD) * who.width, np.sin(_HEAD) * who.height  # (48,) each
        low = np.maximum(0.0, np.sin(_HEAD))  # (48,) 0 above the eyes, 1 at the chin
        outline = np.stack([x * (1 - who.taper * low**1.5), y + 0.1 * jaw * low**2], axis=1)  # (48, 2)
        self.fill(outline, self.p._skin, flat=True)

    def _cheeks(self) -> None:
        lift = self.smile
        for side in (-1.0, 1.0):
            cheek = _CIRCLE * (0.2 + 0.05 * lift, 0.13 + 0.05 * lift) + (side * 0.58, 0.34 - 0.1 * lift)  # (20, 2)
            self.fill(cheek, self.p._cheek)
            if lift > 0.1:
                fold = np.array([[0.3, 0.24], [0.5, 0.36], [0.66, 0.56]]) * (side, 1.0)  # (3, 2)
                self.line(fold, self.p._line, 0.045 * lift)

    def _nose(self) -> None:
        n = self.who.nose
        bridge = np.array(
            [[-0.06, -0.2], [0.06, -0.2], [0.16 * n, 0.22], [0.1 * n, 0.3], [-0.1 * n, 0.3], [-0.16 * n, 0.22]]
        )
        self.fill(bridge, self.p._lid)
        flank = np.array([[0.05, -0.2], [0.09, -0.2], [0.2 * n, 0.22], [0.12 * n, 0.31], [0.05, 0.31], [0.11 * n, 0.2]])
        self.fill(flank, self.p._shade)
        for side in (-1.0, 1.0):
            self.fill(_CIRCLE * (0.06, 0.04) + (side * 0.09 * n, 0.27), self.p._dark_skin)
            self.fill(_CIRCLE * (0.3, 0.24) + (side * self.who.eye_distance, -0.15), self.p._lid)

    def _mouth(self, jaw: float) -> None:
        half = self.who.mouth_width * (0.33 + 0.18 * self.smile - 0.03 * self.frown + 0.08 * self.round)
        x = _ARC * half  # (13,)
        corner = 0.62 - 0.2 * self.smile + 0.17 * self.frown
        upper = 0.6 + 0.01 * self.smile - 0.09 * self.frown - 0.03 * jaw
        lower = upper + 0.01 + 0.18 * self.smile + 0.38 * jaw
        top = corner + _BOW * (upper - corner)  # (13,)
        bottom = corner + _BOW * (lower - corner)  # (13,)
        lip = np.sqrt(_BOW)  # (13,)
        self.fill(_between(x * 1.06, top - 0.075 * lip, bottom + 0.085 * lip), self.p._lips)
        self.fill(_between(x, top, bottom + 0.012), _DARK)
        teeth = max(self.smile, 0.45 * min(1.0, jaw))
        if teeth > 0.05:
            edge = np.minimum(bottom, top + 0.11 * teeth)  # (13,)
            self.fill(_between(x * 0.94, top + 0.005, edge), _TEETH)
        if self.frown > 0.1:
            dent = np.array([[-0.14, 0.92], [0.0, 0.89], [0.14, 0.92]]) + np.array([0.0, 0.12 * jaw])  # (3, 2)
            self.line(dent, self.p._line, 0.04 * self.frown)

    def _eye(self, side: float) -> None:
        size = self.who.eye_size
        cx, cy, half = side * self.who.eye_distance, -0.18, 0.235 * size
        tall = size * (0.18 + 0.05 * self.wide)  # of the socket, which lids then cover
        lower = size * (0.09 + 0.035 * self.wide - 0.05 * self.smile * (1 - self.wide * 0.5))
        shut = max(self.blink, 0.66 * self.droop)  # at 1 the upper lid has come down to the lower
        upper = (0.105 + 0.085 * self.wide) * size * (1 - shut) - lower * shut
        x = cx + _ARC * half  # (13,)
        # The white, then the iris, then the lids over both: a lid never has to be cut out of an iris.
        self.fill(_between(x, cy - tall * _BOW, cy + tall * _BOW), (246, 244, 240, 0))
        self.fill(_CIRCLE * (0.1 * size) + (cx, cy), (*self.who.iris, 0))
        self.fill(_CIRCLE * (0.05 * size) + (cx, cy), (16, 14, 16, 0))
        lid = cy - upper * _BOW  # (13,)
        wide = cx + _ARC * half * 1.12  # (13,)
        self.fill(_between(wide, cy - (tall + 0.05) * _BOW - 0.01, lid), self.p._lid)
        self.fill(_between(wide, cy + lower * _BOW, cy + (tall + 0.04) * _BOW + 0.01), self.p._skin)
        self.fill(_between(x, lid - 0.035, lid + 0.012), _DARK)

    def _brow(self, side: float) -> None:
        t = (_ARC + 1) / 2  # (13,) 0 at the inner end
        x = self.who.eye_distance + (t - 0.5) * 0.56 - 0.07 * self.frown * (1 - t)  # (13,)
        y = -0.4 - self.who.brow_height - 0.04 * np.sin(np.pi * t)  # (13,)
        y = y + 0.15 * self.frown * (1 - t) - 0.04 * self.frown * t
        y = y - 0.16 * self.wide * (1 + 0.3 * np.sin(np.pi * t)) + self.droop * (0.19 * t - 0.02)
        thick = self.who.brow_thickness * (0.5 + 0.5 * np.sqrt(1 - t**2 * 0.9))  # (13,)
        self.fill(_between(side * x, y - thick, y + thick), self.p._brow)

    def _hair(self) -> None:
        who = self.who
        arc = np.linspace(np.pi * 1.02, np.pi * 1.98, 20)  # (20,) from temple to temple over the crown
        outer = np.stack([np.cos(arc) * 1.08 * who.width, np.sin(arc) * 1.1 * who.height], axis=1)  # (20, 2)
        t = np.linspace(1, -1, 15)  # (15,)
        edge = -who.hairline + 0.6 * np.abs(t) ** 4 + who.fringe * t * (1 - t * t)  # (15,)
        inner = np.stack([t * 0.95 * who.width, edge], axis=1)  # (15, 2)
        self.fill(np.concatenate([outer, inner]), self.p._hair, flat=True)


def _between(x: Floats, top: Floats, bottom: Floats) -> Floats:
    """Outline of the area between two curves over the same x, shape (2 P, 2)."""
    return np.concatenate([np.stack([x, top], axis=1), np.stack([x, bottom], axis=1)[::-1]])


def _rgb(values: NDArray[np.floating]) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.round(values), 0, 255).astype(int).tolist()
    return red, green, blue
