"""CvT: overlapping convolutions make the tokens, depthwise ones the queries, keys and values.

Wu et al., "CvT: Introducing Convolutions to Vision Transformers", ICCV 2021, arXiv
2103.15808. A pyramid without positions. The class token enters in the last stage only; the
convolutions, and their BatchNorms, pass it by. As in the authors' code, attention is scaled
by dim**-0.5 (the full width, not a head's), the activation is QuickGELU (transformers
computes the exact GELU, which moves logits by up to 0.03) and stochastic depth rises within
the last stage only. The first embedding drops a row of images of 4 n + 1 or 4 n + 2 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv, ConvNorm, channels_first, channels_last
from vitrail.layers.ffn import QuickMlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken, Mean
from vitrail.models.names import cvt as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.sizes import PerBlock, by_stage


@dataclass(frozen=True)
class Config:
    """Sizes of a CvT by stage; `kernels`, `strides` and `paddings` are the token embeddings'.
    `projections` are "conv" (depthwise, keys and values with stride 2), "avg" (keys and values
    averaged, queries left alone) or "linear" (no neighbours). `pool` is "token" or "mean". Entries
    of `heads`, `inner` (channels of all heads, without entries `dims`) and `hidden` (without
    entries `mlp_ratio` times as many) are one number or one a block."""

    dims: tuple[int, ...] = (64, 192, 384)
    depths: tuple[int, ...] = (1, 2, 10)
    heads: tuple[PerBlock, ...] = (1, 3, 6)
    kernels: tuple[int, ...] = (7, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2)
    paddings: tuple[int, ...] = (2, 1, 1)
    projections: tuple[str, ...] = ("conv", "conv", "conv")
    mlp_ratio: int = 4
    pool: str = "token"
    inner: tuple[PerBlock, ...] = ()
    hidden: tuple[PerBlock, ...] = ()
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_13, _21 = Config(), Config(depths=(1, 4, 16))
_W24 = Config(dims=(192, 768, 1024), depths=(2, 2, 20), heads=(3, 12, 16), drop_path=0.3)

VARIANTS = {
    name: Variant(
        replace(config, image=(side, side)),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"transformers": f"hf-hub:microsoft/{hub}"},
        note="the last block computes the class token's row only, the published figure all rows",
    )
    for name, config, side, params_m, flops_g, top1, hub in [
        ("cvt_13", _13, 224, 20.0, 4.5, 81.6, "cvt-13"),
        ("cvt_21", _21, 224, 32.0, 7.1, 82.5, "cvt-21"),
        ("cvt_13_384", _13, 384, 20.0, 16.3, 83.0, "cvt-13-384"),
        ("cvt_21_384", _21, 384, 32.0, 24.9, 83.3, "cvt-21-384"),
        ("cvt_w24_384", _W24, 384, 277.0, 193.2, 87.7, "cvt-w24-384-22k"),
    ]
}

SPACE = Small(
    Config(kernels=(5, 3, 3), mlp_ratio=2, pool="mean", drop_path=0.0),
    {
        ("dims", "heads"): (((32, 64, 96), (1, 2, 3)), ((48, 96, 192), (1, 2, 4))),
        "depths": ((1, 1, 2), (1, 2, 4)),
        "strides": ((2, 2, 2), (4, 2, 2)),
    },
)

Grid = tuple[int, int]
NAMES = names.TABLES
WIDTHS = names.widths


class ConvAttention(nn.Module):
    """Attention whose q, k and v see their surroundings: (B, prefix + h w, C) to the same, or
    with `prefix_only` to (B, prefix, C). Prefix tokens are projected as they are. `inner`, the
    channels of all heads, is C unless given; the scale is C**-0.5 whatever they are."""

    def __init__(
        self, dim: int, heads: int, projection: str = "conv", inner: int | None = None
    ) -> None:
        super().__init__()
        inner = dim if inner is None else inner
        head_width(inner, heads)
        self.heads, self.scale = heads, dim**-0.5
        self.q_map, self.k_map, self.v_map = (_seen(projection, dim, s) for s in (1, 2, 2))
        self.q, self.k, self.v = (Linear(dim, inner) for _ in range(3))
        self.proj = Linear(inner, dim)

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid, prefix_only: bool = False) -> Tensor:
        q, k, v = self._heads(x, grid, prefix_only)
        out = attend(q, k, v, scale=self.scale)
        return self.proj(out.transpose(1, 2).flatten(2))

    def weights(self, x: Float[Tensor, "b n c"], grid: Grid, prefix_only: bool = False) -> Tensor:
        """Return who looks at whom, (B, heads, rows, prefix + keys): attention of every head."""
        q, k, _ = self._heads(x, grid, prefix_only)
        return attention_weights(q, k, scale=self.scale)

    def _heads(self, x: Tensor, grid: Grid, prefix_only: bool) -> list[Tensor]:
        prefix = x[:, : x.shape[1] - grid[0] * grid[1]]
        # One copy at most here, instead of one in each of the three convolutions.
        image = channels_first(x[:, prefix.shape[1] :].unflatten(1, grid).contiguous())

        def tokens(module: nn.Module) -> Tensor:
            found = module(image).flatten(2).mT
            return torch.cat([prefix, found], 1) if prefix.shape[1] else found

        q = prefix if prefix_only else tokens(self.q_map)
        projected = self.q(q), self.k(tokens(self.k_map)), self.v(tokens(self.v_map))
        return [y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in projected]


def _seen(projection: str, dim: int, stride: int) -> nn.Module:
    """Return what a query (stride 1), or a key or value (stride 2), sees: on (B, C, h, w)."""
    if projection == "conv":
        return ConvNorm(dim, dim, 3, stride=stride, groups=dim)
    if projection not in ("avg", "linear"):
        raise ValueError(f"projection is {projection!r}: expected conv, avg or linear")
    pooled = projection == "avg" and stride > 1
    return nn.AvgPool2d(3, stride, 1, ceil_mode=True) if pooled else nn.Identity()


class GridBlock(Block):
    """The pre-norm block for a mixer that must know the grid: (B, prefix + h w, C)."""

    def forward(self, x: Tensor, grid: Grid, prefix_only=False) -> Tensor:  # pyright: ignore
        y = self.mixer(self.norm1(x), grid, prefix_only)
        x = x[:, : y.shape[1]] + self.drop_path(y)
        return x + self.drop_path(self.ffn(self.norm2(x)))


class TokenStage(Stage):
    """Token embedding, a class token of width `token` unless that is 0, blocks."""

    def __init__(self, down: nn.Module, blocks: list, token: int) -> None:
        super().__init__(down, blocks)
        self.token = nn.Parameter(torch.randn(1, 1, token) * 0.02) if token else None

    def tokens(self, x: Tensor, prefix_only: bool) -> tuple[Tensor, Grid]:
        """Turn (B, H, W, C) into tokens (B, prefix + h w, C'), or the prefix alone, and (h, w)."""
        x = self.down(x)
        grid = (x.shape[1], x.shape[2])
        x = x.flatten(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks[:-1]:
            x = self.blocks.run(block, x, grid)
        prefix_only = prefix_only and self.token is not None
        return self.blocks.run(self.blocks[-1], x, grid, prefix_only), grid

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x, (h, w) = self.tokens(x, False)
        return x[:, x.shape[1] - h * w :].unflatten(1, (h, w))


class Stem(nn.Module):
    """The first token embedding: image (B, channels, H, W) to (B, h, w, C)."""

    def __init__(self, config: Config, down: nn.Module) -> None:
        super().__init__()
        self.config, self.down = config, down

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "cvt")
        return self.down(channels_last(image))


class CvT(Pyramid):
    """Stages of convolutional attention; the last one's class token, or mean, is classified."""

    undecayed = ("token",)

    def __init__(self, config: Config) -> None:
        c = config
        sizes = (c.dims, c.depths, c.heads, c.kernels, c.strides, c.paddings, c.projections)
        if len({len(s) for s in sizes}) > 1 or 0 in c.depths:
            raise ValueError(f"sizes {sizes} of cvt: expected one entry a stage, depths from 1 up")
        if c.pool not in ("token", "mean"):
            raise ValueError(f"pool is {c.pool!r}: expected token or mean")
        usual = [(dim, c.mlp_ratio * dim) for dim in c.dims]
        widths = by_stage((c.heads, c.inner, c.hidden), c.depths, usual)
        sizes = (c.dims, widths, c.kernels, c.strides, c.paddings, c.projections)
        downs, parts, levels, stride, dim_in = [], [], [], 1, c.channels
        for dim, own, kernel, step, padding, projection in zip(*sizes, strict=True):
            last = len(parts) == len(c.dims) - 1
            blocks = [
                GridBlock(
                    dim,
                    ConvAttention(dim, size.heads, projection, size.inner),
                    QuickMlp(dim, size.hidden),
                    drop_path=rate,
                )
                for rate, size in zip(
                    rising(c.drop_path if last else 0.0, len(own)), own, strict=True
                )
            ]
            downs.append(nn.Sequential(Conv(dim_in, dim, kernel, step, padding), nn.LayerNorm(dim)))
            token = dim if last and c.pool == "token" else 0
            parts.append(TokenStage(downs[-1] if parts else nn.Identity(), blocks, token))
            stride, dim_in = stride * step, dim
            levels.append(Level(stride, dim))
        stem, norm, head = Stem(c, downs[0]), nn.LayerNorm(dim_in), linear_head(dim_in, c.classes)
        pool = FirstToken() if c.pool == "token" else Mean()
        super().__init__(c, stem=stem, stages=parts, norm=norm, pool=pool, head=head, levels=levels)
        trunc_normal_linear(self)

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        x = self.stem(image)
        for stage in self.stages[:-1]:
            x = stage(x)
        # Nothing reads the last block's other rows; only DDP wants every parameter used.
        x, _ = self.stages[-1].tokens(x, not self.training)  # pyright: ignore[reportCallIssue]
        return self.pool(self.norm(x))


def idle(config: Config) -> tuple[str, ...]:
    """Return parts of names of parameters that no gradient reaches: nothing reads what the patches
    ask in the last block.
    """
    last = len(config.depths) - 1, config.depths[-1] - 1
    return ("stages.{}.blocks.{}.mixer.q_map.".format(*last),) if config.pool == "token" else ()


MODEL = CvT
