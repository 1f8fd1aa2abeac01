"""What every registered selection keeps to, whatever it chooses by."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from milmer.config import Selection
from milmer.models.bag import Tokens
from milmer.models.selection import SELECTIONS, FrameSelection, Kept, make_selection

EVERY = pytest.mark.parametrize("method", SELECTIONS)
TOP_K = ("gated-topk", "straight-through", "perturbed-topk", "published")
MODES = pytest.mark.parametrize("training", [False, True])


def make(method: str, *, n_frames: int = 6, n_windows: int = 1, width: int = 8, **config: Any) -> FrameSelection:
    torch.manual_seed(0)
    given = Selection.model_validate({"method": method, "keep": 2, "hidden": 5, **config})
    select = make_selection(width, given, n_frames=n_frames, n_windows=n_windows)
    for name, parameter in select.named_parameters():
        if name == "logits":  # learned places start equal; here they have learned something
            torch.nn.init.normal_(parameter)
    return select


def ask(select: FrameSelection, frames: Tensor, mask: Tensor, training: bool = False) -> tuple[Kept, Tensor]:
    torch.manual_seed(1)  # the same noise every time
    answer: tuple[Kept, Tensor] = select.train(training)(frames, mask)
    return answer


def bags(b: int = 3, w: int = 1, n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Frames, some of them masked, and the last bag without any."""
    random = torch.Generator().manual_seed(seed)
    frames = torch.randn(b, w * n, 4, 8, generator=random)
    mask = torch.rand(b, w, n, generator=random) < 0.7
    mask[0] = True
    mask[-1] = False
    return frames, mask


def test_every_method_of_the_config_is_registered():
    assert set(SELECTIONS) == set(get_args(Selection.model_fields["method"].annotation))
    for method, kind in SELECTIONS.items():
        assert type(make(method)) is kind


@EVERY
@MODES
@pytest.mark.parametrize("windows", [1, 3])
def test_weights_are_of_all_frames_and_what_is_masked_is_zero(method, training, windows):
    select = make(method, n_windows=windows)
    frames, mask = bags(w=windows)
    kept, weights = ask(select, frames, mask, training)
    assert weights.shape == mask.shape and weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum((1, 2)), torch.tensor([1.0, 1.0, 0.0]))
    assert (weights[~mask] == 0).all() and (weights >= 0).all()
    if method != "middle-frame":
        assert (weights[mask] > 0).all()
    assert kept.tokens.shape[:2] == kept.mask.shape == kept.time.shape
    assert (kept.tokens[~kept.mask] == 0).all() and not kept.mask[-1].any()
    assert kept.tokens.isfinite().all() and kept.time.isfinite().all()
    for times, there in zip(kept.time, kept.mask, strict=True):
        assert (times[there].diff() > 0).all() and (times[there] < windows).all()


@EVERY
@MODES
def test_masked_frames_change_nothing(method, training):
    select = make(method, n_windows=2)
    frames, mask = bags(w=2)
    other = torch.where(mask.flatten(1)[..., None, None], frames, 100 * torch.randn_like(frames))
    (one, weights), (two, others) = ask(select, frames, mask, training), ask(select, other, mask, training)
    torch.testing.assert_close(weights, others)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


@EVERY
def test_masked_frames_get_no_gradient(method):
    select = make(method)
    frames, mask = bags()
    kept, weights = ask(select, frames.requires_grad_(), mask, training=True)
    (kept.tokens.square().sum() + weights.square().sum()).backward()
    assert frames.grad is not None and frames.grad.isfinite().all()
    assert (frames.grad[~mask.flatten(1)] == 0).all() and (frames.grad[mask.flatten(1)] != 0).any()


@EVERY
def test_permuting_frames_permutes_the_weights_unless_places_count(method):
    select = make(method)
    frames, mask = bags()
    order = torch.tensor([3, 0, 5, 4, 1, 2])
    kept, weights = ask(select, frames, mask)
    moved, permuted = ask(select, frames[:, order], mask[:, :, order])
    same = torch.allclose(permuted, weights[:, :, order], atol=1e-6)
    assert same is not select.looks_at_positions
    if not select.looks_at_positions:
        one, two = (Tokens(k.tokens.mean(2), k.mask).mean() for k in (moved, kept))
        torch.testing.assert_close(one, two)


