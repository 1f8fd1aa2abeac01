"""Every switch of training: what it turns on, that it can be undone, and how near the numbers stay to plain float32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from milmer.config import Config, load_config
from milmer.errors import UserError
from milmer.evaluation.guard import Guard
from milmer.evaluation.protocols import Split
from milmer.models.bag import Bag
from milmer.models.milmer import Milmer
from milmer.store import Store
from milmer.training import switches
from milmer.training.data import Bags
from milmer.training.fit import fit
from milmer.training.module import MilmerModule, fit_loss
from milmer.training.switches import agreement, check_switches, frames_that_teach, fused, products, turn_off, turn_on


def configured(**given: Any) -> Config:
    return load_config("demo", overrides={k.replace("__", "."): v for k, v in given.items()})


def made(config: Config, seed: int = 0) -> Milmer:
    torch.manual_seed(seed)
    return Milmer(config.model, n_classes=3, px=64, n_frames=6, modalities=("face",))


def bag(b: int = 2, n: int = 6) -> Bag:
    random = torch.Generator().manual_seed(0)
    return Bag.of(frames=torch.randint(0, 256, (b, 1, n, 3, 64, 64), dtype=torch.uint8, generator=random))


def learned(model: Milmer, given: Bag, *, amp: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Logits and gradients of one step in training mode, with its noise."""
    model.train().zero_grad()
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        said = model(given)
        loss = fit_loss(said, torch.tensor([0, 2]), model.config.auxiliary)
    loss.backward()
    return said.logits.detach().float(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def far(one: list[Tensor], two: list[Tensor]) -> float:
    """Size of the difference of all, beside the size of all."""
    a, b = (torch.cat([x.flatten() for x in xs]) for xs in (one, two))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("asked", "method", "keep", "frames", "expected"),
    [
        ("all", "gated-topk", 3, 10, "all"),
        ("kept", "gated-topk", 9, 10, "kept"),
        ("auto", "gated-topk", 3, 10, "kept"),
        ("auto", "gated-topk", 5, 10, "kept"),
        ("auto", "gated-topk", 6, 10, "all"),
        ("auto", "straight-through", 1, 3, "kept"),
        ("auto", "middle-frame", 9, 10, "kept"),
        ("auto", "published", 3, 10, "kept"),
        ("auto", "mean", 3, 10, "all"),
        ("auto", "perturbed-topk", 3, 10, "all"),
    ],
)
def test_auto_counts_passes(asked: str, method: str, keep: int, frames: int, expected: str) -> None:
    config = configured(training__gradients=asked, model__selection__method=method, model__selection__keep=keep)
    assert frames_that_teach(config.training, config.model, frames) == expected


def test_nothing_is_left_out_of_a_frozen_backbone() -> None:
    config = configured(training__gradients="auto", model__selection__keep=1, model__trainable_stages=0)
    assert frames_that_teach(config.training, config.model, 10) == "all"


@pytest.mark.parametrize("method", ["mean", "softmax", "gated", "perturbed-topk"])
def test_kept_is_refused_where_all_go_on(method: str) -> None:
    with pytest.raises(UserError, match=rf"training\.gradients is kept: with selection {method}.*gated-topk") as said:
        check_switches(configured(training__gradients="kept", model__selection__method=method))
    assert "\n" not in str(said.value)


