"""Which frames of a bag are kept: gated attention over all of them, the best K go on (PAPER section 1, MIL)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from milmer.config import Selection


class Kept(NamedTuple):
    """The frames that go on, in order of time.

    Parameters
    ----------
    tokens : Tensor, shape (B, K, T, D)
        Tokens of each kept frame, multiplied by its weight (1 on average); 0 where masked.
    mask : Tensor of bool, shape (B, K)
        False where a bag has fewer frames than K.
    time : Tensor, shape (B, K)
        Middle of the frame in windows from the start of the bag: frame n of N in window w is at w + (n + 0.5) / N.
    """

    tokens: Tensor
    mask: Tensor
    time: Tensor

    def pooled(self) -> Tensor:
        """Mean token of all kept frames, 0 where there is none; (B, D)."""
        number = self.mask.sum(1, keepdim=True).clamp_min(1)  # (B, 1)
        out: Tensor = self.tokens.mean(2).sum(1) / number  # (B, D)
        return out  # (B, D)


class GatedScorer(nn.Module):
    """Gated attention (Ilse, Tomczak, Welling 2018, eq. 9): s = wᵀ (tanh(V h) ⊙ sigmoid(U h)).

    `w` has no bias, since the softmax over frames makes it irrelevant.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.content = nn.Linear(width, hidden)  # V
        self.gate = nn.Linear(width, hidden)  # U
        self.score = nn.Linear(hidden, 1, bias=False)  # w

    def forward(self, pooled: Tensor) -> Tensor:
        """Score frames by their pooled tokens (B, N, D); (B, N)."""
        gated = self.content(pooled).tanh() * self.gate(pooled).sigmoid()  # (B, N, hidden)
        out: Tensor = self.score(gated).squeeze(-1)  # (B, N)
        return out  # (B, N)


class GatedTopK(nn.Module):
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
    """

    def __init__(self, width: int, config: Selection) -> None:
        super().__init__()
        self.keep = config.keep
        self.exploration = config.exploration
        self.warmth = 1.0 if config.exploration > 0 else 0.0
        self.scorer = GatedScorer(width, config.hidden)

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Kept, Tensor]:
        """Choose among `frames` (B, W·N, T, D) by `mask` (B, W, N); return what is kept and weights (B, W, N)."""
        valid = mask.flatten(1)  # (B, W·N)
        scores = self.scorer(frames.mean(2)).float()  # (B, W·N)
        weights = masked_softmax(scores, valid)  # (B, W·N)
        noisy = scores.detach()  # (B, W·N)
        keep = float(self.keep)
        if self.training and self.warmth > 0:
            noise = -torch.empty_like(noisy).exponential_().log()  # (B, W·N)
            noisy = noisy + self.exploration * self.warmth * noise  # (B, W·N)
            keep += self.warmth * max(mask.shape[2] - keep, 0.0)
        wanted = (keep * mask.any(-1).sum(1, keepdim=True)).ceil()  # (B, 1)
        most = min(math.ceil(keep * mask.shape[1]), valid.shape[1])
        best = noisy.masked_fill(~valid, -torch.inf).topk(most, dim=1).indices  # (B, K)
        chosen = torch.zeros_like(valid).scatter(1, best, torch.arange(most, device=best.device) < wanted)  # (B, W·N)
        index = best.sort(1).values  # (B, K)
        kept = (chosen & valid).gather(1, index)  # (B, K)
        number = kept.sum(1, keepdim=True)  # (B, 1)
        factor = masked_softmax(scores.gather(1, index), kept) * number  # (B, K)
        if self.keep == 1:
            weight = weights.gather(1, index) * kept  # (B, K)
            factor = factor + (weight - weight.detach()) * (number == 1)  # (B, K)
        tokens = take(frames, index) * factor[..., None, None]  # (B, K, T, D)
        return Kept(tokens, kept, frame_times(mask).gather(1, index)), weights.view(mask.shape)


class KeepAll(nn.Module):
    """Keep every frame with equal weight: what learning a choice must beat."""

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Kept, Tensor]:
        """Keep all of `frames` (B, W·N, T, D) by `mask` (B, W, N); return them and weights (B, W, N)."""
        valid = mask.flatten(1)  # (B, W·N)
        weights = masked_softmax(torch.zeros(valid.shape, device=valid.device), valid)  # (B, W·N)
        tokens = frames * valid[..., None, None]  # (B, W·N, T, D)
        return Kept(tokens, valid, frame_times(mask)), weights.view(mask.shape)


def make_selection(width: int, config: Selection, *, n_frames: int = 10, n_windows: int = 1) -> GatedTopK | KeepAll:
    """Build the selection that `config.method` names."""
    return KeepAll() if config.method == "mean" else GatedTopK(width, config)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of `scores` (B, N) over `mask` (B, N); 0 where masked and in rows without anything."""
    empty = ~mask.any(-1, keepdim=True)  # (B, 1)
    return scores.masked_fill(~mask & ~empty, -torch.inf).softmax(-1) * mask  # (B, N)


def take(frames: Tensor, index: Tensor) -> Tensor:
    """Frames (B, N, T, D) at `index` (B, K); (B, K, T, D)."""
    rows = torch.arange(len(index), device=index.device)[:, None]  # (B, 1)
    return frames[rows, index]  # (B, K, T, D)


def frame_times(mask: Tensor) -> Tensor:
    """Middle of every frame of `mask` (B, W, N) in windows from the bag's start; (B, W·N)."""
    b, w, n = mask.shape
    times = torch.arange(w, device=mask.device)[:, None] + (torch.arange(n, device=mask.device) + 0.5) / max(n, 1)
    return times.flatten().expand(b, -1)  # (B, W·N)
