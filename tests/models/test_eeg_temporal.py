import math

import pytest
import torch

from milmer.errors import UserError
from milmer.models.bag import Bag
from milmer.models.eeg import ChannelTokens, EEGTokens, TemporalTokens
from milmer.models.eeg_temporal import sinusoids

RATE, SAMPLES = 128.0, 384


def bag_of(eeg: torch.Tensor, places, **masks: torch.Tensor) -> Bag:
    return Bag.of(eeg=eeg, positions=places(eeg.shape[2]).expand(len(eeg), -1, -1), **masks)


def noise(b: int, c: int = 3, s: int = SAMPLES, seed: int = 0) -> torch.Tensor:
    return 1e-5 * torch.randn(b, 1, c, s, generator=torch.Generator().manual_seed(seed))


def test_filters_start_as_sinusoids_from_4_to_45_hz():
    bank = sinusoids(24, 64, RATE)
    spectrum = torch.fft.rfft(bank, 1024).abs()
    peak = spectrum.argmax(-1) * RATE / 1024
    assert 3.5 < peak[0] < 5 and 43 < peak[-1] < 46 and (peak.diff() > 0).all()
    assert spectrum[:, 0].max() < 1e-3 * spectrum.max() and torch.allclose(bank.norm(dim=-1), torch.ones(24))
    low = sinusoids(8, 25, 50.0)
    assert (torch.fft.rfft(low, 1000).abs().argmax(-1) * 50 / 1000).max() < 25


def test_lengths_are_seconds():
    slow, fast = TemporalTokens(8, 192, 64.0), TemporalTokens(8, 768, 256.0)
    assert (slow.bank.shape[1], fast.bank.shape[1]) == (32, 128)
    assert (slow.patch, fast.patch, slow.patches, fast.patches) == (64, 256, 3, 3)


def test_energy_agrees_with_numpy(places):
    import numpy as np

    tokens = TemporalTokens(8, SAMPLES, RATE, filters=4)
    eeg = noise(2)
    got = tokens.measure(bag_of(eeg, places).settled())  # (B, W, C, P, F)
    bank = tokens.bank.detach().numpy()
    for c, f in ((0, 1), (2, 3)):
        x = (eeg[1, 0, c] * 1e5).double().numpy()
        w = bank[f] / np.linalg.norm(bank[f])
        y = np.correlate(np.pad(x - x.mean(), (31, 32)), w, "valid")
        heard = np.correlate(np.pad(np.ones(SAMPLES), (31, 32)), w**2, "valid")
        want = [np.log((y[k : k + 128] ** 2).sum() / heard[k : k + 128].sum()) for k in (0, 128, 256)]
        np.testing.assert_allclose(got[1, 0, c, :, f].detach().numpy(), want, atol=1e-3)


def test_energy_does_not_see_the_phase(places):
    time = torch.arange(SAMPLES) / RATE
    phase = torch.linspace(0, 2 * math.pi, 9)[:8, None]
    eeg = 1e-5 * torch.sin(2 * math.pi * 10 * time + phase)[:, None, None]  # (8, 1, 1, S)
    tokens = TemporalTokens(8, SAMPLES, RATE)
    energy = tokens.measure(bag_of(eeg, places).settled())[:, 0, 0, 1]  # (8, F), the middle second
    near = energy.mean(0).argmax()
    assert energy[:, near].std() < 0.05  # log units; samples of a sinusoid differ by more than 10 at other phases
    hz = torch.exp(torch.linspace(math.log(4), math.log(45), 24))
    assert (hz[near] - 10).abs() < 1.5


def test_the_ends_of_a_window_are_not_quiet(places):
    tokens = TemporalTokens(8, SAMPLES, RATE)
    energy = tokens.measure(bag_of(noise(100), places).settled()).mean((0, 1, 2))  # (P, F)
    assert (energy - energy.mean(0)).abs().max() < 0.12


def test_a_patch_without_half_of_its_samples_is_masked(places):
    tokens = TemporalTokens(8, SAMPLES, RATE)
    there = torch.arange(SAMPLES) < torch.tensor([384, 320, 319, 63])[:, None, None]  # (4, 1, S)
    out = tokens(bag_of(noise(4, c=1), places, sample_mask=there).settled())
    assert out.mask.tolist() == [[True] * 3, [True] * 3, [True, True, False], [False] * 3]


def test_windows_of_any_length_up_to_the_models(places):
    for n_times in (20, 64, 150, 200):
        tokens = TemporalTokens(8, n_times, RATE)
        out = tokens(bag_of(noise(2, s=n_times), places).settled())
        assert out.values.isfinite().all() and out.mask.all() and out.values.shape[1] == 3 * tokens.patches


def test_every_electrode_has_its_own_scale(places):
    tokens = TemporalTokens(8, SAMPLES, RATE)
    eeg = noise(60)
    eeg[:, :, 1] *= 20
    eeg[:4] *= 1000  # artifacts
    bag = bag_of(eeg, places).settled()
    tokens.fit([bag])
    centre, spread = tokens.scale(bag.positions)[:, None, :, None].chunk(2, dim=-1)
    z = ((tokens.measure(bag) - centre) / spread)[4:]
    assert z.median(0).values.abs().max() < 0.5 and 0.7 < z.std() < 1.4


def test_too_low_a_rate_is_refused():
    with pytest.raises(UserError, match="more than 10 Hz"):
        TemporalTokens(8, 30, 10.0)


def oscillations(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with 10 Hz (class 1) or 22 Hz (class 0) at a phase of its own in every channel."""
    y = torch.randint(0, 2, (n,), generator=generator)
    hz = torch.where(y == 1, 10.0, 22.0)[:, None, None, None]
    phase = 2 * math.pi * torch.rand(n, 1, 3, 1, generator=generator)
    wave = torch.sin(2 * math.pi * hz * torch.arange(256) / RATE + phase)
    return 1e-5 * (torch.randn(n, 1, 3, 256, generator=generator) + 0.6 * wave), y


def learn(tokens: EEGTokens, places, whole: bool) -> float:
    """Accuracy of a linear head over the mean token, trained with the tokens (`whole`) or on tokens as they start."""
    random = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(16, 2)
    x, y = oscillations(128, random)
    bag = bag_of(x, places)
    tokens.fit([bag])
    with torch.no_grad():
        still = tokens(bag).mean()
    parameters = [*tokens.parameters(), *head.parameters()] if whole else list(head.parameters())
    optimizer = torch.optim.Adam(parameters, 2e-2)
    for _ in range(4 if whole else 60):
        for rows in torch.randperm(len(y), generator=random).split(32):
            loss = torch.nn.functional.cross_entropy(head(tokens(bag[rows]).mean() if whole else still[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    x, y = oscillations(200, random)
    with torch.inference_mode():
        return float((head(tokens(bag_of(x, places)).mean()).argmax(1) == y).float().mean())


def test_power_at_random_phase_is_seen_where_channel_tokens_hardly_do(places):
    torch.manual_seed(0)
    assert learn(TemporalTokens(16, 256, RATE), places, whole=False) > 0.9
    # Trained with their head, channel tokens find a power too: see docs/eeg-tokens.md.
    assert learn(ChannelTokens(16, 256), places, whole=False) < 0.75


def test_temporal_tokens_learn(places):
    torch.manual_seed(0)
    tokens = TemporalTokens(16, 256, RATE)
    before = tokens.bank.detach().clone()
    assert learn(tokens, places, whole=True) > 0.9
    assert not torch.allclose(before, tokens.bank, atol=1e-3)
