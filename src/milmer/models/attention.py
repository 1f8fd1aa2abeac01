"""Multi-head attention with a key mask, the feed-forward layer and the sinusoid that balancing and fusion share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017): softmax(Q Kᵀ / √d) V in `heads` heads.

    Keys carry no bias: a softmax makes it irrelevant, and it would never get a gradient.

    Parameters
    ----------
    width : int
        Token width `D`, a multiple of `heads`.
    heads : int
        Number of heads.
    dropout : float
        Dropout on the attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        for layer in (self.value, self.out):
            init_linear(layer)
        for layer in (self.query, self.key):
            init_linear(layer, gain=0.2)  # nearly uniform attention at first: a mean, from which it is easy to learn

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Let `queries` (B, L, D) attend to those `keys` (B, M, D) whose `mask` (B, M) is True; (B, L, D).

        A row without any key attends to all of them, so that no NaN arises: whoever calls masks what comes of it.
        Where M is 0 the answer is 0.
        """
        if queries.shape[1] == 0 or keys.shape[1] == 0:
            return torch.zeros_like(queries)  # (B, L, D)
        q = self._split(self.query(queries))  # (B, H, L, D/H)
        k = self._split(self.key(keys))  # (B, H, M, D/H)
        v = self._split(self.value(keys))  # (B, H, M, D/H)
        mask = mask | ~mask.any(-1, keepdim=True)  # (B, M)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], dropout_p=dropout)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, L, D)
        return out  # (B, L, D)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)  # (B, H, L, D/H)


class FeedForward(nn.Sequential):
    """Linear, GELU, dropout, Linear, token by token."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        first, last = self[0], self[3]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)  # for the type checker
        init_linear(first)
        init_linear(last, gain=0.2)  # the residual road first


def init_linear(layer: nn.Linear, gain: float = 1.0) -> None:
    """Glorot-uniform weights and zero bias: activations keep their size, times `gain`, at any width."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def sinusoid(position: Tensor, width: int) -> Tensor:
    """Sines and cosines of `position` (...) at `width` / 2 wavelengths from 2π to 20000π; (..., width)."""
    half = (width + 1) // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=position.device) / half)  # (width/2,)
    angle = position[..., None].float() * rates  # (..., width/2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :width]  # (..., width)