def test_what_the_machine_lacks_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    check_switches(configured(training__compile=False))
    monkeypatch.setattr(switches.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"training\.compile: found no C\+\+ compiler"):
        check_switches(configured(training__compile=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"training\.precision is 16: that needs a GPU"):
        check_switches(configured(training__precision="16"))
    with pytest.raises(UserError, match=r"training\.scoring"):
        configured(training__scoring="last-epoch")


def test_scores_apart_are_refused_where_no_frame_is_scored_apart() -> None:
    with pytest.raises(UserError, match=r"training\.scoring is half, but with training\.gradients=all"):
        check_switches(configured(training__scoring="half"))
    for gradients in ("kept", "auto"):
        check_switches(configured(training__scoring="half", training__gradients=gradients))
    check_switches(configured(training__scoring="half", data__modalities=["eeg"]))


@pytest.mark.parametrize("asked", ["16", "32", "tf32"])
def test_precision_is_taken_as_it_is_typed(asked: str) -> None:
    """What --set and YAML read as a number is meant as a name."""
    config = load_config("demo", overrides=[f"training.precision={asked}"])
    assert config.training.precision == asked
    with pytest.raises(UserError, match=r"training\.precision: Input should be"):
        load_config("demo", overrides=["training.precision=8"])


def test_switches_are_turned_on_for_a_fit_and_off_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **_: lambda *given, **named: run(*given, **named))
    config = configured(
        training__gradients="kept",
        training__scoring="half",
        training__checkpointing=True,
        training__channels_last=True,
        training__compile=True,
        model__selection__keep=2,
    )
    model, given = made(config), bag()
    plain = model.eval()(given).logits
    rest = model.backbone._rest
    MilmerModule(model, config.training, 3)
    assert (model.gradients, model.scoring, model.backbone.channels_last) == ("kept", "half", True)
    assert model.backbone._checkpointing and model.backbone._rest is not rest
    learned(model, given)
    turn_off(model)
    assert (model.gradients, model.scoring, model.backbone.channels_last) == ("all", "exact", False)
    assert not model.backbone._checkpointing and model.backbone._rest == rest
    assert torch.equal(model.eval()(given).logits, plain)
    turn_on(nn.Linear(1, 1), config.training)  # no face, no switches
    turn_off(Milmer(config.model, n_classes=3, modalities=("gsr",)))


@pytest.mark.parametrize("stages", ["all", 1])
@pytest.mark.parametrize("gradients", ["all", "kept"])
def test_checkpointing_changes_no_gradient(stages: Any, gradients: str) -> None:
    """With stochastic depth and dropout: a block run again must draw the same noise."""
    config = configured(training__gradients=gradients, model__selection__keep=2, model__trainable_stages=stages)
    model, given = made(config), bag()
    for part in model.backbone.net.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.3
    turn_on(model, config.training)
    model.set_exploration(0.0)
    logits, gradient = learned(model, given)
    ran: list[int] = []
    model.backbone.net.encoder.layers[-1].blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    learned(model, given)
    once = len(ran)
    model.backbone.set_checkpointing(True)
    ran.clear()
    others, again = learned(model, given)
    assert len(ran) == once + 1 and torch.equal(logits, others)
    assert all(torch.equal(a, b) for a, b in zip(again, gradient, strict=True))


def test_checkpointing_of_another_network(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(image_size=64, patch_size=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    model = made(configured(model__backbone=str(tmp_path), model__width=64))
    (one, gradient), _ = learned(model, bag()), model.backbone.set_checkpointing(True)
    two, again = learned(model, bag())
    assert torch.equal(one, two) and far(again, gradient) < 1e-6
    model.backbone.set_checkpointing(False)
    model.backbone.net.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match=r"training\.checkpointing: a vit backbone cannot do that"):
        model.backbone.set_checkpointing(True)


def test_formats_and_half_precision_stay_near_float32() -> None:
    """Stated in docs/performance.md: channels-last 1e-5, bfloat16 0.05 of the gradient's size and 0.05 of a logit."""
    model, given = made(configured()), bag()
    model.set_exploration(0.0)
    logits, gradient = learned(model, given)
    model.backbone.channels_last = True
    others, again = learned(model, given)
    torch.testing.assert_close(others, logits, atol=1e-5, rtol=1e-4)
    assert far(again, gradient) < 1e-5
    model.backbone.channels_last = False
    others, again = learned(model, given, amp=True)
    assert 0 < float((others - logits).abs().max()) < 0.05 and far(again, gradient) < 0.05


def test_a_fused_step_is_the_plain_one_but_for_rounding() -> None:
    config = configured()
    one = made(config)
    two = copy.deepcopy(one)
    for model, more in ((one, {}), (two, fused(config.training, list(two.parameters())))):
        assert bool(more) is (model is two)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, **more)
        for step in range(3):
            torch.manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn_like(p) if p.requires_grad else None
            optimizer.step()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert not fused(configured(training__fused=False).training, list(one.parameters()))
    assert not fused(configured(training__precision="16").training, list(one.parameters()))


