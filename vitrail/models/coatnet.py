"""CoAtNet: inverted bottlenecks in the first stages, relative attention over the map in the last.

Dai et al., "CoAtNet: Marrying Convolution and Attention for All Data Sizes", NeurIPS 2021, arXiv
2106.04803. A learned scalar for every offset, which no input changes, is added to the logits of
attention: a depthwise convolution and self-attention under one softmax.

No code and no weights were published. `down` "max" is the paper's way to half the size: 2x2 max
pools, and stride 2 in the 1x1 expansion of a bottleneck, which its operations confirm. "average"
is timm's `coatnet_0` to `coatnet_5`: 2x2 average pools, stride in the depthwise convolution. Both
have the same tensors, so nothing in a file tells them apart: `identify` says timm's of its names.
timm's models with `rw`, `rmlp`, `bn` or `cc` in their names, the only ones with published weights,
are other designs (SiLU, widths of the narrower side) and are not read. What the paper leaves open
is as in timm: eps 1e-5 and 1e-6, exact GELU, even padding, a normed tanh layer before the classes.
`coatnet_5` has heads of 64 channels, timm's of 32.

Any image may be given. Maps of odd sides round up, a pool at their border takes what is there
(timm rounds down, and fails); tables belong to the whole map of the config's image and are
resized, half-pixel bilinear, for every other: on the way, or once by `load(..., image=...)`.
The sign is query minus key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from operator import mul

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.conv import Conv2d, ConvNorm, channels_first, channels_last
from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear
from vitrail.layers.mbconv import MBConv
from vitrail.layers.position import KeptTable, bilinear_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import Mean
from vitrail.models.names import coatnet as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table


@dataclass(frozen=True)
class Config:
    """Sizes of a CoAtNet. Behind the stem come runs of blocks: `layout` has a letter for each, C
    for bottlenecks and T for attention; `dims`, `depths` and `strides` (1 or 2, of the first
    block) an entry. A run of stride 1 belongs to the stage before it. `stem` and `stem_stride`
    are the stem's, `channels_per_head` is the width of a head, `down` "max" or "average"."""

    stem: int = 64
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 3, 5, 2)
    layout: str = "CCTT"
    strides: tuple[int, ...] = (2, 2, 2, 2)
    stem_stride: int = 2
    channels_per_head: int = 32
    down: str = "max"
    drop_path: float = 0.2
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_ONE = Config(depths=(2, 6, 14, 2), drop_path=0.3)
_THREE = replace(_ONE, stem=192, dims=(192, 384, 768, 1536), drop_path=0.7)
_FOUR = replace(_THREE, depths=(2, 12, 28, 2))
_SIX = replace(
    _THREE,
    dims=(192, 384, 768, 1536, 2048),
    depths=(2, 4, 8, 42, 2),
    layout="CCCTT",
    strides=(2, 2, 2, 1, 2),
    channels_per_head=128,
)
_SIZES = [
    Config(),
    _ONE,
    replace(_ONE, stem=128, dims=(128, 256, 512, 1024), drop_path=0.5),
    _THREE,
    _FOUR,
    replace(_FOUR, dims=(256, 512, 1280, 2048), channels_per_head=64),
    _SIX,
    replace(_SIX, dims=(256, 512, 1024, 2048, 3072)),
]
_PAIRS = "published operations are the products, counted here, and 14 a head and pair of positions"
_NOTES = {
    (3, 224): "published are 168 M: right for 384 and 512 pixels, whose tables are larger",
    (6, 224): "published are 1470 M and 1521 G, right for a last stage of width 3072, not 2048",
}
_NOTES[6, 512] = _NOTES[6, 224]
# size, image; parameters (published is one figure for all images: 275 M of size 4, 168 M of 3),
# multiply-adds, accuracies by the data trained on before ImageNet-1k (size 4: 150 epochs)
_ROWS = [
    (0, 224, 25.0, 4.2, {"": 81.6}),
    (1, 224, 42.0, 8.4, {"": 83.3}),
    (2, 224, 75.0, 15.7, {"": 84.1}),
    (3, 224, 166.97, 34.7, {"": 84.5}),
    (4, 224, 275.0, None, {"": None}),
    (5, 224, 688.0, None, {"": None}),
    (6, 224, 1348.4, None, {"": None}),
    (7, 224, 2440.0, None, {"": None}),
    (0, 384, 25.0, 13.4, {"": 83.9}),
    (1, 384, 42.0, 27.4, {"": 85.1}),
    (2, 384, 75.0, 49.8, {"": 85.7, "_21k": 87.1}),
    (3, 384, 168.0, 107.4, {"": 85.8, "_21k": 87.6, "_jft": 88.52}),
    (4, 384, 276.4, 189.5, {"_21k": 88.4}),
    (2, 512, 75.0, 96.7, {"": 85.9, "_21k": 87.3}),
    (3, 512, 168.0, 203.1, {"": 86.0, "_21k": 87.9, "_jft": 88.81}),
    (4, 512, 277.7, 360.9, {"_21k": 88.56, "_jft": 89.11}),
    (5, 512, 688.0, 812.0, {"_jft": 89.77}),
    (6, 512, 1350.1, 1521.0, {"_jft": 90.45}),
    (7, 512, 2440.0, 2586.0, {"_jft": 90.88}),
]
_TIMM_ROWS = [(25.04, 4.55), (42.23, 8.64), (74.68, 16.4), (166.97, 36.5), (275.43, None)]
# timm's come first: its names are then taken for its models, which have the same tensors
VARIANTS = {
    f"coatnet_{n}_timm": Variant(
        replace(_SIZES[n], down="average", channels_per_head=32), params_m=params_m, flops_g=flops_g
    )
    for n, (params_m, flops_g) in enumerate([*_TIMM_ROWS, (687.47, None)])
} | {
    f"coatnet_{n}{'' if side == 224 else f'_{side}'}{data}": Variant(
        replace(_SIZES[n], image=(side, side)),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        note=_NOTES.get((n, side), _PAIRS if side > 224 and n < 6 else ""),
    )
    for n, side, params_m, flops_g, accuracies in _ROWS
    for data, top1 in accuracies.items()
}

