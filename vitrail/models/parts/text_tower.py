"""A transformer of token ids, as big_vision's: no mask, so that padding is read as any other word.

Vaswani et al., NeurIPS 2017, arXiv 1706.03762, with the blocks of a ViT: norms come first, GELU is
the tanh form, LayerNorm's eps 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear
from vitrail.layers.residual import Block, Blocks
from vitrail.layers.tokens import FirstToken, Mean, ProbePool


@dataclass(frozen=True)
class Text:
    """Sizes of a text tower for `length` ids below `vocabulary`.

    `pool` is "last" (the end of the sentence, which pads it as well), "first", "mean", "max" or
    "map" (attention pooling).
    """

    vocabulary: int = 32_000
    length: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    pool: str = "last"


class LastToken(nn.Module):
    """The token at the end: (B, N, C) to (B, C)."""

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        return x[:, -1]


class Largest(nn.Module):
    """The largest value of each channel over all tokens: (B, N, C) to (B, C)."""

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        return x.amax(1)


class TextTower(nn.Module):
    """Ids of tokens (B, length) to embeddings (B, width).

    Raises ValueError for ids of another length or beyond the vocabulary's end, and for a `pool`
    that does not exist.
    """

    def __init__(self, config: Text, width: int) -> None:
        super().__init__()
        c = self.config = config
        norm = partial(nn.LayerNorm, eps=1e-6)
        pools = {
            "last": LastToken, "first": FirstToken, "mean": Mean, "max": Largest,
            "map": partial(ProbePool, c.dim, c.heads, c.hidden),
        }  # fmt: skip
        if c.pool not in pools:
            raise ValueError(f"pool of the text is {c.pool!r}: expected {', '.join(pools)}")
        self.embed = nn.Embedding(c.vocabulary, c.dim)
        self.position = nn.Parameter(torch.randn(1, c.length, c.dim) * c.dim**-0.5)
        self.blocks = Blocks(
            Block(
                c.dim,
                Attention(c.dim, c.heads),
                Mlp(c.dim, c.hidden, act=nn.GELU(approximate="tanh")),
                norm=norm,
            )
            for _ in range(c.depth)
        )
        self.norm, self.pool, self.head = norm(c.dim), pools[c.pool](), Linear(c.dim, width)
        self._init()

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b width"]:
        c = self.config
        if tokens.ndim != 2 or tokens.shape[1] != c.length:
            raise ValueError(
                f"tokens are {tuple(tokens.shape)}; this text tower takes (B, {c.length}): pad or "
                "cut sentences to that length as in its training"
            )
        x = self.embed(tokens) + self.position
        return self.head(self.pool(self.norm(self.blocks(x))))

    def _init(self) -> None:
        """Initialise q, k, v each by itself and the rest of the blocks by Xavier's
        rule, as in the image tower.
        """
        parts = {"mixer.qkv.weight": 3, "kv.weight": 2}
        for block in [*self.blocks, self.pool]:
            for name, p in block.named_parameters():
                if p.ndim > 1:
                    for part in p.chunk(parts.get(name, 1)):
                        nn.init.xavier_uniform_(part)
                elif name.endswith("bias"):
                    nn.init.normal_(p, std=1e-6) if ".fc" in name else nn.init.zeros_(p)
