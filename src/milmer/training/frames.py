"""Frames as pixels: decoded once where all of them fit in memory, else whenever one is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from milmer.faces.crop import decode_jpeg
from milmer.progress import Progress, silent
from milmer.store import Store

FRAME_MEMORY = 1_000_000_000  # bytes of decoded frames that are kept; beyond it they are decoded when wanted


class FrameMemory:
    """Crops of a store at one size. Nothing is decoded before the first is asked for.

    Parameters
    ----------
    store : Store
    px : int
        Side of the frames in pixels.
    wanted : iterable of (str, int)
        Recordings and rows of their face tracks that will be asked for.
    """

    def __init__(self, store: Store, px: int, wanted: Iterable[tuple[str, int]]) -> None:
        self.store, self.px = store, px
        self._wanted: list[tuple[str, int]] | None = sorted(set(wanted))
        self._at: dict[tuple[str, int], int] = {}
        self._frames: NDArray[np.uint8] | None = None

    def fill(self, progress: Progress = silent) -> None:
        """Decode all that is wanted, where it fits; once."""
        wanted, self._wanted = self._wanted, None
        if not wanted or len(wanted) * self.px * self.px * 3 > FRAME_MEMORY:
            return
        frames = np.empty((len(wanted), self.px, self.px, 3), dtype=np.uint8)  # (F, P, P, 3)

        def decode(i: int) -> None:
            frames[i] = self.decode(*wanted[i])  # (P, P, 3)

        for key in {key for key, _ in wanted}:
            self.store.faces(key)  # read before threads are
        with ThreadPoolExecutor(2) as pool:
            for done, _ in enumerate(pool.map(decode, range(len(wanted)))):
                if done % 500 == 0:
                    progress(done, len(wanted), "reading frames")
        self._frames = frames
        self._at = {w: i for i, w in enumerate(wanted)}

    def decode(self, key: str, row: int) -> NDArray[np.uint8]:
        """Decode a crop, uint8 (P, P, 3)."""
        return decode_jpeg(self.store.crop(key, row), self.px)  # (P, P, 3)

    def __call__(self, key: str, row: int) -> NDArray[np.uint8]:
        """Return the crop in `row` of the face track of recording `key`, uint8 (P, P, 3).

        Raises
        ------
        KeyError
            If frames are kept in memory and this one was not among those wanted.
        """
        if self._wanted is not None:
            self.fill()
        if self._frames is None:
            return self.decode(key, row)  # (P, P, 3)
        kept: NDArray[np.uint8] = self._frames[self._at[key, row]]  # (P, P, 3)
        return kept
