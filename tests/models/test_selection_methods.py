"""Each selection does what it says: small cases by hand, the gradient by noise, and what training finds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from milmer.config import Selection
from milmer.errors import UserError
from milmer.models.bag import Tokens
from milmer.models.selection import FrameSelection, make_selection, masked_softmax
from milmer.models.selection_perturbed import perturbed_topk, standardise


def full(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def make(
    method: str, *, width: int = 2, n_frames: int = 10, n_windows: int = 1, seed: int = 0, **config: Any
) -> FrameSelection:
    torch.manual_seed(seed)
    given = Selection.model_validate({"method": method, "hidden": 16, **config})
    return make_selection(width, given, n_frames=n_frames, n_windows=n_windows)


class ByFirst(torch.nn.Module):
    """A scorer that anybody can foresee: the first number of the pooled token times a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled[..., 0] * self.weight


def scored(method: str, scores: list[float], **config: Any) -> tuple[FrameSelection, Tensor]:
    """A selection in evaluation mode and a bag of frames (1, N, 1, 2) with these scores; the second number is 1."""
    select = make(method, **config).eval()
    select.scorer = ByFirst()
    return select, torch.tensor([[[[s, 1.0]] for s in scores]])


def test_gated_weighs_every_frame():
    select, frames = scored("gated", [0.0, math.log(3), 7.0, 0.0])
    mask = torch.tensor([[[True, True, False, True]]])
    kept, weights = select(frames, mask)
    torch.testing.assert_close(weights, torch.tensor([[[0.2, 0.6, 0.0, 0.2]]]))
    torch.testing.assert_close(kept.tokens[0, :, 0, 1], 3 * torch.tensor([0.2, 0.6, 0.0, 0.2]))
    assert torch.equal(kept.mask, mask[0])
    torch.testing.assert_close(kept.time, torch.tensor([[0.125, 0.375, 0.625, 0.875]]))


@pytest.mark.parametrize("keep", [1, 2])
def test_straight_through_is_hard_forward_and_soft_backward(keep):
    select, frames = scored("straight-through", [0.3, -1.0, 2.0, 0.9], keep=keep)
    kept, weights = select(frames, full(1, 1, 4))
    chosen = [2] if keep == 1 else [2, 3]
    assert torch.equal(kept.tokens, frames[:, chosen])  # exactly: nothing is multiplied
    reading = torch.tensor([1.5, -0.5])[:keep]
    (kept.tokens[0, :, 0, 1] * reading).sum().backward()
    w, s = weights[0, 0].detach(), frames[0, :, 0, 0]
    slope = 4 * w[chosen] * (s[chosen] - (w * s).sum())  # d(4 w_i)/dweight, as the scores are weight times s
    torch.testing.assert_close(select.scorer.weight.grad, (reading * slope).sum())
    assert select.scorer.weight.grad != 0


def test_perturbed_topk_is_exact_in_evaluation():
    select, frames = scored("perturbed-topk", [0.3, -1.0, 2.0, 0.9], keep=2, sigma=5.0)
    kept, weights = select(frames, full(1, 1, 4))
    assert torch.equal(kept.tokens, frames[:, [2, 3]])
    z = frames[0, :, 0, 0] - frames[0, :, 0, 0].mean()
    torch.testing.assert_close(weights[0, 0], (z / z.std(correction=0)).softmax(0), atol=1e-5, rtol=1e-5)


def test_perturbed_topk_mixes_while_training():
    select, frames = scored("perturbed-topk", [0.3, -1.0, 2.0, 0.9, 9.0], keep=2, sigma=0.4, samples=50, exploration=0)
    mask = torch.tensor([[[True, True, True, True, False]]])
    torch.manual_seed(3)
    kept, _ = select.train()(frames, mask)
    z = standardise(frames[..., 0, 0], mask[:, 0])
    torch.manual_seed(3)
    noise = torch.randn(1, 50, 5)[0].numpy()
    share = np.zeros((2, 5))
    for draw in noise:  # by hand: perturb, take the best two of the four, sort, count
        first, second = sorted(np.argsort(-(z[0, :4].detach().numpy() + 0.4 * draw[:4]))[:2])
        share[0, first] += 1 / 50
        share[1, second] += 1 / 50
    assert 0 < share[0, 0] < 1  # there is something to mix
    np.testing.assert_allclose(kept.tokens[0, :, 0].detach(), share @ frames[0, :, 0].numpy(), atol=1e-5)
    np.testing.assert_allclose(kept.time[0], share @ ((np.arange(5) + 0.5) / 5), atol=1e-6)


def test_perturbed_moments_are_exact_under_autocast():
    select, frames = scored("perturbed-topk", torch.randn(200).tolist(), keep=2, sigma=0.4, exploration=0)
    select.scores = lambda frames: torch.zeros(1, 200)  # scores that were rounded would choose others
    found = []
    for half in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(select.train()(frames, full(1, 20, 10))[0].time)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=0)


