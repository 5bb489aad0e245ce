"""Prefix tokens and the ways to pool tokens into one vector."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.linear import Linear


class FirstToken(nn.Module):
    """The class token, which comes first: (B, N, C) to (B, C)."""

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        return x[:, 0]


class Mean(nn.Module):
    """The mean over all positions: (B, *S, C) to (B, C)."""

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b c"]:
        return x.flatten(1, -2).mean(1)


class SequencePool(nn.Module):
    """Mean weighted by softmax(linear(x)) over tokens: (B, N, C) to (B, C).

    Compact Transformers, Hassani et al., 2021, arXiv 2104.05704.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = Linear(dim, 1)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        return (self.score(x).softmax(1).mT @ x).squeeze(1)
