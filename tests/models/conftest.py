"""A small network and random bags for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from milmer.config import load_config
from milmer.models.bag import Bag
from milmer.models.milmer import Milmer

Maker = Callable[..., Milmer]


def make_net(overrides: dict[str, Any] | None = None, **given: Any) -> Milmer:
    """The demo preset's network from a fixed seed, in evaluation mode."""
    torch.manual_seed(0)
    config = load_config("demo", overrides=overrides or {}).model
    return Milmer(config, **{"n_classes": 4, "n_times": 384, "sfreq": 128.0, "px": 64, **given}).eval()


def make_places(channels: int, seed: int = 0) -> Tensor:
    """Random electrodes on the upper half of the sphere, (C, 3)."""
    xyz = torch.randn(channels, 3, generator=torch.Generator().manual_seed(seed))  # (C, 3)
    xyz[:, 2] = xyz[:, 2].abs()
    return torch.nn.functional.normalize(xyz, dim=-1)  # (C, 3)


def make_bag(b: int = 2, w: int = 1, n: int = 5, c: int = 6, s: int = 384, px: int = 64, seed: int = 0) -> Bag:
    """Random frames and EEG of about 10 µV."""
    random = torch.Generator().manual_seed(seed)
    return Bag.of(
        frames=torch.randint(0, 256, (b, w, n, 3, px, px), dtype=torch.uint8, generator=random),
        eeg=1e-5 * torch.randn(b, w, c, s, generator=random),
        positions=make_places(c).expand(b, -1, -1),
    )


@pytest.fixture
def net() -> Maker:
    return make_net


@pytest.fixture
def bag() -> Callable[..., Bag]:
    return make_bag


@pytest.fixture
def places() -> Callable[..., Tensor]:
    return make_places
