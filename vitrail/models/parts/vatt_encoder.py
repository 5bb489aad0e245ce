"""VATT's encoders: that of clips and sounds, and T5's of words.

Akbari et al., NeurIPS 2021, arXiv 2104.11178; T5: Raffel et al., JMLR 2020, arXiv 1910.10683. There
is no golden of the encoder of words: it follows the paper's words and T5's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.attention import Attention, attend, attention_weights
from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear
from vitrail.layers.residual import Blocks

HEAD = 64
BUCKETS, FARTHEST = 32, 64
MASKED = -1e9


@dataclass(frozen=True)
class Sizes:
    """Width, blocks, hidden width and heads of 64 of an encoder."""

    dim: int = 768
    depth: int = 12
    hidden: int = 3072
    heads: int = 12


class BiasedAttention(Attention):
    """Attention whose logits take a bias, that of a mask or of distances: (B, N, C) to the same."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b n c"], bias: Tensor | None = None
    ) -> Float[Tensor, "b n c"]:
        q, k, v = self._heads(x)
        dropout = self.dropout if self.training else 0.0
        out = attend(q, k, v, bias=bias, scale=self.scale, dropout=dropout)
        return self.proj(out.transpose(1, 2).flatten(2))

    def weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b n c"], bias: Tensor | None = None
    ) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom: attention of every head, rows are queries."""
        q, k, _ = self._heads(x)
        return attention_weights(q, k, bias=bias, scale=self.scale)


class EncoderBlock(nn.Module):
    """x + drop(mixer(norm1(x))), then x + drop(ffn(norm2(x))): (B, N, C) to the same.

    `words` makes it one of T5's: an RMS norm comes before attention, and logits are not scaled.
    """

    def __init__(self, size: Sizes, dropout: float, *, bias: bool = True, words: bool = False):
        super().__init__()
        dim, inner = size.dim, size.heads * HEAD
        norm = nn.RMSNorm if words else nn.LayerNorm
        self.norm1, self.norm2 = norm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.mixer = BiasedAttention(
            dim, size.heads, inner=inner, scale=1.0 if words else None, qkv_bias=bias,
            dropout=dropout,
        )  # fmt: skip
        self.ffn = Mlp(dim, size.hidden, dropout=dropout)
        if not bias:
            self.mixer.proj = Linear(inner, dim, bias=False)
            self.ffn.fc1 = Linear(dim, size.hidden, bias=False)
            self.ffn.fc2 = Linear(size.hidden, dim, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b n c"], bias: Tensor | None = None
    ) -> Float[Tensor, "b n c"]:
        x = x + self.drop(self.mixer(self.norm1(x), bias))
        return x + self.drop(self.ffn(self.norm2(x)))


class Encoder(nn.Module):
    """Pre-norm blocks and a last norm: (B, N, C) to the same, `seen` saying which tokens count.

    `seen` is bool (B, N) or None; tokens that do not count are still computed.
    """

    def __init__(self, size: Sizes, dropout: float, *, bias: bool = True) -> None:
        super().__init__()
        self.blocks = Blocks(EncoderBlock(size, dropout, bias=bias) for _ in range(size.depth))
        self.norm, self.drop = nn.LayerNorm(size.dim, eps=1e-6), nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b n c"], seen: Tensor | None = None
    ) -> Float[Tensor, "b n c"]:
        bias = None if seen is None else masking(seen, x)
        for block in self.blocks:
            x = self.blocks.run(block, x, bias)
        return self.drop(self.norm(x))


class WordEncoder(nn.Module):
    """T5's encoder without any bias: distances of words, in buckets, are added to all logits."""

    def __init__(self, size: Sizes, dropout: float) -> None:
        super().__init__()
        self.distance = nn.Embedding(BUCKETS, size.heads)
        self.blocks = Blocks(
            EncoderBlock(size, dropout, bias=False, words=True) for _ in range(size.depth)
        )
        self.norm, self.drop = nn.RMSNorm(size.dim, eps=1e-6), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n c"], seen: Tensor) -> Float[Tensor, "b n c"]:
        places = torch.arange(x.shape[1], device=x.device)
        near = self.distance(buckets(places - places[:, None])).permute(2, 0, 1)
        bias, x = masking(seen, x) + near, self.drop(x)
        for block in self.blocks:
            x = self.blocks.run(block, x, bias)
        return self.drop(self.norm(x))


def masking(seen: Tensor, like: Tensor) -> Float[Tensor, "b 1 1 n"]:
    """Return what is added to logits: -1e9 for tokens that do not count."""
    return (~seen).to(like.dtype)[:, None, None] * MASKED


def buckets(distance: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
    """Return T5's bucket, below 32, of how far a word stands to the right of another.

    A half is for each side; up to 7 words away every distance has its own, from there to 64 they
    widen by a constant factor.
    """
    half = BUCKETS // 2
    exact = half // 2
    far = distance.abs()
    wide = (far.clamp(min=1).double() / exact).log() / math.log(FARTHEST / exact)
    grown = (exact + (wide * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, grown) + half * (distance > 0)
