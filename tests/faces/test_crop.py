"""Crops: right place, right size, nothing invented outside the frame, JPEG there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from milmer.errors import UserError
from milmer.faces.crop import crop_face, decode_jpeg, encode_jpeg

SAMPLES = Path(__file__).parents[2] / ".samples"


def gradient(height: int = 120, width: int = 160) -> np.ndarray:
    """An image whose red is x and whose green is y."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


def test_a_square_box_without_margin_is_cut_as_it_is():
    image = gradient()
    crop = crop_face(image, (30, 20, 64, 64), margin=0, px=64)
    np.testing.assert_array_equal(crop, image[20:84, 30:94])


def test_the_box_grows_by_the_margin_on_each_side_of_its_longer_side():
    # 40 x 60 at (50, 30): side 60 * 1.2 = 72, centred on (70, 60) -> x 34..106, y 24..96
    crop = crop_face(gradient(), (50, 30, 40, 60), margin=0.1, px=72).astype(float)
    np.testing.assert_allclose(crop[36, :, 0], np.arange(34, 106), atol=1)
    np.testing.assert_allclose(crop[:, 36, 1], np.arange(24, 96), atol=1)


def test_outside_the_frame_its_edge_is_repeated():
    image = gradient()
    crop = crop_face(image, (-20, 40, 40, 40), margin=0, px=40)
    np.testing.assert_array_equal(crop[:, :20, 0], 0)
    np.testing.assert_array_equal(crop[:, 20:], image[40:80, :20])
    beyond = crop_face(image, (500, 500, 10, 10), margin=0, px=10)
    np.testing.assert_array_equal(beyond, np.broadcast_to(image[-1, -1], (10, 10, 3)))


def test_shrinking_does_not_alias():
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_face(stripes, (0, 0, 200, 200), margin=0, px=50).astype(float)
    assert abs(crop[5:-5, 5:-5].mean() - 127.5) < 2
    assert crop[5:-5, 5:-5].std() < 3


def test_half_a_pixel_of_motion_is_kept():
    image = gradient()
    there = crop_face(image, (30.0, 20, 32, 32), margin=0, px=64).astype(float)
    moved = crop_face(image, (30.5, 20, 32, 32), margin=0, px=64).astype(float)
    assert np.mean(moved[..., 0] - there[..., 0]) == pytest.approx(0.5, abs=0.1)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-300, 500), st.floats(-300, 500), st.floats(0.1, 400), st.floats(0.1, 400),
    st.floats(0, 1), st.integers(8, 64),
)  # fmt: skip
def test_any_box_gives_a_crop_within_the_image_values(x, y, w, h, margin, px):
    image = np.full((40, 50, 3), 77, np.uint8)
    crop = crop_face(image, (x, y, w, h), margin, px)
    assert crop.shape == (px, px, 3)
    assert crop.dtype == np.uint8
    assert (crop == 77).all()


@pytest.mark.parametrize("box", [(np.nan, 0, 1, 1), (0, 0, 0, 5), (0, 0, 5, -1), (0, np.inf, 5, 5)])
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(ValueError, match="box"):
        crop_face(gradient(), box)


def test_jpeg_there_and_back():
    image = np.asarray(Image.open(SAMPLES / "multi_face.jpg").convert("RGB"))[200:424, 300:524]
    jpeg = encode_jpeg(image, 90)
    assert 4_000 < len(jpeg) < 30_000
    back = decode_jpeg(jpeg)
    assert back.shape == image.shape
    assert np.abs(back.astype(float) - image).mean() < 3
    assert len(encode_jpeg(image, 60)) < len(jpeg)


@pytest.mark.parametrize("px", [32, 64, 100, 112, 224, 300])
def test_jpeg_at_another_size_is_the_image_at_that_size(px):
    image = np.asarray(Image.open(SAMPLES / "multi_face.jpg").convert("RGB"))[200:424, 300:524]
    small = decode_jpeg(encode_jpeg(image, 95), px)
    assert small.shape == (px, px, 3)
    wanted = np.asarray(Image.fromarray(image).resize((px, px), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(small - wanted).mean() < 5


@pytest.mark.parametrize("broken", [b"", b"not a picture", encode_jpeg(gradient())[:300]])
def test_bytes_that_are_no_jpeg_are_named(broken):
    with pytest.raises(UserError, match=f"{len(broken)} bytes"):
        decode_jpeg(broken, 64)
