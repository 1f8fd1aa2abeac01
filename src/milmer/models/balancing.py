"""As many visual tokens as the EEG can face (PAPER section 1, table 4): by cross-attention, by an MLP, or all of them.

Selection multiplies the tokens of a frame by its weight, and that product is the only road on which the scorer gets a
gradient. A LayerNorm token by token sees a token's direction and not its length, and would close that road. So every
variant here adds a learned vector to what comes of the frames before it normalises: then a weight turns the token.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from milmer.config import Balancing
from milmer.models.attention import Attention, FeedForward, init_linear, sinusoid
from milmer.models.bag import Tokens
from milmer.models.selection import Kept

FRAMES_A_WINDOW = 10  # the sinusoid's unit of time: the paper's frames, so that its positions are 0 to 9
ANCHOR = 0.5  # size of the added vector, beside tokens of size 1: a weight then turns a token by up to half its length


class Balance(nn.Module):
    """What all variants share: each token carries when its frame was and where in the frame it lies.

    The moment is a sinusoid, so any number of frames and windows will do; the place is learned.

    Parameters
    ----------
    width, tokens : int
        `D` and `T`, the tokens of a frame.
    config : Balancing
        Number of queries and layers.
    heads : int
        Attention heads; only cross-attention has any.
    positions : bool
        False: tokens say neither when nor where, and the parameters for it do not exist.

    Attributes
    ----------
    looks_at_positions : bool
        True where the order of a frame's tokens matters even without position embeddings. The order of frames never
        does: their time goes with them.
    no_gradient : tuple of str
        Ends of the names of parameters that get no gradient.
    """

    looks_at_positions: ClassVar[bool] = False
    no_gradient: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int, tokens: int, config: Balancing, *, heads: int, positions: bool = True) -> None:
        super().__init__()
        self.place: nn.Parameter | None = None
        self.time_gain: nn.Parameter | None = None
        if positions:
            self.place = nn.Parameter(torch.randn(tokens, width) * 0.02)  # (T, D)
            self.time_gain = nn.Parameter(torch.tensor(0.1))  # ()

    @abstractmethod
    def forward(self, kept: Kept) -> Tokens:
        """Make visual tokens of the kept frames (B, K, T, D); (B, Q, D), masked where there is nothing."""

    def moments(self, kept: Kept) -> Tensor:
        """When each kept frame was, 0 without positions; (B, K, 1, D)."""
        width = kept.tokens.shape[-1]
        if self.time_gain is None:
            return torch.zeros((*kept.time.shape, 1, width), device=kept.time.device)  # (B, K, 1, D)
        return self.time_gain * sinusoid(kept.time * FRAMES_A_WINDOW, width)[:, :, None]  # (B, K, 1, D)

    def placed(self, tokens: Tensor) -> Tensor:
        """Add to `tokens` (..., T, D) where each lies in its frame; (..., T, D)."""
        return tokens if self.place is None else tokens + self.place  # (..., T, D)


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


class CrossAttentionBalance(Balance):
    """K·T visual tokens become Q: learnable queries, cross-attention layers, a last norm (the paper's).

    There is no dropout here: the paper has it in the encoder, and with it a small backbone trained from nothing needs
    twice the steps to begin. Parameters are those of `Balance`.
    """

    def __init__(self, width: int, tokens: int, config: Balancing, *, heads: int, positions: bool = True) -> None:
        queries = torch.randn(config.queries, width) * 0.02  # (Q, D), drawn first: a seed's network stays what it was
        super().__init__(width, tokens, config, heads=heads, positions=positions)
        self.queries = nn.Parameter(queries)  # (Q, D)
        # The feed-forward is as narrow as a token: at the encoder's 2048 two layers would cost another 4 M parameters.
        self.layers = nn.ModuleList([CrossAttentionLayer(width, heads, width) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, kept: Kept) -> Tokens:
        """Draw Q tokens from the kept frames (B, K, T, D); (B, Q, D), masked where no frame was kept."""
        context = self.placed(kept.tokens + self.moments(kept)).flatten(1, 2)  # (B, K·T, D)
        visual = self.queries.expand(context.shape[0], -1, -1)  # (B, Q, D)
        for layer in self.layers:
            visual = layer(visual, context, token_mask(kept))  # (B, Q, D)
        return Tokens(self.norm(visual), query_mask(kept, visual))  # (B, Q, D), (B, Q)


class MLPBalance(Balance):
    """T tokens become Q by an MLP along the token axis of the mean kept frame, a last norm.

    The paper's table 4 has a column MLP and no details. This one takes the mean over the kept frames first, so that it
    has the same parameters for any K, then Linear, GELU, Linear from T over 2·max(T, Q) to Q, the same for each of the
    D features, plus a learned vector for each of the Q. `config.layers` is not used.

    A moment that is added would be, after the mean, the same whichever frame was shown then; so here it multiplies:
    x ← x · (1 + moment). The second Linear has no bias: it would be equal in all features, and the norm would take it
    away. Parameters are those of `Balance`.
    """

    looks_at_positions: ClassVar[bool] = True

    def __init__(self, width: int, tokens: int, config: Balancing, *, heads: int, positions: bool = True) -> None:
        super().__init__(width, tokens, config, heads=heads, positions=positions)
        hidden = 2 * max(tokens, config.queries)
        self.first = nn.Linear(tokens, hidden)
        self.second = nn.Linear(hidden, config.queries, bias=False)
        self.queries = nn.Parameter(torch.randn(config.queries, width) * ANCHOR)  # (Q, D)
        self.norm = nn.LayerNorm(width)
        init_linear(self.first)
        init_linear(self.second)

    def forward(self, kept: Kept) -> Tokens:
        """Mix the tokens of the mean of the kept frames (B, K, T, D); (B, Q, D), masked where no frame was kept."""
        moved = kept.tokens * (1 + self.moments(kept))  # (B, K, T, D)
        there = kept.mask[..., None, None]  # (B, K, 1, 1)
        mean = moved.masked_fill(~there, 0.0).sum(1) / there.sum(1).clamp_min(1)  # (B, T, D)
        features = self.placed(mean).transpose(1, 2)  # (B, D, T)
        mixed = self.second(nn.functional.gelu(self.first(features))).transpose(1, 2)  # (B, Q, D)
        visual = self.norm(mixed + self.queries)  # (B, Q, D)
        return Tokens(visual, query_mask(kept, visual))  # (B, Q, D), (B, Q)


class NoBalance(Balance):
    """All K·T tokens go on, each with its moment and place, normalised (PAPER table 4, "none").

    One learned vector is added to all of them, so that a frame's weight survives the norm: the heavier a frame, the
    less its tokens look like that vector. `config` is not used. Parameters are those of `Balance`.
    """

    def __init__(self, width: int, tokens: int, config: Balancing, *, heads: int, positions: bool = True) -> None:
        super().__init__(width, tokens, config, heads=heads, positions=positions)
        self.anchor = nn.Parameter(torch.randn(width) * ANCHOR)  # (D,)
        self.norm = nn.LayerNorm(width)

    def forward(self, kept: Kept) -> Tokens:
        """Let all tokens of the kept frames (B, K, T, D) pass; (B, K·T, D), masked frame by frame."""
        visual = self.placed(kept.tokens + self.moments(kept)) + self.anchor  # (B, K, T, D)
        return Tokens(self.norm(visual).flatten(1, 2), token_mask(kept))  # (B, K·T, D), (B, K·T)


BALANCINGS: Mapping[str, type[Balance]] = MappingProxyType(
    {"cross-attention": CrossAttentionBalance, "mlp": MLPBalance, "none": NoBalance}
)


def make_balance(width: int, tokens: int, config: Balancing, *, heads: int, positions: bool = True) -> Balance:
    """Build the balancing that `config.method` names; parameters are those of `Balance`."""
    return BALANCINGS[config.method](width, tokens, config, heads=heads, positions=positions)


def token_mask(kept: Kept) -> Tensor:
    """Which of all kept tokens belong to a frame that is there; (B, K·T)."""
    return kept.mask[..., None].expand(kept.tokens.shape[:3]).flatten(1)  # (B, K·T)


def query_mask(kept: Kept, visual: Tensor) -> Tensor:
    """All of `visual` (B, Q, D) where any frame was kept; (B, Q)."""
    return kept.mask.any(1, keepdim=True).expand(visual.shape[:2])  # (B, Q)
