"""Tokens of all modalities become one vector (PAPER section 1, table 5): encoder, concatenation, cross-modal."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from milmer.config import Fusion
from milmer.models.attention import Attention, FeedForward, init_linear
from milmer.models.bag import Tokens


class Fuse(nn.Module):
    """What all variants share: tokens of what is there in, one vector out.

    Parameters
    ----------
    width : int
        Token width `D`.
    config : Fusion
        Layers, heads, feed-forward width, dropout.
    modalities : tuple of str
        Such as ``"eeg"``, ``"face"``, ``"gsr"``: what has parameters. Tokens of any other are ignored.

    Attributes
    ----------
    looks_at_positions : bool
        True where the order of a modality's tokens matters.
    no_gradient : tuple of str
        Ends of the names of parameters that get no gradient.
    """

    looks_at_positions: ClassVar[bool] = False
    no_gradient: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int, config: Fusion, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.modalities = tuple(sorted(modalities))

    def forward(self, parts: Mapping[str, Tokens]) -> Tensor:
        """Fuse the tokens (B, M, D) of each modality, each by its mask; (B, D).

        A modality that is left out says the same as tokens that are all masked. Where all are absent the answer is
        finite and the same for every bag.

        Raises
        ------
        ValueError
            If there are no tokens at all, not even masked ones.
        """
        mine = {name: parts[name] for name in self.modalities if name in parts}
        if not mine:
            raise ValueError(f"fusion got tokens of {list(parts)}, expected some of {list(self.modalities)}")
        return self.fuse(mine)  # (B, D)

    @abstractmethod
    def fuse(self, parts: Mapping[str, Tokens]) -> Tensor:
        """Fuse the tokens (B, M, D) of each modality, one at least; (B, D)."""


class EncoderLayer(nn.Module):
    """x ← x + attention(norm(x)); x ← x + feedforward(norm(x)): pre-norm, which needs no long warm-up."""

    def __init__(self, width: int, config: Fusion) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, config.dropout)
        self.norm_feedforward = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, config.feedforward, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Mix `tokens` (B, M, D) among those where `mask` (B, M); (B, M, D)."""
        normed = self.norm_attention(tokens)  # (B, M, D)
        tokens = tokens + self.dropout(self.attention(normed, normed, mask))  # (B, M, D)
        tokens = tokens + self.dropout(self.feedforward(self.norm_feedforward(tokens)))  # (B, M, D)
        return tokens


class TransformerFuse(Fuse):
    """[CLS] + the tokens of all, each with the embedding of its modality, through the encoder; the CLS comes out.

    Parameters are those of `Fuse`.
    """

    def __init__(self, width: int, config: Fusion, modalities: tuple[str, ...]) -> None:
        super().__init__(width, config, modalities)
        self.cls = nn.Parameter(torch.randn(width) * 0.02)  # (D,)
        self.kind = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.02) for name in self.modalities})
        self.layers = nn.ModuleList([EncoderLayer(width, config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(width)

    def fuse(self, parts: Mapping[str, Tokens]) -> Tensor:
        """Encode the tokens (B, M, D) of each modality with the CLS; (B, D)."""
        b = next(iter(parts.values())).mask.shape[0]
        tokens = [self.cls.expand(b, 1, -1)]  # (B, 1, D)
        masks = [torch.ones((b, 1), dtype=torch.bool, device=self.cls.device)]  # (B, 1)
        for name, part in parts.items():
            tokens.append(part.values + self.kind[name])  # (B, M, D)
            masks.append(part.mask)  # (B, M)
        mixed, mask = torch.cat(tokens, 1), torch.cat(masks, 1)  # (B, M, D), (B, M)
        for layer in self.layers:
            mixed = layer(mixed, mask)  # (B, M, D)
        out: Tensor = self.norm(mixed[:, 0])  # (B, D)
        return out  # (B, D)


class Summary(nn.Module):
    """The mean token of each modality, normalised, and a 1 if it is there; all 0 if not.

    Each has a norm of its own: one over both would let an absent modality change the size of the other. The 1 tells an
    absent modality from one that says nothing; a learned vector in its place would get no gradient wherever all is
    there.

    Parameters
    ----------
    width : int
        Token width `D`.
    modalities : tuple of str
        What is summed up, in this order.
    """

    def __init__(self, width: int, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in modalities})
        self.size = len(modalities) * (width + 1)

    def forward(self, parts: Mapping[str, Tokens]) -> Tensor:
        """Sum up the tokens (B, M, D) of each modality; (B, size)."""
        some = next(iter(parts.values())).values  # (B, M, D)
        columns = []
        for name, norm in self.norms.items():
            if name not in parts:
                columns.append(some.new_zeros(some.shape[0], some.shape[-1] + 1))  # (B, D + 1)
                continue
            there = parts[name].mask.any(1, keepdim=True).to(some.dtype)  # (B, 1)
            columns += [norm(parts[name].mean()) * there, there]  # (B, D), (B, 1)
        return torch.cat(columns, 1)  # (B, size)


class ConcatenationFuse(Fuse):
    """The mean token of each modality side by side, Linear, GELU, Linear (PAPER table 5, "concatenation").

    Parameters are those of `Fuse`; the hidden layer has `config.feedforward` units, `config.layers` is not used.
    """

    def __init__(self, width: int, config: Fusion, modalities: tuple[str, ...]) -> None:
        super().__init__(width, config, modalities)
        self.summary = Summary(width, self.modalities)
        first, last = nn.Linear(self.summary.size, config.feedforward), nn.Linear(config.feedforward, width)
        init_linear(first)
        init_linear(last)
        self.mix = nn.Sequential(first, nn.GELU(), nn.Dropout(config.dropout), last)

    def fuse(self, parts: Mapping[str, Tokens]) -> Tensor:
        """Mix the mean tokens of each modality (B, M, D); (B, D)."""
        out: Tensor = self.mix(self.summary(parts))  # (B, D)
        return out  # (B, D)


class CrossModalLayer(nn.Module):
    """x ← x + attention(norm(x), norm(other)); x ← x + feedforward(norm(x)), where there is another; else x stays x.

    One norm serves x and the other: the gain of a norm of x alone is felt only through a softmax that is nearly uniform
    at first, and its first gradient is 1e-7 of its size.
    """

    def __init__(self, width: int, config: Fusion) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, config.dropout)
        self.norm_feedforward = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, config.feedforward, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, other: Tokens) -> Tensor:
        """Update `tokens` (B, M, D) from those of the `other` modality (B, L, D), by its mask; (B, M, D)."""
        there = other.mask.any(1)[:, None, None]  # (B, 1, 1)
        context = self.norm_attention(other.values)  # (B, L, D)
        told = self.attention(self.norm_attention(tokens), context, other.mask)  # (B, M, D)
        tokens = tokens + self.dropout(told) * there  # (B, M, D)
        tokens = tokens + self.dropout(self.feedforward(self.norm_feedforward(tokens))) * there  # (B, M, D)
        return tokens