def test_gradients_are_clipped_with_a_fused_optimiser_too() -> None:
    config = configured()
    module = MilmerModule(made(config), config.training, 3)
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.full((4,), 5.0)
    module.configure_gradient_clipping(torch.optim.AdamW([weight], fused=True), 1.0)
    assert float(weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)


def test_rounded_products_are_allowed_within_a_fit_only() -> None:
    before = torch.get_float32_matmul_precision()
    with products(configured(training__precision="tf32").training):
        assert torch.get_float32_matmul_precision() == "high"
    with products(configured().training):
        assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before == "highest"


def test_memory_is_asked_back_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(switches, "give_memory_back", lambda: asked.append(True))
    for on in (False, True):
        turn_on(made(configured()), configured(training__checkpointing=on).training)
        assert asked == [True] * on
    monkeypatch.undo()
    monkeypatch.setattr(switches.sys, "platform", "darwin")
    assert not switches.give_memory_back()
    monkeypatch.setattr(switches.sys, "platform", "linux")
    calls: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, what: int, value: int) -> int:
            calls.append((what, value))
            return 1

    monkeypatch.setattr(switches.ctypes, "CDLL", lambda _: Library())
    assert switches.give_memory_back() and calls == [(-3, 131072)]
    monkeypatch.setattr(switches.ctypes, "CDLL", lambda _: object())
    assert not switches.give_memory_back()


def test_agreement_is_the_share_of_kept_frames_that_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(model__selection__keep=2, training__gradients="kept", training__scoring="half")
    model, given = made(config).train(), bag(b=16)
    turn_on(model, config.training)
    assert 0.8 <= agreement(model, given) <= 1 and model.training
    real: Callable[..., Tensor] = switches.score

    def worst(backbone: Any, x: Tensor, how: str) -> Tensor:
        tokens = real(backbone, x, "exact")  # (M, T, D)
        return tokens if how == "exact" else tokens.view(16, 6, *tokens.shape[1:]).roll(1, 1).flatten(0, 1)

    monkeypatch.setattr(switches, "score", worst)
    kept = model.eval()(given).frame_weights[:, 0].topk(2).indices  # (B, K)
    same = [len(set(row.tolist()) & {(i - 1) % 6 for i in row.tolist()}) for row in kept]
    assert agreement(model, given) == pytest.approx(sum(same) / 32)


def test_a_fit_with_every_switch_repeats_itself(tiny_store: Path, tmp_path: Path) -> None:
    config = configured(
        training__epochs=1,
        training__threads=1,
        training__batch=20,
        data__frames=4,
        model__selection__keep=1,
        training__gradients="auto",
        training__scoring="half",
        training__checkpointing=True,
        training__channels_last=True,
        training__precision="bf16",
        data__px=64,
        data__window=3.0,
    )
    bags = Bags(Store(tiny_store), config.data)
    rows = np.arange(0, 40), np.arange(40, 60), np.zeros(0, dtype=np.int64)
    lightning.seed_everything(1, verbose=False)
    found = []
    for name in ("one", "two"):
        found.append(fit(config, bags, Guard(Split(0, *rows), bags.table), tmp_path / name).history)
        torch.manual_seed(5)  # global randomness must not matter
    assert found[0].equals(found[1]) and found[0]["selection_agreement"].between(0.5, 1).all()
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