def test_noise_of_perturbed_topk_falls_with_warmth():
    select, frames = scored("perturbed-topk", [0.3, -1.0, 2.0, 0.9], keep=1, sigma=0.01, exploration=0.5)

    def purity(warmth: float) -> float:
        select.train().warmth = warmth
        torch.manual_seed(0)
        return float(select(frames, full(1, 1, 4))[0].tokens[0, 0, 0, 0].detach())

    assert purity(1.0) < purity(0.3) < purity(0.0) == 2.0


def test_perturbed_gradient_agrees_with_the_closed_form():
    # Two frames, one kept: the first is chosen with probability Phi((s1 - s2) / (sigma sqrt 2)).
    scores = torch.tensor([[0.2, -0.1, 5.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[True, True, False]]])
    sigma, estimates = 0.5, []
    torch.manual_seed(0)
    for _ in range(20):
        share = perturbed_topk(scores, mask, keep=1, samples=10_000, sigma=sigma)
        estimates.append(torch.autograd.grad(share[0, 0, 0], scores)[0][0].numpy())
    z = 0.3 / (sigma * math.sqrt(2))
    slope = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (sigma * math.sqrt(2))
    error = np.std(estimates, axis=0, ddof=1) / math.sqrt(20)
    assert error.max() < 0.01 < slope
    assert all(estimate[2] == 0 for estimate in estimates)  # what is masked has no noise either
    assert (np.abs(np.mean(estimates, axis=0) - [slope, -slope, 0]) <= 4 * error).all()


def test_perturbed_gradient_agrees_with_finite_differences():
    # Slope of the smoothed choice of 2 from 4, read by a random loss: central differences with the same noise on both
    # sides, against the estimator with noise of its own. Allowed: 4 standard errors of both, and the bias of the step.
    scores = torch.tensor([[0.4, -0.3, 0.1, 0.0]], dtype=torch.float64)
    reading = torch.tensor(np.random.default_rng(0).normal(size=(2, 4)))
    sigma, step, chunks, samples = 0.5, 0.1, 20, 10_000

    def loss(at: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return (perturbed_topk(at, full(1, 1, 4), keep=2, samples=samples, sigma=sigma)[0] * reading).sum()

    estimates, differences = np.zeros((chunks, 4)), np.zeros((chunks, 4))
    for chunk in range(chunks):
        at = scores.clone().requires_grad_()
        estimates[chunk] = torch.autograd.grad(loss(at, chunk), at)[0][0].numpy()
        for n in range(4):
            move = step * torch.eye(4, dtype=torch.float64)[n]
            differences[chunk, n] = (loss(scores + move, 1000 + chunk) - loss(scores - move, 1000 + chunk)) / (2 * step)
    gap = np.abs(estimates.mean(0) - differences.mean(0))
    error = np.sqrt((estimates.var(0, ddof=1) + differences.var(0, ddof=1)) / chunks)
    slope = np.abs(differences.mean(0)).max()
    assert error.max() < 0.1 * slope  # or the comparison says nothing
    assert (gap <= 4 * error + 0.02 * slope).all()


def test_standardised_scores():
    scores, mask = torch.tensor([[1.0, 2.0, 3.0, 99.0], [4.0] * 4]), torch.tensor([[True] * 3 + [False], [True] * 4])
    z = standardise(scores.requires_grad_(), mask)
    torch.testing.assert_close(z[0], torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5, 0.0]))
    assert (z[1] == 0).all()
    z.square().sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_softmax_learns_a_weight_for_each_place():
    select = make("softmax", n_frames=3, n_windows=2)
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 3.0, 4.0]])
    select.load_state_dict({"logits": logits})
    frames, mask = torch.randn(1, 6, 1, 2), full(1, 2, 3)
    mask[0, 1, 2] = False
    kept, weights = select(frames, mask)
    expected = masked_softmax(logits.view(1, 6), mask.view(1, 6))
    torch.testing.assert_close(weights.view(1, 6), expected)
    torch.testing.assert_close(kept.tokens, frames * 5 * expected[..., None, None])
    _, first = select(frames[:, :2], full(1, 1, 2))  # a shorter bag: the first places
    torch.testing.assert_close(first[0, 0], torch.tensor([0.0, 1.0]).softmax(0))
    for w, n in ((3, 3), (1, 4)):
        with pytest.raises(UserError, match=f"{w} windows of {n} frames.*2 windows of 3"):
            select(torch.randn(1, w * n, 1, 2), full(1, w, n))


def test_softmax_starts_as_the_mean():
    frames, mask = torch.randn(2, 10, 1, 2), full(2, 1, 10)
    mask[0, 0, 3] = False
    (one, weights), (two, equal) = make("softmax")(frames, mask), make("mean")(frames, mask)
    torch.testing.assert_close(weights, equal)
    torch.testing.assert_close(one.tokens, two.tokens)


