"""Which frames of a bag go on: eight ways to choose, the default and what it has to beat (PAPER section 1, MIL)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from milmer.config import Selection
from milmer.errors import UserError
from milmer.models.selection_parts import (
    Again,
    FrameSelection,
    GatedScorer,
    Kept,
    ScoredSelection,
    choose,
    frame_times,
    masked_softmax,
    take,
    taken,
    wanted,
)
from milmer.models.selection_perturbed import PerturbedTopK

__all__ = [
    "SELECTIONS",
    "FrameSelection",
    "Gated",
    "GatedScorer",
    "GatedTopK",
    "KeepAll",
    "Kept",
    "LearnedPlaces",
    "MiddleFrame",
    "PerturbedTopK",
    "PublishedTopK",
    "StraightThrough",
    "frame_times",
    "make_selection",
    "masked_softmax",
    "take",
]


class GatedTopK(ScoredSelection):
    """Score every frame of the bag, keep the best K, multiply them by their weights.

    The weights are a softmax over all valid frames of the bag (all its windows); K is `keep` for each window that has a
    frame. Kept frames are multiplied by their weight, renormalised among the kept and times their number, so that equal
    weights change nothing; this product is the road on which the scorer gets its gradient. With one frame kept that
    factor is 1 whatever the weight, and the gradient of the weight itself is passed straight through.

    While training, frames not chosen yet must be seen, or the backbone never learns what to look for: kept at random,
    3 of 10 frames hold none of the 3 that matter in 3 bags of 10. So training starts soft, with all frames kept, and
    their number falls to K with `warmth`, which the trainer lowers from 1 to 0; until then Gumbel noise times
    `exploration` and `warmth` is added to the scores before the choice (not to the weights).

    Parameters
    ----------
    width : int
        Token width `D`.
    config : Selection
        `keep`, `hidden` and `exploration`; with 0 the choice is hard from the first step.
    n_frames, n_windows : int
        Not used.
    """

    uses_warmth = True
    hard = True

    def forward(self, frames: Tensor, mask: Tensor, again: Again | None = None) -> tuple[Kept, Tensor]:
        """Choose among `frames` (B, W·N, T, D) by `mask` (B, W, N); return what is kept and weights (B, W, N)."""
        scores = self.scores(frames)  # (B, W·N)
        weights = masked_softmax(scores, mask.flatten(1))  # (B, W·N)
        index, kept = self._choice(scores.detach(), mask)  # (B, K), (B, K)
        factor = self._factor(scores, mask.flatten(1), index, kept)  # (B, K)
        tokens = taken(frames, index, kept, again) * factor[..., None, None]  # (B, K, T, D)
        return Kept(tokens, kept, frame_times(mask).gather(1, index)), weights.view(mask.shape)

    def _choice(self, scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Best of `scores` (B, W·N), more of them and with noise in warm-up; index and mask, (B, K) both."""
        if self.training and self.warmth > 0:
            noise = -torch.empty_like(scores).exponential_().log()  # (B, W·N)
            scores = scores + self.exploration * self.warmth * noise  # (B, W·N)
        return choose(scores, mask, self._wide(mask))  # (B, K), (B, K)

    def going_on(self, mask: Tensor) -> Tensor:
        """How many frames of each bag of `mask` (B, W, N) go on at present: more in warm-up; (B, 1)."""
        return wanted(mask, self._wide(mask))  # (B, 1)

    def _wide(self, mask: Tensor) -> float:
        """Frames kept of a window of `mask` (B, W, N) at present."""
        keep = float(self.keep)
        if self.training and self.warmth > 0:
            keep += self.warmth * max(mask.shape[2] - keep, 0.0)
        return keep

    def _factor(self, scores: Tensor, valid: Tensor, index: Tensor, kept: Tensor) -> Tensor:
        """What the frames at `index` (B, K) are multiplied by, 0 where not `kept` (B, K); (B, K)."""
        number = kept.sum(1, keepdim=True)  # (B, 1)
        factor = masked_softmax(scores.gather(1, index), kept) * number  # (B, K)
        if self.keep == 1:
            weight = masked_softmax(scores, valid).gather(1, index) * kept  # (B, K)
            factor = factor + (weight - weight.detach()) * (number == 1)  # (B, K)
        return factor  # (B, K)