SPACE = Small(
    Config(drop_path=0.0),
    {
        ("stem", "dims", "depths", "layout", "strides"): (
            (16, (32, 64), (1, 2), "CT", (2, 2)),
            (32, (64, 128), (2, 2), "CT", (2, 2)),
            (32, (48, 96, 192), (1, 2, 2), "CCT", (1, 2, 2)),
            (32, (64, 128, 256), (2, 3, 2), "CTT", (2, 2, 2)),
        ),
        "stem_stride": (2, 1),
    },
)


NAMES = names.TABLES


def _stage(config: Config, i: int) -> tuple[int, int]:
    """Return rows and columns of a stage's map: runs of stride 1 are in the stage before them."""
    stride = list(dict.fromkeys(strides(config)))[i]
    return -(-config.image[0] // stride), -(-config.image[1] // stride)


POSITIONS = (
    Table(
        "stages.{i}.blocks.{j}.mixer.bias.table",
        lambda c, i, j: _sides(_stage(c, i)),
        bilinear_grid,
        axes=(0,),
    ),
)


def strides(config: Config) -> list[int]:
    """Return the pixels of the image per position, in each run."""
    return list(accumulate(config.strides, mul, initial=config.stem_stride))[1:]


def grids(config: Config) -> list[tuple[int, int]]:
    """Return the rows and columns of the map in each run, at the config's image."""
    h, w = config.image
    return [(-(-h // s), -(-w // s)) for s in strides(config)]


def _sides(grid: tuple[int, int]) -> tuple[int, int]:
    """Return how many offsets there are between the rows of a map, and between its columns."""
    return 2 * grid[0] - 1, 2 * grid[1] - 1


_norm = partial(nn.LayerNorm, eps=1e-6)


class Stem(nn.Module):
    """Two 3x3 convolutions, the first with the stride, BatchNorm and GELU: (B, channels, H, W)
    to a map (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, c = config, config
        self.conv1 = ConvNorm(c.channels, c.stem, 3, stride=c.stem_stride)
        self.act = nn.GELU()
        self.conv2 = Conv2d(c.stem, c.stem, 3, padding=1, bias=False)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "coatnet")
        x = image.contiguous(memory_format=torch.channels_last)
        return channels_last(self.conv2(self.conv1.then(x, self.act)))


class Half(nn.Module):
    """The largest or the mean of 2x2 positions, at a border of those there are: (B, h, w, C) to
    (B, h/2, w/2, C), rounded up."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c"]:
        x = channels_first(x)
        if self.kind == "max":
            return channels_last(F.max_pool2d(x, 2, ceil_mode=True))
        return channels_last(F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False))


class EverySecond(nn.Module):
    """Every second row and column of a map: what a 1x1 convolution of stride 2 sees."""

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c"]:
        return x[:, ::2, ::2]


class RelativeBias(KeptTable):
    """A scalar for each head and offset, *query minus key*: a map's size to (1, heads, n, n).

    `table` has a row an offset, for maps of `grid`; for others it is resized. The result is kept
    without gradients: heads n^2 numbers.
    """

    def __init__(self, heads: int, grid: tuple[int, int]) -> None:
        super().__init__(torch.zeros(math.prod(_sides(grid)), heads))
        self.grid = grid

    def forward(self, size: tuple[int, int]) -> Float[Tensor, "1 heads n n"]:
        return self._kept_or(lambda: self._dense(*size), size)

    def _dense(self, h: int, w: int) -> Tensor:
        rows, columns = _sides((h, w))
        table = bilinear_grid(self.table[None], _sides(self.grid), (rows, columns))
        # A query's keys are a window of the reversed table; queries go through it backwards.
        table = table[0].mT.reshape(-1, rows, columns).flip(1, 2)
        windows = table.unfold(1, h, 1).unfold(2, w, 1)
        return windows.flip(1, 2).reshape(1, -1, h * w, h * w)


class RelativeAttention(nn.Module):
    """Attention over a whole map with a relative bias: (B, h, w, C) to (B, h, w, C')."""

    def __init__(self, dim_in: int, dim: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = Linear(dim_in, 3 * dim), Linear(dim, dim)
        self.bias = RelativeBias(heads, grid)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c2"]:
        q, k, v, bias = self._heads(x)
        out = attend(q, k, v, bias=bias).transpose(1, 2)
        return self.proj(out.reshape(*x.shape[:3], -1))

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom: attention of every head, rows are queries."""
        q, k, _, bias = self._heads(x)
        return attention_weights(q, k, bias=bias)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        b, h, w, _ = x.shape
        q, k, v = self.qkv(x).view(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v, self.bias((h, w))


class FirstBlock(Block):
    """Proj(Pool(x)) + Attn(Pool(LN(x))), then x + FFN(LN(x)): (B, h, w, C) to (B, h', w', C').

    `pool` halves the map, or keeps it where only the width changes.
    """

    def __init__(
        self, dim_in: int, dim: int, mixer: nn.Module, pool: nn.Module, drop_path: float
    ) -> None:
        super().__init__(dim, mixer, Mlp(dim, 4 * dim), norm=_norm, drop_path=drop_path)
        self.norm1, self.pool = _norm(dim_in), pool
        self.shortcut = _shortcut(dim_in, dim, pool)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        y = self.mixer(self.pool(self.norm1(x)))
        x = self.shortcut(x) + self.drop_path(y)
        return x + self.drop_path(self.ffn(self.norm2(x)))


def _shortcut(dim_in: int, dim: int, pool: nn.Module) -> nn.Module:
    return nn.Sequential(pool, nn.Identity() if dim_in == dim else Linear(dim_in, dim))


def _bottleneck(c: Config, dims: tuple[int, int], stride: int, rate: float) -> nn.Module:
    early = stride > 1 and c.down == "max"
    pool = nn.Identity() if stride == 1 else Half(c.down)
    return MBConv(
        *dims,
        stride=1 if early else stride,
        thin=EverySecond() if early else None,
        shortcut=_shortcut(*dims, pool),
        drop_path=rate,
    )


def _transformer(
    c: Config, dims: tuple[int, int], stride: int, rate: float, grid: tuple[int, int]
) -> nn.Module:
    dim = dims[1]
    mixer = RelativeAttention(*dims, dim // c.channels_per_head, grid)
    if stride == 1 and dims[0] == dim:
        return Block(dim, mixer, Mlp(dim, 4 * dim), norm=_norm, drop_path=rate)
    return FirstBlock(*dims, mixer, nn.Identity() if stride == 1 else Half(c.down), rate)


class CoAtNet(Pyramid):
    """Stem, stages of bottlenecks, stages of attention, mean, a normed tanh layer, linear."""

    undecayed = ("bias.table",)

    def __init__(self, config: Config) -> None:
        c = config
        _check(c)
        rates = iter(rising(c.drop_path, sum(c.depths)))
        stages, levels, before = [], [], c.stem
        runs = zip(c.layout, c.dims, c.depths, c.strides, strides(c), grids(c), strict=True)
        for kind, dim, depth, step, stride, grid in runs:
            blocks = []
            for j in range(depth):
                sizes = c, (dim if j else before, dim), 1 if j else step, next(rates)
                blocks.append(_transformer(*sizes, grid) if kind == "T" else _bottleneck(*sizes))
            if step == 1 and stages:
                blocks = [*stages.pop().blocks, *blocks]
                levels.pop()
            stages.append(Stage(nn.Identity(), blocks))
            levels.append(Level(stride, dim))
            before = dim
        super().__init__(
            config,
            stem=Stem(config),
            stages=stages,
            norm=nn.Identity(),
            pool=nn.Sequential(Mean(), _norm(before), Linear(before, before), nn.Tanh()),
            head=linear_head(before, c.classes),
            levels=levels,
        )
        for name, value in self.named_parameters():
            if value.ndim > 1:
                nn.init.normal_(value, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(value)


def _check(c: Config) -> None:
    """Raise ValueError unless the sizes fit together."""
    runs = {len(of) for of in (c.layout, c.dims, c.depths, c.strides)}
    one = len(runs) == 1 and c.layout and set(c.layout) <= set("CT")
    if not one or min(c.depths) < 1 or min(c.dims) < 4:  # a quarter of a width is squeezed to
        raise ValueError(
            f"layout {c.layout!r}, dims {c.dims}, depths {c.depths}, strides {c.strides}: expected "
            "a letter C or T, a width from 4, blocks from 1 and a stride for every run"
        )
    if {c.stem_stride, *c.strides} - {1, 2} or c.down not in ("max", "average"):
        raise ValueError(
            f"stem_stride {c.stem_stride}, strides {c.strides}, down {c.down!r}: expected strides "
            "of 1 or 2, and max or average"
        )
    wide = [dim for kind, dim in zip(c.layout, c.dims, strict=True) if kind == "T"]
    width = c.channels_per_head
    if wrong := [dim for dim in wide if width < 1 or dim % width]:
        raise ValueError(
            f"dim {wrong[0]} does not divide into heads of {width} channels: choose multiples"
        )
    if min(c.image) < (stride := strides(c)[-1]):
        h, w = c.image
        raise ValueError(
            f"image is {h}x{w}; expected sides from {stride}, the stride of this coatnet's last "
            "stage: take strides of 1, fewer runs or a larger image"
        )


MODEL = CoAtNet
