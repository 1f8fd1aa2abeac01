"""Face tracks: real faces found, one person followed, gaps marked and not invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milmer.config import FacePreparation
from milmer.errors import UserError
from milmer.faces.crop import decode_jpeg
from milmer.faces.detect import Face, load_detector
from milmer.faces.track import face_track, track_video

SAMPLES = Path(__file__).parents[2] / ".samples"
SETTINGS = FacePreparation()


@pytest.fixture(scope="module")
def detector():
    return load_detector(SETTINGS)


def track(name: str, detector, **settings):
    return track_video(SAMPLES / name, FacePreparation(**settings), detector)


def test_the_face_of_a_real_video_is_found_nearly_always(detector):
    found = track("WolfgangLanger_Pexels.mp4", detector)  # every frame of it shows the face (looked at)
    assert len(found.times) == 65
    assert found.found_share >= 0.95
    assert found.notes == []
    assert (found.confidence[found.found] >= 0.7).all()
    sizes = [len(j) for j in found.jpegs if j]
    assert 8_000 < np.mean(sizes) < 16_000  # 874 trials of 200 crops stay under 2.8 GB
    # The face keeps its place: no jump of more than a third of its side from one crop to the next.
    centres = found.boxes[:, :2] + found.boxes[:, 2:] / 2
    assert np.abs(np.diff(centres, axis=0)).max() < found.boxes[:, 2].mean() / 3


def test_a_small_tilting_head_is_followed(detector):
    found = track("carphone_pristine.mp4", detector)
    assert found.found_share >= 0.95


def test_a_video_without_a_face_is_noted_and_no_error(detector):
    found = track("no_face.mp4", detector)
    assert not found.found.any()
    assert found.notes == ["no_face.mp4: no face found in 13 frames"]
    assert np.isnan(found.boxes).all()
    assert set(found.jpegs) == {b""}


def test_faces_that_go_and_come_are_marked(detector):
    goes = track("face_noface.mov", detector).found
    comes = track("noface_face.mov", detector).found
    # Looked at: the cut is between the 8th and 9th crop, and between the 13th and 14th.
    assert goes.tolist() == [True] * 8 + [False] * 13
    assert comes.tolist() == [False] * 13 + [True] * 8


def test_shapes_types_and_the_grid(detector):
    found = face_track(SAMPLES / "single_face.mp4", 0.5, 1.5, FacePreparation(rate=5, px=64), detector)
    np.testing.assert_allclose(found.times, [0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3])
    assert found.boxes.shape == (7, 4)
    assert (found.boxes.dtype, found.confidence.dtype, found.found.dtype) == (np.float32, np.float32, np.bool_)
    assert found.found.all()
    assert all(decode_jpeg(j).shape == (64, 64, 3) for j in found.jpegs)


def test_sixty_seconds_at_the_papers_rate_are_200_crops(detector):
    assert len(face_track(SAMPLES / "no_face.mp4", 100, 60, SETTINGS, detector).times) == 200


def test_a_video_shorter_than_its_trial_leaves_the_rest_unfound(detector):
    found = face_track(SAMPLES / "single_face.mp4", 0, 5, SETTINGS, detector)
    assert len(found.times) == 16
    assert found.found.tolist() == [True] * 8 + [False] * 8
    assert found.jpegs[8:] == [b""] * 8
    assert found.notes == ["single_face.mp4: video ends at 2.4 s of 5 s"]
    late = face_track(SAMPLES / "single_face.mp4", 30, 5, SETTINGS, detector)
    assert not late.found.any()
    assert late.notes == ["single_face.mp4: video ends at 2.4 s, before the trial starts at 30.0 s"]


def test_the_threshold_decides(detector):
    class Unsure:
        name = "unsure"

        def detect(self, image):
            return [Face(10, 10, 40, 40, 0.6)]

    video = SAMPLES / "single_face.mp4"
    assert track_video(video, FacePreparation(confidence=0.5), Unsure()).found_share == 1
    assert track_video(video, FacePreparation(confidence=0.7), Unsure()).found_share == 0


def test_no_video_is_the_users_to_mend(detector, tmp_path):
    with pytest.raises(UserError, match="no such video file"):
        face_track(tmp_path / "none.mp4", 0, 60, SETTINGS, detector)


# --- who is followed: coloured squares stand for people ------------------------------------------------------------


class Squares:
    """Finds a red and a green square; the green one always a little surer."""

    name = "squares"

    def detect(self, image):
        faces = []
        for channel, confidence in ((0, 0.9), (1, 0.95)):
            other = image[..., 1 - channel].astype(int)
            ys, xs = np.nonzero(image[..., channel].astype(int) - other > 100)
            if len(ys) > 20:
                x, y = xs.min(), ys.min()
                faces.append(Face(float(x), float(y), float(np.ptp(xs) + 1), float(np.ptp(ys) + 1), confidence))
        return faces


def scene(red, green):
    """Draw frames of 96 x 160; `red` and `green` give (x, y, side) or None for a frame number."""

    def image(number: int) -> np.ndarray:
        frame = np.zeros((96, 160, 3), np.uint8)
        for channel, where in ((0, red(number)), (1, green(number))):
            if where:
                x, y, side = where
                frame[y : y + side, x : x + side, channel] = 255
        return frame

    return image


def colours(found) -> str:
    """Return r, g or . for each crop."""
    return "".join(
        "." if not j else "r" if decode_jpeg(j)[..., 0].mean() > decode_jpeg(j)[..., 1].mean() else "g"
        for j in found.jpegs
    )


def follow(write_video, name, red, green, frames=100):
    path = write_video(name, [i / 25 for i in range(frames)], codec="mpeg4", images=scene(red, green))
    return colours(track_video(path, FacePreparation(rate=5, px=32), Squares()))


def test_a_larger_passer_by_does_not_take_over(write_video):
    got = follow(
        write_video, "passer.avi",
        red=lambda n: (20 + n // 4, 30, 32),
        green=lambda n: (110, 20, 48) if 40 <= n < 60 else None,
    )  # fmt: skip
    assert got == "r" * 20


def test_the_main_face_wins_though_another_was_there_first(write_video):
    got = follow(
        write_video, "poster.avi",
        red=lambda n: (60, 10, 64) if n >= 20 else None,
        green=lambda n: (4, 4, 16),
    )  # fmt: skip
    assert got == "." * 4 + "r" * 16


def test_a_face_that_comes_back_elsewhere_is_the_same_person_and_another_size_is_not(write_video):
    back = follow(
        write_video, "back.avi",
        red=lambda n: None if 50 <= n < 70 else (10, 30, 32) if n < 50 else (100, 20, 36),
        green=lambda n: None,
    )  # fmt: skip
    assert back == "r" * 10 + "." * 4 + "r" * 6
    small = follow(
        write_video, "small.avi",
        red=lambda n: (10, 10, 64) if n < 60 else None,
        green=lambda n: (120, 40, 16) if n >= 60 else None,
    )  # fmt: skip
    assert small == "r" * 12 + "." * 8