class StraightThrough(GatedTopK):
    """Hard forward, soft backward: kept frames go on unchanged, with a gradient as if they had been weighted.

    The gradient is that of multiplying each kept frame by its weight among ALL valid frames, times their number (a
    straight-through estimate, Bengio et al. 2013, arXiv 1308.3432; the relaxation is `Gated`). Weights renormalised
    among the kept would tell the scorer only how to rank these, and nothing where one is kept; with all frames in the
    softmax, a kept frame that helps rises against those left out, and one that does harm falls until it is replaced.
    Warm-up and exploration are those of `GatedTopK`.
    """

    def _factor(self, scores: Tensor, valid: Tensor, index: Tensor, kept: Tensor) -> Tensor:
        """1 where `kept` (B, K), with the gradient of the weight times the number of valid frames; (B, K)."""
        soft = masked_softmax(scores, valid).gather(1, index) * valid.sum(1, keepdim=True)  # (B, K)
        return (1 + (soft - soft.detach())) * kept  # (B, K)


class Gated(ScoredSelection):
    """Soft attention (Ilse, Tomczak, Welling 2018): every frame goes on, times its weight.

    The weight is multiplied by the number of valid frames, so that equal weights change nothing.
    """

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Kept, Tensor]:
        """Weigh `frames` (B, W·N, T, D) by `mask` (B, W, N); return all of them and weights (B, W, N)."""
        return _weigh(frames, mask, self.scores(frames))


class LearnedPlaces(FrameSelection):
    """One learned weight for each place in the bag, whatever the frame shows: every frame goes on, times its weight.

    The softmax is over the places that hold a frame; it starts with equal weights. A shorter bag takes the first.
    """

    looks_at_positions = True

    def __init__(self, width: int, config: Selection, *, n_frames: int = 10, n_windows: int = 1) -> None:
        super().__init__(width, config)
        self.logits = nn.Parameter(torch.zeros(n_windows, n_frames))  # (W, N)

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Kept, Tensor]:
        """Weigh `frames` (B, W·N, T, D) by `mask` (B, W, N); return all of them and weights (B, W, N).

        Raises
        ------
        UserError
            If the bag has more windows, or more frames in a window, than there are learned weights.
        """
        (b, w, n), (windows, places) = mask.shape, self.logits.shape
        if w > windows or n > places:
            raise UserError(
                f"a bag of {w} windows of {n} frames: selection softmax learned weights for {windows} windows of "
                f"{places}; give it such bags, or train with a selection that looks at the frames, such as gated-topk"
            )
        return _weigh(frames, mask, self.logits[:w, :n].float().reshape(1, -1).expand(b, -1))


class KeepAll(FrameSelection):
    """Keep every frame with equal weight: what learning a choice must beat."""

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Kept, Tensor]:
        """Keep all of `frames` (B, W·N, T, D) by `mask` (B, W, N); return them and weights (B, W, N)."""
        valid = mask.flatten(1)  # (B, W·N)
        weights = masked_softmax(torch.zeros(valid.shape, device=valid.device), valid)  # (B, W·N)
        tokens = frames * valid[..., None, None]  # (B, W·N, T, D)
        return Kept(tokens, valid, frame_times(mask)), weights.view(mask.shape)


