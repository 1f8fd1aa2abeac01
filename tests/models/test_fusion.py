from typing import get_args

import pytest
import torch
from torch import Tensor

from milmer.config import Balancing, Fusion
from milmer.models.bag import Tokens
from milmer.models.balancing import BALANCINGS, make_balance
from milmer.models.fusion import FUSIONS, CrossModalFuse, Fuse, Head, make_fuse
from milmer.models.selection import Kept

D = 8
BOTH = ("eeg", "face")
ELSEWHERE = {"deepcca", "ensemble", "bandpower-logistic"}  # methods of milmer.models.baselines
every = pytest.mark.parametrize("method", FUSIONS)
worlds = pytest.mark.parametrize("modalities", [BOTH, ("eeg",), ("face",)], ids="+".join)


def make(
    method: str = "transformer",
    modalities: tuple[str, ...] = BOTH,
    *,
    width: int = D,
    layers: int = 2,
    dropout: float = 0.2,
) -> Fuse:
    torch.manual_seed(0)
    config = Fusion(method=method, layers=layers, heads=2, feedforward=16, dropout=dropout)  # type: ignore[arg-type]  # a name of the registry
    return make_fuse(width, config, modalities).eval()


def say(fuse: Fuse, visual: Tokens | None, eeg: Tokens | None) -> Tensor:
    return fuse({name: part for name, part in (("eeg", eeg), ("face", visual)) if part is not None})


def noise(b: int, m: int, width: int = D, seed: int = 0) -> Tensor:
    return torch.randn(b, m, width, generator=torch.Generator().manual_seed(seed))


def some(values: Tensor, *absent: int) -> Tokens:
    mask = torch.ones(values.shape[:2], dtype=torch.bool)
    mask[:, list(absent)] = False
    return Tokens(values, mask)


def none(values: Tensor) -> Tokens:
    return Tokens(values, torch.zeros(values.shape[:2], dtype=torch.bool))


def test_the_registry_holds_every_method_of_the_network():
    named = set(get_args(Fusion.model_fields["method"].annotation))
    assert set(FUSIONS) == named - ELSEWHERE and named > ELSEWHERE
    assert all(type(make(method)) is kind for method, kind in FUSIONS.items())
    for method in ELSEWHERE:
        with pytest.raises(ValueError, match=f"'{method}' is no part of the network, expected transformer"):
            make(method)


@every
def test_absent_tokens_change_nothing(method):
    fuse, visual, eeg = make(method), noise(2, 3), noise(2, 5, seed=1)
    changed = eeg.clone()
    changed[:, 4] = 99.0
    plain = say(fuse, some(visual), some(eeg))
    assert plain.shape == (2, D)
    assert torch.equal(say(fuse, some(visual), some(eeg, 4)), say(fuse, some(visual), some(changed, 4)))
    torch.testing.assert_close(say(fuse, some(visual), some(eeg, 4)), say(fuse, some(visual), some(eeg[:, :4])))
    assert torch.equal(say(fuse, none(visual), some(eeg)), say(fuse, none(visual + 5), some(eeg)))
    assert torch.equal(say(fuse, some(visual), none(eeg)), say(fuse, some(visual), none(changed)))
    assert (plain - say(fuse, some(visual + noise(2, 3, seed=2)), some(eeg))).abs().max() > 1e-2
    assert (plain - say(fuse, some(visual), some(eeg + noise(2, 5, seed=2)))).abs().max() > 1e-2


@every
def test_none_an_empty_and_a_masked_modality_are_the_same(method):
    fuse, visual, eeg = make(method), noise(2, 3), noise(2, 5, seed=1)
    for absent in (none(visual), some(visual[:, :0])):
        torch.testing.assert_close(say(fuse, None, some(eeg)), say(fuse, absent, some(eeg)))
    for absent in (none(eeg), some(eeg[:, :0])):
        torch.testing.assert_close(say(fuse, some(visual), None), say(fuse, some(visual), absent))


@every
@worlds
def test_nothing_at_all_gives_one_finite_answer(method, modalities):
    fuse = make(method, modalities)
    first = say(fuse, none(noise(2, 3)), none(noise(2, 5, seed=1)))
    second = say(fuse, some(noise(2, 0)), none(noise(2, 5, seed=2)))
    assert first.isfinite().all()
    for row in (*first, *second):
        torch.testing.assert_close(row, first[0])
    with pytest.raises(ValueError, match=r"fusion got tokens of \[\], expected some of"):
        say(fuse, None, None)


@every
def test_a_model_of_one_modality_ignores_the_other(method):
    visual, eeg = some(noise(2, 3)), some(noise(2, 5, seed=1))
    assert torch.equal(say(make(method, ("eeg",)), visual, eeg), say(make(method, ("eeg",)), None, eeg))
    assert torch.equal(say(make(method, ("face",)), visual, eeg), say(make(method, ("face",)), visual, None))


@every
def test_the_kind_of_a_token_matters(method):
    fuse, tokens = make(method), some(noise(1, 3))
    assert not torch.allclose(say(fuse, tokens, None), say(fuse, None, tokens), atol=1e-5)


