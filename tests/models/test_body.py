from dataclasses import replace

import pytest
import torch
from torch import Tensor

from milmer.models.bag import Bag
from milmer.models.body import BodyTokens
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE

D, S = 16, 96  # three seconds
UNIT = {"gsr": (5e-6, 5e-8), "ppg": (0.0, 1.0), "temperature": (33.0, 0.05)}  # level and spread of the first channel


def signal(kind: str = "gsr", b: int = 8, w: int = 2, s: int = S, seed: int = 0) -> Tensor:
    """Plausible values of a kind: level of a bag, a slow wave and noise; (B, W, P, S_b)."""
    random = torch.Generator().manual_seed(seed)
    channels = len(BODY_CHANNELS[kind])
    level, spread = UNIT.get(kind, (1.0, 0.1))
    height = level * (1 + 0.1 * torch.randn(b, 1, channels, 1, generator=random))
    wave = torch.sin(torch.arange(s) / 9 + 6 * torch.rand(b, w, channels, 1, generator=random))
    size = spread * (0.5 + torch.rand(b, w, channels, 1, generator=random))
    return height + size * (wave + 0.1 * torch.randn(b, w, channels, s, generator=random))


def make(kind: str = "gsr", *, fit: bool = True, **given: bool) -> BodyTokens:
    torch.manual_seed(0)
    tokens = BodyTokens(D, kind, S, BODY_RATE, **given).eval()
    if fit:
        tokens.fit([Bag.of(body={kind: signal(kind, b=32, seed=9)})])
    return tokens


def values(tokens: BodyTokens, x: Tensor, mask: Tensor | None = None) -> Tensor:
    given = Bag.of(body={tokens.kind: x}, body_mask=None if mask is None else {tokens.kind: mask})
    out = tokens(given.settled())
    return out.values.masked_fill(~out.mask[..., None], 0.0)


@pytest.mark.parametrize("kind", BODY_CHANNELS)
def test_one_token_for_each_channel_of_each_window(kind):
    out = make(kind)(Bag.of(body={kind: signal(kind, b=3)}).settled())
    assert out.values.shape == (3, 2 * len(BODY_CHANNELS[kind]), D)
    assert out.mask.all() and out.values.isfinite().all()
    assert sum(p.numel() for p in make(kind).parameters()) < 2_500


@pytest.mark.parametrize("kind", ["gsr", "ppg", "temperature"])
def test_level_slope_and_waveform_each_change_the_tokens(kind):
    tokens, x = make(kind), signal(kind)
    level, spread = UNIT[kind]
    plain = values(tokens, x)
    centre = x.mean(-1, keepdim=True)
    ramp = torch.linspace(-1, 1, S)
    for other in (
        x + 0.05 * max(level, 1.0 if kind == "ppg" else level),
        centre + 2 * (x - centre),  # a larger phasic response, a stronger pulse
        x + spread * ramp,
        x.flip(-1),
    ):
        assert (values(tokens, other) - plain).abs().amax() > 0.02


def test_a_heart_rate_is_told_at_any_small_difference_that_people_have():
    rate = torch.full((32, 1, 2, S), 1.2) + 0.2 * torch.linspace(-1, 1, 32)[:, None, None, None]
    torch.manual_seed(0)
    tokens = BodyTokens(D, "ecg", S)
    tokens.fit([Bag.of(body={"ecg": rate})])
    slow, fast = values(tokens, rate[:1] * 0 + 1.1), values(tokens, rate[:1] * 0 + 1.3)
    assert (slow - fast).abs().max() > 0.05


def test_what_is_masked_or_nan_changes_nothing():
    tokens, x = make(), signal(b=3)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 0, 1, 40:60] = False
    mask[1, 1] = False
    dirty = x.clone()
    dirty[~mask] = torch.nan
    assert torch.equal(values(tokens, x, mask), values(tokens, dirty, mask))
    assert torch.equal(values(tokens, dirty, mask), values(tokens, dirty))  # NaN is a mask of its own
    out = tokens(Bag.of(body={"gsr": dirty}).settled())
    assert out.mask[1].tolist() == [True, True, False, False] and out.mask[0].all()
    windows = torch.tensor([[True, False]] * 3)
    given = Bag.of(body={"gsr": x}, window_mask=windows).settled()
    assert not tokens(given).mask[:, 2:].any() and given.body["gsr"][:, 1].eq(0).all()


def test_a_short_window_is_a_masked_one():
    tokens, x = make(), signal()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[..., 60:] = False
    torch.testing.assert_close(values(tokens, x[..., :60]), values(tokens, x, mask), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"2 channels of 120 samples a window, expected 2 of at most 96"):
        values(tokens, signal(s=120))


def test_one_bag_alone_is_answered_as_in_a_batch_of_eight():
    tokens, x = make(), signal()
    together = values(tokens, x)
    for row in range(8):
        torch.testing.assert_close(values(tokens, x[row : row + 1])[0], together[row], atol=1e-6, rtol=1e-5)


