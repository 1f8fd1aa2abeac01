"""EEG tokens: one for each channel of each window, in volts, by electrode position (PAPER section 1)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from milmer.models.attention import init_linear, sinusoid
from milmer.models.bag import Bag, Tokens
from milmer.models.balancing import FRAMES_A_WINDOW
from milmer.models.electrodes import ElectrodeTable, PositionEmbedding, median_by_place

BANDS = {"theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0), "gamma": (30.0, 45.0)}  # Hz
TYPICAL_VOLTS = 1e-5  # spread of EEG before anything was fitted
CLIP = 6.0  # robust standard deviations; an artifact says no more than that


class EEGTokens(nn.Module):
    """What both kinds of token share: electrode position, time of the window, and `fit`.

    Parameters
    ----------
    width : int
        Token width `D`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.electrode = PositionEmbedding(width)
        self.time_gain = nn.Parameter(torch.tensor(0.1))  # ()

    def forward(self, bag: Bag) -> Tokens:
        """Make tokens of ``bag.eeg`` (B, W, C, S); (B, W·C, D), masked by ``bag.eeg_mask``."""
        tokens: Tensor = self.describe(bag) + self.electrode(bag.positions)[:, None]  # (B, W, C, D)
        middle = torch.arange(tokens.shape[1], device=tokens.device) + 0.5  # (W,)
        time = self.time_gain * sinusoid(middle * FRAMES_A_WINDOW, tokens.shape[-1])  # (W, D)
        return Tokens((tokens + time[:, None]).flatten(1, 2), bag.eeg_mask.flatten(1))  # (B, W·C, D), (B, W·C)

    @abstractmethod
    def describe(self, bag: Bag) -> Tensor:
        """Say what each channel does in each window; (B, W, C, D)."""

    @abstractmethod
    def measure(self, bag: Bag) -> Tensor:
        """Numbers of each channel of each window that `fit` takes the statistics of; (B, W, C, F)."""

    @abstractmethod
    def learn(self, places: Tensor, centre: Tensor, spread: Tensor) -> None:
        """Keep what was fitted: `places` (E, 3), `centre` and `spread` (E, F)."""

    @torch.no_grad()
    def fit(self, bags: Iterable[Bag]) -> None:
        """Fit the scale of every electrode on training bags.

        Raises
        ------
        ValueError
            If no bag holds any EEG.
        """
        where, what = [], []
        for bag in bags:
            bag = bag.settled()
            positions = bag.positions[:, None].expand(-1, bag.eeg.shape[1], -1, -1)  # (B, W, C, 3)
            where.append(positions[bag.eeg_mask].cpu())  # (n, 3)
            what.append(self.measure(bag)[bag.eeg_mask].cpu())  # (n, F)
        if not sum(len(rows) for rows in where):
            raise ValueError("the EEG scale cannot be fitted: no training bag holds any EEG")
        self.learn(*median_by_place(where, what))


class ChannelTokens(EEGTokens):
    """The paper's: a channel's samples, LayerNorm, Linear S to D, ReLU.

    Before the norm, each channel is divided by its electrode's robust scale: volts are about 1e-5, and a LayerNorm's
    epsilon would erase them. The norm runs over the samples that are there, so a short window is not a quiet one.

    Parameters
    ----------
    width, n_times : int
        `D`, and the samples of a whole window.
    """

    def __init__(self, width: int, n_times: int) -> None:
        super().__init__(width)
        self.n_times = n_times
        self.scale = ElectrodeTable(torch.tensor([TYPICAL_VOLTS]))
        self.gain = nn.Parameter(torch.ones(n_times))  # (S,)
        self.shift = nn.Parameter(torch.zeros(n_times))  # (S,)
        self.project = nn.Linear(n_times, width)
        init_linear(self.project)

    def describe(self, bag: Bag) -> Tensor:
        """Project the samples of each channel; (B, W, C, D)."""
        short = self.n_times - bag.eeg.shape[-1]
        if short < 0:
            raise ValueError(
                f"Bag.eeg has {bag.eeg.shape[-1]} samples a window, expected at most the {self.n_times} that the model "
                "was made for; use the model's window length and rate"
            )
        x = bag.eeg / self.scale(bag.positions)[:, None]  # (B, W, C, S)
        x = masked_layer_norm(x, bag.sample_mask[:, :, None])  # (B, W, C, S)
        x = nn.functional.pad(x, (0, short))  # (B, W, C, n_times)
        there = nn.functional.pad(bag.sample_mask[:, :, None], (0, short))  # (B, W, 1, n_times)
        x = (x * self.gain + self.shift) * there  # (B, W, C, n_times)
        out: Tensor = self.project(x).relu()  # (B, W, C, D)
        return out  # (B, W, C, D)

    def measure(self, bag: Bag) -> Tensor:
        """Standard deviation of every channel in every window, volts; (B, W, C, 1)."""
        there = bag.sample_mask[:, :, None]  # (B, W, 1, S)
        centred = masked_centre(bag.eeg, there)  # (B, W, C, S)
        return (centred.square().sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp_min(1)).sqrt()

    def learn(self, places: Tensor, centre: Tensor, spread: Tensor) -> None:
        """Keep the median over windows of each electrode's standard deviation: a few artifacts do not move it."""
        self.scale.fit(places, centre.clamp_min(1e-3 * TYPICAL_VOLTS))


