"""Gradients of kept frames only: the same answer, and exactly the gradient that is said to be left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from milmer.models import kept as module
from milmer.models.bag import Bag
from milmer.models.kept import learn_from_kept, score
from milmer.models.milmer import Milmer
from milmer.models.selection import SELECTIONS

HARD = ("gated-topk", "straight-through", "middle-frame", "published")
EVERY = pytest.mark.parametrize("method", HARD)


def quiet(model: Milmer, warmth: float = 0.0) -> Milmer:
    """Training, with dropout off."""
    model.train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if hasattr(part, "dropout") and isinstance(part.dropout, float):
            part.dropout = 0.0
    if hasattr(model.select, "warmth"):
        model.select.warmth = warmth
    return model


def made(net: Callable[..., Milmer], method: str, **overrides: Any) -> Milmer:
    given = {"model.selection.method": method, "model.selection.keep": 2, "model.modality_dropout": 0.0}
    return quiet(net(given | overrides, modalities=("face",), n_frames=8))


def holes(bag: Callable[..., Bag], w: int = 1) -> Bag:
    given = bag(b=3, n=8, w=w)
    given.frame_mask[0, 0, 2:4] = False
    given.frame_mask[2, -1, 1:] = False
    return given


def learn(model: Milmer, bag: Bag, gradients: Literal["all", "kept"]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    model.gradients = gradients
    model.zero_grad()
    torch.manual_seed(3)
    said = model(bag)
    loss = said.logits.square().sum() + sum(a.square().sum() for a in said.alone.values())
    loss.backward()
    return (
        said.logits,
        said.frame_weights,
        {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    )


def test_the_hard_ones_are_known() -> None:
    assert tuple(name for name, kind in SELECTIONS.items() if kind.hard) == HARD


@EVERY
@pytest.mark.parametrize("stages", ["all", 1, 0])
def test_the_answer_is_that_of_all_frames(net, bag, method, stages) -> None:
    for windows in (1, 2):
        given = holes(bag, windows)
        model = made(net, method, **{"model.trainable_stages": stages})
        (one, weights, _), (two, others, _) = (learn(model, given, g) for g in ("all", "kept"))
        torch.testing.assert_close(one, two, atol=2e-6, rtol=2e-5)
        torch.testing.assert_close(weights, others, atol=1e-6, rtol=1e-5)
        with torch.no_grad():
            model.eval()
            plain = model(given)
            model.gradients = "all"
            assert torch.equal(plain.logits, model(given).logits)


@EVERY
@pytest.mark.parametrize("warmth", [0.0, 1.0])
def test_the_gradient_is_that_of_all_frames_with_detached_weights(net, bag, method, warmth, monkeypatch) -> None:
    """Of what is scored only a detached copy is seen by the scorer; warm-up of 1 keeps all and takes the one pass."""
    model, given = quiet(made(net, method, **{"model.auxiliary": 0.0}), warmth), holes(bag)
    _, _, got = learn(model, given, "kept")
    select = model.select.forward

    def detached(frames: Tensor, mask: Tensor) -> Any:
        return select(frames.detach(), mask, lambda index, _: module.take(frames, index))

    monkeypatch.setattr(model.select, "forward", detached)
    _, _, expected = learn(model, given, "all")
    assert got.keys() == expected.keys() and any(n.startswith("backbone.net") for n in got)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=3e-6 * float(gradient.abs().max()) + 1e-9, rtol=1e-3)


@EVERY
@pytest.mark.parametrize("auxiliary", [0.0, 0.5])
def test_the_scorer_learns_as_ever(net, bag, method, auxiliary) -> None:
    model, given = made(net, method, **{"model.auxiliary": auxiliary}), holes(bag)
    (_, _, one), (_, _, two) = (learn(model, given, g) for g in ("all", "kept"))
    assert one.keys() == two.keys()
    for name in (n for n in one if not n.startswith("backbone")):
        torch.testing.assert_close(two[name], one[name], atol=3e-6 * float(one[name].abs().max()) + 1e-9, rtol=1e-3)


@EVERY
@pytest.mark.parametrize("warmth", [0.0, 0.5, 1.0])
def test_frames_that_are_not_kept_get_no_gradient(net, bag, method, warmth) -> None:
    model, given = quiet(made(net, method, **{"model.auxiliary": 0.5}), warmth), holes(bag).settled()
    pixels = (given.frames.float() / 255).requires_grad_()
    frames, kept, weights = learn_from_kept(
        model.backbone, model.select, module.Bag.of(frames=pixels, frame_mask=given.frame_mask)
    )
    seen = torch.einsum("bn,bntd->bd", weights.flatten(1), frames)
    (kept.tokens.square().sum() + seen.square().sum()).backward()
    assert pixels.grad is not None
    taught = pixels.grad.flatten(3).ne(0).any(-1)  # (B, W, N)
    assert not (taught & ~given.frame_mask).any()
    assert taught.flatten(1).sum(1).tolist() == kept.mask.sum(1).tolist()
    for bag_taught, times, there in zip(taught.flatten(1), kept.time, kept.mask, strict=True):
        assert bag_taught.nonzero().flatten().tolist() == (times[there] * 8).long().tolist()


def test_only_what_is_kept_runs_twice_and_a_frozen_part_once(net, bag, monkeypatch) -> None:
    given = bag(b=2, n=8)
    ran: list[tuple[int, bool]] = []
    for stages, first in (("all", []), (1, [(16, False)])):
        model = made(net, "gated-topk", **{"model.trainable_stages": stages})
        blocks = [model.backbone.net.encoder.layers[i].blocks[0] for i in (0, 1)]
        for block in blocks:
            block.register_forward_hook(lambda _, x, out: ran.append((len(out[0]), out[0].requires_grad)))
        ran.clear()
        learn(model, given, "kept")
        last = [(16, False), (4, True)]
        assert ran == (first + last if stages == 1 else [(16, False)] * 2 + [(4, True)] * 2)
        model.select.warmth = 1.0  # all are kept: one pass with gradient
        ran.clear()
        learn(model, given, "kept")
        assert ran == ([*first, (16, True)] if stages == 1 else [(16, True)] * 2)


def test_a_bag_without_a_face_has_no_gradient_and_no_trouble(net, bag) -> None:
    given = bag(b=2, n=8)
    given.frame_mask[:] = False
    model = made(net, "gated-topk")
    logits, weights, _ = learn(model, given, "kept")
    assert logits.isfinite().all() and weights.eq(0).all()


@pytest.mark.parametrize("how", ["exact", "half"])
def test_scores_are_those_of_evaluation_and_training_goes_on(net, bag, how) -> None:
    """The noise of training has no say in the choice, and the pass that learns still has it."""
    model, given = made(net, "gated-topk"), bag(b=2, n=8)
    noisy = [m for m in model.backbone.net.modules() if isinstance(m, nn.Dropout)]
    for part in noisy:
        part.p = 0.5
    x = model.backbone.before(given.frames, given.frame_mask)
    assert model.backbone.training and noisy
    found = [score(model.backbone, x, how) for _ in range(2)]
    assert all(part.training for part in noisy) and not torch.equal(*(model.backbone.suffix(x) for _ in range(2)))
    model.backbone.eval()
    assert torch.equal(*found) and torch.equal(found[0], score(model.backbone, x, how))


@pytest.mark.parametrize("outer", [False, True])
def test_scores_in_half_precision_are_near_and_every_weight_still_learns(net, bag, outer) -> None:
    """Weights that were cast without gradient must not be handed to the pass that learns."""
    model, given = made(net, "gated-topk"), bag(b=2, n=8)
    model.scoring = "half"
    model.backbone.eval()
    x = model.backbone.before(given.frames, given.frame_mask)
    exact, near = (score(model.backbone, x, how) for how in ("exact", "half"))
    assert near.dtype == torch.float32 and 0 < float((near - exact).norm() / exact.norm()) < 2e-2
    with torch.autocast("cpu", torch.bfloat16, enabled=outer):
        _, _, got = learn(model, given, "kept")
        _, _, every = learn(model, given, "all")
    assert got.keys() == every.keys()
    assert all(g.abs().sum() > 0 for n, g in got.items() if every[n].abs().sum() > 0)