class CrossModalFuse(Fuse):
    """EEG tokens attend to visual tokens and visual to EEG tokens, in the manner of MulT (Tsai et al. 2019, section 3).

    With more than two modalities the tokens of each attend to those of all others, put side by side: one road each, not
    one for every pair.

    `config.layers` layers each way. As there, every layer attends to the other modality's tokens as they came, not to
    what the other road has made of them. The means of both roads are put side by side and projected to D. Where one
    modality is absent the other's tokens pass unchanged, so a model of one modality has no layers at all. Unlike MulT
    there is no self-attention after it. With two roads it costs twice the encoder's parameters.

    Parameters are those of `Fuse`.
    """

    def __init__(self, width: int, config: Fusion, modalities: tuple[str, ...]) -> None:
        super().__init__(width, config, modalities)
        self.roads = nn.ModuleDict()
        if len(self.modalities) > 1:
            for name in self.modalities:
                self.roads[name] = nn.ModuleList([CrossModalLayer(width, config) for _ in range(config.layers)])
        self.summary = Summary(width, self.modalities)
        self.project = nn.Linear(self.summary.size, width)
        init_linear(self.project)

    def fuse(self, parts: Mapping[str, Tokens]) -> Tensor:
        """Let the tokens (B, M, D) of each modality attend to the others'; (B, D)."""
        out: Tensor = self.project(self.summary(self.attend(parts)))  # (B, D)
        return out  # (B, D)

    def attend(self, parts: Mapping[str, Tokens]) -> Mapping[str, Tokens]:
        """What each modality's tokens (B, M, D) become on their road, with masks as they were."""
        if len(parts) < 2:
            return parts
        return {n: self._along(n, part, _joined([p for o, p in parts.items() if o != n])) for n, part in parts.items()}

    def _along(self, name: str, tokens: Tokens, other: Tokens) -> Tokens:
        values = tokens.values  # (B, M, D)
        road = self.roads[name]
        assert isinstance(road, nn.ModuleList)  # for the type checker
        for layer in road:
            values = layer(values, other)  # (B, M, D)
        return Tokens(values, tokens.mask)  # (B, M, D), (B, M)


def _joined(parts: Sequence[Tokens]) -> Tokens:
    """Put tokens (B, M, D) side by side."""
    return Tokens(torch.cat([p.values for p in parts], 1), torch.cat([p.mask for p in parts], 1))  # (B, M, D), (B, M)


FUSIONS: Mapping[str, type[Fuse]] = MappingProxyType(
    {"transformer": TransformerFuse, "concatenation": ConcatenationFuse, "cross-modal": CrossModalFuse}
)


def make_fuse(width: int, config: Fusion, modalities: tuple[str, ...]) -> Fuse:
    """Build the fusion that `config.method` names; parameters are those of `Fuse`.

    Raises
    ------
    ValueError
        If the method is not a part of the network: these are in `milmer.models.baselines`.
    """
    if config.method not in FUSIONS:
        raise ValueError(f"fusion.method {config.method!r} is no part of the network, expected {', '.join(FUSIONS)}")
    return FUSIONS[config.method](width, config, modalities)


class Head(nn.Sequential):
    """Pooler (Linear, tanh), dropout, Linear: (B, D) to (B, n_classes)."""

    def __init__(self, width: int, n_classes: int, dropout: float) -> None:
        pooler, last = nn.Linear(width, width), nn.Linear(width, n_classes)
        super().__init__(pooler, nn.Tanh(), nn.Dropout(dropout), last)
        init_linear(pooler)
        init_linear(last, gain=0.1)  # near equal probabilities at first
