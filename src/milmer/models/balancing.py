"""As many visual tokens as the EEG can face: learnable queries attend to the kept frames (PAPER section 1, table 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from milmer.config import Balancing
from milmer.models.attention import Attention, FeedForward, sinusoid
from milmer.models.bag import Tokens
from milmer.models.selection import Kept

FRAMES_A_WINDOW = 10  # the sinusoid's unit of time: the paper's frames, so that its positions are 0 to 9


class CrossAttentionLayer(nn.Module):
    """q ← q + attention(norm(q), context); q ← q + feedforward(norm(q)).

    The context is not normalised here: that would undo the weights that selection multiplied it by, and with them the
    scorer's gradient. It comes normalised from the backbone.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feedforward = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, hidden)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Update `queries` (B, Q, D) from `context` (B, M, D) where `mask` (B, M); (B, Q, D)."""
        queries = queries + self.attention(self.norm_attention(queries), context, mask)  # (B, Q, D)
        queries = queries + self.feedforward(self.norm_feedforward(queries))  # (B, Q, D)
        return queries


class Balance(nn.Module):
    """K·T visual tokens become Q: learnable queries, cross-attention layers, a last norm.

    Every token carries when its frame was (a sinusoid, so any number of frames and windows will do) and where in the
    frame it lies (learned). There is no dropout here: the paper has it in the encoder, and with it a small backbone
    trained from nothing needs twice the steps to begin.

    Parameters
    ----------
    width, tokens : int
        `D` and `T`, the tokens of a frame.
    config : Balancing
        Number of queries and layers.
    heads : int
        Attention heads.
    """

    def __init__(self, width: int, tokens: int, config: Balancing, *, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.queries, width) * 0.02)  # (Q, D)
        self.place = nn.Parameter(torch.randn(tokens, width) * 0.02)  # (T, D)
        self.time_gain = nn.Parameter(torch.tensor(0.1))  # ()
        # The feed-forward is as narrow as a token: at the encoder's 2048 two layers would cost another 4 M parameters.
        self.layers = nn.ModuleList([CrossAttentionLayer(width, heads, width) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, kept: Kept) -> Tokens:
        """Draw Q tokens from the kept frames (B, K, T, D); (B, Q, D), masked where no frame was kept."""
        b, k, t, d = kept.tokens.shape
        time = self.time_gain * sinusoid(kept.time * FRAMES_A_WINDOW, d)  # (B, K, D)
        context = (kept.tokens + time[:, :, None] + self.place).flatten(1, 2)  # (B, K·T, D)
        mask = kept.mask[..., None].expand(b, k, t).flatten(1)  # (B, K·T)
        visual = self.queries.expand(b, -1, -1)  # (B, Q, D)
        for layer in self.layers:
            visual = layer(visual, context, mask)  # (B, Q, D)
        there = kept.mask.any(1, keepdim=True).expand(visual.shape[:2])  # (B, Q)
        return Tokens(self.norm(visual), there)  # (B, Q, D), (B, Q)
