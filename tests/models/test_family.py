"""Promises that every variant keeps, in the whole network; the last test says that no registered one escapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import nn

from milmer.config import EEG_TOKENS, Balancing, Fusion, Selection, load_config
from milmer.models.bag import Bag, Prediction
from milmer.models.balancing import BALANCINGS
from milmer.models.fusion import FUSIONS
from milmer.models.milmer import Milmer
from milmer.models.selection import SELECTIONS
from milmer.training.module import fit_loss

# Adding a constant to all keys adds a constant to all scores of a query, which the softmax takes out again. Ours carry
# none; transformers' Swin does.
IRRELEVANT = ("k_proj.bias", "attention.self.key.bias")
WHOLE_MODELS = ("deepcca", "ensemble", "bandpower-logistic")  # models of their own: tests/models/test_baselines.py


def variants() -> Iterator[dict[str, Any]]:
    """Every registered variant in the demo's network, one choice changed at a time, and a few together."""
    yield {}
    yield from ({"model.selection.method": name} for name in SELECTIONS)
    yield from ({"model.balancing.method": name} for name in BALANCINGS)
    yield from ({"model.fusion.method": name} for name in FUSIONS)
    yield from ({"model.eeg_tokens": name} for name in EEG_TOKENS)
    yield {"model.positions": False}
    yield {"model.positions": False, "model.eeg_tokens": "temporal", "model.balancing.method": "none"}
    yield {"model.selection.keep": 1}
    yield {"model.trainable_stages": 1}
    yield {"model.auxiliary": 1.0, "model.fusion.method": "concatenation", "model.balancing.method": "mlp"}


EVERY = pytest.mark.parametrize("change", list(variants()), ids=lambda c: ",".join(map(str, c.values())) or "demo")


def parts(model: Milmer) -> Iterator[nn.Module]:
    yield from (model.select, model.balance, model.fuse, model.eeg_tokens)


def close(one: Prediction, two: Prediction) -> None:
    torch.testing.assert_close(one.logits, two.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.frame_weights, two.frame_weights, atol=1e-5, rtol=1e-4)


def fitted(net: Any, bag: Any, change: dict[str, Any], **given: Any) -> Milmer:
    model = net(change, n_frames=6, n_windows=2, **given)
    model.fit_scales([bag(b=4, w=2, n=6)])
    return model


@EVERY
@pytest.mark.parametrize("warmth", [1.0, 0.0])
def test_every_parameter_gets_a_gradient(net, bag, change, warmth):
    model, given = fitted(net, bag, change), bag(b=4, w=2, n=6)
    model.train()
    model.set_exploration(warmth)
    torch.manual_seed(0)
    fit_loss(model(given), torch.tensor([0, 1, 2, 3]), model.config.auxiliary).backward()
    silent = {f"select.{name}" for name in getattr(model.select, "no_gradient", ())}
    assert silent == ({"select.scorer.weight"} if change.get("model.selection.method") == "published" else set())
    for name, parameter in model.named_parameters():
        if name in silent:
            assert parameter.grad is None, name
        elif parameter.requires_grad and not name.endswith(IRRELEVANT):
            assert parameter.grad is not None, name
            assert parameter.grad.norm() > 1e-6 * parameter.detach().norm(), name
            assert parameter.grad.norm() > 0, name
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad} - silent
    assert all(n.startswith("backbone.net.") for n in frozen)
    assert bool(frozen) == ("model.trainable_stages" in change)


@EVERY
def test_what_is_masked_changes_nothing(net, bag, change):
    model, given = fitted(net, bag, change), bag(b=3, w=2, n=6)
    given.frame_mask[0, 0, 1] = False
    given.eeg_mask[1, 0, 2] = False
    given.sample_mask[2, 1, 300:] = False
    given.window_mask[1, 1] = False
    given.modality_mask[2, 1] = False
    other = replace(given, frames=given.frames.clone(), eeg=given.eeg.clone())
    other.frames[0, 0, 1] = 255
    other.eeg[1, 0, 2] = torch.nan
    other.eeg[2, 1, :, 300:] = 1e3
    other.frames[1, 1], other.eeg[1, 1] = 0, torch.inf
    other.frames[2] = 128
    with torch.no_grad():
        one, two = model(given), model(other)
    assert torch.equal(one.logits, two.logits) and torch.equal(one.frame_weights, two.frame_weights)
    assert one.logits.isfinite().all()
    assert one.frame_weights[0, 0, 1] == 0 and one.frame_weights[1, 1].eq(0).all() and one.frame_weights[2].eq(0).all()
    torch.testing.assert_close(one.frame_weights[:2].sum((1, 2)), torch.ones(2))


