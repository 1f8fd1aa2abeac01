import numpy as np
import pytest
import torch

from milmer.errors import UserError
from milmer.models.bag import Bag
from milmer.models.eeg import BANDS, BandPowerTokens, ChannelTokens, log_band_powers, masked_layer_norm

RATE = 128.0


def sines(hz: float, volts: float = 1e-5, n: int = 384) -> torch.Tensor:
    phase = torch.rand(2, 1, 3, 1, generator=torch.Generator().manual_seed(0)) * 6.28
    return volts * torch.sin(2 * torch.pi * hz * torch.arange(n) / RATE + phase)  # (2, 1, 3, S)


def bag_of(eeg: torch.Tensor, places, **masks: torch.Tensor) -> Bag:
    return Bag.of(eeg=eeg, positions=places(eeg.shape[2]).expand(len(eeg), -1, -1), **masks)


def test_masked_layer_norm_is_torchs_over_what_is_there():
    x = torch.randn(2, 3, 10)
    mask = torch.arange(10) < 7
    expected = torch.nn.functional.layer_norm(x[..., :7], (7,))
    torch.testing.assert_close(masked_layer_norm(x, mask)[..., :7], expected)
    assert masked_layer_norm(x, mask)[..., 7:].eq(0).all()


@pytest.mark.parametrize(("hz", "band"), [(6, "theta"), (10, "alpha"), (20, "beta"), (38, "gamma")])
def test_a_sine_is_found_in_its_band_at_any_phase(hz, band):
    x = sines(hz)
    powers = log_band_powers(x, torch.ones(384, dtype=torch.bool), RATE, list(BANDS.values()))
    assert powers[..., list(BANDS).index(band)].exp().min() > 0.99
    torch.testing.assert_close(powers, powers[:, :, :1].expand_as(powers), atol=0.02, rtol=0.01)


def test_power_agrees_with_scipy():
    from scipy.signal import periodogram

    rng = np.random.default_rng(0)
    x = rng.normal(0, 1e-5, (4, 384))
    got = log_band_powers(torch.tensor(x), torch.ones(384, dtype=torch.bool), RATE, list(BANDS.values())).numpy()
    hz, density = periodogram((x - x.mean(1, keepdims=True)) * 1e6, RATE, "hann", detrend=False)
    power = np.stack([density[:, (hz >= a) & (hz < b)].mean(1) * (b - a) for a, b in BANDS.values()], 1)
    whole = power.sum(1, keepdims=True)
    np.testing.assert_allclose(got[:, :-1], np.log(power / whole), atol=0.01)
    np.testing.assert_allclose(got[:, -1:], np.log(whole), atol=0.01)


def test_relative_power_does_not_see_the_amplitude_and_the_whole_does():
    mask = torch.ones(384, dtype=torch.bool)
    x = 1e-5 * torch.randn(3, 384, generator=torch.Generator().manual_seed(0))
    one, ten = (log_band_powers(x * k, mask, RATE, list(BANDS.values())) for k in (1, 10))
    torch.testing.assert_close(one[:, :-1], ten[:, :-1], atol=1e-3, rtol=0)
    torch.testing.assert_close(ten[:, -1] - one[:, -1], torch.full((3,), np.log(100.0)).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["channel", "bandpower"])
def test_masked_samples_change_nothing(kind, places):
    torch.manual_seed(0)
    tokens = ChannelTokens(16, 384) if kind == "channel" else BandPowerTokens(16, RATE)
    eeg = 1e-5 * torch.randn(2, 1, 3, 384)
    mask = (torch.arange(384) < 300).expand(2, 1, -1)
    other = eeg.clone()
    other[..., 300:] = torch.nan
    one, two = (tokens(bag_of(x, places, sample_mask=mask).settled()).values for x in (eeg, other))
    assert torch.equal(one, two) and one.isfinite().all()


def test_a_short_window_without_padding_is_a_masked_one(places):
    tokens = ChannelTokens(16, 384)
    eeg = 1e-5 * torch.randn(2, 1, 3, 384)
    mask = (torch.arange(384) < 300).expand(2, 1, -1)
    torch.testing.assert_close(
        tokens(bag_of(eeg[..., :300], places)).values, tokens(bag_of(eeg, places, sample_mask=mask).settled()).values
    )
    with pytest.raises(ValueError, match="384"):
        tokens(bag_of(1e-5 * torch.randn(2, 1, 3, 400), places))


