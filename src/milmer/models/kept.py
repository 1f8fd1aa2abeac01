"""Training on the frames that are kept: score all of them without gradient, then run the kept ones again with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from milmer.models.backbone import Backbone
from milmer.models.bag import Bag
from milmer.models.selection_parts import FrameSelection, Kept, take

Scoring = Literal["exact", "half"]


def learn_from_kept(
    backbone: Backbone, select: FrameSelection, bag: Bag, scoring: Scoring = "exact"
) -> tuple[Tensor, Kept, Tensor]:
    """Choose frames of a settled bag so that the backbone learns from the kept ones only.

    The answer is that of ``select(backbone(...), mask)`` where the backbone draws no noise, but for the rounding of
    matrix products over fewer frames. Of the gradient two roads are closed: from the scorer to the backbone, and from
    frames that are not kept (on which only ``Prediction.alone`` looks). The scorer's own gradient is whole.

    All frames are scored in evaluation mode, so that the choice is the one that evaluation would make; those kept are
    run with the noise of training. Where that would cost more than one pass with gradient through all of them (N + 3 K
    forward passes against 3 N: a backward pass costs two), there is only that pass, and the same two roads are closed.

    Parameters
    ----------
    backbone : Backbone
    select : FrameSelection
        One that is `hard`.
    bag : Bag
        Its masks say all that is known (`Bag.settled`).
    scoring : {"exact", "half"}
        Precision of the pass that scores; what goes on is not concerned.

    Returns
    -------
    frames : Tensor, shape (B, W·N, T, D)
        Tokens of all frames, with a gradient where they were kept.
    kept : Kept
    weights : Tensor, shape (B, W, N)
    """
    mask = bag.frame_mask  # (B, W, N)
    there = mask.flatten(1)  # (B, W·N)
    x = backbone.before(bag.frames, mask, bag.prefix)  # (M, T', F')
    if not len(x):
        frames = backbone.placed(None, there)  # (B, W·N, T, D)
        return frames, *select(frames, mask)
    if len(x) + 3 * int(select.going_on(mask).sum()) >= 3 * len(x):
        learned = backbone.placed(backbone.suffix(x), there)  # (B, W·N, T, D)
        again = _Again(learned.detach(), learned)
    else:
        again = _Again(backbone.placed(score(backbone, x, scoring), there), None, backbone, x, there)
    kept, weights = select(again.scored, mask, again)  # Kept, (B, W, N)
    return again.frames, kept, weights


def score(backbone: Backbone, x: Tensor, scoring: Scoring) -> Tensor:
    """Tokens that frames are scored by, of what `Backbone.before` gave (M, T', F'); (M, T, D), without gradient."""
    device = x.device.type
    before, half = torch.is_autocast_enabled(device), scoring == "half"
    dtype = torch.bfloat16 if half else torch.get_autocast_dtype(device)
    # No cache: weights cast here know of no gradient, and an older torch would hand the same ones to what learns.
    cast = torch.autocast(device, dtype, enabled=before or half, cache_enabled=False)
    with torch.no_grad(), _evaluating(backbone), cast:
        tokens = backbone.suffix(x)  # (M, T, D)
    return tokens.float() if half else tokens  # (M, T, D)


class _Again:
    """Tokens with gradient of the frames that a selection has chosen; it remembers which these were."""

    def __init__(
        self,
        scored: Tensor,
        learned: Tensor | None,
        backbone: Backbone | None = None,
        x: Tensor | None = None,
        there: Tensor | None = None,
    ) -> None:
        self.scored, self.learned = scored, learned  # (B, W·N, T, D) both
        self.backbone, self.x, self.there = backbone, x, there
        self.frames = scored  # (B, W·N, T, D)

    def __call__(self, index: Tensor, kept: Tensor) -> Tensor:
        """Tokens of the frames at `index` (B, K) where `kept` (B, K); (B, K, T, D)."""
        if self.backbone is None or self.x is None or self.there is None:
            assert self.learned is not None  # for the type checker
            tokens = take(self.learned, index)  # (B, K, T, D)
        else:
            row = (self.there.flatten().cumsum(0) - 1).view(self.there.shape)  # (B, W·N) of each frame in x
            chosen = self.x[row.gather(1, index)[kept]]  # (M', T', F')
            tokens = self.backbone.placed(self.backbone.suffix(chosen), kept)  # (B, K, T, D)
        tokens = tokens.to(self.scored.dtype)  # (B, K, T, D)
        old = take(self.scored, index)  # (B, K, T, D)
        tokens = torch.where(kept[..., None, None], tokens, old)  # (B, K, T, D)
        rows = torch.arange(len(index), device=index.device)[:, None]  # (B, 1)
        self.frames = self.scored.index_put((rows, index), tokens)  # (B, W·N, T, D)
        return tokens


@contextlib.contextmanager
def _evaluating(backbone: Backbone) -> Iterator[None]:
    mode = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(mode)
