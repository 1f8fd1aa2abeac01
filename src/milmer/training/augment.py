"""Changes of a bag while training: a function of seed, epoch and bag, so that a resumed run repeats itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

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
            if rng.random() < 0.5:
                one = one.flip(-1)  # (W, N, 3, P, P)
            dy, dx = (int(v) for v in rng.integers(-reach, reach + 1, 2))
            light = torch.from_numpy(rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, (3, 1, 1)))  # (3, 1, 1)
            one = (torch.roll(one, (dy, dx), (-2, -1)) * light.to(one)).clamp(0, 1)  # (W, N, 3, P, P)
        pictures.append(one)
    mask = bag.eeg_mask & ~torch.from_numpy(np.stack(hidden)).to(bag.eeg_mask.device)[:, None]  # (B, W, C)
    return dataclasses.replace(bag, frames=torch.stack(pictures), eeg_mask=mask)
