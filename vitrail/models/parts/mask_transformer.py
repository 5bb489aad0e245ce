"""Segmenter's mask transformer, which reads a map together with an embedding of every class.

Strudel et al., ICCV 2021, arXiv 2105.05633. Its blocks have dropout behind both branches, and the
LayerNorm over classes gives cosines a scale, so that classes cannot be added after training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.residual import Block, Blocks, rising


@dataclass(frozen=True)
class MaskDecoder:
    """The mask transformer: `depth` blocks of `dim` channels (0: as wide as the encoder) and
    `heads` (0: one for every 64 channels)."""

    depth: int = 2
    dim: int = 0
    heads: int = 0
    dropout: float = 0.1
    drop_path: float = 0.0


class DroppedBlock(Block):
    """A pre-norm block with dropout behind both branches: (B, N, C) to the same."""

    def __init__(self, dim: int, heads: int, dropout: float, drop_path: float) -> None:
        mixer, ffn = Attention(dim, heads, dropout=dropout), Mlp(dim, 4 * dim, dropout=dropout)
        super().__init__(dim, mixer, ffn, drop_path=drop_path)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = x + self.drop_path(self.dropout(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.dropout(self.ffn(self.norm2(x))))


class MaskTransformer(nn.Module):
    """Patches and classes attend to each other, and their cosines are the scores: a map
    (B, h, w, C) to (B, h, w, classes)."""

    def __init__(self, config: MaskDecoder, width: int, classes: int) -> None:
        super().__init__()
        dim = config.dim or width
        heads = config.heads or max(1, dim // 64)
        if classes < 2:
            raise ValueError(
                f"classes is {classes}: the mask decoder compares classes with each other; count "
                "the background as one and give two or more, or take the linear decoder"
            )
        self.classes = nn.Parameter(torch.empty(classes, dim))
        self.proj = Linear(width, dim)
        rates = rising(config.drop_path, config.depth)
        self.blocks = Blocks([DroppedBlock(dim, heads, config.dropout, rate) for rate in rates])
        self.norm = nn.LayerNorm(dim)
        self.of_patches, self.of_classes = (Linear(dim, dim, bias=False) for _ in range(2))
        self.scale = nn.LayerNorm(classes)
        trunc_normal_linear(self)
        nn.init.trunc_normal_(self.classes, std=0.02)
        for layer in (self.of_patches, self.of_classes):
            nn.init.normal_(layer.weight, std=dim**-0.5)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w k"]:
        b, h, w, _ = x.shape
        classes = self.classes.expand(b, -1, -1)
        tokens = self.norm(self.blocks(torch.cat([self.proj(x.flatten(1, 2)), classes], 1)))
        p, c = self.of_patches(tokens[:, : h * w]), self.of_classes(tokens[:, h * w :])
        p, c = (y / y.norm(dim=-1, keepdim=True) for y in (p, c))
        return self.scale(p @ c.mT).unflatten(1, (h, w))
