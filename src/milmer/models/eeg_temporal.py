"""Temporal-convolution tokens: learned filters, their energy in patches of about a second; blind to phase."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milmer.errors import UserError
from milmer.models.attention import init_linear
from milmer.models.bag import Bag
from milmer.models.eeg_base import CLIP, TYPICAL_VOLTS, Asked, EEGTokens, masked_centre, missing_samples
from milmer.models.electrodes import ElectrodeTable, PositionEmbedding

FILTER_SECONDS = 0.5
PATCH_SECONDS = 1.0
RANGE = (4.0, 45.0)  # Hz, where filters start
FLOOR = 1e-6  # (0.01 µV)² in units of TYPICAL_VOLTS: a flat channel's energy


class TemporalTokens(EEGTokens):
    """One token for each channel and patch: log energy of a bank of learned temporal filters, in patches of a second.

    y_f = x * w_f / ‖w_f‖;  e_fp = log(mean over patch p of y_f²);  token = Linear((e - centre) / spread)

    Square, average, log as in the shallow ConvNet of Schirrmeister et al. (2017), but one bank for all channels and no
    spatial filter: which electrodes belong together is the encoder's work, so that another cap can be met. The energy
    does not see the phase of an oscillation. Filters start as Hann-windowed sinusoids from 4 to 45 Hz, so that power is
    in the tokens from the first step; only their shape is used, not their norm. An energy is divided by that of the
    filter's part that lay on samples, so that the ends of a window are not quiet. `centre` and `spread` are each
    electrode's, over training patches, with the filters it begins with: what learning moves is the Linear's to follow.
    As in `BandPowerTokens`, a gain by the electrode's position lets a mean over tokens tell left from right.

    A patch of which less than half is there is masked; so is a window shorter than half a patch.

    Parameters
    ----------
    width, n_times : int
        `D`, and the samples of a whole window.
    sfreq : float
        Samples a second (Hz).
    filters : int
        Number of filters `F`.
    positions : bool
        False: no embedding of electrode and time, and no gain by position.

    Raises
    ------
    UserError
        If `sfreq` is too low for the lowest filter.
    """

    def __init__(self, width: int, n_times: int, sfreq: float, *, filters: int = 24, positions: bool = True) -> None:
        super().__init__(width, positions=positions)
        if sfreq <= 2.5 * RANGE[0]:
            raise UserError(
                f"temporal tokens need EEG at more than {2.5 * RANGE[0]:g} Hz, got {sfreq:g} Hz; "
                "prepare at a higher rate"
            )
        self.n_times = n_times
        self.patch = max(1, min(round(PATCH_SECONDS * sfreq), n_times))
        rest = n_times % self.patch
        self.patches = n_times // self.patch + int(2 * rest >= self.patch)
        self.bank = nn.Parameter(sinusoids(filters, min(round(FILTER_SECONDS * sfreq), n_times), sfreq))  # (F, L)
        self.scale = ElectrodeTable(torch.cat([torch.zeros(filters), torch.ones(filters)]))
        self.project = nn.Linear(filters, width)
        self.gain = PositionEmbedding(width, std=1.0) if positions else None
        init_linear(self.project)

    @classmethod
    def make(cls, asked: Asked) -> TemporalTokens:
        """Build from what `make_eeg_tokens` was asked for."""
        return cls(asked.width, asked.n_times, asked.sfreq, positions=asked.positions)

    def present(self, bag: Bag) -> Tensor:
        """Say which patches have at least half of their samples; (B, W, C, P)."""
        number = self._in_patches(self._whole(bag, bag.sample_mask)).sum(-1)  # (B, W, P)
        return bag.eeg_mask[..., None] & (2 * number >= self.patch)[:, :, None]  # (B, W, C, P)

    def middles(self) -> Tensor:
        """Middles of the patches in windows, from the window's start; (P,)."""
        return (torch.arange(self.patches) + 0.5) * self.patch / self.n_times  # (P,)

    def describe(self, bag: Bag) -> Tensor:
        """Project standardised log-energies; (B, W, C, P, D)."""
        centre, spread = self.scale(bag.positions)[:, None, :, None].chunk(2, dim=-1)  # twice (B, 1, C, 1, F)
        x = ((self.measure(bag) - centre) / spread).clamp(-CLIP, CLIP)  # (B, W, C, P, F)
        out: Tensor = self.project(x)  # (B, W, C, P, D)
        return out if self.gain is None else out * (1 + self.gain(bag.positions)[:, None, :, None])  # (B, W, C, P, D)

    def measure(self, bag: Bag) -> Tensor:
        """Log of the mean energy of every filter in every patch, in units of (10 µV)²; (B, W, C, P, F)."""
        there = self._whole(bag, bag.sample_mask)[:, :, None]  # (B, W, 1, S)
        x = masked_centre(self._whole(bag, bag.eeg) / TYPICAL_VOLTS, there)  # (B, W, C, S)
        with torch.autocast(x.device.type, enabled=False):  # squares of half-precision sums would lose quiet filters
            bank = F.normalize(self.bank.float(), dim=-1)  # (F, L)
            cells = self._in_patches(there[:, :, 0].to(x.dtype))  # (B, W, P, L)
            power = self._in_patches(self._filter(x, bank).square())  # (B, W, C, F, P, L)
            energy = torch.einsum("bwcfpl,bwpl->bwcpf", power, cells)  # (B, W, C, P, F)
            # Of white noise, the energy that the part of a filter on samples lets through.
            passed = self._in_patches(self._filter(there.to(x.dtype), bank.square()))  # (B, W, 1, F, P, L)
            heard = torch.einsum("bwcfpl,bwpl->bwcpf", passed, cells)  # (B, W, 1, P, F)
            return (energy / heard.clamp_min(1e-3) + FLOOR).log()  # (B, W, C, P, F)

    def learn(self, places: Tensor, centre: Tensor, spread: Tensor) -> None:
        """Keep median and spread of every filter's log-energy at every electrode."""
        self.scale.fit(places, torch.cat([centre, spread.clamp_min(0.05)], dim=1))

    def _filter(self, x: Tensor, bank: Tensor) -> Tensor:
        """Filter `x` (B, W, C, S) with `bank` (F, L), as many samples out as in; (B, W, C, F, S)."""
        length = bank.shape[-1]
        padded = F.pad(x.reshape(-1, 1, x.shape[-1]), ((length - 1) // 2, length // 2))  # (B·W·C, 1, S + L - 1)
        out = F.conv1d(padded, bank[:, None])  # (B·W·C, F, S)
        return out.view(*x.shape[:-1], *out.shape[-2:])  # (B, W, C, F, S)

    def _whole(self, bag: Bag, x: Tensor) -> Tensor:
        """Pad `x` (..., S) of a short bag to a whole window; (..., n_times)."""
        return F.pad(x, (0, missing_samples(bag, self.n_times)))  # (..., n_times)

    def _in_patches(self, x: Tensor) -> Tensor:
        """Cut `x` (..., n_times) into patches; the last may be padded, a rest below half a patch is left out."""
        whole = self.patches * self.patch
        x = F.pad(x[..., :whole], (0, max(0, whole - self.n_times)))  # (..., P·L)
        return x.reshape(*x.shape[:-1], self.patches, self.patch)  # (..., P, L)


def sinusoids(filters: int, length: int, sfreq: float) -> Tensor:
    """Hann-windowed sinusoids without mean, spread evenly in log frequency over `RANGE` or what `sfreq` leaves of it.

    Neighbours are a quarter of a cycle apart. Returns a Tensor of shape (filters, length).
    """
    low, high = RANGE[0], min(RANGE[1], 0.45 * sfreq)
    hz = torch.exp(torch.linspace(math.log(low), math.log(high), filters))[:, None]  # (F, 1)
    time = (torch.arange(length) + 0.5) / sfreq  # (L,)
    phase = (torch.arange(filters) % 2)[:, None] * (math.pi / 2)  # (F, 1)
    taper = torch.sin(torch.pi * (torch.arange(length) + 0.5) / length).square()  # (L,)
    wave = torch.cos(2 * torch.pi * hz * (time - time.mean()) + phase)  # (F, L)
    wave = (wave - (wave * taper).sum(-1, keepdim=True) / taper.sum()) * taper  # (F, L)
    return F.normalize(wave, dim=-1)  # (F, L)
