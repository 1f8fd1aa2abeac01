"""What every kind of EEG token must do, and that no kind escapes it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from milmer.config import load_config
from milmer.errors import UserError
from milmer.models.bag import Bag
from milmer.models.eeg import EEG_TOKENS, BraindecodeTokens, EEGTokens, TemporalTokens, make_eeg_tokens
from milmer.sections import EEG_TOKENS as CONFIGURED

RATE, SAMPLES, CHANNELS, WIDTH = 128.0, 320, 5, 16
KINDS = sorted(EEG_TOKENS)


class TinyNet(nn.Module):
    """A network of the shape that braindecode's have: (n, n_chans, n_times) to (n, n_outputs)."""

    def __init__(self, n_chans: int = CHANNELS, n_outputs: int = WIDTH) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_chans, 6, 9)
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.conv(x)).square().mean(-1))


def make(kind: str, positions: bool = True) -> EEGTokens:
    torch.manual_seed(0)
    if kind == "braindecode":
        return BraindecodeTokens(WIDTH, TinyNet(), n_chans=CHANNELS, n_times=SAMPLES, positions=positions)
    return make_eeg_tokens(kind, WIDTH, n_times=SAMPLES, sfreq=RATE, positions=positions)


def draw(places, b: int = 4, w: int = 2, c: int = CHANNELS, s: int = SAMPLES, seed: int = 0) -> Bag:
    eeg = 1e-5 * torch.randn(b, w, c, s, generator=torch.Generator().manual_seed(seed))
    return Bag.of(eeg=eeg, positions=places(c).expand(b, -1, -1))


def test_every_kind_of_the_configuration_is_here_and_no_other():
    assert set(EEG_TOKENS) == {*CONFIGURED, "braindecode"}


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'temporal'"):
        make_eeg_tokens("temproal", WIDTH, n_times=SAMPLES, sfreq=RATE)
    for wrong in ("braindecode", "braindecode:", "channel:x"):
        with pytest.raises(UserError, match="expected channel"):
            make_eeg_tokens(wrong, WIDTH, n_times=SAMPLES, sfreq=RATE)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind, positions, places):
    tokens = make(kind, positions).train()
    bag = draw(places)
    tokens.fit([bag])
    out = tokens(bag.settled())
    probe = torch.randn(out.values.shape, generator=torch.Generator().manual_seed(1))
    ((out.values * probe) * out.mask[..., None]).sum().backward()
    for name, parameter in tokens.named_parameters():
        if name.endswith(tokens.no_gradient or ("none",)) or (kind == "braindecode" and name == "network.conv.bias"):
            continue  # the batch norm after that convolution takes its bias away
        assert parameter.grad is not None, name
        assert parameter.grad.norm() > 1e-6 * parameter.detach().norm() and parameter.grad.norm() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_without_positions_there_is_no_such_parameter(kind):
    names = {name for name, _ in make(kind, positions=False).named_parameters()}
    assert not [n for n in names if "electrode" in n or "time_gain" in n or n.startswith("gain.")]
    assert names < {name for name, _ in make(kind).named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_without_positions_windows_are_not_told_apart(kind, places):
    bag = draw(places, w=1)
    twice = replace(
        bag,
        **{
            name: getattr(bag, name).expand(-1, 2, *[-1] * (getattr(bag, name).ndim - 2)).contiguous()
            for name in ("frames", "frame_mask", "eeg", "eeg_mask", "sample_mask", "window_mask")
        },
    )
    for positions in (True, False):
        first, second = make(kind, positions).eval()(twice.settled()).values.chunk(2, dim=1)
        assert torch.allclose(first, second, atol=1e-6) == (not positions)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_changes_nothing(kind, places):
    tokens = make(kind)
    bag = draw(places)
    tokens.fit([bag])
    for mode in (tokens.eval(), tokens.train()):
        eeg_mask, sample_mask = bag.eeg_mask.clone(), bag.sample_mask.clone()
        window_mask = bag.window_mask.clone()
        eeg_mask[0, 0, 2] = False
        sample_mask[1, 1, 250:] = False
        window_mask[2, 1] = False
        masked = replace(bag, eeg_mask=eeg_mask, sample_mask=sample_mask, window_mask=window_mask)
        valid = (eeg_mask & window_mask[..., None])[..., None] & sample_mask[:, :, None]
        dirty = replace(masked, eeg=bag.eeg.masked_fill(~valid, torch.nan))
        one, two = mode(masked.settled()), mode(dirty.settled())
        assert torch.equal(one.mask, two.mask) and not one.mask.all()
        assert two.values.isfinite().all()
        torch.testing.assert_close(one.values, two.values)
        assert not torch.allclose(one.values, mode(bag.settled()).values)


@pytest.mark.parametrize("kind", KINDS)
def test_one_bag_alone_is_as_in_a_batch(kind, places):
    tokens = make(kind).eval()
    bag = draw(places, b=8)
    tokens.fit([bag])
    together = tokens(bag.settled()).values
    alone = torch.cat([tokens(bag[i : i + 1].settled()).values for i in range(8)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "bandpower"])  # its spectrum's lines lie elsewhere then
def test_a_short_window_is_a_padded_one(kind, places):
    tokens = make(kind).eval()
    bag = draw(places)
    tokens.fit([bag])
    there = (torch.arange(SAMPLES) < 200).expand(4, 2, -1)
    short = Bag.of(eeg=bag.eeg[..., :200], positions=bag.positions)
    one, two = tokens(short.settled()), tokens(replace(bag, sample_mask=there).settled())
    assert torch.equal(one.mask, two.mask)
    torch.testing.assert_close(one.mean(), two.mean())


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "bandpower"])  # bandpower takes windows of any length
def test_a_window_that_is_too_long_is_refused(kind, places):
    with pytest.raises(ValueError, match="at most the 320"):
        make(kind)(draw(places, s=SAMPLES + 1).settled())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [{"c": 0}, {"c": 0, "s": 0}, {"w": 3}, {"c": 2}])
