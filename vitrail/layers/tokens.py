"""Prefix tokens and the ways to pool tokens into one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.linear import Linear
from vitrail.layers.residual import Blocks


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


class ClassReader(nn.Module):
    """A class token reads all positions: (B, *S, C) to its normed value (B, C).

    `blocks` map (B, 1 + N, C) to the same; of the last only the token is computed, by its
    `read`, which gives (B, 1, C). CaiT, Touvron et al., ICCV 2021, arXiv 2103.17239.
    """

    def __init__(self, dim: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.blocks, self.norm = Blocks(blocks), nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b c"]:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(1, -2)], 1)
        for block in self.blocks[:-1]:
            x = self.blocks.run(block, x)
        return self.norm(self.blocks.run(self.blocks[-1].read, x)[:, 0])
