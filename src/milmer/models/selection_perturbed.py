"""Top-K with a gradient by noise (Cordonnier et al. 2021, arXiv 2104.03059)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from milmer.config import Selection
from milmer.models.selection_parts import (
    Kept,
    ScoredSelection,
    choose,
    frame_times,
    masked_softmax,
    slots,
    take,
    wanted,
)

WIDE = 4.0  # about what lies between the worst and the best of ten standardised scores
EPSILON = 1e-6  # variance of scores under which frames count as equal: it keeps their noise from being blown up


class PerturbedTopK(ScoredSelection):
    """Scores are perturbed many times, and the K choices averaged (Cordonnier et al. 2021, section 3).

    The scores of a bag are standardised over its valid frames; their scale is thus free, and the weights are a softmax
    of the standardised scores, which are what the choice is made by. While training, `samples` draws of Gaussian noise
    of standard deviation σ are added, the best K of each draw put in order of time, and the draws averaged: slot k
    holds a mixture of the frames that came k-th. The gradient is the paper's estimate (`ExpectedTopK`). In evaluation
    the choice is the exact top K of the scores, and every kept frame enters with factor 1.

    The paper lets σ fall to 0 over training. Here it falls with `warmth` from ``sigma + WIDE * exploration`` to
    ``sigma`` and stays there: at 0 the scorer would learn nothing more. The start is wide, since noise of a few
    hundredths never shows a frame that the random scorer put last: on a toy task with one telling frame of ten, a start
    at 0.55 kept it in about half of the bags in 3 of 5 seeds, a start at 2.05 in 97 % or more in 4 of 5.

    Parameters
    ----------
    width : int
        Token width `D`.
    config : Selection
        `keep`, `hidden`, `samples`, `sigma` and `exploration`.
    n_frames, n_windows : int
        Not used.
    """

    uses_warmth = True

    def __init__(self, width: int, config: Selection, *, n_frames: int = 10, n_windows: int = 1) -> None:
        super().__init__(width, config)
        self.samples = config.samples
        self.sigma = config.sigma

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Kept, Tensor]:
        """Choose among `frames` (B, W·N, T, D) by `mask` (B, W, N); return what is kept and weights (B, W, N)."""
        valid = mask.flatten(1)  # (B, W·N)
        scores = standardise(self.scores(frames), valid)  # (B, W·N)
        weights = masked_softmax(scores, valid).view(mask.shape)  # (B, W, N)
        if not self.training:
            index, there = choose(scores, mask, self.keep)  # (B, K), (B, K)
            tokens = take(frames, index) * there[..., None, None]  # (B, K, T, D)
            return Kept(tokens, there, frame_times(mask).gather(1, index)), weights
        sigma = self.sigma + WIDE * self.exploration * self.warmth
        share = perturbed_topk(scores, mask, keep=self.keep, samples=self.samples, sigma=sigma)  # (B, K, W·N)
        there = torch.arange(share.shape[1], device=mask.device) < wanted(mask, self.keep)  # (B, K)
        mixed = (share.to(frames.dtype) @ frames.flatten(2)).view(*share.shape[:2], *frames.shape[2:])  # (B, K, T, D)
        # A sum, no matrix product: autocast would do that in half precision, which rounds late moments by a frame.
        time = (share.detach() * frame_times(mask)[:, None]).sum(-1)  # (B, K)
        return Kept(mixed, there, time), weights


def perturbed_topk(scores: Tensor, mask: Tensor, *, keep: int, samples: int, sigma: float) -> Tensor:
    """Expected indicators of the sorted top K under Gaussian noise, by `samples` draws from torch's global generator.

    Parameters
    ----------
    scores : Tensor of float, shape (B, W·N)
    mask : Tensor of bool, shape (B, W, N)
    keep, samples : int
        Frames kept of each window that has one; draws.
    sigma : float
        Standard deviation of the noise, above 0.

    Returns
    -------
    Tensor, shape (B, K, W·N)
        Entry (k, n) is how often frame n was the k-th, in order of time, of those chosen. A row sums to 1, or to 0
        where the bag has fewer frames; masked frames are 0.
    """
    valid = mask.flatten(1)  # (B, W·N)
    noise = torch.randn(len(scores), samples, scores.shape[1], device=scores.device, dtype=scores.dtype)  # (B, R, W·N)
    noise = noise * valid[:, None]  # (B, R, W·N)
    noisy = (scores.detach()[:, None] + sigma * noise).masked_fill(~valid[:, None], -torch.inf)  # (B, R, W·N)
    best = noisy.topk(slots(mask, keep), dim=2).indices  # (B, R, K)
    surplus = torch.arange(best.shape[2], device=best.device) >= wanted(mask, keep)  # (B, K)
    end = scores.shape[1]
    index = best.masked_fill(surplus[:, None], end).sort(2).values.transpose(1, 2)  # (B, K, R)
    share: Tensor = ExpectedTopK.apply(scores, noise, index, sigma)  # type: ignore[no-untyped-call]  # torch's own
    return share  # (B, K, W·N)


class ExpectedTopK(torch.autograd.Function):
    """Mean of the sorted top-K indicators I over the draws Z, and the gradient of its expectation.

    Forward E[I(s + σ Z)]; backward E[⟨G, I(s + σ Z)⟩ Z] / σ, the Jacobian of the smoothed choice for Gaussian noise
    (arXiv 2104.03059, section 3.2, after Berthet et al. 2020, arXiv 2002.08676), both by the same draws. The inner
    product is gathered from the indices, so that neither the indicators nor the Jacobian is ever stored.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, noise: Tensor, index: Tensor, sigma: float) -> Tensor:
        """Average the choices `index` (B, K, R) that `noise` (B, R, N) led to, N where surplus; (B, K, N)."""
        b, k, samples = index.shape
        there = index < scores.shape[1]  # (B, K, R)
        index = index.where(there, 0)  # (B, K, R)
        ctx.save_for_backward(noise, index, there)
        ctx.sigma = sigma
        share = scores.new_zeros((b, k, scores.shape[1]))  # (B, K, N)
        return share.scatter_add_(2, index, there.to(share.dtype) / samples)  # (B, K, N)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient of the scores (B, N) from that of the shares (B, K, N)."""
        noise, index, there = ctx.saved_tensors  # (B, R, N), (B, K, R), (B, K, R)
        value = (gradients[0].gather(2, index) * there).sum(1)  # (B, R)
        out = torch.einsum("br,brn->bn", value, noise) / (noise.shape[1] * ctx.sigma)  # (B, N)
        return out, None, None, None


def standardise(scores: Tensor, valid: Tensor) -> Tensor:
    """Scores (B, N) with mean 0 and variance 1 over the `valid` (B, N) of each bag, 0 elsewhere; (B, N)."""
    number = valid.sum(1, keepdim=True).clamp_min(1)  # (B, 1)
    mean = (scores * valid).sum(1, keepdim=True) / number  # (B, 1)
    centred = (scores - mean) * valid  # (B, N)
    variance = centred.square().sum(1, keepdim=True) / number  # (B, 1)
    return centred * (variance + EPSILON).rsqrt()  # (B, N)
