"""The published design, written anew from its description: ten passes, a scorer of 1.4 billion parameters.

Nothing here is anybody's code: the sizes are those of the paper and of what is known of its published code (one linear
layer over all 37,632 numbers of a frame gives a frame's score, its answer used only to pick frames; a Swin pass for
each frame; gradients kept for all of them; no position embeddings; 147 queries, one cross-attention, two encoder
layers). What is not known is filled in the plainest way; parameters then come to 1,458.2 M, where 1,458.5 M were
counted: 0.02 % less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Sizes of the published design; tests make it smaller."""

    swin: dict[str, Any] = field(default_factory=lambda: {"image_size": 224})
    keep: int = 3
    samples: int = 384
    queries: int = 147
    layers: int = 2
    heads: int = 12
    feedforward: int = 2048
    classes: int = 4
    dropout: float = 0.2


class Published(nn.Module):
    """Frames (B, N, 3, P, P), normalised, and EEG (B, C, S) become logits (B, classes).

    Parameters
    ----------
    sizes : Sizes
    """

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        from transformers import SwinConfig, SwinModel

        self.sizes = sizes = sizes or Sizes()
        config = SwinConfig(**sizes.swin)
        self.swin = SwinModel(config, add_pooling_layer=False)
        stages = len(config.depths)
        width = config.embed_dim * 2 ** (stages - 1)
        tokens = (config.image_size // config.patch_size // 2 ** (stages - 1)) ** 2
        self.scorer = quick_linear(tokens * width)
        self.score = nn.Linear(tokens * width, 1)
        self.queries = nn.Parameter(torch.randn(sizes.queries, width) * 0.02)  # (Q, D)
        self.cross = nn.MultiheadAttention(width, sizes.heads, batch_first=True)
        self.eeg = nn.Sequential(nn.LayerNorm(sizes.samples), nn.Linear(sizes.samples, width), nn.ReLU())
        self.cls = nn.Parameter(torch.randn(width) * 0.02)  # (D,)
        self.kind = nn.Parameter(torch.randn(2, width) * 0.02)  # (2, D)
        layer = nn.TransformerEncoderLayer(width, sizes.heads, sizes.feedforward, sizes.dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, sizes.layers)
        self.pooler = nn.Linear(width, width)
        self.head = nn.Sequential(nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, sizes.classes))

    def forward(self, frames: Tensor, eeg: Tensor) -> Tensor:
        """Classify; the loop over frames and the graph of what is then dropped are as published."""
        b, n = frames.shape[:2]
        seen = torch.stack([self.swin(frames[:, i]).last_hidden_state for i in range(n)], 1)  # (B, N, T, D)
        scores = self.score(torch.tanh(self.scorer(seen.flatten(2))))[..., 0].softmax(1)  # (B, N)
        best = scores.topk(min(self.sizes.keep, n), dim=1).indices  # (B, K)
        kept = seen[torch.arange(b, device=best.device)[:, None], best].flatten(1, 2)  # (B, K·T, D)
        visual, _ = self.cross(self.queries.expand(b, -1, -1), kept, kept, need_weights=False)  # (B, Q, D)
        tokens = torch.cat(
            [self.cls.expand(b, 1, -1), visual + self.kind[0], self.eeg(eeg) + self.kind[1]], 1
        )  # (B, 1+Q+C, D)
        mixed = self.encoder(tokens)[:, 0]  # (B, D)
        out: Tensor = self.head(self.pooler(mixed))  # (B, classes)
        return out  # (B, classes)


def quick_linear(size: int, device: torch.device | None = None) -> nn.Linear:
    """Build a square layer whose rows repeat: drawing 1.4 billion numbers would take longer than the measurement.

    Every page is written, so that each is read from memory on its own, as trained weights would be.
    """
    layer = nn.Linear(size, size, device="meta").to_empty(device=device or torch.get_default_device())
    with torch.no_grad():
        block = torch.randn(min(64, size), size, device=layer.weight.device) * size**-0.5  # (rows, T·D)
        for begin in range(0, size, len(block)):
            layer.weight[begin : begin + len(block)] = block[: size - begin]  # (rows, T·D)
        layer.bias.zero_()
    return layer
