"""EEG tokens by name: the paper's channel tokens, and those in eeg_power, eeg_temporal and eeg_braindecode."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from milmer.errors import UserError, nearest
from milmer.models.attention import init_linear
from milmer.models.bag import Bag
from milmer.models.eeg_base import (
    CLIP,
    TYPICAL_VOLTS,
    Asked,
    EEGTokens,
    masked_centre,
    masked_layer_norm,
    masked_spread,
    missing_samples,
)
from milmer.models.eeg_braindecode import BraindecodeTokens
from milmer.models.eeg_power import BANDS, BandPowerTokens, log_band_powers
from milmer.models.eeg_temporal import TemporalTokens
from milmer.models.electrodes import ElectrodeTable

__all__ = [
    "BANDS",
    "CLIP",
    "EEG_TOKENS",
    "TYPICAL_VOLTS",
    "BandPowerTokens",
    "BraindecodeTokens",
    "ChannelTokens",
    "EEGTokens",
    "TemporalTokens",
    "log_band_powers",
    "make_eeg_tokens",
    "masked_centre",
    "masked_layer_norm",
]


class ChannelTokens(EEGTokens):
    """The paper's: a channel's samples, LayerNorm, Linear S to D, ReLU (PAPER section 1).

    Before the norm, each channel is divided by its electrode's robust scale: volts are about 1e-5, and a LayerNorm's
    epsilon would erase them. The norm runs over the samples that are there, so a short window is not a quiet one.

    Parameters
    ----------
    width, n_times : int
        `D`, and the samples of a whole window.
    positions : bool
        False: no embedding of electrode and time.
    """

    def __init__(self, width: int, n_times: int, *, positions: bool = True) -> None:
        super().__init__(width, positions=positions)
        self.n_times = n_times
        self.scale = ElectrodeTable(torch.tensor([TYPICAL_VOLTS]))
        self.gain = nn.Parameter(torch.ones(n_times))  # (S,)
        self.shift = nn.Parameter(torch.zeros(n_times))  # (S,)
        self.project = nn.Linear(n_times, width)
        init_linear(self.project)

    @classmethod
    def make(cls, asked: Asked) -> ChannelTokens:
        """Build from what `make_eeg_tokens` was asked for."""
        return cls(asked.width, asked.n_times, positions=asked.positions)

    def describe(self, bag: Bag) -> Tensor:
        """Project the samples of each channel; (B, W, C, D)."""
        short = missing_samples(bag, self.n_times)
        x = bag.eeg / self.scale(bag.positions)[:, None]  # (B, W, C, S)
        x = masked_layer_norm(x, bag.sample_mask[:, :, None])  # (B, W, C, S)
        x = nn.functional.pad(x, (0, short))  # (B, W, C, n_times)
        there = nn.functional.pad(bag.sample_mask[:, :, None], (0, short))  # (B, W, 1, n_times)
        x = (x * self.gain + self.shift) * there  # (B, W, C, n_times)
        out: Tensor = self.project(x).relu()  # (B, W, C, D)
        return out  # (B, W, C, D)

    def measure(self, bag: Bag) -> Tensor:
        """Standard deviation of every channel in every window, volts; (B, W, C, 1)."""
        return masked_spread(bag.eeg, bag.sample_mask[:, :, None])  # (B, W, C, 1)

    def learn(self, places: Tensor, centre: Tensor, spread: Tensor) -> None:
        """Keep the median over windows of each electrode's standard deviation: a few artifacts do not move it."""
        self.scale.fit(places, centre.clamp_min(1e-3 * TYPICAL_VOLTS))


EEG_TOKENS: Mapping[str, type[EEGTokens]] = MappingProxyType(
    {
        "channel": ChannelTokens,
        "bandpower": BandPowerTokens,
        "temporal": TemporalTokens,
        "braindecode": BraindecodeTokens,
    }
)


def make_eeg_tokens(
    kind: str,
    width: int,
    *,
    n_times: int,
    sfreq: float,
    positions: bool = True,
    n_chans: int = 32,
    architecture: Mapping[str, Any] | None = None,
) -> EEGTokens:
    """Build the tokens that ``config.eeg_tokens`` names.

    Parameters
    ----------
    kind : str
        A name in `EEG_TOKENS`; of braindecode with a network: ``braindecode:EEGNet``, and with pretrained weights
        ``braindecode:EEGNet@<hub name or folder>``.
    width : int
        Token width `D`.
    n_times : int
        Samples of a whole window.
    sfreq : float
        Samples a second (Hz).
    positions : bool
        Tokens say where their electrode is and when they are.
    n_chans : int
        Most channels of a recording; only a braindecode network needs it.
    architecture : mapping, optional
        `EEGTokens.architecture` of saved tokens whose weights will be loaded: no pretrained ones are looked for.

    Raises
    ------
    UserError
        If the name is not known, or braindecode or its network cannot be had.
    """
    name, _, what = kind.partition(":")
    if name not in EEG_TOKENS or bool(what) != (name == "braindecode"):
        known = [k for k in EEG_TOKENS if k != "braindecode"]
        raise UserError(
            f"model.eeg_tokens: got '{kind}', expected {', '.join(known)} or braindecode:<network>"
            f"{nearest(name, known)}"
        )
    return EEG_TOKENS[name].make(Asked(width, n_times, sfreq, positions, n_chans, what, architecture))
