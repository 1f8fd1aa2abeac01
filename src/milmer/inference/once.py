"""Answers to overlapping windows: each frame is embedded once, however many windows it falls in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from milmer.inference.engines import Engine
from milmer.progress import Progress, silent
from milmer.training.data import Bags

FRAMES = 32  # embedded at a time


@dataclass(frozen=True)
class Answers:
    """What a model says of rows of bags.

    Parameters
    ----------
    prob : ndarray of float32, shape (n, n_classes)
    weights : ndarray of float32, shape (n, W, N)
    embedded, shown : int
        Frames that went through the backbone; frames in all windows together.
    """

    prob: NDArray[np.float32]
    weights: NDArray[np.float32]
    embedded: int
    shown: int


class _Blind(Bags):
    """Bags without pictures: frames are (B, W, N, 3, 0, 0), their masks as they were."""

    @classmethod
    def of(cls, bags: Bags) -> Bags:
        """Return a copy of `bags` that decodes nothing."""
        other = copy.copy(bags)
        other.__class__ = cls
        return other

    def _sizes(self) -> tuple[int, int, int, int]:
        n, c, s, _ = super()._sizes()
        return n, c, s, 0

    def frame(self, key: str, row: int) -> NDArray[np.uint8]:
        return np.zeros((0, 0, 3), dtype=np.uint8)  # (0, 0, 3)


def answer_rows(
    engine: Engine, bags: Bags, rows: NDArray[np.int64], *, batch: int = 64, progress: Progress = silent
) -> Answers:
    """Answer `rows` of `bags` in order; a frame's tokens are kept until no later row holds it.

    Parameters
    ----------
    batch : int
        Bags that are answered at a time; the more, the fewer tokens are gathered twice.

    Returns
    -------
    Answers
    """
    keys = bags.table["store_key"].astype(str).to_numpy()
    blind, prob, weights = _Blind.of(bags), [], []
    cache: dict[tuple[str, int], Tensor] = {}  # (T, D) each
    embedded = shown = 0
    for start in range(0, len(rows), batch):
        progress(start, len(rows), "windows")
        some = rows[start : start + batch]
        bag = blind.__getitems__([(0, int(r)) for r in some])
        if engine.sees:
            faces = bags.face_rows[some]  # (B, W, N)
            wanted = {(keys[r], int(f)): None for r, of in zip(some, faces, strict=True) for f in of[of >= 0]}
            new = [k for k in wanted if k not in cache]
            for part, tokens in _embed(engine, bags, new):
                cache |= dict(zip(part, tokens, strict=True))
            embedded, shown = embedded + len(new), shown + int((faces >= 0).sum())
            bag = replace(bag, prefix=_gather(engine, bags, cache, [keys[r] for r in some], faces))
            ahead = rows[start + batch :]
            # Rows are in order of time, so what the next rows do not hold is seldom wanted again.
            later = {(keys[r], int(f)) for r in ahead[:batch] for f in bags.face_rows[r][bags.face_rows[r] >= 0]}
            cache = {k: v for k, v in cache.items() if k in later}
        found = engine.answer(bag)
        prob.append(found.probabilities)  # (B, n_classes)
        weights.append(found.frame_weights)  # (B, W, N)
    return Answers(torch.cat(prob).numpy(), torch.cat(weights).numpy(), embedded, shown)


def _embed(
    engine: Engine, bags: Bags, wanted: list[tuple[str, int]]
) -> Iterator[tuple[list[tuple[str, int]], list[Tensor]]]:
    for first in range(0, len(wanted), FRAMES):
        part = wanted[first : first + FRAMES]
        pixels = np.stack([bags.frame(*k) for k in part])  # (M, P, P, 3)
        frames = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()  # (M, 3, P, P)
        yield part, list(engine.embed(frames))


def _gather(
    engine: Engine, bags: Bags, cache: dict[tuple[str, int], Tensor], keys: list[str], faces: NDArray[np.int64]
) -> Tensor:
    """Put kept tokens where `faces` (B, W, N) has them, zeros elsewhere; (B, W, N, T, D)."""
    if cache:
        like = next(iter(cache.values()))  # (T, D)
    else:
        side = bags.config.px
        like = engine.embed(torch.zeros((1, 3, side, side), dtype=torch.uint8))[0]  # (T, D), for its shape alone
    whole = like.new_zeros((*faces.shape, *like.shape))  # (B, W, N, T, D)
    for b, w, n in np.argwhere(faces >= 0).tolist():
        whole[b, w, n] = cache[keys[b], int(faces[b, w, n])]  # (T, D)
    return whole
