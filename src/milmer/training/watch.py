"""Attention watched while a network is trained: has it gone uniform, does it still change, does it see content at all?

Nothing here says that a weight matters for the answer; the deletion test does (`milmer.training.probes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from milmer.models.bag import FACE, Bag

COLUMNS = ("attention_entropy", "attention_variance", "attention_changed", "attention_position")
UNIFORM = 0.99  # entropy above it: every frame weighs the same
ONE_PLACE = 0.9  # share of bags above which one position of the bag decides
Floats = NDArray[np.float64]


def valid_frames(bag: Bag) -> Tensor:
    """Frames of `bag` that a model may weigh, as its masks together say; bool, (B, W, N)."""
    return bag.frame_mask & bag.window_mask[..., None] & bag.modality_mask[:, FACE, None, None]  # (B, W, N)


class AttentionWatch:
    """Gathers the weights of the validation bags of an epoch and compares them with the epoch before.

    Parameters
    ----------
    keep : int
        Frames kept of a window: the K of the top-K sets that are compared.

    Notes
    -----
    The bags of every epoch must come in the same order, as a validation loader's do. `state` and `load` carry the
    last epoch's sets across an interruption, as tensors, so that a checkpoint can be read with ``weights_only``.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._before: Tensor | None = None

    def begin(self) -> None:
        """Start an epoch."""
        self._seen = []

    def add(self, weights: Tensor, mask: Tensor) -> None:
        """Take the weights (B, W, N) of some bags, and which frames were there (B, W, N)."""
        self._seen.append((weights.detach().float().cpu(), mask.detach().cpu()))

    def end(self) -> dict[str, float]:
        """Close the epoch and return its figures, named as `COLUMNS`; empty where no bag had any weights."""
        if not self._seen:
            return {}
        weights = torch.cat([w for w, _ in self._seen]).numpy().astype(np.float64)  # (n, W, N)
        mask = torch.cat([m for _, m in self._seen]).numpy()  # (n, W, N)
        self._seen = []
        if not (weights * mask).any():
            return {}
        top = top_frames(weights, mask, self.keep)  # (n, W*N)
        before = None if self._before is None else self._before.numpy()  # (n, W*N)
        self._before = torch.from_numpy(top)
        return dict(
            zip(COLUMNS, (*spread(weights, mask), changed(top, before, mask), one_place(weights, mask)), strict=True)
        )

    def state(self) -> dict[str, Tensor]:
        """Return what the next epoch is compared with."""
        return {} if self._before is None else {"top": self._before}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` returned."""
        self._before = state.get("top")


def spread(weights: Floats, mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return how evenly the weights lie on the frames of a bag: entropy and variance, means over bags.

    Parameters
    ----------
    weights : ndarray, shape (n, W, N)
    mask : ndarray of bool, shape (n, W, N)
        Valid frames. Bags with fewer than two, or without any weight, are left out.

    Returns
    -------
    entropy : float
        Entropy of the weights divided by the logarithm of the number of valid frames: 1 is uniform, 0 one frame.
    variance : float
        Variance over valid frames of weight times their number: 0 is uniform.
    """
    share, valid = _shares(weights, mask)  # (n, F), (n, F)
    if not len(share):
        return float("nan"), float("nan")
    n = valid.sum(axis=1)  # (n,)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)  # (n, F)
    entropy = -(share * logs).sum(axis=1) / np.log(n)  # (n,)
    square = np.where(valid, (share * n[:, None] - 1) ** 2, 0.0)  # (n, F)
    return float(entropy.mean()), float((square.sum(axis=1) / n).mean())


def top_frames(weights: Floats, mask: NDArray[np.bool_], keep: int) -> NDArray[np.bool_]:
    """Mark the `keep` heaviest valid frames for each window that has one, over the whole bag; bool, (n, W*N).

    Of equals the first. A bag with no more valid frames than that offers no choice: all of them are marked.
    """
    valid = mask.reshape(len(mask), -1)  # (n, F)
    wanted = keep * mask.any(axis=-1).sum(axis=1)  # (n,)
    order = np.argsort(np.where(valid, -weights.reshape(len(valid), -1), np.inf), axis=1, kind="stable")  # (n, F)
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(valid.shape[1]), order.shape), axis=1)
    found: NDArray[np.bool_] = (place < wanted[:, None]) & valid  # (n, F)
    return found


def changed(top: NDArray[np.bool_], before: NDArray[np.bool_] | None, mask: NDArray[np.bool_]) -> float:
    """Return the share of bags whose top set differs from the epoch before's; NaN where there is nothing to compare.

    Bags in which all valid frames are in the set are left out: they have no choice to change.
    """
    valid = mask.reshape(len(mask), -1)  # (n, F)
    chose = (valid & ~top).any(axis=1) & (valid.sum(axis=1) > 1)  # (n,)
    if before is None or before.shape != top.shape or not chose.any():
        return float("nan")
    return float((top != before).any(axis=1)[chose].mean())


def one_place(weights: Floats, mask: NDArray[np.bool_]) -> float:
    """Return the largest share of bags whose heaviest frame is at one and the same place of the bag.

    Only bags with three valid frames or more count: with two, one place is likely anyway. NaN where there is none.
    """
    share, valid = _shares(weights, mask)  # (n, F), (n, F)
    top = share[valid.sum(axis=1) >= 3].argmax(axis=1)  # (n,)
    return float(np.bincount(top).max() / len(top)) if len(top) else float("nan")


def collapse_notes(row: Mapping[str, Any], *, looks_at_positions: bool = False) -> list[str]:
    """Say in a line where attention has collapsed.

    Parameters
    ----------
    row : mapping
        The chosen epoch's row of history.csv.
    looks_at_positions : bool
        The method weighs positions by design, so that one position is no fault.
    """
    entropy, place = (float(row.get(name, float("nan"))) for name in ("attention_entropy", "attention_position"))
    if entropy > UNIFORM:
        return [
            f"attention has collapsed to uniform (entropy above {UNIFORM} of 1), so every frame weighs the same and "
            "the weights choose nothing"
        ]
    if place > ONE_PLACE and not looks_at_positions:
        return [
            f"attention has collapsed to one position (the heaviest frame is at the same place in over {ONE_PLACE:.0%} "
            "of validation bags), so it goes by the place of a frame, not by what it shows"
        ]
    return []


def _shares(weights: Floats, mask: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """Weights that sum to 1 over valid frames, of the bags with two or more and any weight; (n, F) each."""
    valid = mask.reshape(len(mask), -1)  # (n, F)
    share = np.where(valid, weights.reshape(len(valid), -1), 0.0)  # (n, F)
    total = share.sum(axis=1, keepdims=True)  # (n, 1)
    use = (valid.sum(axis=1) > 1) & (total[:, 0] > 0)  # (n,)
    return share[use] / total[use], valid[use]
