"""Skin colour: the colour of the face and of nothing else, at the frames' own times, while the track is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milmer.config import FacePreparation
from milmer.faces.detect import Face, load_detector
from milmer.faces.skin import REDUCED, mean_colour
from milmer.faces.track import face_track

SAMPLES = Path(__file__).parents[2] / ".samples"
SIDE = 60


def colour_at(seconds: float) -> np.ndarray:
    """Colour of the planted face: green swings by 20 at 1 Hz."""
    return np.array([180.0, 120 + 20 * np.sin(2 * np.pi * seconds), 90.0])


def picture(number: int, rate: int = 50, hide: range = range(0)) -> np.ndarray:
    """A face that walks to the right before a blue wall that flickers."""
    image = np.zeros((120, 320, 3), np.uint8)
    image[..., 2] = 60 + 120 * (number % 2)
    if number not in hide:
        x = 20 + number * 60 // rate
        image[30 : 30 + SIDE, x : x + SIDE] = np.round(colour_at(number / rate))
    return image


class Finder:
    """Finds what is red, and trembles by two pixels."""

    name = "finder"

    def __init__(self) -> None:
        self.seen = 0

    def detect(self, image):
        rows, columns = np.nonzero(image[..., 0] > 120)
        if not len(rows):
            return []
        self.seen += 1
        shift = 2.0 * (self.seen % 2)
        return [Face(columns.min() + shift, rows.min() - shift, np.ptp(columns) + 1.0, np.ptp(rows) + 1.0, 0.9)]


@pytest.mark.parametrize("name", ["skin.avi", "skin-b.mp4", "skin-b.avi"])
def test_the_colour_of_the_face_at_the_time_of_the_frame(name, write_video):
    path = write_video(name, np.arange(200) / 50, rate=50, images=picture, bframes=2 if "-b" in name else 0)
    track = face_track(path, 0.5, 3.0, FacePreparation(px=32), Finder(), skin_rate=25)
    assert track.skin.shape == (75, 4) and track.skin.dtype == np.float32
    times, rgb = track.skin[:, 0], track.skin[:, 1:]
    np.testing.assert_allclose(times, np.arange(75) / 25, atol=1e-3)
    expected = np.array([colour_at(0.5 + t) for t in times])
    np.testing.assert_allclose(rgb, expected, atol=6)  # what the codec leaves of it
    lag = [np.corrcoef(rgb[10:-10, 1], np.array([colour_at(0.5 + t + d)[1] for t in times[10:-10]]))[0, 1]
           for d in (-0.04, 0.0, 0.04)]  # fmt: skip
    assert np.argmax(lag) == 1 and lag[1] > 0.99


def test_the_track_is_the_same_with_and_without(write_video):
    path = write_video("skin.avi", np.arange(200) / 50, rate=50, images=picture)
    without = face_track(path, 0, 4.0, FacePreparation(px=32), Finder())
    given = face_track(path, 0, 4.0, FacePreparation(px=32), Finder(), skin_rate=30)
    assert without.skin.shape == (0, 4)
    assert without.jpegs == given.jpegs and without.notes == given.notes
    np.testing.assert_array_equal(without.boxes, given.boxes)


def test_where_the_face_is_away_for_long_there_is_no_colour(write_video):
    def hidden(number):
        return picture(number, 50, range(50, 110))

    path = write_video("away.mp4", np.arange(175) / 25, images=hidden)
    skin = face_track(path, 0, 7.0, FacePreparation(px=32), Finder(), skin_rate=25).skin
    known = np.isfinite(skin[:, 1:]).all(axis=1)
    there = (skin[:, 0] < 1.9) | (skin[:, 0] > 4.6)
    away = (skin[:, 0] > 2.2) & (skin[:, 0] < 4.2)
    assert known[there].all()
    assert not known[away].any()
    assert np.isfinite(skin[:, 0]).all()


def test_a_slow_video_gives_each_frame_once_and_a_short_one_ends(write_video):
    path = write_video("slow.mp4", np.arange(60) / 15, rate=15, images=lambda n: picture(n, 15))
    skin = face_track(path, 0, 6.0, FacePreparation(px=32), Finder(), skin_rate=25).skin
    np.testing.assert_allclose(skin[:, 0], np.arange(60) / 15, atol=1e-3)


def test_borders_count_by_their_share():
    pixels = np.zeros((10, 20, 3), np.uint16)
    pixels[:, :10], pixels[:, 10:] = 257 * 100, 257 * 200
    # Inner part of x 7..17 at 60 %: 9..15, of which a sixth is dark.
    found = mean_colour(pixels, np.array([7.0, 2, 10, 5]), (1, 1))
    np.testing.assert_allclose(found, 100 / 6 + 200 * 5 / 6)
    moved = mean_colour(pixels, np.array([7.25, 2, 10, 5]), (1, 1))
    np.testing.assert_allclose(moved, 100 * 0.75 / 6 + 200 * 5.25 / 6)
    halved = mean_colour(pixels, np.array([14.0, 2, 20, 5]), (0.5, 1))
    np.testing.assert_allclose(halved, found)
    assert np.isnan(mean_colour(pixels, np.array([40.0, 2, 10, 5]), (1, 1))).all()


@pytest.mark.parametrize("name", ["carphone_pristine.mp4", "WolfgangLanger_Pexels.mp4"])
def test_real_talking_heads_give_a_skin_colour(name):
    skin = face_track(SAMPLES / name, 0, 4.0, FacePreparation(), load_detector(FacePreparation()), skin_rate=25).skin
    rgb = skin[:, 1:]
    assert len(skin) > 80 and (np.diff(skin[:, 0]) > 0).all()
    assert np.isfinite(rgb).all(axis=1).mean() > 0.95
    assert (rgb.mean(axis=0)[0] > rgb.mean(axis=0)[2]) and 30 < rgb.mean() < 230  # skin is redder than blue
    assert np.abs(np.diff(rgb, axis=0)).max() < 15  # no box jumps to the background
    assert REDUCED < 200