class MiddleFrame(FrameSelection):
    """The valid frame nearest the middle of each window: the paper's ablation without MIL (PAPER section 1, table 6).

    One frame of each window, the earlier where two are as near, whatever `keep` is; they share the weight equally, and
    all others weigh 0.
    """

    looks_at_positions = True
    hard = True

    def going_on(self, mask: Tensor) -> Tensor:
        """One of each window of `mask` (B, W, N) that has a frame; (B, 1)."""
        return wanted(mask, 1)  # (B, 1)

    def forward(self, frames: Tensor, mask: Tensor, again: Again | None = None) -> tuple[Kept, Tensor]:
        """Choose among `frames` (B, W·N, T, D) by `mask` (B, W, N); return what is kept and weights (B, W, N)."""
        w, n = mask.shape[1:]
        twice = 2 * torch.arange(n, device=mask.device) + 1 - n  # (N,) twice the distance from the middle, in frames
        far = (2 * twice.abs() + (twice > 0)).expand(mask.shape)  # (B, W, N) no two frames are equally far
        far = far.masked_fill(~mask, 2 * n + 2)  # (B, W, N)
        best = far.topk(min(1, n), dim=2, largest=False).indices  # (B, W, 1)
        start = n * torch.arange(w, device=mask.device)[:, None]  # (W, 1)
        index = (best + start).flatten(1)  # (B, W)
        kept = mask.flatten(1).gather(1, index)  # (B, W)
        share = kept / kept.sum(1, keepdim=True).clamp_min(1)  # (B, W)
        weights = share.new_zeros(mask.flatten(1).shape).scatter(1, index, share)  # (B, W·N)
        tokens = taken(frames, index, kept, again) * kept[..., None, None]  # (B, W, T, D)
        return Kept(tokens, kept, frame_times(mask).gather(1, index)), weights.view(mask.shape)


class PublishedTopK(FrameSelection):
    """The published code's choice, kept only so that it can be compared: hard top K by a scorer that never learns.

    There the scores serve as indices alone: no gradient comes back to the scorer, which stays at its random
    initialisation, and kept frames go on unweighted (PAPER section 2, findings 5 and 6). Theirs has 1,416 M parameters,
    a square linear layer over all tokens of a frame; since none of them is ever trained, a random linear layer on the
    mean token is as good a random choice.
    """

    no_gradient = ("scorer.weight",)
    hard = True

    def __init__(self, width: int, config: Selection, *, n_frames: int = 10, n_windows: int = 1) -> None:
        super().__init__(width, config)
        self.scorer = nn.Linear(width, 1, bias=False)
        self.scorer.requires_grad_(False)

    def forward(self, frames: Tensor, mask: Tensor, again: Again | None = None) -> tuple[Kept, Tensor]:
        """Choose among `frames` (B, W·N, T, D) by `mask` (B, W, N); return what is kept and weights (B, W, N)."""
        with torch.no_grad():
            scores = self.scorer(frames.mean(2)).squeeze(-1).float()  # (B, W·N)
        index, kept = choose(scores, mask, self.keep)  # (B, K), (B, K)
        tokens = taken(frames, index, kept, again) * kept[..., None, None]  # (B, K, T, D)
        weights = masked_softmax(scores, mask.flatten(1)).view(mask.shape)  # (B, W, N)
        return Kept(tokens, kept, frame_times(mask).gather(1, index)), weights


SELECTIONS: Mapping[str, type[FrameSelection]] = MappingProxyType(
    {
        "gated-topk": GatedTopK,
        "gated": Gated,
        "straight-through": StraightThrough,
        "perturbed-topk": PerturbedTopK,
        "softmax": LearnedPlaces,
        "mean": KeepAll,
        "middle-frame": MiddleFrame,
        "published": PublishedTopK,
    }
)
"""Every ``model.selection.method`` and its class."""


def make_selection(width: int, config: Selection, *, n_frames: int = 10, n_windows: int = 1) -> FrameSelection:
    """Build the selection that `config.method` names, for tokens of `width` and bags of (`n_windows`, `n_frames`)."""
    return SELECTIONS[config.method](width, config, n_frames=n_frames, n_windows=n_windows)


def _weigh(frames: Tensor, mask: Tensor, scores: Tensor) -> tuple[Kept, Tensor]:
    """All `frames` (B, W·N, T, D) times the softmax of `scores` (B, W·N) and their number; weights (B, W, N)."""
    valid = mask.flatten(1)  # (B, W·N)
    weights = masked_softmax(scores, valid)  # (B, W·N)
    factor = weights * valid.sum(1, keepdim=True)  # (B, W·N)
    return Kept(frames * factor[..., None, None], valid, frame_times(mask)), weights.view(mask.shape)
