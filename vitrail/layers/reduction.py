"""Attention whose keys and values come from a smaller copy of the map.

Wang et al., "Pyramid Vision Transformer", ICCV 2021, arXiv 2102.12122.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv
from vitrail.layers.linear import Linear

Grid = tuple[int, int]


class Reduce(nn.Module):
    """R x R positions as one, then LayerNorm: a map (B, h, w, C) to tokens (B, n, C). A map
    that is smaller is padded by zeros to one whole."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv, self.norm = Conv(dim, dim, ratio, ratio), nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b n c"]:
        below, right = (max(0, self.ratio - side) for side in x.shape[1:3])
        if below or right:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        return self.norm(self.conv(x).flatten(1, 2))


class ReducedAttention(nn.Module):
    """Attention to a map `ratio` times smaller: tokens (B, prefix + h w, C) of a grid (h, w) to
    the same; with a ratio of 1 to all tokens themselves. `inner`, the channels of all heads, is C
    unless given."""

    def __init__(self, dim: int, heads: int, ratio: int, inner: int | None = None) -> None:
        super().__init__()
        inner = dim if inner is None else inner
        head_width(inner, heads)
        self.heads = heads
        self.q, self.kv = Linear(dim, inner), Linear(dim, 2 * inner)
        self.proj = Linear(inner, dim)
        self.reduce = Reduce(dim, ratio) if ratio > 1 else None

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c"]:
        q, k, v = self._heads(x, grid)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))

    def weights(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b heads n m"]:
        """Return who looks at whom; rows are queries, columns the reduced map's positions."""
        q, k, _ = self._heads(x, grid)
        return attention_weights(q, k)

    def _heads(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        seen = x if self.reduce is None else self.reduce(x.unflatten(1, grid))
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(seen).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v
