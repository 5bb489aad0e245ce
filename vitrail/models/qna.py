"""QnA: local attention whose queries are learned and shared by all windows.

Arar, Shamir and Bermano, "Learned Queries for Efficient Local Attention", CVPR 2022, arXiv
2112.11435. As every window asks the same, a key's score does not depend on who asks: it is
computed once a position, straight from the input, and no key is ever formed. Attention is then
the ratio of two depthwise convolutions, of exp(score) * value and of exp(score), and no
neighbour is gathered or copied. A position's bias multiplies both kernels; the weights that
join several queries are in the first only, so that what is applied to the values neither sums
to one nor has to be positive. Between the stages the same layer has stride 2. The later stages
begin with ordinary attention within windows. A head may read the whole last map in the same way.

The authors exponentiate scores as they are. Here the map's maximum is subtracted, for each
query and head, which changes nothing, and what lies more than 40 below it is raised to there:
beside the maximum float32 would not see it, and a window without any such score keeps a sum.

The authors' windows of attention divide the map. Here a side that is not a multiple of the window
is cut into the fewest equal windows no larger than it, what is beyond the map being masked: at
384 pixels a map of 24 has two windows of 12 for one of 14, and nothing is resampled. Stem and
strides round up, as "SAME" padding does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv, channels_last
from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear
from vitrail.layers.position import BiasTable, bicubic_grid, offset_index
from vitrail.layers.residual import Block, DropPath, rising
from vitrail.layers.tokens import Mean
from vitrail.models.names.qna import TABLES
from vitrail.models.parts.learned_queries import (
    PooledConv,
    QnA,
    Reader,
    lecun_normal,
)
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table

NAMES = TABLES


@dataclass(frozen=True)
class Config:
    """Sizes of a QnA-ViT: `dim` of the first stage, doubled by each; per stage its blocks with
    learned queries (`qna`; that of stride 2, which follows, is not counted), those of attention
    within `windows` (`lsa`, which come first), and the heads of both kinds. The `skip` around a
    block of stride 2 is a "conv" of stride 2, or an average "pool" before one; `pool` is the "mean"
    of the last map, what learned queries read of all of it, "qna", or the sum of "both"."""

    dim: int = 64
    qna: tuple[int, ...] = (2, 3, 2, 0)
    lsa: tuple[int, ...] = (0, 0, 4, 2)
    qna_heads: tuple[int, ...] = (8, 16, 32, 64)
    lsa_heads: tuple[int, ...] = (2, 4, 8, 16)
    kernel: int = 3
    queries: int = 2
    windows: tuple[int, ...] = (7, 7, 14, 7)
    skip: str = "conv"
    pool: str = "mean"
    patch: int = 4
    drop_path: float = 0.05
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


COUNTED = "our count, of matrix products and convolutions only, is up to 3 % less than published"
_TINY, _SMALL = Config(), Config(qna=(2, 3, 6, 0), lsa=(0, 0, 12, 2), drop_path=0.2)
_BASE = replace(_SMALL, dim=96, qna_heads=(6, 12, 24, 48), lsa_heads=(3, 6, 12, 24), drop_path=0.5)
VARIANTS = {
    "qna_vit_tiny": Variant(_TINY, params_m=16.0, flops_g=2.5, top1=81.7, note=COUNTED),
    "qna_vit_tiny_7x7": Variant(
        replace(_TINY, kernel=7), params_m=16.0, flops_g=2.6, top1=82.0, note=COUNTED
    ),
    "qna_vit_small": Variant(_SMALL, params_m=25.0, flops_g=4.4, top1=83.2),
    "qna_vit_base": Variant(_BASE, params_m=56.0, flops_g=9.7, top1=83.9, note=COUNTED),
}

SPACE = Small(
    Config(windows=(7, 7), drop_path=0.0),
    {
        ("dim", "qna", "lsa", "qna_heads", "lsa_heads", "windows"): (
            (32, (2, 1), (0, 1), (4, 8), (1, 2), (7, 7)),
            (48, (2, 2), (0, 2), (6, 12), (2, 4), (7, 7)),
            (64, (2, 2), (0, 2), (8, 16), (2, 4), (7, 7)),
            (48, (2, 2, 0), (0, 1, 2), (6, 12, 24), (2, 4, 8), (7, 7, 7)),
        ),
        "kernel": (3, 5),
        "queries": (1, 2),
        "patch": (2, 4, 8),
    },
)


POOLS = ("mean", "qna", "both")
SKIPS: dict[str, Callable[[int, int], nn.Module]] = {
    "conv": lambda dim, kernel: Conv(dim, 2 * dim, 1, 2, bias=False),
    "pool": lambda dim, kernel: PooledConv(dim, 2 * dim, kernel),
}


class Strided(nn.Module):
    """The block of stride 2: (B, h, w, C) to half the map, rounded up, and twice the width.

    The `skip` projects the input as it is, not normed; only the ffn has stochastic depth.
    """

    def __init__(self, dim: int, mixer: QnA, skip: nn.Module, *, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.mixer, self.skip = nn.LayerNorm(dim, eps=1e-6), mixer, skip
        self.norm2, self.ffn = nn.LayerNorm(2 * dim, eps=1e-6), _mlp(2 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = self.skip(x) + self.mixer(self.norm1(x))
        return x + self.drop_path(self.ffn(self.norm2(x)))


def _mlp(dim: int) -> Mlp:
    return Mlp(dim, 4 * dim, act=nn.GELU(approximate="tanh"))


class EqualWindows(BiasTable):
    """How a map is cut into equal windows of at most `window` positions a side, and the bias of
    their pairs, *query minus key*, from a table ((2 window - 1)^2, heads)."""

    def __init__(self, window: int, heads: int) -> None:
        super().__init__((2 * window - 1) ** 2, heads, offset_index((window, window)))
        self.window = window

    def sides(self, grid: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the number and side of the windows along both axes of a map (H, W)."""
        counts = [-(-side // self.window) for side in grid]
        return [(n, -(-side // n)) for n, side in zip(counts, grid, strict=True)]

    def forward(self, grid: tuple[int, int] = (0, 0)) -> Float[Tensor, "n heads t t"]:
        """Return the bias (1, heads, t, t), or one for each window, where
        some reach beyond the map.
        """
        return self._kept_or(lambda: self._dense(grid), grid)

    def _dense(self, grid: tuple[int, int]) -> Tensor:
        (rows, h), (columns, w) = self.sides(grid)
        bias = self._gather().unflatten(3, (self.window,) * 2).unflatten(2, (self.window,) * 2)
        bias = bias[:, :, :h, :w, :h, :w].flatten(4).flatten(2, 3)
        if (rows * h, columns * w) == grid:
            return bias
        y, x = (torch.arange(n, device=bias.device) for n in (rows * h, columns * w))
        beyond = (y[:, None] >= grid[0]) | (x >= grid[1])
        beyond = beyond.view(rows, h, columns, w).transpose(1, 2).reshape(-1, 1, 1, h * w)
        return bias.masked_fill(beyond, float("-inf"))


class LocalAttention(nn.Module):
    """Attention within windows of a map (B, h, w, C), packed by head, each [q | k | v]."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        head_width(dim, heads)
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.bias = EqualWindows(window, heads)
        self.proj = Linear(dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        _, height, width, c = x.shape
        (rows, h), (columns, w) = self.bias.sides((height, width))
        q, k, v, bias = self._heads(x)
        out = self.proj(attend(q, k, v, bias=bias).transpose(1, 2).reshape(-1, h * w, c))
        out = out.view(-1, rows, columns, h, w, c).transpose(2, 3)
        out = out.reshape(-1, rows * h, columns * w, c)
        return out if out.shape[1:3] == (height, width) else out[:, :height, :width]

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "bn heads t t"]:
        """Return the attention of every head in every window, rows are queries."""
        q, k, _, bias = self._heads(x)
        return attention_weights(q, k, bias=bias)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grid = (x.shape[1], x.shape[2])
        (rows, h), (columns, w) = self.bias.sides(grid)
        bias = self.bias(grid)
        if len(bias) > 1:
            bias = bias.repeat(len(x), 1, 1, 1)
        if (rows * h, columns * w) != grid:
            x = F.pad(x, (0, 0, 0, columns * w - grid[1], 0, rows * h - grid[0]))
        x = x.reshape(-1, rows, h, columns, w, x.shape[3]).transpose(2, 3).flatten(3, 4)
        qkv = self.qkv(x.flatten(0, 2)).unflatten(2, (self.heads, 3, -1))
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        return q, k, v, bias


class Stem(nn.Module):
    """Patches of an image (B, channels, H, W) as a map (B, h, w, C), zeros around it where the
    patch does not divide it, the odd one below and right. Refuses an image smaller than the
    network's stride."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.proj = Conv(config.channels, config.dim, config.patch, config.patch, bias=False)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "qna")
        height, width = image.shape[2:]
        check_size((height, width), self.config)
        down, across = -height % self.config.patch, -width % self.config.patch
        if down or across:
            sides = (across // 2, across - across // 2, down // 2, down - down // 2)
            image = F.pad(image, sides)
        return self.proj(channels_last(image))


def check_size(image: tuple[int, int], config: Config) -> None:
    """Raise ValueError if the last map would hold no whole step of the network."""
    stride = config.patch * 2 ** (len(config.qna) - 1)
    if min(image) < stride:
        raise ValueError(
            f"image is {image[0]}x{image[1]}; this qna has a stride of {stride}: give at least "
            f"{stride} pixels a side, or build it with a smaller patch or fewer stages"
        )


def last_map(config: Config) -> tuple[int, int]:
    """Return the rows and columns of the last map."""
    stride = config.patch * 2 ** (len(config.qna) - 1)
    return -(-config.image[0] // stride), -(-config.image[1] // stride)


# What reads the whole last map.
POSITIONS = tuple(
    Table(f"pool.{name}", last_map, bicubic_grid, axes=(0,)) for name in ("position", "share")
)


def side(config: Config) -> int:
    """Return the side of the last map, which learned queries read whole. Raises
    ValueError unless it is square.
    """
    height, width = last_map(config)
    if height != width:
        raise ValueError(
            f"image is {config.image[0]}x{config.image[1]}: queries that read a whole map have "
            "positions of a square one; take a square image or pool='mean'"
        )
    return height


def _pool(config: Config, dim: int) -> nn.Module:
    if config.pool == "mean":
        return Mean()
    return Reader(dim, config.qna_heads[-1], side(config), added=config.pool == "both")


class QnAViT(Pyramid):
    """Patches, stages of local attention, norm, mean, linear."""

    undecayed = ("position", "share", "bias.table")

    def __init__(self, config: Config) -> None:
        c, norm = config, partial(nn.LayerNorm, eps=1e-6)
        sizes = (c.qna, c.lsa, c.qna_heads, c.lsa_heads, c.windows)
        if len({len(s) for s in sizes}) > 1 or 0 in map(sum, zip(c.qna, c.lsa, strict=True)):
            raise ValueError(f"sizes {sizes} of qna: expected one entry a stage, each with blocks")
        if min(c.windows) < 1:
            raise ValueError(f"windows are {c.windows}: expected 1 or more positions a side")
        if c.skip not in SKIPS or c.pool not in POOLS:
            raise ValueError(
                f"skip is {c.skip!r}, pool {c.pool!r}: expected {' or '.join(SKIPS)} for the one, "
                f"{', '.join(POOLS)} for the other"
            )
        check_size(c.image, c)
        rates = iter(rising(c.drop_path, sum(c.qna) + sum(c.lsa) + len(c.qna) - 1))
        dims, stages = [c.dim * 2**i for i in range(len(c.qna))], []
        asked = partial(QnA, kernel=c.kernel, queries=c.queries)
        for i, dim in enumerate(dims):
            down: nn.Module = nn.Identity()
            if i:
                mixer = asked(dims[i - 1], dim, c.qna_heads[i], stride=2)
                skip = SKIPS[c.skip](dims[i - 1], c.kernel)
                down = Strided(dims[i - 1], mixer, skip, drop_path=next(rates))
            mixers = [LocalAttention(dim, c.lsa_heads[i], c.windows[i]) for _ in range(c.lsa[i])]
            mixers += [asked(dim, dim, c.qna_heads[i]) for _ in range(c.qna[i])]
            blocks = [Block(dim, m, _mlp(dim), norm=norm, drop_path=next(rates)) for m in mixers]
            stages.append(Stage(down, blocks))
        super().__init__(
            config,
            stem=Stem(config),
            stages=stages,
            norm=norm(dims[-1]),
            pool=_pool(c, dims[-1]),
            head=linear_head(dims[-1], c.classes),
            levels=[Level(c.patch * 2**i, dim) for i, dim in enumerate(dims)],
        )
        for m in self.modules():
            if isinstance(m, nn.Linear | nn.Conv2d):
                lecun_normal(m.weight)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)


MODEL = QnAViT