def test_volts_survive_the_norm(places):
    # Without the scale, a LayerNorm's epsilon of 1e-5 is 100,000 times the variance of EEG in volts.
    tokens = ChannelTokens(16, 384)
    torch.nn.init.zeros_(tokens.electrode.net[2].weight)
    eeg = 1e-5 * torch.randn(2, 1, 3, 384)
    bag = bag_of(eeg, places)
    tokens.fit([bag])
    torch.testing.assert_close(tokens.scale.median, eeg.std(-1).median().expand(1), rtol=0.1, atol=0)
    quiet = tokens(bag_of(torch.zeros_like(eeg), places)).values
    assert (tokens(bag).values - quiet).abs().mean() > 0.1


def test_fit_is_robust_and_by_electrode(places):
    tokens = ChannelTokens(16, 384)
    eeg = 1e-5 * torch.randn(60, 1, 3, 384, generator=torch.Generator().manual_seed(0))
    eeg[:, :, 1] *= 4
    eeg[:5] *= 1000  # artifacts
    mask = torch.ones(60, 1, 3, dtype=torch.bool)
    mask[20:, :, 2] = False
    tokens.fit([bag_of(eeg[:30], places, eeg_mask=mask[:30]), bag_of(eeg[30:], places, eeg_mask=mask[30:])])
    got = tokens.scale(places(3)[None])[0, :, 0] * 1e5
    torch.testing.assert_close(got, torch.tensor([1.0, 4.0, 1.0]), atol=0.1, rtol=0.1)


def test_band_power_tokens_are_standardised(places):
    tokens = BandPowerTokens(16, RATE)
    eeg = 1e-5 * torch.randn(80, 1, 3, 384, generator=torch.Generator().manual_seed(0))
    bag = bag_of(eeg, places)
    tokens.fit([bag])
    centre, spread = tokens.scale(bag.positions)[:, None].chunk(2, dim=-1)
    z = (tokens.measure(bag) - centre) / spread
    assert z.median(0).values.abs().max() < 0.05 and (z.std(0) > 0.7).all() and (z.std(0) < 1.4).all()


def test_fit_needs_eeg(places):
    eeg = 1e-5 * torch.randn(2, 1, 3, 384)
    with pytest.raises(ValueError, match="no training bag holds any EEG"):
        ChannelTokens(16, 384).fit([bag_of(eeg, places, eeg_mask=torch.zeros(2, 1, 3, dtype=torch.bool))])


def test_low_rates_lose_bands_and_too_low_ones_are_refused(places):
    tokens = BandPowerTokens(16, 50.0)
    assert tokens.bands == [(4, 8), (8, 13), (13, 25.0)]
    assert tokens(bag_of(1e-5 * torch.randn(2, 1, 3, 25), places)).values.isfinite().all()
    with pytest.raises(UserError, match="more than 8 Hz"):
        BandPowerTokens(16, 8.0)


def test_windows_of_a_bag_are_told_apart(places):
    tokens = BandPowerTokens(16, RATE)
    eeg = (1e-5 * torch.randn(1, 1, 3, 384)).expand(1, 2, 3, 384)
    first, second = tokens(bag_of(eeg, places)).values.view(2, 3, 16)
    assert not torch.allclose(first, second, atol=1e-3)


def test_position_dependent_tokens_learn_a_left_right_difference(places):
    # The mean over tokens must be able to tell on which side the alpha is: the gain by position allows it.
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    where = places(12)
    left = where[:, 0] < 0

    def draw(n: int) -> tuple[Bag, torch.Tensor]:
        y = torch.randint(0, 2, (n,), generator=random)
        alpha = torch.sin(
            2 * torch.pi * 10 * torch.arange(256) / RATE + 6.28 * torch.rand(n, 1, 12, 1, generator=random)
        )
        side = torch.where(y[:, None] == 1, left, ~left)  # (n, C)
        eeg = 1e-5 * (torch.randn(n, 1, 12, 256, generator=random) + 0.6 * side[:, None, :, None] * alpha)
        return Bag.of(eeg=eeg, positions=where.expand(n, -1, -1)), y

    tokens, head = BandPowerTokens(16, RATE), torch.nn.Linear(16, 2)
    tokens.fit([draw(64)[0]])
    optimizer = torch.optim.Adam([*tokens.parameters(), *head.parameters()], 1e-2)
    for _ in range(60):
        bag, y = draw(32)
        loss = torch.nn.functional.cross_entropy(head(tokens(bag).mean()), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bag, y = draw(200)
    assert (head(tokens(bag).mean()).argmax(1) == y).float().mean() > 0.9


def test_no_channel_is_no_token(places):
    """Face only: the EEG has no channel, and nothing is transformed."""
    tokens = BandPowerTokens(16, RATE)
    assert tokens.describe(bag_of(torch.zeros(2, 1, 0, 384), places)).shape == (2, 1, 0, 16)
