"""Band-power tokens: what EEG is known for. Up to an affine map they are differential-entropy tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from milmer.errors import UserError
from milmer.models.attention import init_linear
from milmer.models.bag import Bag
from milmer.models.eeg_base import CLIP, Asked, EEGTokens, masked_centre
from milmer.models.electrodes import ElectrodeTable, PositionEmbedding

BANDS = {"theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0), "gamma": (30.0, 45.0)}  # Hz


class BandPowerTokens(EEGTokens):
    """What is known of EEG: log-power in bands relative to the whole, and the whole's.

    Each is centred and scaled by its electrode's median and spread over training windows, projected, and multiplied by
    a gain that depends on the electrode's position, so that a mean over tokens can already tell left from right.

    The differential entropy of a Gaussian signal of variance σ² is ½ log(2πeσ²): of a band, half the log of its power
    plus a constant. The logs of the powers in the bands are sums of the numbers here (share plus whole), so that with
    the linear map after them these tokens are the differential-entropy tokens of the field (Duan et al. 2013), up to an
    affine map.

    Parameters
    ----------
    width : int
        Token width `D`.
    sfreq : float
        Samples a second (Hz). Bands above half of it are left out.
    positions : bool
        False: no embedding of electrode and time, and no gain by position.

    Raises
    ------
    UserError
        If `sfreq` is too low for any band.
    """

    def __init__(self, width: int, sfreq: float, *, positions: bool = True) -> None:
        super().__init__(width, positions=positions)
        self.sfreq = sfreq
        self.bands = [(low, min(high, sfreq / 2)) for low, high in BANDS.values() if low < sfreq / 2]
        if not self.bands:
            raise UserError(
                f"band-power tokens: found EEG at {sfreq:g} Hz, expected more than 8 Hz to hold a band of theirs; use "
                "--eeg-tokens channel, or prepare anew with a higher preparation.eeg.rate"
            )
        n = len(self.bands) + 1
        self.scale = ElectrodeTable(torch.cat([torch.zeros(n), torch.ones(n)]))
        self.project = nn.Linear(n, width)
        # As large as the projection: each of the D features starts as a spatial filter of its own.
        self.gain = PositionEmbedding(width, std=1.0) if positions else None
        init_linear(self.project)

    @classmethod
    def make(cls, asked: Asked) -> BandPowerTokens:
        """Build from what `make_eeg_tokens` was asked for."""
        return cls(asked.width, asked.sfreq, positions=asked.positions)

    def describe(self, bag: Bag) -> Tensor:
        """Project standardised log-powers; (B, W, C, D)."""
        centre, spread = self.scale(bag.positions)[:, None].chunk(2, dim=-1)  # (B, 1, C, F), (B, 1, C, F)
        x = ((self.measure(bag) - centre) / spread).clamp(-CLIP, CLIP)  # (B, W, C, F)
        out: Tensor = self.project(x)  # (B, W, C, D)
        return out if self.gain is None else out * (1 + self.gain(bag.positions)[:, None])  # (B, W, C, D)

    def measure(self, bag: Bag) -> Tensor:
        """Log-powers of every channel in every window; (B, W, C, F)."""
        return log_band_powers(bag.eeg, bag.sample_mask[:, :, None], self.sfreq, self.bands)  # (B, W, C, F)

    def learn(self, places: Tensor, centre: Tensor, spread: Tensor) -> None:
        """Keep median and spread of every log-power of every electrode."""
        self.scale.fit(places, torch.cat([centre, spread.clamp_min(0.05)], dim=1))


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
    density = _squared_spectrum(volts * taper) * 2 / norm  # (..., S/2 + 1), µV²/Hz
    # Arrays, not tensors: which lines count is known before there are any samples, and an exported graph must know it.
    step = np.float32(1 / (x.shape[-1] * (1 / sfreq)))  # Hz
    lines = np.arange(x.shape[-1] // 2 + 1, dtype=np.float32) * step  # (S/2 + 1,)
    powers = []
    for low, high in bands:
        far = np.abs(lines - np.float32((low + high) / 2))  # (S/2 + 1,)
        within = (lines >= low) & (lines < high)  # (S/2 + 1,)
        within = within if within.any() else far == far.min()  # (S/2 + 1,)
        inside = torch.tensor(within.tolist(), device=x.device)  # (S/2 + 1,)
        powers.append((density * inside).sum(-1) / int(within.sum()) * (high - low))  # (...)
    power = torch.stack(powers, dim=-1) + 1e-4  # (..., n_bands); the floor is 0.01 µV, for flat channels
    whole = power.sum(-1, keepdim=True)  # (..., 1)
    return torch.cat([(power / whole).log(), whole.log()], dim=-1)  # (..., n_bands + 1)


def _squared_spectrum(x: Tensor) -> Tensor:
    """Squared size of the Fourier transform of `x` (..., S); (..., S/2 + 1)."""
    if torch.onnx.is_in_onnx_export():  # of complex numbers engines know too little: two products with real matrices
        samples = np.arange(x.shape[-1])  # (S,)
        turn = 2 * np.pi * (np.outer(samples, np.arange(len(samples) // 2 + 1)) % len(samples)) / len(samples)
        waves = [torch.tensor(f(turn), dtype=x.dtype, device=x.device) for f in (np.cos, np.sin)]  # (S, S/2 + 1) each
        squared: Tensor = (x @ waves[0]).square() + (x @ waves[1]).square()  # (..., S/2 + 1)
        return squared
    spectrum = torch.fft.rfft(x)  # (..., S/2 + 1)
    power: Tensor = spectrum.real.square() + spectrum.imag.square()  # (..., S/2 + 1)
    return power