class BandPowerTokens(EEGTokens):
    """What is known of EEG: log-power in bands relative to the whole, and the whole's.

    Each is centred and scaled by its electrode's median and spread over training windows, projected, and multiplied by
    a gain that depends on the electrode's position, so that a mean over tokens can already tell left from right.

    Parameters
    ----------
    width : int
        Token width `D`.
    sfreq : float
        Samples a second (Hz). Bands above half of it are left out.

    Raises
    ------
    ValueError
        If `sfreq` is too low for any band.
    """

    def __init__(self, width: int, sfreq: float) -> None:
        super().__init__(width)
        self.sfreq = sfreq
        self.bands = [(low, min(high, sfreq / 2)) for low, high in BANDS.values() if low < sfreq / 2]
        if not self.bands:
            raise ValueError(f"band-power tokens need EEG at more than 8 Hz, got {sfreq:g} Hz")
        n = len(self.bands) + 1
        self.scale = ElectrodeTable(torch.cat([torch.zeros(n), torch.ones(n)]))
        self.project = nn.Linear(n, width)
        # As large as the projection: each of the D features starts as a spatial filter of its own.
        self.gain = PositionEmbedding(width, std=1.0)
        init_linear(self.project)

    def describe(self, bag: Bag) -> Tensor:
        """Project standardised log-powers; (B, W, C, D)."""
        centre, spread = self.scale(bag.positions)[:, None].chunk(2, dim=-1)  # (B, 1, C, F), (B, 1, C, F)
        x = ((self.measure(bag) - centre) / spread).clamp(-CLIP, CLIP)  # (B, W, C, F)
        out: Tensor = self.project(x) * (1 + self.gain(bag.positions)[:, None])  # (B, W, C, D)
        return out  # (B, W, C, D)

    def measure(self, bag: Bag) -> Tensor:
        """Log-powers of every channel in every window; (B, W, C, F)."""
        return log_band_powers(bag.eeg, bag.sample_mask[:, :, None], self.sfreq, self.bands)  # (B, W, C, F)

    def learn(self, places: Tensor, centre: Tensor, spread: Tensor) -> None:
        """Keep median and spread of every log-power of every electrode."""
        self.scale.fit(places, torch.cat([centre, spread.clamp_min(0.05)], dim=1))


def make_eeg_tokens(kind: str, width: int, *, n_times: int, sfreq: float) -> EEGTokens:
    """Build the tokens that ``config.eeg_tokens`` names."""
    return ChannelTokens(width, n_times) if kind == "channel" else BandPowerTokens(width, sfreq)


def masked_centre(x: Tensor, mask: Tensor) -> Tensor:
    """Take the mean over the samples that are there from `x` (..., S); 0 elsewhere."""
    number = mask.sum(-1, keepdim=True).clamp_min(1)  # (..., 1)
    mean = (x * mask).sum(-1, keepdim=True) / number  # (..., 1)
    return (x - mean) * mask  # (..., S)


def masked_layer_norm(x: Tensor, mask: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm without gain and shift over the samples of `x` (..., S) that are there; 0 elsewhere."""
    centred = masked_centre(x, mask)  # (..., S)
    number = mask.sum(-1, keepdim=True).clamp_min(1)  # (..., 1)
    return centred * torch.rsqrt(centred.square().sum(-1, keepdim=True) / number + eps)  # (..., S)


def log_band_powers(x: Tensor, mask: Tensor, sfreq: float, bands: list[tuple[float, float]]) -> Tensor:
    """Natural log of the share of power in each band, and of the whole in µV².

    The power spectrum is that of one Hann-windowed stretch of all samples that are there. A frequency belongs to a band
    from its lower edge up to, not including, its upper one; a band narrower than the resolution takes the nearest line.

    Parameters
    ----------
    x : Tensor, shape (..., S)
        Volts.
    mask : Tensor of bool, broadcastable to `x`
        Samples that are there.
    sfreq : float
        Hz.
    bands : list of (float, float)
        Edges in Hz.

    Returns
    -------
    Tensor, shape (..., n_bands + 1)
    """
    if x.numel() == 0:  # no channel, or no sample: nothing to transform
        return x.new_zeros((*x.shape[:-1], len(bands) + 1))  # (..., n_bands + 1)
    place = mask.cumsum(-1) - 0.5  # (..., S)
    number = mask.sum(-1, keepdim=True).clamp_min(1)  # (..., 1)
    taper = (0.5 - 0.5 * torch.cos(2 * torch.pi * place / number)) * mask  # (..., S)
    norm = taper.square().sum(-1, keepdim=True).clamp_min(1e-6) * sfreq  # (..., 1)
    volts = masked_centre(x, mask) * 1e6  # (..., S), µV
    spectrum = torch.fft.rfft(volts * taper)  # (..., S/2 + 1)
    density = (spectrum.real.square() + spectrum.imag.square()) * 2 / norm  # (..., S/2 + 1), µV²/Hz
    lines = torch.fft.rfftfreq(x.shape[-1], 1 / sfreq, device=x.device)  # (S/2 + 1,)
    powers = []
    for low, high in bands:
        inside = (lines >= low) & (lines < high)  # (S/2 + 1,)
        if not inside.any():
            inside = (lines - (low + high) / 2).abs() == (lines - (low + high) / 2).abs().min()  # (S/2 + 1,)
        powers.append((density * inside).sum(-1) / inside.sum() * (high - low))  # (...)
    power = torch.stack(powers, dim=-1) + 1e-4  # (..., n_bands); the floor is 0.01 µV, for flat channels
    whole = power.sum(-1, keepdim=True)  # (..., 1)
    return torch.cat([(power / whole).log(), whole.log()], dim=-1)  # (..., n_bands + 1)