@every
@worlds
def test_one_bag_alone_is_answered_as_in_a_batch_of_eight(method, modalities):
    fuse, visual, eeg = make(method, modalities), some(noise(8, 3)), some(noise(8, 5, seed=1))
    visual.mask[1], eeg.mask[2], eeg.mask[3, 2:] = False, False, False
    visual.mask[4], eeg.mask[4] = False, False
    together = say(fuse, visual, eeg)
    for row in range(8):
        one = slice(row, row + 1)
        alone = say(fuse, Tokens(visual.values[one], visual.mask[one]), Tokens(eeg.values[one], eeg.mask[one]))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)


@every
def test_the_order_of_tokens_counts_where_declared(method):
    fuse, visual, eeg = make(method), some(noise(2, 3)), some(noise(2, 5, seed=1), 4)
    turned = say(fuse, Tokens(visual.values.flip(1), visual.mask.flip(1)), Tokens(eeg.values.flip(1), eeg.mask.flip(1)))
    assert torch.allclose(say(fuse, visual, eeg), turned, atol=1e-5) != fuse.looks_at_positions


@every
@worlds
def test_every_parameter_gets_a_gradient(method, modalities):
    fuse = make(method, modalities, width=64).train()
    fused = say(fuse, some(noise(4, 6, 64)), some(noise(4, 5, 64, seed=1)))
    torch.nn.functional.mse_loss(fused, noise(4, 64, 1)[..., 0]).backward()
    for name, parameter in fuse.named_parameters():
        if not name.endswith(fuse.no_gradient or ("no such",)):
            assert parameter.grad is not None, name
            assert parameter.grad.norm() > 1e-6 * parameter.norm(), name


@every
@pytest.mark.parametrize("balancing", BALANCINGS)
@pytest.mark.parametrize("k", [1, 3])
def test_the_weight_of_a_frame_reaches_the_answer(method, balancing, k):
    # With one layer and no positions: the fewest roads there are from the scorer to the answer.
    torch.manual_seed(0)
    config = Balancing(method=balancing, queries=4, layers=1)  # type: ignore[arg-type]  # a name of the registry
    balance = make_balance(64, 5, config, heads=2, positions=False)
    fuse = make(method, width=64, layers=1)
    frames, eeg = noise(2, k * 5, 64).unflatten(1, (k, 5)), some(noise(2, 5, 64, seed=1))

    def answer(weight: Tensor) -> Tensor:
        time = (torch.arange(k) + 0.5).expand(2, -1) / k
        kept = Kept(frames * weight[..., None, None], torch.ones(2, k, dtype=torch.bool), time)
        return say(fuse, balance(kept), eeg)

    slope = torch.autograd.functional.jacobian(answer, torch.ones(2, k))  # (B, D, B, K)
    for row in range(2):
        assert (slope[row, :, row].norm(dim=0) > 0.1).all()
        assert not slope[row, :, 1 - row].any()


@every
@pytest.mark.parametrize("balancing", BALANCINGS)
def test_every_pair_with_a_balancing_trains_in_the_network(method, balancing, net, bag):
    # Fresh visual tokens are nearly alike, so that attention to them has hardly a gradient: noise would not show it.
    model = net({"model": {"fusion": {"method": method}, "balancing": {"method": balancing}}}).train()
    assert isinstance(model.fuse, FUSIONS[method]) and isinstance(model.balance, BALANCINGS[balancing])
    torch.nn.functional.cross_entropy(model(bag(b=4)).logits, torch.arange(4)).backward()
    for part in ("select", "balance", "fuse"):
        for name, parameter in getattr(model, part).named_parameters():
            assert parameter.grad is not None, f"{part}.{name}"
            assert parameter.grad.norm() > 1e-6 * parameter.norm(), f"{part}.{name}"


def test_in_cross_modal_attention_what_is_alone_passes_unchanged():
    fuse = make("cross-modal")
    assert isinstance(fuse, CrossModalFuse)
    visual, eeg = some(noise(2, 3)), some(noise(2, 5, seed=1))
    eeg.mask[0] = False
    told = fuse.attend({"eeg": eeg, "face": visual})
    assert torch.equal(told["face"].values[0], visual.values[0])
    assert (told["face"].values[1] - visual.values[1]).abs().max() > 1e-2
    assert (told["eeg"].values[1] - eeg.values[1]).abs().max() > 1e-2
    assert not dict(make("cross-modal", ("eeg",)).roads)


@every
def test_half_precision_stays_finite_and_near(method):
    fuse, visual, eeg = make(method), some(noise(2, 3)), some(noise(2, 5, seed=1))
    visual.mask[0] = False
    with torch.autocast("cpu", torch.bfloat16):
        half = say(fuse, visual, eeg).float()
    torch.testing.assert_close(half, say(fuse, visual, eeg), rtol=0.1, atol=0.1)


def test_head_starts_near_equal_probabilities():
    torch.manual_seed(0)
    logits = Head(64, 4, 0.0)(torch.randn(100, 64))
    assert logits.shape == (100, 4) and logits.softmax(-1).max() < 0.4
