"""Tokens of a signal of the body (skin conductance, pulse, ...): one a channel and window, scaled by training rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from milmer.models.attention import init_linear, sinusoid
from milmer.models.bag import Bag, Tokens
from milmer.models.balancing import FRAMES_A_WINDOW
from milmer.models.eeg_base import CLIP, masked_centre
from milmer.signals.body_channels import BODY_CHANNELS, BODY_RATE

NUMBERS = 3  # of a channel in a window: mean level, slope, log of the spread
PARTS = 4  # of a window, in which the waveform is looked at apart
FILTERS = 8  # of each channel
REACH = 0.6  # s that a filter sees: a pulse wave, half of a breath's turn
LEAST = 1e-3  # of a channel's usual spread: what lies below is noise of the device


class BodyTokens(nn.Module):
    """What each channel of a body signal does in each window.

    A token is the sum of two linear maps and an embedding of the channel: of the channel's numbers (mean level, slope
    per second, log of the spread within the window), each less its median and by its spread over training windows; and
    of the rectified answers of `FILTERS` short filters to the waveform, averaged over each quarter of the window. The
    waveform is centred within the window and divided by the channel's usual spread there, a constant: so a larger
    phasic response is a larger waveform, and the level (a heart rate, a skin conductance) is in the numbers. No norm
    stands before either. A channel that no training window had is masked.

    Parameters
    ----------
    width : int
        Token width `D`.
    kind : str
        One of `milmer.signals.body_channels.BODY_CHANNELS`, which names its channels (`P` of them).
    n_times : int
        Samples of a whole window.
    rate : float
        Samples a second (Hz).
    positions : bool
        Tokens say which window of the bag they are of; otherwise that parameter does not exist.

    Raises
    ------
    ValueError
        If there is no such kind.
    """

    looks_at_positions: ClassVar[bool] = True  # a channel is known by its place
    centre: Tensor
    spread: Tensor
    unit: Tensor
    known: Tensor

    def __init__(self, width: int, kind: str, n_times: int, rate: float = BODY_RATE, *, positions: bool = True) -> None:
        super().__init__()
        if kind not in BODY_CHANNELS:
            raise ValueError(f"body signal {kind!r}: found no such kind, expected {', '.join(BODY_CHANNELS)}")
        channels = len(BODY_CHANNELS[kind])
        self.width, self.kind, self.n_times, self.rate, self.channels = width, kind, n_times, rate, channels
        self.register_buffer("centre", torch.zeros(channels, NUMBERS))  # (P, 3)
        self.register_buffer("spread", torch.ones(channels, NUMBERS))  # (P, 3)
        self.register_buffer("unit", torch.ones(channels))  # (P,), usual spread within a window
        self.register_buffer("known", torch.ones(channels, dtype=torch.bool))  # (P,)
        taps = 2 * round(REACH * rate / 2) + 1
        self.filters = nn.Conv1d(channels, channels * FILTERS, taps, padding=taps // 2, groups=channels)
        self.numbers = nn.Parameter(torch.empty(channels, NUMBERS, width))  # (P, 3, D)
        for one in self.numbers:
            nn.init.xavier_uniform_(one)
        self.texture = nn.Linear(PARTS * FILTERS, width, bias=False)
        init_linear(self.texture)
        self.channel = nn.Parameter(torch.randn(channels, width) * 0.02)  # (P, D)
        self.time_gain = nn.Parameter(torch.tensor(0.1)) if positions else None  # ()

    def forward(self, bag: Bag) -> Tokens:
        """Make tokens of ``bag.body[kind]`` (B, W, P, S_b) of a settled bag; (B, W·P, D) in this order, with mask.

        A bag without this kind has none.

        Raises
        ------
        ValueError
            If the channels or the length are not those that the tokens were made for.
        """
        if self.kind not in bag.body:
            return Tokens(
                torch.zeros(len(bag), 0, self.width, device=self.centre.device),  # (B, 0, D)
                torch.zeros(len(bag), 0, dtype=torch.bool, device=self.centre.device),  # (B, 0)
            )
        x, mask = self._taken(bag)  # (B, W, P, S_b), (B, W, P, S_b)
        there = mask.any(-1) & self.known  # (B, W, P)
        numbers = ((self.measure(x, mask) - self.centre) / self.spread).clamp(-CLIP, CLIP)  # (B, W, P, 3)
        values = torch.einsum("bwpf,pfd->bwpd", numbers, self.numbers)  # (B, W, P, D)
        values = values + self.texture(self._answers(x, mask)) + self.channel  # (B, W, P, D)
        if self.time_gain is not None:
            when = (torch.arange(values.shape[1], device=values.device) + 0.5) * FRAMES_A_WINDOW  # (W,)
            values = values + self.time_gain * sinusoid(when, self.width)[:, None]  # (B, W, P, D)
        return Tokens(values.flatten(1, 2), there.flatten(1))  # (B, W·P, D), (B, W·P)

    def measure(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean, slope per second and log spread in units of `unit` of `x` (B, W, P, S_b) by its mask; (B, W, P, 3)."""
        number = mask.sum(-1).clamp_min(1)  # (B, W, P)
        level = (x * mask).sum(-1) / number  # (B, W, P)
        moved = masked_centre(x, mask) / self.unit[:, None]  # (B, W, P, S_b); by the unit first, for 1e-7 squared is 0
        time = torch.arange(x.shape[-1], device=x.device) / self.rate  # (S_b,)
        apart = masked_centre(time.expand_as(x), mask)  # (B, W, P, S_b)
        slope = (moved * apart).sum(-1) / apart.square().sum(-1).clamp_min(1e-6)  # (B, W, P)
        spread = (moved.square().sum(-1) / number).sqrt()  # (B, W, P)
        return torch.stack([level, slope * self.unit, (spread + LEAST).log()], dim=-1)  # (B, W, P, 3)

    @torch.no_grad()
    def fit(self, bags: Iterable[Bag]) -> None:
        """Fit the scale of every channel on training bags.

        Raises
        ------
        ValueError
            If no bag holds any of this kind.
        """
        taken = [self._taken(bag) for bag in (b.settled() for b in bags) if self.kind in bag.body]
        found = torch.tensor([any(bool(m[:, :, p].any()) for _, m in taken) for p in range(self.channels)])  # (P,)
        if not found.any():
            raise ValueError(f"the scale of {self.kind} cannot be fitted: no training bag holds any of it")
        self.known.copy_(found)
        for p in torch.nonzero(found).flatten().tolist():
            rows = [(x[:, :, p][m[:, :, p].any(-1)], m[:, :, p][m[:, :, p].any(-1)]) for x, m in taken]  # (n_i, S_b)
            within = torch.cat([_deviation(x, m) for x, m in rows])  # (n,)
            level = torch.cat([(x * m).sum(-1) / m.sum(-1) for x, m in rows])  # (n,)
            usual = [float(within.median()), float(within.mean()), float(level.abs().median()), 1.0]
            self.unit[p] = next(u for u in usual if u > 0 and math.isfinite(u))
        numbers = [(self.measure(x, m), m.any(-1)) for x, m in taken]  # (B, W, P, 3), (B, W, P)
        for p in torch.nonzero(found).flatten().tolist():
            mine = torch.cat([n[:, :, p][m[:, :, p]] for n, m in numbers])  # (n, 3)
            centre = mine.median(0).values  # (3,)
            spread = 1.4826 * (mine - centre).abs().median(0).values  # (3,)
            # Where most windows are alike, a median of nothing must not blow up the few that are not.
            spread = torch.maximum(spread, 0.25 * (mine - centre).square().mean(0).sqrt())  # (3,)
            unit = float(self.unit[p])
            self.centre[p] = centre
            self.spread[p] = torch.where(spread > 1e-6 * unit, spread, torch.tensor([unit, unit, 1.0]))

    def _taken(self, bag: Bag) -> tuple[Tensor, Tensor]:
        """Signal and mask (B, W, P, S_b) of a settled bag, checked."""
        x, mask = bag.body[self.kind], bag.body_mask[self.kind]  # (B, W, P, S_b) each
        if x.shape[2] != self.channels or x.shape[3] > self.n_times + 1:  # a rate may round a window up by one
            raise ValueError(
                f"Bag.body[{self.kind!r}] has {x.shape[2]} channels of {x.shape[3]} samples a window, expected "
                f"{self.channels} of at most {self.n_times}; use the model's window length"
            )
        return x, mask

    def _answers(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean rectified answer of each channel's filters in each part of the window; (B, W, P, PARTS * FILTERS)."""
        b, w, p, s = x.shape
        if not s:
            return x.new_zeros(b, w, p, PARTS * FILTERS)  # (B, W, P, PARTS * FILTERS)
        moved = (masked_centre(x, mask) / self.unit[:, None]).clamp(-CLIP, CLIP)  # (B, W, P, S_b)
        said = nn.functional.gelu(self.filters(moved.flatten(0, 1)))  # (B·W, P·FILTERS, S_b)
        said = said.view(b, w, p, FILTERS, s)  # (B, W, P, FILTERS, S_b)
        part = (torch.arange(s, device=x.device) * PARTS // max(self.n_times, 1)).clamp_max(PARTS - 1)  # (S_b,)
        chosen = nn.functional.one_hot(part, PARTS).to(said)  # (S_b, PARTS)
        weight = mask.to(said)  # (B, W, P, S_b)
        total = torch.einsum("bwpfs,bwps,sk->bwpkf", said, weight, chosen)  # (B, W, P, PARTS, FILTERS)
        number = (weight @ chosen).clamp_min(1)  # (B, W, P, PARTS)
        return (total / number[..., None]).flatten(3)  # (B, W, P, PARTS * FILTERS)


def _deviation(x: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation of `x` (n, S) over the samples that are there, of any size; (n,)."""
    moved = masked_centre(x, mask)  # (n, S)
    top = moved.abs().amax(-1, keepdim=True).clamp_min(1e-30)  # (n, 1)
    share = (moved / top).square().sum(-1) / mask.sum(-1).clamp_min(1)  # (n,)
    return share.sqrt() * top.squeeze(-1)  # (n,)
