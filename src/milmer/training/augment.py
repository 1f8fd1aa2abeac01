"""Changes of a bag while training: a function of seed, epoch and bag, so that a resumed run repeats itself."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import torch

from milmer.config import Model, Training
from milmer.models.bag import Bag


def augment(bag: Bag, items: torch.Tensor, seed: int, channel_dropout: float = 0.0, *, pixels: bool = True) -> Bag:
    """Mirror, light and shift each bag's frames and hide some of its electrodes.

    One draw a bag, a function of seed, epoch and index: whatever else is in the batch, and however often training was
    resumed.

    Parameters
    ----------
    items : Tensor of int, shape (B, 2)
        Epoch and index of every bag.
    channel_dropout : float
        Chance that an electrode is hidden in all windows of a bag.
    pixels : bool
        False leaves the frames alone: to a frozen backbone, which cannot learn to see past the changes, they are noise.
    """
    frames = bag.frames  # (B, W, N, 3, P, P)
    if pixels:
        frames = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()  # (B, W, N, 3, P, P)
    reach = max(1, frames.shape[-1] // 20)
    pictures, hidden = [], []
    for one, (epoch, index) in zip(frames, items.tolist(), strict=True):
        rng = np.random.default_rng([seed, epoch, index, 2])
        hidden.append(rng.random(bag.eeg.shape[2]) < channel_dropout)  # (C,)
        if pixels and one.numel():
            mirrored = rng.random() < 0.5
            one = _changed(one, rng, mirrored, reach)  # (W, N, 3, P, P)
        pictures.append(one)
    mask = bag.eeg_mask & ~torch.from_numpy(np.stack(hidden)).to(bag.eeg_mask.device)[:, None]  # (B, W, C)
    return dataclasses.replace(bag, frames=torch.stack(pictures), eeg_mask=mask)


def views_of(training: Training, model: Model) -> int:
    """Return how many fixed views of a frame are learned from.

    It is 1 where frames are left alone (nothing of the backbone is trained), or are changed anew in every epoch.
    """
    return training.cache_views if training.augment and model.trainable_stages not in (0, "all") else 1


def changes_pixels(training: Training, model: Model) -> bool:
    """Whether frames are changed anew in every epoch by `augment`."""
    return training.augment and model.trainable_stages != 0 and views_of(training, model) == 1


def fixed_view(frames: torch.Tensor, key: str, start: int, view: int) -> torch.Tensor:
    """Return one of a few views of frames of a trial, the same in every epoch, run and process.

    All frames of a trial get the same change, as all of a bag do in `augment`: the face does not jump within a window.

    Parameters
    ----------
    frames : Tensor, shape (..., 3, P, P)
        uint8 or floating point in [0, 1].
    key : str
        The recording, as its own store calls it.
    start : int
        Where the trial begins in the recording's face track.
    view : int
        0 leaves the frames as they are; the others are lit and shifted, every other one mirrored.

    Returns
    -------
    Tensor, shape (..., 3, P, P)
        In [0, 1], but for view 0, which is `frames`.
    """
    if view == 0:
        return frames  # (..., 3, P, P)
    rng = np.random.default_rng([zlib.crc32(key.encode()), start, view, 4])
    scaled = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()  # (..., 3, P, P)
    return _changed(scaled, rng, view % 2 == 1, max(1, frames.shape[-1] // 20))  # (..., 3, P, P)


def drawn_view(seed: int, epoch: int, index: int, views: int) -> int:
    """Draw one of `views` for a bag: a function of seed, epoch and index."""
    return int(np.random.default_rng([seed, epoch, index, 8]).integers(views))


def _changed(frames: torch.Tensor, rng: np.random.Generator, mirrored: bool, reach: int) -> torch.Tensor:
    """Mirror, shift and light frames in [0, 1], all alike; (..., 3, P, P)."""
    frames = frames.flip(-1) if mirrored else frames  # (..., 3, P, P)
    dy, dx = (int(v) for v in rng.integers(-reach, reach + 1, 2))
    light = torch.from_numpy(rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, (3, 1, 1)))  # (3, 1, 1)
    return (torch.roll(frames, (dy, dx), (-2, -1)) * light.to(frames)).clamp(0, 1)  # (..., 3, P, P)
