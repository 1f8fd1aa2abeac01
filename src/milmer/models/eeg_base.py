"""What every kind of EEG token shares: electrode and time embeddings, masks, and a scale fitted on training rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from milmer.models.attention import sinusoid
from milmer.models.bag import Bag, Tokens
from milmer.models.balancing import FRAMES_A_WINDOW
from milmer.models.electrodes import PositionEmbedding, median_by_place

TYPICAL_VOLTS = 1e-5  # spread of EEG before anything was fitted
CLIP = 6.0  # robust standard deviations; an artifact says no more than that


@dataclass(frozen=True)
class Asked:
    """What EEG tokens are built from.

    Parameters
    ----------
    width : int
        Token width `D`.
    n_times : int
        Samples of a whole window.
    sfreq : float
        Samples a second (Hz).
    positions : bool
        Tokens say where their electrode is and when they are.
    n_chans : int
        Most channels of a recording.
    what : str
        The part of the kind's name after its colon.
    architecture : mapping, optional
        What the encoder's `architecture` was when it was saved.
    """

    width: int
    n_times: int
    sfreq: float
    positions: bool = True
    n_chans: int = 32
    what: str = ""
    architecture: Mapping[str, Any] | None = None


class EEGTokens(nn.Module):
    """Tokens of one or several patches of each channel of each window: electrode, time, and `fit`.

    A kind of token says what a channel does (`describe`) and what its scale is fitted on (`measure`); one that looks
    at several patches of a window also says which of them are there (`present`) and when they are (`middles`). Letters
    as in `Bag`; `P` patches of a window (1 where a token is a whole window), `F` numbers fitted for an electrode.

    Parameters
    ----------
    width : int
        Token width `D`.
    positions : bool
        Tokens say where their electrode is and when they are; otherwise those parameters do not exist.
    electrodes : bool
        False for a token that is not of one electrode.
    """

    looks_at_positions: ClassVar[bool] = False  # channels in another order are the same tokens in another order
    no_gradient: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int, *, positions: bool = True, electrodes: bool = True) -> None:
        super().__init__()
        self.electrode = PositionEmbedding(width) if positions and electrodes else None
        self.time_gain = nn.Parameter(torch.tensor(0.1)) if positions else None  # ()

    @classmethod
    @abstractmethod
    def make(cls, asked: Asked) -> EEGTokens:
        """Build from what `make_eeg_tokens` was asked for."""

    @property
    def architecture(self) -> dict[str, Any] | None:
        """What must be saved beside the weights to build these tokens again; None if the configuration says it all."""
        return None

    def forward(self, bag: Bag) -> Tokens:
        """Make tokens of ``bag.eeg`` (B, W, C, S); (B, W·C·P, D) in this order, with their mask."""
        there = self.present(bag)  # (B, W, C, P)
        values = self.describe(bag)  # (B, W, C, D) or (B, W, C, P, D)
        values = values.reshape(*there.shape, values.shape[-1])  # (B, W, C, P, D)
        if self.electrode is not None:
            values = values + self.electrode(bag.positions)[:, None, :, None]  # (B, W, C, P, D)
        if self.time_gain is not None:
            window = torch.arange(values.shape[1], device=values.device)[:, None]  # (W, 1)
            when = (window + self.middles().to(values.device)) * FRAMES_A_WINDOW  # (W, P)
            values = values + self.time_gain * sinusoid(when, values.shape[-1])[:, None]  # (B, W, C, P, D)
        return Tokens(values.flatten(1, 3), there.flatten(1))  # (B, W·C·P, D), (B, W·C·P)

    def present(self, bag: Bag) -> Tensor:
        """Say which tokens are there; (B, W, C, P)."""
        return bag.eeg_mask[..., None]  # (B, W, C, 1)

    def middles(self) -> Tensor:
        """Middles of the patches in windows, from the window's start; (P,)."""
        return torch.tensor([0.5])  # (1,)

    @abstractmethod
    def describe(self, bag: Bag) -> Tensor:
        """Say what each channel does in each window or patch; (B, W, C, D) or (B, W, C, P, D)."""

    @abstractmethod
    def measure(self, bag: Bag) -> Tensor:
        """Numbers that `fit` takes the statistics of; (B, W, C, F) or (B, W, C, P, F)."""

    def measured(self, bag: Bag) -> Tensor:
        """Say which of the numbers of `measure` are there; (B, W, C, P)."""
        return self.present(bag)  # (B, W, C, P)

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
        for bag in parts(bags):
            there = self.measured(bag)  # (B, W, C, P)
            positions = bag.positions[:, None, :, None].expand(*there.shape, -1)  # (B, W, C, P, 3)
            values = self.measure(bag)  # (B, W, C, F) or (B, W, C, P, F)
            where.append(positions[there].cpu())  # (n, 3)
            what.append(values.reshape(*there.shape, values.shape[-1])[there].cpu())  # (n, F)
        if not sum(len(rows) for rows in where):
            raise ValueError("the EEG scale cannot be fitted: no training bag holds any EEG")
        self.learn(*median_by_place(where, what))


def parts(bags: Iterable[Bag], windows: int = 64) -> Iterator[Bag]:
    """Cut `bags` into settled ones of about as many windows: `measure` may need a hundred times what it is given."""
    for bag in bags:
        step = max(1, windows // max(1, bag.eeg.shape[1]))
        for start in range(0, len(bag), step):
            yield bag[start : start + step].settled()


def missing_samples(bag: Bag, n_times: int) -> int:
    """How many samples the windows of `bag` are short of `n_times`.

    Raises
    ------
    ValueError
        If they are longer.
    """
    short = n_times - bag.eeg.shape[-1]
    if short < 0:
        raise ValueError(
            f"Bag.eeg has {bag.eeg.shape[-1]} samples a window, expected at most the {n_times} that the model "
            "was made for; use the model's window length and rate"
        )
    return int(short)


def masked_centre(x: Tensor, mask: Tensor) -> Tensor:
    """Take the mean over the samples that are there from `x` (..., S); 0 elsewhere."""
    number = mask.sum(-1, keepdim=True).clamp_min(1)  # (..., 1)
    mean = (x * mask).sum(-1, keepdim=True) / number  # (..., 1)
    return (x - mean) * mask  # (..., S)


def masked_spread(x: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation over the samples of `x` (..., S) that are there; (..., 1)."""
    centred = masked_centre(x, mask)  # (..., S)
    return (centred.square().sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(1)).sqrt()  # (..., 1)


def masked_layer_norm(x: Tensor, mask: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm without gain and shift over the samples of `x` (..., S) that are there; 0 elsewhere."""
    centred = masked_centre(x, mask)  # (..., S)
    number = mask.sum(-1, keepdim=True).clamp_min(1)  # (..., 1)
    return centred * torch.rsqrt(centred.square().sum(-1, keepdim=True) / number + eps)  # (..., S)
