"""What is known of single electrodes, kept by their place on the head so that another cap can be met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from milmer.models.attention import init_linear

SAME_PLACE = 0.05  # electrodes nearer than this on the unit sphere are one (10-05 neighbours are about 0.18 apart)


class ElectrodeTable(nn.Module):
    """Numbers fitted on training rows, a few for each electrode met there; part of the weights.

    An electrode met there finds its own numbers by its position, any other the median over electrodes. Before `fit`
    every electrode has `default`.

    Parameters
    ----------
    default : Tensor, shape (F,)
        What an electrode has before anything is fitted.
    """

    positions: Tensor
    values: Tensor
    median: Tensor

    def __init__(self, default: Tensor) -> None:
        super().__init__()
        self.register_buffer("positions", torch.zeros(0, 3))  # (E, 3)
        self.register_buffer("values", torch.zeros(0, len(default)))  # (E, F)
        self.register_buffer("median", default.clone())  # (F,)

    def fit(self, positions: Tensor, values: Tensor) -> None:
        """Learn `values` (E, F) of the electrodes at `positions` (E, 3)."""
        self.positions = positions.to(self.median)  # (E, 3)
        self.values = values.to(self.median)  # (E, F)
        self.median = self.values.median(0).values  # (F,)

    def forward(self, positions: Tensor) -> Tensor:
        """Look up electrodes by `positions` (B, C, 3); (B, C, F)."""
        unknown = self.median.expand(*positions.shape[:2], -1)  # (B, C, F)
        if len(self.positions) == 0:
            return unknown  # (B, C, F)
        distance = (positions[:, :, None] - self.positions).norm(dim=-1)  # (B, C, E)
        nearest, index = distance.min(-1)  # (B, C), (B, C)
        return torch.where((nearest < SAME_PLACE)[..., None], self.values[index], unknown)  # (B, C, F)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # How many electrodes there are is learned, so the table takes the size of what it is given.
        for name in ("positions", "values"):
            found = state_dict.get(prefix + name)
            mine: Tensor = getattr(self, name)
            if found is not None and found.ndim == 2 and found.shape[1] == mine.shape[1]:
                setattr(self, name, mine.new_zeros(found.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def median_by_place(positions: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Gather rows by electrode.

    Parameters
    ----------
    positions : sequence of Tensor, shape (n_i, 3)
    values : sequence of Tensor, shape (n_i, F)
        One row for each channel of each training window.

    Returns
    -------
    places : Tensor, shape (E, 3)
    centre, spread : Tensor, shape (E, F)
        Median over the rows of an electrode, and 1.4826 times the median absolute deviation from it.
    """
    where, rows = torch.cat(list(positions)), torch.cat(list(values))  # (n, 3), (n, F)
    grid, index = torch.unique((where * 1e3).round(), dim=0, return_inverse=True)  # (E, 3), (n,)
    groups = [rows[index == e] for e in range(len(grid))]  # E times (n_e, F)
    centre = torch.stack([g.median(0).values for g in groups])  # (E, F)
    spread = torch.stack([(g - c).abs().median(0).values for g, c in zip(groups, centre, strict=True)])  # (E, F)
    return grid / 1e3, centre, 1.4826 * spread


class PositionEmbedding(nn.Module):
    """Where an electrode is, as a token: sines and cosines of (x, y, z) at three octaves, then Linear, GELU, Linear.

    Parameters
    ----------
    width : int
        Width of what comes out.
    std : float
        Deviation of the last layer's initial weights.
    """

    def __init__(self, width: int, std: float = 0.02) -> None:
        super().__init__()
        hidden = nn.Linear(21, min(width, 128))
        out = nn.Linear(min(width, 128), width)
        self.net = nn.Sequential(hidden, nn.GELU(), out)
        init_linear(hidden)
        nn.init.normal_(out.weight, std=std)
        nn.init.zeros_(out.bias)

    def forward(self, positions: Tensor) -> Tensor:
        """Embed `positions` (B, C, 3) on the unit sphere; (B, C, width)."""
        octaves = math.pi * torch.tensor([0.5, 1.0, 2.0], device=positions.device)  # (3,)
        angle = (positions[..., None] * octaves).flatten(-2)  # (B, C, 9)
        out: Tensor = self.net(torch.cat([positions, angle.sin(), angle.cos()], dim=-1))  # (B, C, width)
        return out  # (B, C, width)
