"""MaxViT: convolution, attention in windows and attention over a dilated grid in every block.

Tu et al., "MaxViT: Multi-Axis Vision Transformer", ECCV 2022, arXiv 2204.01697. A window is
P x P neighbours; a set of the grid is P x P positions spread evenly over the whole map.

As in the authors' TensorFlow code padding is SAME (uneven where the stride is 2), GELU the tanh
form, BatchNorm's eps 1e-3, and a bias belongs to *key minus query*, opposite to Swin's sign.
`dialect` "torchvision" is that library's re-implementation: even padding, exact GELU, 3x3 pools
with a projection behind them even where the width stays. Its softmax scale dim**-0.5 (not that of
a head), its sign of biases and what it has no bias for come out of loading.

Published models refuse maps that P does not divide. Ours pad them with zeros at the bottom and
right for attention, which nothing attends to, so that any image may be given; a pool at the
border of an odd map averages what is there, as TensorFlow's, while timm's counts zeros. Windows
keep their size at another image's: the larger models have larger windows, and tables for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.conv import channels_first, channels_last, folded
from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear
from vitrail.layers.mbconv import MBConv, PaddedConv2d, Pads, same, symmetric
from vitrail.layers.position import BiasTable, offset_index
from vitrail.layers.residual import Block
from vitrail.layers.tokens import Mean
from vitrail.layers.windows import pad, partition, reverse
from vitrail.models.names import maxvit as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head


@dataclass(frozen=True)
class Config:
    """Sizes of a MaxViT: widths and blocks per stage. `stem` is the width before the first one,
    `channels_per_head` that of a head, `window` the side P of windows and grids; `dialect` is
    "tensorflow" (the authors') or "torchvision"."""

    stem: int = 64
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 5, 2)
    channels_per_head: int = 32
    window: int = 7
    dialect: str = "tensorflow"
    drop_path: float = 0.2
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_DEEP = Config(dims=(96, 192, 384, 768), depths=(2, 6, 14, 2), drop_path=0.4)
_SIZES = {
    "tiny": Config(),
    "small": replace(_DEEP, depths=(2, 2, 5, 2), drop_path=0.3),
    "base": _DEEP,
    "large": replace(_DEEP, stem=128, dims=(128, 256, 512, 1024), drop_path=0.6),
    "xlarge": replace(_DEEP, stem=192, dims=(192, 384, 768, 1536), drop_path=0.6),
}
# size, parameters, and for 224, 384 and 512 pixels: multiply-adds, accuracy trained on
# ImageNet-1k, pre-trained on ImageNet-21k
_ROWS = [
    ("tiny", 30.92, (5.6, 83.62, None), (17.7, 85.24, None), (33.7, 85.72, None)),
    ("small", 68.93, (11.7, 84.45, None), (36.1, 85.74, None), (67.6, 86.19, None)),
    ("base", 119.47, (24.2, 84.95, None), (74.2, 86.34, 88.24), (138.5, 86.66, 88.38)),
    ("large", 211.79, (43.9, 85.17, None), (133.1, 86.40, 88.32), (245.4, 86.70, 88.46)),
    ("xlarge", 475.0, (97.8, None, None), (293.7, None, 88.51), (535.2, None, 88.70)),
]
_NOTE = "counted are 33.0; of what the published 2 % more consist is not said"
VARIANTS = {
    f"maxvit_{size}{'' if side == 224 else f'_{side}'}{suffix}": Variant(
        replace(_SIZES[size], window=window, image=(side, side)),
        params_m=params_m,
        flops_g=row[0],
        top1=top1,
        hub={"timm": f"hf-hub:timm/maxvit_{size}_tf_{side}.{tag}"} if top1 else {},
        note=_NOTE if (size, side) == ("tiny", 512) else "",
    )
    for size, params_m, *rows in _ROWS
    for side, window, row in zip((224, 384, 512), (7, 12, 16), rows, strict=True)
    for suffix, tag, top1 in (("", "in1k", row[1]), ("_21k", "in21k_ft_in1k", row[2]))
    if top1 or (side == 224 and not suffix)
}
VARIANTS["maxvit_tiny_torchvision"] = Variant(
    Config(dialect="torchvision"), params_m=30.92, flops_g=5.558, top1=83.7
)

