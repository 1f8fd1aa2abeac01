"""Face crops: cut a square out of a frame, and keep it as JPEG."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from milmer.errors import UserError


def crop_face(image: NDArray[np.uint8], box: ArrayLike, margin: float = 0.1, px: int = 224) -> NDArray[np.uint8]:
    """Cut a square around a face and resize it.

    The side is the longer side of the box grown by `margin` at each end (PAPER section 1: 10 %), so that a face keeps
    its proportions. What lies outside the frame repeats the frame's edge.

    Parameters
    ----------
    image : ndarray, shape (H, W, 3), uint8
        RGB frame.
    box : array-like, shape (4,)
        x, y, width, height in pixels of `image`; may reach outside it.
    margin : float
        Growth on each side, as a share of the longer side.
    px : int
        Side of the crop in pixels.

    Returns
    -------
    ndarray, shape (px, px, 3), uint8

    Raises
    ------
    ValueError
        If the box is not finite or has no area.
    """
    x, y, w, h = (float(v) for v in np.asarray(box, dtype=np.float64))
    if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
        raise ValueError(f"box {(x, y, w, h)}: expected finite x, y and positive width, height")
    side = max(w, h) * (1 + 2 * margin)
    left = x + w / 2 - side / 2
    top = y + h / 2 - side / 2
    x0, x1 = int(np.floor(left)), int(np.ceil(left + side))
    y0, y1 = int(np.floor(top)), int(np.ceil(top + side))
    rows = np.clip(np.arange(y0, y1), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(x0, x1), 0, image.shape[1] - 1)
    region = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # (h, w, 3), what is inside the frame
    if region.shape[:2] != (len(rows), len(columns)):
        region = region.take(rows - rows[0], axis=0).take(columns - columns[0], axis=1)  # (y1-y0, x1-x0, 3)
    inside = (left - x0, top - y0, min(left - x0 + side, x1 - x0), min(top - y0 + side, y1 - y0))
    # Pillow's filter widens when it shrinks: no aliasing. The fractional box keeps sub-pixel motion of the face.
    return np.asarray(Image.fromarray(region).resize((px, px), Image.Resampling.BICUBIC, box=inside))  # (px, px, 3)


def encode_jpeg(rgb: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Return an RGB image of shape (H, W, 3) as JPEG bytes."""
    buffer = BytesIO()
    Image.fromarray(rgb).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def decode_jpeg(jpeg: bytes, px: int | None = None) -> NDArray[np.uint8]:
    """Read JPEG bytes, at another size if wanted.

    Parameters
    ----------
    jpeg : bytes
        What `encode_jpeg` returned.
    px : int, optional
        Side of the square to return; where it is half the stored side or less, the decoder skips the detail that
        would be thrown away.

    Returns
    -------
    ndarray, shape (H, W, 3) or (px, px, 3), uint8
        RGB.

    Raises
    ------
    UserError
        If the bytes are no readable JPEG.
    """
    try:
        with Image.open(BytesIO(jpeg), formats=("JPEG",)) as opened:
            if px is not None:
                opened.draft("RGB", (px, px))
            opened.load()
            image: Image.Image = opened if opened.mode == "RGB" else opened.convert("RGB")  # a copy costs a seventh
    except (OSError, SyntaxError) as error:  # Pillow reports damaged data by either
        raise UserError(
            f"face crop: {len(jpeg)} bytes that are no whole JPEG, expected one; prepare this store again"
        ) from error
    if px is not None and image.size != (px, px):
        image = image.resize((px, px), Image.Resampling.BILINEAR)
    return np.asarray(image)  # (px, px, 3)
