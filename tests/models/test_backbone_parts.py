"""A backbone in two: what is frozen, once; the rest, as if it had never been cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from milmer.models.backbone import Backbone, BackboneSpec, build_net, load_backbone
from milmer.models.backbone_parts import features
from milmer.models.bag import Bag

Stages = int | Literal["all"]
EVERY = pytest.mark.parametrize("stages", [0, 1, 2, 3, 4, "all"])


def small(stages: Stages, seed: int = 0, *, name: str = "small", **config: Any) -> Backbone:
    """A Swin of three stages with shifted windows, dropout and stochastic depth."""
    values = {
        "model_type": "swin",
        "image_size": 64,
        "patch_size": 4,
        "window_size": 4,
        "embed_dim": 8,
        "depths": [2, 2, 1],
        "num_heads": [2, 2, 4],
        "drop_path_rate": 0.3,
        "hidden_dropout_prob": 0.1,
        **config,
    }
    spec = BackboneSpec(name, values, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "made up")
    torch.manual_seed(seed)
    return Backbone(build_net(spec), spec, px=64, width=16, trainable_stages=stages)


def pictures(m: int, px: int = 64, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (m, 3, px, px), dtype=torch.uint8, generator=random)  # (M, 3, P, P)


def whole(backbone: Backbone, frames: Tensor) -> Tensor:
    """The network as transformers runs it, and the projection; (M, T, D)."""
    out: Tensor = backbone.project(features(backbone.net, (frames / 255 - backbone.mean) / backbone.std))
    return out


@EVERY
def test_the_two_parts_are_the_network_bit_by_bit(stages: Stages) -> None:
    backbone, frames = small(stages).eval(), pictures(3)
    expected = whole(backbone, frames)
    mask = torch.ones(1, 1, 3, dtype=torch.bool)
    assert torch.equal(backbone(frames[None, None], mask)[0], expected)
    if not backbone.has_prefix:
        assert stages == "all"
        for asked in (backbone.prefix_key, lambda: backbone.prefix(frames), lambda: backbone.prefix_shape):
            with pytest.raises(ValueError, match="has no prefix"):
                asked()
        return
    prefix = backbone.prefix(frames)
    assert prefix.shape == (3, *backbone.prefix_shape) and not prefix.requires_grad
    assert torch.equal(backbone.suffix(prefix), expected)
    given = backbone(torch.zeros(1, 1, 3, 3, 0, 0), mask, prefix[None, None])
    assert torch.equal(given[0], expected)
    assert torch.equal(backbone.train().prefix(frames), prefix)  # no noise where nothing is learned


@pytest.mark.parametrize(
    ("stages", "shape"), [(0, (16, 32)), (1, (16, 32)), (2, (64, 16)), (3, (256, 8)), (4, (256, 8))]
)
def test_the_cut_is_before_the_first_trained_stage(stages: int, shape: tuple[int, int]) -> None:
    assert small(stages).prefix_shape == shape


def test_gradients_are_those_of_the_whole_network() -> None:
    backbone, frames = small(2).train(), pictures(3)

    def gradients(run: Callable[[], Tensor]) -> list[Tensor]:
        backbone.zero_grad()
        torch.manual_seed(5)
        run().square().sum().backward()
        return [p.grad.clone() for p in backbone.parameters() if p.grad is not None]

    one, two = gradients(lambda: whole(backbone, frames)), gradients(lambda: backbone.suffix(backbone.prefix(frames)))
    assert len(one) == len(two) == len([p for p in backbone.parameters() if p.requires_grad]) > 20
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_half_precision_in_the_cache_costs_a_thousandth() -> None:
    backbone, frames = small(1).eval(), pictures(4)
    exact = backbone.suffix(backbone.prefix(frames))
    near = backbone.suffix(backbone.prefix(frames).half())
    assert near.dtype == torch.float32
    assert (near - exact).norm() / exact.norm() < 1e-3


def test_another_network_is_frozen_as_a_whole(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    frozen = load_backbone(str(tmp_path), px=32, width=8, trainable_stages=0).eval()
    frames = pictures(2, 32)
    assert frozen.prefix_shape == (17, 16)
    assert torch.equal(frozen.suffix(frozen.prefix(frames)), whole(frozen, frames))
    assert not load_backbone(str(tmp_path), px=32, width=8).has_prefix


def test_the_key_is_of_contents_only() -> None:
    key = small(1).prefix_key()
    assert key == small(1, name="elsewhere").prefix_key() and len(key) == 32
    others = [small(1, seed=1), small(2), small(0), small(1, layer_norm_eps=1e-3)]
    keys = {key, *(o.prefix_key() for o in others)}
    assert len(keys) == 5
    moved = small(1)
    with torch.no_grad():
        moved.net.encoder.layers[2].blocks[0].mlp.fc1.weight.add_(1)  # of the trained stage
        moved.project.weight.add_(1)  # type: ignore[operator]  # a Linear
    assert moved.prefix_key() == key
    with torch.no_grad():
        moved.net.encoder.layers[0].blocks[0].mlp.fc1.weight[0, 0] += 1
    assert moved.prefix_key() != key
    moved = small(1)
    moved.mean += 0.1
    moved.spec = replace(moved.spec, mean=(0.6, 0.5, 0.4))
    assert moved.prefix_key() != key


def test_a_bag_carries_its_prefix() -> None:
    prefix = torch.randn(2, 1, 3, 16, 32).half()
    bag = Bag.of(prefix=prefix)
    assert bag.frames.shape == (2, 1, 3, 3, 0, 0) and bag.modality_mask.tolist() == [[False, True]] * 2
    assert bag[:1].prefix.shape[0] == 1 and torch.equal(bag.to("cpu").settled().prefix, prefix)  # type: ignore[union-attr]  # it is there
    assert Bag.of(frames=pictures(2)[:, None, None]).to("cpu").prefix is None
    with pytest.raises(ValueError, match=r"Bag\.prefix has shape"):
        replace(bag, prefix=prefix[:, :, :2])
    with pytest.raises(ValueError, match=r"Bag\.prefix is torch\.uint8"):
        replace(bag, prefix=prefix.to(torch.uint8))
    with pytest.raises(ValueError, match=r"prefix has shape .*expected \(2, 1, 3, 64, 16\)"):
        small(2)(bag.frames, bag.frame_mask, bag.prefix)


def test_a_network_answers_the_same_with_and_without(net: Callable[..., Any], bag: Callable[..., Bag]) -> None:
    for stages in (0, 1):
        model, given = net({"model.trainable_stages": stages}), bag()
        given.frame_mask[0, 0, 1] = False
        prefix = model.backbone.prefix(given.frames.flatten(0, 2)).view(2, 1, 5, *model.backbone.prefix_shape)
        prefix[0, 0, 1] = torch.nan  # masked: nobody may look at it
        cached = replace(given, prefix=prefix, frames=given.frames[..., :0, :0])
        assert torch.equal(model(given).logits, model(cached).logits)