SPACE = Small(
    Config(stem=32, drop_path=0.0),
    {
        ("dims", "depths"): (
            ((32, 64), (1, 1)),
            ((64, 128), (1, 2)),
            ((32, 64, 128), (1, 1, 2)),
            ((32, 64, 128, 256), (1, 1, 2, 1)),
        ),
        "window": (7, 4),
    },
)


NAMES = names.TABLES


class Dialect(NamedTuple):
    """In what the implementations differ, beside names."""

    act: nn.Module
    pads: Pads
    pool: int
    projected: bool


DIALECTS = {
    "tensorflow": Dialect(nn.GELU("tanh"), same, pool=2, projected=False),
    "torchvision": Dialect(nn.GELU(), symmetric, pool=3, projected=True),
}
_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class Stem(nn.Module):
    """Two 3x3 convolutions, the first to half the size with BatchNorm and GELU:
    (B, channels, H, W) to a map (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, dialect = config, DIALECTS[config.dialect]
        self.conv1 = PaddedConv2d(config.channels, config.stem, 3, 2, pads=dialect.pads)
        self.norm1, self.act = _norm(config.stem), dialect.act
        self.conv2 = PaddedConv2d(config.stem, config.stem, 3)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "maxvit")
        x = image.contiguous(memory_format=torch.channels_last)
        if isinstance(self.norm1, nn.Identity):
            x = self.conv1.then(x, self.act)  # pyright: ignore[reportCallIssue]
        else:
            x = self.act(self.norm1(self.conv1(x)))
        return channels_last(self.conv2(x))

    def deployed(self) -> Stem:
        """Fold BatchNorm into the convolution before it."""
        self.conv1, self.norm1 = folded(self.conv1, self.norm1), nn.Identity()  # pyright: ignore[reportArgumentType]
        return self


class Shortcut(nn.Module):
    """Average pool to half the size, then another width if asked: (B, h, w, C) to
    (B, h/2, w/2, C'), sizes rounded up."""

    def __init__(self, dim_in: int, dim: int, dialect: Dialect) -> None:
        super().__init__()
        self.kernel = dialect.pool
        other = dim_in != dim or dialect.projected
        self.proj = Linear(dim_in, dim) if other else nn.Identity()

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = channels_first(x)
        if self.kernel == 2:
            x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        else:
            x = F.avg_pool2d(x, self.kernel, 2, self.kernel // 2)
        return self.proj(channels_last(x))


def spread(x: Shaped[Tensor, "b h w c"], grid: int) -> Shaped[Tensor, "bn t c"]:
    """Turn (B, H, W, C) into (B n, grid^2, C): each set is spread evenly over the map."""
    b, h, w, c = x.shape
    x = x.view(b, grid, h // grid, grid, w // grid, c)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, grid * grid, c)


def gather(
    sets: Float[Tensor, "bn t c"], grid: int, size: tuple[int, int]
) -> Float[Tensor, "b h w c"]:
    """Return the map of (H, W) = `size` that `spread` cut."""
    h, w = size
    x = sets.view(-1, h // grid, w // grid, grid, grid, sets.shape[-1])
    return x.permute(0, 3, 1, 4, 2, 5).reshape(-1, h, w, sets.shape[-1])


class SetBias(BiasTable):
    """Bias of the pairs of a P x P set, *key minus query*; -inf to what lies beyond the map.

    forward gives (1, heads, t, t) where P divides the map of (h, w), else (n, heads, t, t) for
    the n sets that `cut` makes of it; both are kept as BiasTable keeps them.
    """

    def __init__(self, window: int, heads: int, cut: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__((2 * window - 1) ** 2, heads, offset_index((window, window)).mT)
        self.window, self.cut = window, cut
        nn.init.normal_(self.table, std=0.02)

    def forward(self, size: tuple[int, int] = (0, 0)) -> Float[Tensor, "n heads t t"]:
        if all(side % self.window == 0 for side in size):
            return super().forward()
        return self._kept_or(lambda: self._masked(size), size)

    def _masked(self, size: tuple[int, int]) -> Tensor:
        inside = pad(torch.ones(1, *size, 1, device=self.table.device), self.window)
        mask = torch.where(self.cut(inside, self.window) > 0, 0.0, -torch.inf)
        return self._gather() + mask.to(self.table.dtype).mT[:, None]


class WindowAttention(nn.Module):
    """Attention within windows of a map (B, h, w, C), with a relative bias."""

    cut, join = staticmethod(partition), staticmethod(reverse)

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.proj = Linear(dim, 3 * dim), Linear(dim, dim)
        self.bias = SetBias(window, heads, self.cut)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        h, w, c = x.shape[1:]
        q, k, v, bias, size = self._heads(x)
        out = attend(q, k, v, bias=bias).transpose(1, 2).reshape(-1, self.window**2, c)
        out = self.join(self.proj(out), self.window, size)
        return out if size == (h, w) else out[:, :h, :w]

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "bn heads t t"]:
        """Return the attention of every head in every set, rows are queries."""
        q, k, _, bias, _ = self._heads(x)
        return attention_weights(q, k, bias=bias)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int]]:
        """Return queries, keys and values of all sets, their bias, and
        the size of the padded map.
        """
        b, h, w, c = x.shape
        bias = self.bias((h, w))
        x = pad(x, self.window)
        qkv = self.qkv(self.cut(x, self.window))
        q, k, v = qkv.unflatten(2, (3, self.heads, c // self.heads)).permute(2, 0, 3, 1, 4)
        if len(bias) > 1:
            bias = bias.repeat(b, 1, 1, 1)
        return q, k, v, bias, (x.shape[1], x.shape[2])


class GridAttention(WindowAttention):
    """Attention within sets that are spread over the whole map."""

    cut, join = staticmethod(spread), staticmethod(gather)


class MaxBlock(nn.Module):
    """MBConv, attention in windows, attention over the grid, each attention with its MLP:
    (B, h, w, C) to (B, h', w', C'), of half the size with `stride` 2."""

    def __init__(
        self, config: Config, dim_in: int, dim: int, *, stride: int, drop_path: float
    ) -> None:
        super().__init__()
        heads, dialect = dim // config.channels_per_head, DIALECTS[config.dialect]
        self.conv = MBConv(
            dim_in,
            dim,
            stride=stride,
            norm=_norm,
            act=dialect.act,
            pads=dialect.pads,
            shortcut=Shortcut(dim_in, dim, dialect) if stride > 1 else None,
            drop_path=drop_path,
        )
        self.window, self.grid = (
            Block(
                dim,
                attention(dim, heads, config.window),
                Mlp(dim, 4 * dim, act=dialect.act),
                drop_path=drop_path,
            )
            for attention in (WindowAttention, GridAttention)
        )

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        return self.grid(self.window(self.conv(x)))


class MaxViT(Pyramid):
    """Stem, stages of multi-axis blocks, mean, a normed tanh layer, linear head."""

    undecayed = ("bias.table",)

    def __init__(self, config: Config) -> None:
        c, stride = config, 2 ** (len(config.dims) + 1)
        _check(c, stride)
        total, stages, levels, before = sum(c.depths), [], [], c.stem
        for dim, depth in zip(c.dims, c.depths, strict=True):
            blocks = []
            for j in range(depth):
                # As the authors count: the last block falls short of the full rate.
                rate = c.drop_path * (sum(c.depths[: len(stages)]) + j) / total
                step = 1 if j else 2
                blocks.append(MaxBlock(c, before, dim, stride=step, drop_path=rate))
                before = dim
            stages.append(Stage(nn.Identity(), blocks))
            levels.append(Level(2 ** (len(stages) + 1), dim))
        super().__init__(
            config,
            stem=Stem(config),
            stages=stages,
            norm=nn.Identity(),
            pool=nn.Sequential(Mean(), nn.LayerNorm(before), Linear(before, before), nn.Tanh()),
            head=linear_head(before, c.classes),
            levels=levels,
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _check(c: Config, stride: int) -> None:
    """Raise ValueError unless the sizes fit together."""
    if len(c.dims) != len(c.depths):
        raise ValueError(f"dims {c.dims} and depths {c.depths} differ in length: one each a stage")
    if c.dialect not in DIALECTS:
        raise ValueError(f"dialect is {c.dialect!r}: expected {' or '.join(DIALECTS)}")
    if wrong := [dim for dim in c.dims if dim % c.channels_per_head]:
        raise ValueError(
            f"dim {wrong[0]} does not divide into heads of {c.channels_per_head} channels: "
            "choose multiples"
        )
    if min(c.image) < stride or c.window < 2:
        h, w = c.image
        raise ValueError(
            f"image is {h}x{w}, window {c.window}; expected sides from {stride}, the stride of "
            f"the last of {len(c.dims)} stages, and a window from 2"
        )


MODEL = MaxViT