def test_any_shape_of_bag(kind, shape, places):
    tokens = make(kind).eval()
    tokens.fit([draw(places)])
    bag = draw(places, **shape)
    out = tokens(bag.settled())
    assert out.values.shape[:2] == out.mask.shape and out.values.isfinite().all()
    assert out.mask.any() == (bag.eeg.shape[2] > 0)
    assert out.mean().shape == (4, WIDTH)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "braindecode"])  # it has one cap
def test_another_cap_is_met(kind, places):
    tokens = make(kind).eval()
    tokens.fit([draw(places)])
    out = tokens(draw(places, c=14).settled())
    assert out.mask.all() and out.mask.shape[1] % 28 == 0


@pytest.mark.parametrize("kind", KINDS)
def test_channels_in_another_order_are_the_same_answer(kind, places):
    tokens = make(kind).eval()
    bag = draw(places)
    tokens.fit([bag])
    order = torch.tensor([3, 1, 4, 0, 2])
    mixed = replace(bag, eeg=bag.eeg[:, :, order], positions=bag.positions[:, order])
    torch.testing.assert_close(tokens(bag.settled()).mean(), tokens(mixed.settled()).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_near(kind, places):
    tokens = make(kind).eval()
    bag = draw(places)
    tokens.fit([bag])
    exact = tokens(bag.settled()).values
    with torch.autocast("cpu", torch.bfloat16):
        half = tokens(bag.settled()).values
    assert (half.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "braindecode"])
def test_the_network_takes_every_kind(kind, net, bag):
    model = net({"model.eeg_tokens": kind, "model.positions": False}, modalities=("eeg",))
    batch = bag(w=2)
    model.fit_scales([batch])
    assert model(batch).logits.isfinite().all()
    assert model.eeg_tokens.electrode is None
    assert load_config("demo", overrides={"model.eeg_tokens": kind}).model.eeg_tokens == kind


def test_temporal_tokens_are_one_for_a_channel_and_patch(places):
    tokens = TemporalTokens(WIDTH, SAMPLES, RATE)  # 2.5 s: the last half second is half a patch
    out = tokens(draw(places).settled())
    assert out.values.shape == (4, 2 * CHANNELS * 3, WIDTH) and out.mask.all()