def test_scales_are_of_the_signal_so_units_do_not_matter():
    x = signal(b=32)
    found = []
    for factor in (1.0, 1e6):
        torch.manual_seed(0)
        tokens = BodyTokens(D, "gsr", S)
        tokens.fit([Bag.of(body={"gsr": factor * x})])
        found.append(values(tokens, factor * x))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-3)
    assert 0.2 < found[0].std() < 3


def test_every_parameter_gets_a_gradient():
    tokens = make().train()
    out = tokens(Bag.of(body={"gsr": signal()}).settled())
    out.values.square().sum().backward()
    for name, parameter in tokens.named_parameters():
        assert parameter.grad is not None and parameter.grad.norm() > 1e-6 * parameter.norm(), name
    assert "time_gain" not in dict(make(positions=False).named_parameters())


def test_a_channel_never_met_in_training_is_masked_and_none_at_all_is_refused():
    x = signal("emg", b=16)
    x[:, :, 1] = torch.nan
    tokens = BodyTokens(D, "emg", S)
    tokens.fit([Bag.of(body={"emg": x})])
    assert tokens(Bag.of(body={"emg": signal("emg", b=1)}).settled()).mask.tolist() == [[True, False, True, False]]
    with pytest.raises(ValueError, match="the scale of emg cannot be fitted: no training bag holds any"):
        tokens.fit([Bag.of(body={"emg": x * torch.nan})])
    with pytest.raises(ValueError, match="'sweat': found no such kind, expected gsr"):
        BodyTokens(D, "sweat", S)


def test_constant_signals_are_scaled_without_a_division_by_nothing():
    tokens = BodyTokens(D, "temperature", S)
    tokens.fit([Bag.of(body={"temperature": torch.full((4, 1, 1, S), 33.0)})])
    assert values(tokens, torch.full((1, 1, 1, S), 34.0)).isfinite().all()


def body_bag(bag, b: int = 4, **kinds: Tensor) -> Bag:
    given = bag(b=b, w=2, n=3)
    return replace(given, body=kinds, body_mask={k: ~x.isnan() for k, x in kinds.items()})


@pytest.mark.parametrize("method", ["transformer", "concatenation", "cross-modal"])
def test_in_the_network_each_modality_counts_and_a_masked_one_is_an_absent_one(net, bag, method):
    names = ("eeg", "face", "gsr", "ecg")
    model = net({"model.fusion.method": method, "model.auxiliary": 0.5}, modalities=names, n_windows=2)
    given = body_bag(bag, gsr=signal(b=4), ecg=signal("ecg", b=4))
    model.fit_scales([given])
    with torch.no_grad():
        whole = model(given)
        assert set(whole.alone) == set(names)
        for gone in names:
            left = model(given.only([n for n in names if n != gone])).logits
            assert (left - whole.logits).abs().max() > 1e-5, gone
        without = replace(given, body={"ecg": given.body["ecg"]}, body_mask={"ecg": given.body_mask["ecg"]})
        masked = model(given.only(["eeg", "face", "ecg"])).logits
        torch.testing.assert_close(masked, model(without).logits, atol=1e-5, rtol=1e-4)
        single = torch.cat([model(given[i : i + 1]).logits for i in range(4)])
        torch.testing.assert_close(single, whole.logits, atol=1e-5, rtol=1e-4)
        nothing = model(given.only([])).logits
    assert nothing.isfinite().all()
    torch.testing.assert_close(nothing[0], nothing[1])
    model.train()
    torch.nn.functional.cross_entropy(model(given).logits, torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("body.", "fuse.")):
            assert parameter.grad is not None and parameter.grad.norm() > 0, name


def test_dropout_of_several_modalities_meets_every_subset_and_never_hides_all(net, bag):
    model = net({"model.modality_dropout": 0.5}, modalities=("eeg", "face", "gsr")).train()
    given = bag(b=400, n=1, c=1, s=16)
    x = torch.zeros(400, 1, 2, 4)
    given = replace(given, body={"gsr": x}, body_mask={"gsr": torch.ones_like(x, dtype=torch.bool)})
    torch.manual_seed(0)
    takes = model._given(given)
    assert takes.shape == (400, 3) and takes.any(1).all()
    met = {tuple(row) for row in takes.tolist()}
    assert len(met) == 7
    assert all(150 < n < 300 for n in takes.sum(0).tolist())
    lone = model._given(given.only(["gsr"]))
    assert lone[:, 2].all()
    pair = net({"model.modality_dropout": 0.9}, modalities=("eeg", "gsr")).train()
    hidden = pair._given(given)
    assert not hidden[:, 1].any() and (hidden.sum(1) >= 1).all() and (hidden.sum(1) == 1).float().mean() > 0.8


def test_a_network_without_body_signals_has_the_tensors_it_always_had(net):
    rooms = {name.split(".")[0] for name in net().state_dict()}
    assert rooms == {"backbone", "select", "balance", "eeg_tokens", "fuse", "head", "alone"}
