"""The two towers of CLIP as OWL-ViT uses them: every patch of an image, one vector a sentence.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
arXiv 2103.00020. Patches have no bias, a LayerNorm comes before the blocks, GELU is the quick form
and LayerNorm's eps 1e-5. The class token has no row in the position table: a row of a checkpoint
that is added to it is folded into the token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.attention import Attention, attend, attention_weights
from vitrail.layers.conv import Conv2d
from vitrail.layers.ffn import QuickMlp
from vitrail.layers.linear import Linear
from vitrail.layers.patches import PatchTokens
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, Blocks, DropPath, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models.trunk.backbone import Isotropic, Level

LAYER_NORM = partial(nn.LayerNorm, eps=1e-5)


@dataclass(frozen=True)
class Vision:
    """Sizes of an image tower with square patches of `patch` pixels."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    patch: int = 32
    drop_path: float = 0.0


@dataclass(frozen=True)
class Text:
    """Sizes of a text tower for at most `length` ids below `vocabulary`."""

    vocabulary: int = 49_408
    length: int = 16
    dim: int = 512
    depth: int = 12
    heads: int = 8
    hidden: int = 2048
    drop_path: float = 0.0


class WholePath(DropPath):
    """Zeroes whole samples in training and leaves the others as they are, as OWL-ViT's code."""

    def forward(self, x: Float[Tensor, "b *s"]) -> Float[Tensor, "b *s"]:
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < 1 - self.rate
        return x * kept.to(x.dtype)


class Biased(Attention):
    """Attention with something added to its logits: (B, N, C) and (B, 1, N, N) to (B, N, C)."""

    def forward(self, x: Float[Tensor, "b n c"], bias: Float[Tensor, "b 1 n n"]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        out = attend(*self._heads(x), bias=bias)
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def weights(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b n c"], bias: Float[Tensor, "b 1 n n"]
    ) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom: attention of every head, rows are queries."""
        q, k, _ = self._heads(x)
        return attention_weights(q, k, bias=bias, scale=self.scale)


class TextBlock(Block):
    """A block whose mixer is `Biased`."""

    def forward(self, x: Float[Tensor, "b n c"], bias: Float[Tensor, "b 1 n n"]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = x + self.drop_path(self.mixer(self.norm1(x), bias))
        return x + self.drop_path(self.ffn(self.norm2(x)))


def visible(tokens: Int[Tensor, "b n"], dtype: torch.dtype) -> Float[Tensor, "b 1 n n"]:
    """Return 0 where a token sees one that is not padding and not behind it, else the lowest
    number: a token that sees none then sees all alike, as in the authors' code."""
    causal = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device)
    seen = causal.tril() & (tokens > 0)[:, None, None]
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _sized(block: type[Block], mixer: nn.Module, size: Vision | Text, rate: float) -> Block:
    made = block(size.dim, mixer, QuickMlp(size.dim, size.hidden), norm=LAYER_NORM)
    made.drop_path = WholePath(rate)
    return made


class Patches(PatchTokens):
    """Patches behind a class token, all of them normed: (B, channels, H, W) to (B, 1 + n, C).

    A smaller image takes the upper left part of the positions, as the authors' code does, or all
    of them resized bicubically if `resized`.
    """

    def __init__(
        self, size: Vision, image: tuple[int, int], channels: int, *, resized: bool
    ) -> None:
        super().__init__()
        self.patch, self.resized = size.patch, resized
        self.made_for = self.grid(*image)
        rows, std = self.made_for[0] * self.made_for[1], size.dim**-0.5
        self.proj = Conv2d(channels, size.dim, size.patch, size.patch, bias=False)
        self.token = nn.Parameter(torch.randn(1, 1, size.dim) * std)
        self.position = nn.Parameter(torch.randn(1, rows, size.dim) * std)
        self.norm = LAYER_NORM(size.dim)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        if h % self.patch or w % self.patch or not h or not w:
            raise ValueError(
                f"image is {h}x{w}; patches of {self.patch} pixels need multiples of "
                f"{self.patch}: pad or resize it"
            )
        return h // self.patch, w // self.patch

    def behind(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n2 c"]:
        return self.norm(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 n c"]:
        if self.resized:
            return bicubic_grid(self.position, self.made_for, grid)
        if grid[0] > self.made_for[0] or grid[1] > self.made_for[1]:
            most, seen = ("x".join(str(n * self.patch) for n in g) for g in (self.made_for, grid))
            raise ValueError(
                f"image is {seen}, positions are for {most} at most: resize it, or load the "
                f"weights with image={(grid[0] * self.patch, grid[1] * self.patch)}"
            )
        table = self.position.unflatten(1, self.made_for)
        return table[:, : grid[0], : grid[1]].flatten(1, 2)


class ImageTower(Isotropic):
    """An image (B, channels, H, W) to normed tokens of the class and of every patch."""

    undecayed = ("embed.position", "embed.token")

    def __init__(
        self, size: Vision, image: tuple[int, int], channels: int, *, resized: bool
    ) -> None:
        super().__init__(
            size,
            embed=Patches(size, image, channels, resized=resized),
            blocks=[
                _sized(Block, Attention(size.dim, size.heads), size, rate)
                for rate in rising(size.drop_path, size.depth)
            ],
            norm=LAYER_NORM(size.dim),
            pool=FirstToken(),
            head=nn.Identity(),
            levels=[Level(size.patch, size.dim)],
        )


class TextTower(nn.Module):
    """Ids of tokens (B, N) to vectors (B, width): what the end of the sentence has read.

    The end is the largest id. Tokens see only what is before them and is not padding, id 0. Raises
    ValueError for more than `length` ids.
    """

    def __init__(self, size: Text, width: int) -> None:
        super().__init__()
        self.config = size
        self.embed = nn.Embedding(size.vocabulary, size.dim)
        self.position = nn.Parameter(torch.randn(1, size.length, size.dim) * 0.01)
        self.blocks = Blocks(
            _sized(TextBlock, Biased(size.dim, size.heads), size, rate)
            for rate in rising(size.drop_path, size.depth)
        )
        self.norm = LAYER_NORM(size.dim)
        self.head = Linear(size.dim, width, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=size.dim**-0.5)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b width"]:
        most = self.config.length
        if tokens.ndim != 2 or tokens.shape[1] > most:
            raise ValueError(
                f"tokens are {tuple(tokens.shape)}; this text tower takes (B, N) with N of at "
                f"most {most}: cut sentences to that length"
            )
        x = self.embed(tokens) + self.position[:, : tokens.shape[1]]
        bias = visible(tokens, x.dtype)
        for block in self.blocks:
            x = self.blocks.run(block, x, bias)
        x = self.norm(x)
        return self.head(x[torch.arange(len(x), device=x.device), tokens.argmax(1)])
