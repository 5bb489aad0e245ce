"""Prefix tokens and the ways to pool tokens into one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.checks import head_width
from vitrail.layers.ffn import Mlp
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
        return self.norm(self.blocks.run(self.blocks[-1].read, x)[:, 0])  # pyright: ignore[reportArgumentType]


class ProbePool(nn.Module):
    """A learned probe attends to all tokens, then has an MLP: (B, N, C) to (B, C).

    The probe is not added to what it gathers. "MAP head" of Zhai et al., "Scaling Vision
    Transformers", CVPR 2022, arXiv 2106.04560. GELU is the tanh form, LayerNorm's eps 1e-6.
    """

    def __init__(self, dim: int, heads: int, hidden: int, inner: int | None = None) -> None:
        super().__init__()
        inner = dim if inner is None else inner
        self.heads, self.width = heads, head_width(inner, heads)
        self.probe = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.xavier_uniform_(self.probe[0])
        self.q, self.kv = Linear(dim, inner), Linear(dim, 2 * inner)
        self.proj = Linear(inner, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = Mlp(dim, hidden, act=nn.GELU(approximate="tanh"))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        y = self.proj(attend(*self._heads(x)).flatten(1))
        return y + self.ffn(self.norm(y))

    def weights(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads 1 n"]:
        """Return what the probe looks at."""
        q, k, _ = self._heads(x)
        return attention_weights(q, k)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        shape = (self.heads, self.width)
        q = self.q(self.probe).view(1, 1, *shape).transpose(1, 2).expand(b, -1, -1, -1)
        k, v = self.kv(x).view(b, n, 2, *shape).permute(2, 0, 3, 1, 4)
        return q, k, v
