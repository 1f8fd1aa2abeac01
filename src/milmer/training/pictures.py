"""Still pictures for training: read ahead, kept where they fit, and changed as a photographer might have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from milmer.datasets.expressions import ExpressionSet

Ints = NDArray[np.int64]

IN_MEMORY = 1 << 30  # bytes of decoded pictures that are kept; a larger set is read again every epoch
READERS = 4  # threads that decode


class Pictures:
    """Batches of decoded pictures, the next one read while the last is learnt from.

    Parameters
    ----------
    found : ExpressionSet
        Where they come from.
    px : int
        Side in pixels.
    """

    def __init__(self, found: ExpressionSet, px: int) -> None:
        self.found, self.px = found, px
        self._kept: dict[int, NDArray[np.uint8]] | None = {} if len(found) * px * px * 3 <= IN_MEMORY else None

    def batches(self, batches: list[Ints]) -> Iterator[tuple[Ints, Tensor]]:
        """Yield rows (B,) and their pictures (B, 3, P, P) uint8."""
        with ThreadPoolExecutor(READERS) as pool:
            ahead = [pool.map(self._one, rows.tolist()) for rows in batches[:1]]
            for i, rows in enumerate(batches):
                if i + 1 < len(batches):
                    ahead.append(pool.map(self._one, batches[i + 1].tolist()))
                yield rows, torch.from_numpy(np.stack(list(ahead.pop(0)))).permute(0, 3, 1, 2)  # (B, 3, P, P)

    def _one(self, row: int) -> NDArray[np.uint8]:
        if self._kept is None:
            return self.found.picture(row, self.px)
        if row not in self._kept:
            self._kept[row] = self.found.picture(row, self.px)
        return self._kept[row]  # (P, P, 3)


def augment_pictures(pictures: Tensor, seed: int, step: int) -> Tensor:
    """Change pictures as the same face might have been photographed otherwise, all drawn from `seed` and `step`.

    Mirrored or not, 0.8 to 1 of the area, turned by up to 12 degrees, brightness, contrast and colour by up to 25 %,
    and in a quarter of them a rectangle of 4 to 15 % of the area erased (Zhong et al. 2020).

    Parameters
    ----------
    pictures : Tensor, shape (B, 3, P, P), uint8

    Returns
    -------
    Tensor, shape (B, 3, P, P), float32 in [0, 1]
    """
    b, _, p, _ = pictures.shape
    u = torch.from_numpy(np.random.default_rng([seed, 43, step]).uniform(-1, 1, (b, 12)).astype(np.float32))  # (B, 12)
    u = u.to(pictures.device)  # (B, 12)
    x = pictures.float() / 255  # (B, 3, P, P)
    half = (0.9 + 0.1 * u[:, 0]).sqrt()  # (B,) side of what is kept
    mirror, angle = torch.where(u[:, 1] < 0, -1.0, 1.0), u[:, 2] * math.radians(12)  # (B,), (B,)
    cos, sin = half * angle.cos(), half * angle.sin()  # (B,), (B,)
    across, down = u[:, 3] * (1 - half), u[:, 4] * (1 - half)  # (B,), (B,)
    rows = [mirror * cos, -sin, across, mirror * sin, cos, down]
    theta = torch.stack(rows, dim=1).view(b, 2, 3)  # (B, 2, 3)
    grid = nn.functional.affine_grid(theta, [b, 3, p, p], align_corners=False)  # (B, P, P, 2)
    x = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)  # (B, 3, P, P)
    gain = 1 + 0.25 * u[:, 5:8].view(b, 3, 1, 1)  # (B, 3, 1, 1) brightness, contrast, colour
    x = x * gain[:, :1]  # (B, 3, P, P)
    middle = x.mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    x = middle + (x - middle) * gain[:, 1:2]  # (B, 3, P, P)
    grey = x.mean(dim=1, keepdim=True)  # (B, 1, P, P)
    x = grey + (x - grey) * gain[:, 2:]  # (B, 3, P, P)
    side = (0.095 + 0.055 * u[:, 8]).sqrt() * torch.where(u[:, 9] > 0.5, 1.0, 0.0)  # (B,) 0: nothing erased
    at = (torch.arange(p, device=x.device) + 0.5) / p * 2 - 1  # (P,)
    wide = (at - u[:, 10:11] * (1 - side[:, None])).abs() < side[:, None]  # (B, P)
    high = (at - u[:, 11:12] * (1 - side[:, None])).abs() < side[:, None]  # (B, P)
    x = torch.where((high[:, :, None] & wide[:, None, :])[:, None], middle, x)  # (B, 3, P, P)
    return x.clamp(0, 1)  # (B, 3, P, P)
