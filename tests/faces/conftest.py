"""Videos whose frames say their own number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

BITS = 10


def draw(number: int) -> np.ndarray:
    """A frame (32, 160, 3) with `number` in ten black or white blocks."""
    bits = [(number >> b) & 1 for b in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, 160 // BITS)
    return np.broadcast_to(row[None, :, None], (32, 160, 3)).copy()


def read(image: np.ndarray) -> int:
    """The number in a frame that `draw` made and a codec spoiled."""
    step = 160 // BITS
    return sum(1 << b for b in range(BITS) if image[8:24, b * step + 4 : (b + 1) * step - 4].mean() > 127)


WriteVideo = Callable[..., Path]


@pytest.fixture(scope="session")
def write_video(tmp_path_factory: pytest.TempPathFactory) -> WriteVideo:
    """Write numbered frames at the given seconds; the container follows from the name."""
    folder = tmp_path_factory.mktemp("videos")

    def write(
        name: str,
        times: Sequence[float],
        codec: str = "libx264",
        gop: int = 12,
        bframes: int = 0,
        options: dict[str, str] | None = None,
        rate: int = 25,
        images: Callable[[int], np.ndarray] = draw,
    ) -> Path:
        path = folder / name
        if path.exists():
            return path
        constant = Path(name).suffix == ".avi"
        base = Fraction(1, rate) if constant else Fraction(1, 1000)
        with av.open(str(path), "w") as out:
            stream = out.add_stream(codec, rate=rate)
            stream.height, stream.width = images(0).shape[:2]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.gop_size = gop
            stream.max_b_frames = bframes
            stream.bit_rate = 2_000_000
            stream.codec_context.time_base = base
            stream.codec_context.thread_count = 1
            extra = {"preset": "veryfast", "crf": "18", "bf": str(bframes)} if codec == "libx264" else {}
            stream.options = extra | (options or {})
            for i, time in enumerate(times):
                frame = av.VideoFrame.from_ndarray(images(i), format="rgb24")
                frame.pts = i if constant else round(time * 1000)
                frame.time_base = base
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def read_number() -> Callable[[np.ndarray], int]:
    """Give `read`."""
    return read