@EVERY
def test_one_at_a_time_equals_a_batch(method):
    select = make(method, n_windows=2)
    frames, mask = bags(b=8, w=2)
    kept, weights = ask(select, frames, mask)
    for row in range(8):
        one, alone = ask(select, frames[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(alone[0], weights[row])
        for a, b in zip(one, kept, strict=True):
            torch.testing.assert_close(a[0], b[row])


@EVERY
@pytest.mark.parametrize("warmth", [1.0, 0.0])
@pytest.mark.parametrize("keep", [1, 3])
def test_every_parameter_gets_a_gradient_but_those_named(method, warmth, keep):
    torch.manual_seed(0)
    select = make_selection(8, Selection.model_validate({"method": method, "keep": keep}), n_frames=10)
    if select.explores:
        select.warmth = warmth
    kept, _ = ask(select, torch.randn(4, 10, 2, 8), torch.ones(4, 1, 10, dtype=torch.bool), training=True)
    if kept.tokens.requires_grad:
        (kept.tokens * torch.randn_like(kept.tokens)).sum().backward()
    without = [name for name, _ in select.named_parameters() if name.endswith(select.no_gradient)]
    assert len(without) == len(select.no_gradient)
    for name, parameter in select.named_parameters():
        if name in without:
            assert parameter.grad is None and not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.norm() > 1e-6 * parameter.detach().norm(), name


@EVERY
@MODES
def test_bags_without_frames_and_with_fewer_than_wanted(method, training):
    select = make(method, keep=9)
    none, weights = ask(select, torch.zeros(2, 0, 4, 8), torch.ones(2, 1, 0, dtype=torch.bool), training)
    assert none.tokens.shape == (2, 0, 4, 8) and none.mask.shape == (2, 0) and weights.shape == (2, 1, 0)
    frames, mask = bags()
    kept, _ = ask(select, frames, mask, training)
    expected = mask.any(2).sum(1) if method == "middle-frame" else mask.sum((1, 2))
    assert kept.mask.sum(1).tolist() == expected.tolist()
    assert kept.tokens.isfinite().all()
    frames = frames[-1:].requires_grad_()
    empty, weights = ask(select, frames, mask[-1:], training)  # a batch without any face
    (empty.tokens.sum() + weights.sum() + 0 * frames.sum()).backward()
    assert (empty.tokens == 0).all() and frames.grad is not None and (frames.grad == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in select.parameters())


@pytest.mark.parametrize("method", TOP_K)
@MODES
def test_a_bag_of_windows_keeps_some_of_each_windows_worth(method, training):
    select = make(method, n_windows=4)
    select.warmth = 0.0
    frames, mask = bags(b=4, w=4)
    mask[1, 2] = False  # a window without a face asks for no frames
    mask[2, :, 1:] = False  # one frame a window: fewer than wanted
    mask[2, :, 0] = True
    kept, _ = ask(select, frames, mask, training)
    worth = 2 * mask.any(2).sum(1)
    assert kept.mask.sum(1).tolist() == torch.minimum(worth, mask.sum((1, 2))).tolist()
    assert worth.tolist()[:3] == [8, 6, 8] and kept.mask.shape == (4, 8)


@EVERY
def test_evaluation_draws_no_noise(method):
    select = make(method).eval()
    frames, mask = bags()
    one, two = select(frames, mask)[0], select(frames, mask)[0]
    assert torch.equal(one.tokens, two.tokens)


@EVERY
def test_half_precision(method):
    select = make(method)
    frames, mask = bags()
    with torch.autocast("cpu", torch.bfloat16):
        kept, weights = ask(select, frames.bfloat16().requires_grad_(), mask, training=True)
    (kept.tokens.float().sum() + weights.square().sum()).backward()
    assert weights.dtype == torch.float32 and kept.tokens.isfinite().all()
    torch.testing.assert_close(weights.sum((1, 2)), torch.tensor([1.0, 1.0, 0.0]))
    assert all(p.grad is None or p.grad.isfinite().all() for p in select.parameters())


@EVERY
def test_warmth_is_for_those_who_explore(method):
    select, hard = make(method, exploration=0.5), make(method, exploration=0.0)
    assert select.explores is (method in ("gated-topk", "straight-through", "perturbed-topk"))
    assert select.warmth == float(select.explores)
    assert not hard.explores and hard.warmth == 0


@EVERY
def test_at_most_half_a_million_parameters(method):
    select = make_selection(768, Selection.model_validate({"method": method}), n_frames=10, n_windows=20)
    assert sum(p.numel() for p in select.parameters()) <= 500_000