@pytest.mark.parametrize(("frames", "chosen"), [("11111", 2), ("1111", 1), ("11010", 1), ("10001", 0), ("00001", 4)])
def test_middle_frame_is_the_nearest_that_is_there(frames, chosen):
    given, mask = torch.randn(1, len(frames), 1, 2), torch.tensor([[[c == "1" for c in frames]]])
    kept, weights = make("middle-frame")(given, mask)
    assert torch.equal(kept.tokens, given[:, [chosen]]) and kept.mask.tolist() == [[True]]
    assert weights[0, 0].tolist() == [float(n == chosen) for n in range(len(frames))]


def test_middle_frame_takes_one_of_every_window():
    mask = full(1, 3, 5)
    mask[0, 1] = False
    kept, weights = make("middle-frame", n_windows=3)(torch.randn(1, 15, 1, 2), mask)
    assert kept.mask.tolist() == [[True, False, True]]
    torch.testing.assert_close(kept.time, torch.tensor([[0.5, kept.time[0, 1], 2.5]]))
    assert weights[0, :, 2].tolist() == [0.5, 0.0, 0.5] and weights.sum() == 1


def test_published_is_hard_and_unweighted():
    select, frames = scored("published", [0.3, -1.0, 2.0, 0.9], keep=2)
    select.scorer = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.eye_(select.scorer.weight)
    kept, weights = select.train()(frames.requires_grad_(), full(1, 1, 4))
    assert torch.equal(kept.tokens, frames[:, [2, 3]])
    torch.testing.assert_close(weights[0, 0], frames[0, :, 0, 0].softmax(0))
    assert not weights.requires_grad
    kept.tokens.sum().backward()
    assert frames.grad is not None and frames.grad[0, :, 0, 0].tolist() == [0, 0, 1, 1]
    assert select.scorer.weight.grad is None


def learn(method: str, seed: int, steps: int = 200) -> tuple[float, float, float]:
    """Train on bags in which one frame of ten tells which of four classes; how often it is kept, before and after.

    Also the mean weight on that frame over that on the others, after.
    """
    select = make(method, seed=seed, width=8, keep=2)
    random, head = torch.Generator().manual_seed(seed), torch.nn.Linear(8, 4)
    optimizer = torch.optim.Adam([*select.parameters(), *head.parameters()], 1e-2)

    def bags(n: int) -> tuple[Tensor, Tensor, Tensor]:
        y, where = torch.randint(0, 4, (n,), generator=random), torch.randint(0, 10, (n,), generator=random)
        frames, rows = torch.randn(n, 10, 2, 8, generator=random), torch.arange(n)
        frames[rows, where, :, 0] += (2.0 * (y % 2) - 1)[:, None]  # says which class
        frames[rows, where, :, 2] += (2.0 * (y // 2) - 1)[:, None]
        frames[rows, where, :, 1] += 3.0  # says that it speaks
        return frames, y, where

    probe, _, where = bags(500)

    @torch.no_grad()
    def found() -> tuple[float, float]:
        kept, weights = select.eval()(probe, full(500, 1, 10))
        on = weights[torch.arange(500), 0, where].mean()
        held = ((kept.time * 10 - 0.5).round() == where[:, None]).any(1).float().mean()
        return float(held), float(on / ((1 - on) / 9))

    before, _ = found()
    for step in range(steps):
        frames, y, _ = bags(64)
        if select.train().explores:
            select.warmth = max(0.0, 1 - step / (0.6 * steps))
        kept, _ = select(frames, full(64, 1, 10))
        loss = torch.nn.functional.cross_entropy(head(Tokens(kept.tokens.mean(2), kept.mask).mean()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, *found()


def over_seeds(method: str) -> tuple[Tensor, Tensor, Tensor]:
    """`learn` from three seeds, each (3,)."""
    before, after, ratio = torch.tensor([learn(method, seed) for seed in range(3)]).T  # (3,), (3,), (3,)
    return before, after, ratio


@pytest.mark.parametrize("method", ["gated-topk", "straight-through", "perturbed-topk"])
def test_training_moves_the_choice_to_informative_frames(method):
    # From a bad start a hard choice may settle on the frames of half the classes, and tell the others by their absence
    # (gated-topk and perturbed-topk do from seed 0): hence the mean over seeds, and 0.75.
    before, after, ratio = over_seeds(method)
    assert before.mean() < 0.4 and after.mean() > 0.75 and (after > before + 0.2).all()
    assert ratio.median() > 5 and (ratio > 2).all()


def test_training_moves_soft_weights_to_informative_frames():
    _, _, ratio = over_seeds("gated")
    assert (ratio > 5).all()


def test_training_leaves_the_published_choice_where_it_was():
    before, after, ratio = over_seeds("published")
    assert torch.equal(before, after)
    assert after.mean() < 0.3 and (ratio < 2).all()  # of its random scorer; 0.2 is that of one that looks at nothing