@EVERY
def test_an_absent_modality_changes_nothing(net, bag, change):
    model, given = fitted(net, bag, change), bag(b=2, w=2, n=6)
    for column, kept in ((0, Bag.of(frames=given.frames)), (1, Bag.of(eeg=given.eeg, positions=given.positions))):
        mask = given.modality_mask.clone()
        mask[:, column] = False
        with torch.no_grad():
            masked, without, whole = model(replace(given, modality_mask=mask)), model(kept), model(given)
        torch.testing.assert_close(masked.logits, without.logits, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(whole.logits, without.logits, atol=1e-5)


@EVERY
def test_one_at_a_time_equals_a_batch(net, bag, change):
    model, given = fitted(net, bag, change), bag(b=8, w=2, n=6)
    given.frame_mask[3, 0, 2:] = False
    given.window_mask[5, 1] = False
    given.frame_mask[6] = False
    with torch.no_grad():
        whole = model(given)
        single = [model(given[i : i + 1]) for i in range(8)]
    joined = Prediction(torch.cat([p.logits for p in single]), torch.cat([p.frame_weights for p in single]))
    close(whole, joined)


@EVERY
def test_permuting_frames_permutes_the_weights(net, bag, change):
    model, given = fitted(net, bag, change), bag(b=2, w=2, n=6)
    given.frame_mask[0, 1, 3] = False
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    moved = replace(given, frames=given.frames[:, :, order], frame_mask=given.frame_mask[:, :, order])
    with torch.no_grad():
        one, two = model(given), model(moved)
    same = torch.allclose(one.frame_weights[:, :, order], two.frame_weights, atol=1e-6)
    if getattr(model.select, "looks_at_positions", False):
        assert change["model.selection.method"] in ("softmax", "middle-frame")
    else:
        assert same


@EVERY
def test_a_bag_of_a_whole_trial_and_one_of_a_window(net, bag, change):
    model = net(change, n_frames=6, n_windows=5)
    model.fit_scales([bag(b=4, w=2, n=6)])
    for windows in (1, 5):
        with torch.no_grad():
            said = model(bag(b=2, w=windows, n=6))
        assert said.logits.shape == (2, 4) and said.logits.isfinite().all()
        assert said.frame_weights.shape == (2, windows, 6)
        torch.testing.assert_close(said.frame_weights.sum((1, 2)), torch.ones(2))


def names(section: Any, field: str) -> set[str]:
    return set(get_args(section.model_fields[field].annotation))


def test_no_registered_variant_escapes():
    tried = [value for change in variants() for value in change.values()]
    for registry, declared in (
        (set(SELECTIONS), names(Selection, "method")),
        (set(BALANCINGS), names(Balancing, "method")),
        (set(FUSIONS) | set(WHOLE_MODELS), names(Fusion, "method")),
    ):
        assert registry == declared
        assert registry - set(WHOLE_MODELS) <= set(tried)
    assert set(EEG_TOKENS) <= set(tried)


def test_default_is_small_and_the_selection_smaller():
    for preset, most in (("default", 45.0), ("paper", 69.5)):
        config = load_config(preset, overrides={"model.backbone": "random:tiny"}).model
        with torch.device("meta"):
            model = Milmer(config, n_classes=4)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        assert 27.5 < millions <= most, (preset, millions)
        assert sum(p.numel() for p in model.select.parameters()) <= 0.5e6


def test_published_is_what_the_published_code_chose():
    model = load_config("published").model
    assert (model.fusion.layers, model.balancing.layers, model.balancing.queries) == (2, 1, 147)
    assert not model.positions and model.selection.method == "published" and model.eeg_tokens == "channel"
