"""The transformer encoder over [CLS], visual and EEG tokens, and the head on its CLS (PAPER section 1, table 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from milmer.config import Fusion
from milmer.models.attention import Attention, FeedForward, init_linear
from milmer.models.bag import Tokens


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


class Fuse(nn.Module):
    """[CLS] + visual + EEG tokens, each with the embedding of its modality, through the encoder; the CLS comes out.

    Parameters
    ----------
    width : int
        Token width `D`.
    config : Fusion
        Layers, heads, feed-forward width, dropout.
    modalities : tuple of str
        ``"eeg"``, ``"face"``: what has an embedding.
    """

    def __init__(self, width: int, config: Fusion, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.randn(width) * 0.02)  # (D,)
        self.kind = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.02) for name in sorted(modalities)})
        self.layers = nn.ModuleList([EncoderLayer(width, config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, visual: Tokens | None, eeg: Tokens | None) -> Tensor:
        """Fuse `visual` (B, Q, D) and `eeg` (B, M, D), each by its mask; (B, D)."""
        given = {name: part for name, part in (("face", visual), ("eeg", eeg)) if part is not None}
        b = len(next(iter(given.values())).mask)
        tokens = [self.cls.expand(b, 1, -1)]  # (B, 1, D)
        masks = [torch.ones((b, 1), dtype=torch.bool, device=self.cls.device)]  # (B, 1)
        for name, part in given.items():
            tokens.append(part.values + self.kind[name])  # (B, M, D)
            masks.append(part.mask)  # (B, M)
        mixed, mask = torch.cat(tokens, 1), torch.cat(masks, 1)  # (B, M, D), (B, M)
        for layer in self.layers:
            mixed = layer(mixed, mask)  # (B, M, D)
        out: Tensor = self.norm(mixed[:, 0])  # (B, D)
        return out  # (B, D)


class Head(nn.Sequential):
    """Pooler (Linear, tanh), dropout, Linear: (B, D) to (B, n_classes)."""

    def __init__(self, width: int, n_classes: int, dropout: float) -> None:
        pooler, last = nn.Linear(width, width), nn.Linear(width, n_classes)
        super().__init__(pooler, nn.Tanh(), nn.Dropout(dropout), last)
        init_linear(pooler)
        init_linear(last, gain=0.1)  # near equal probabilities at first
