"""What every way of choosing frames is made of: what it answers, its scorer, the choice of the best, masked softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from milmer.config import Selection

Again = Callable[[Tensor, Tensor], Tensor]
"""Gives tokens (B, K, T, D) of the frames at an index (B, K) where a mask (B, K) says that they are kept."""


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


class FrameSelection(nn.Module):
    """A way of choosing frames; what all of them have in common.

    Called with frames (B, W·N, T, D), finite where masked, and their mask (B, W, N), it returns `Kept` and the weights
    (B, W, N) of all frames: a softmax over the valid frames of the bag, 0 where masked. `K` is `keep` for each window
    of the bag, or all of its frames; a bag in which fewer windows have a frame has slots masked.

    Parameters
    ----------
    width : int
        Token width `D`.
    config : Selection
        Sizes and noise.
    n_frames, n_windows : int
        Frames of a window and windows of a bag; only a selection with a weight per position needs them.

    Attributes
    ----------
    warmth : float
        How far the choice is opened to other frames while training: the trainer lowers it from 1 to 0 where `explores`.
    """

    looks_at_positions: ClassVar[bool] = False
    """True where the place of a frame in the bag decides, so that permuting frames does not permute the weights."""
    no_gradient: ClassVar[tuple[str, ...]] = ()
    """Ends of the names of parameters that get no gradient by design."""
    uses_warmth: ClassVar[bool] = False
    """Whether training starts with a wider choice, where ``config.exploration`` is above 0."""
    hard: ClassVar[bool] = False
    """Whether only the frames that are kept go on, each on its own. Then `forward` takes a third argument, `Again`,
    which gives their tokens in place of those that were scored."""

    def __init__(self, width: int, config: Selection, *, n_frames: int = 10, n_windows: int = 1) -> None:
        super().__init__()
        self.keep = config.keep
        self.exploration = config.exploration if self.uses_warmth else 0.0
        self.warmth = 1.0 if self.explores else 0.0

    @property
    def explores(self) -> bool:
        """Whether the trainer is to lower `warmth`."""
        return self.exploration > 0

    def going_on(self, mask: Tensor) -> Tensor:
        """How many frames of each bag of `mask` (B, W, N) go on at present; (B, 1)."""
        return wanted(mask, self.keep)  # (B, 1)


class GatedScorer(nn.Module):
    """Gated attention (Ilse, Tomczak, Welling 2018, eq. 9): s = wᵀ (tanh(V h) ⊙ sigmoid(U h)), h = norm(pooled).

    `w` has no bias, since the softmax over frames makes it irrelevant. The norm and a `w` three times the usual size
    make the scores of the first step differ: from nearly equal ones the choice takes several times as many steps.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.content = nn.Linear(width, hidden)  # V
        self.gate = nn.Linear(width, hidden)  # U
        self.score = nn.Linear(hidden, 1, bias=False)  # w
        nn.init.normal_(self.score.weight, std=3 / math.sqrt(hidden))

    def forward(self, pooled: Tensor) -> Tensor:
        """Score frames by their pooled tokens (B, N, D); (B, N)."""
        h = self.norm(pooled)  # (B, N, D)
        gated = self.content(h).tanh() * self.gate(h).sigmoid()  # (B, N, hidden)
        out: Tensor = self.score(gated).squeeze(-1)  # (B, N)
        return out  # (B, N)


class ScoredSelection(FrameSelection):
    """A selection by `GatedScorer` on pooled frame tokens: the content of a frame decides, never its place."""

    def __init__(self, width: int, config: Selection, *, n_frames: int = 10, n_windows: int = 1) -> None:
        super().__init__(width, config)
        self.scorer = GatedScorer(width, config.hidden)

    def scores(self, frames: Tensor) -> Tensor:
        """Score `frames` (B, W·N, T, D), in float32 whatever theirs; (B, W·N)."""
        out: Tensor = self.scorer(frames.mean(2)).float()  # (B, W·N)
        return out  # (B, W·N)


def choose(scores: Tensor, mask: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """Best frames of every bag by `scores` (B, W·N) where `mask` (B, W, N).

    Returns
    -------
    index : Tensor of int, shape (B, K)
        Ascending. `K` is `keep` times W, rounded up, and at most W·N.
    kept : Tensor of bool, shape (B, K)
        True for as many as `wanted` says; elsewhere `index` points at a frame that is not kept.
    """
    valid = mask.flatten(1)  # (B, W·N)
    best = scores.masked_fill(~valid, -torch.inf).topk(slots(mask, keep), dim=1).indices  # (B, K)
    index, rank = best.sort(1)  # (B, K)
    return index, rank < wanted(mask, keep)  # (B, K), (B, K)


def slots(mask: Tensor, keep: float) -> int:
    """Most frames that any bag of `mask` (B, W, N) could keep: K."""
    return min(math.ceil(keep * mask.shape[1]), mask.shape[1] * mask.shape[2])


def wanted(mask: Tensor, keep: float) -> Tensor:
    """How many frames each bag keeps: `keep` for each window of `mask` (B, W, N) with a frame, at most all; (B, 1)."""
    number = (float(keep) * mask.any(-1).sum(1, keepdim=True)).ceil()  # (B, 1), no whole number has a ceiling in ONNX
    return torch.minimum(number, mask.flatten(1).sum(1, keepdim=True))  # (B, 1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of `scores` (B, N) over `mask` (B, N); 0 where masked and in rows without anything."""
    empty = ~mask.any(-1, keepdim=True)  # (B, 1)
    return scores.masked_fill(~mask & ~empty, -torch.inf).softmax(-1) * mask  # (B, N)


def take(frames: Tensor, index: Tensor) -> Tensor:
    """Frames (B, N, T, D) at `index` (B, K); (B, K, T, D)."""
    rows = torch.arange(index.shape[0], device=index.device)[:, None]  # (B, 1)
    return frames[rows, index]  # (B, K, T, D)


def taken(frames: Tensor, index: Tensor, kept: Tensor, again: Again | None) -> Tensor:
    """Frames (B, N, T, D) at `index` (B, K), or what `again` gives for those that are `kept` (B, K); (B, K, T, D)."""
    return take(frames, index) if again is None else again(index, kept)  # (B, K, T, D)


def frame_times(mask: Tensor) -> Tensor:
    """Middle of every frame of `mask` (B, W, N) in windows from the bag's start; (B, W·N)."""
    b, w, n = mask.shape
    times = torch.arange(w, device=mask.device)[:, None] + (torch.arange(n, device=mask.device) + 0.5) / max(n, 1)
    return times.flatten().expand(b, -1)  # (B, W·N)
