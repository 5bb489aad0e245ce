"""Attention-augmented convolution: some of its channels come from global attention.

Bello et al., "Attention Augmented Convolutional Networks", ICCV 2019, arXiv 1904.09925. Of the F
channels of a convolution kappa F are keys and upsilon F are values of multi-head attention to the
whole map, with logits of relative rows and columns; what it yields is concatenated behind the
convolution's other F - upsilon F channels. Keys have 20 channels a head at least; both numbers
are rounded to the next multiple of the heads.

In ResNets the last 3x3 convolution of each block is augmented in all stages but the first, in
Wide-ResNet-28-10 the first of each block, in MnasNet the 1x1 that widens the map of the last two
blocks. With a stride the attention reads means of 3x3 positions, two apart. So it does once more
in a ResNet's first augmented stage, whose attention is put back bilinearly: there it would cost
too much.

No weights or code of the networks were published. What is augmented in MnasNet, and by how many
channels, is a reading that fits the published parameters; no shares of keys and values that the
paper tells make ResNet-34 as small as published. Publications count a multiply-add twice; here
they are halved. At another size of map the tables of positions are interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attention_weights
from vitrail.layers.conv import Conv2d, channels_first, channels_last, rescaled
from vitrail.layers.linear import Linear, linear
from vitrail.layers.relative import TABLES, Grid, RelativePosition, attend_by_parts
from vitrail.models import resnet
from vitrail.models.parts import mnasnet, wide_resnet
from vitrail.models.trunk.backbone import Backbone, Small, Variant
from vitrail.models.trunk.hosts import Flat, Hosted, moved
from vitrail.models.trunk.positions import Table, by_axis, offsets

LEAST = 20  # channels of a key
LAST = 2  # augmented bottlenecks of a MnasNet

_RESNET, _WIDE, _MNAS = resnet.Config(), wide_resnet.Config(), mnasnet.Config()


@dataclass(frozen=True)
class Config(Hosted):
    """A host's sizes, and those of the attention in it: `kappa` and `upsilon` are the shares of a
    convolution's channels that keys and values have; `pooled` says that attention reads means
    where there is a stride, else every second position."""

    host: resnet.Config | wide_resnet.Config | mnasnet.Config = _RESNET
    heads: int = 8
    kappa: float = 0.2
    upsilon: float = 0.1
    pooled: bool = True


_SMALLER = "no setting of the paper makes ResNet-34 as small as the published 20.7 M parameters"
_CIFAR = "81.6 % on CIFAR-100; the published count seems to leave out what attention multiplies"
_34 = Config(replace(_RESNET, expansion=1))
_101, _152 = (Config(replace(_RESNET, depths=d)) for d in ((3, 4, 23, 3), (3, 8, 36, 3)))
VARIANTS = {
    "aa_resnet_34": Variant(_34, top1=74.7, note=_SMALLER),
    "aa_resnet_50": Variant(Config(), params_m=25.8, flops_g=4.15, top1=77.7),
    "aa_resnet_101": Variant(_101, params_m=45.4, flops_g=8.05, top1=78.7),
    "aa_resnet_152": Variant(_152, params_m=61.6, flops_g=11.9, top1=79.1),
    "aa_wide_resnet_28_10": Variant(Config(_WIDE), params_m=36.2, flops_g=5.45, note=_CIFAR),
    "aa_mnasnet": Variant(Config(_MNAS, heads=4, kappa=0.1), params_m=4.52, top1=75.7),
}

SPACE = Small(
    Config(heads=2),
    {
        "host": (
            resnet.Config((1, 1, 1), (16, 32, 64), 1, stem_stride=2),
            resnet.Config((1, 1, 1), (32, 64, 128), 1, stem_stride=2),
            resnet.Config((1, 1, 1), (32, 64, 128), 1, stem_stride=4),
            resnet.Config((2, 2, 2), (32, 64, 128), 2, stem_stride=4),
            wide_resnet.Config((1, 1, 1), (16, 32, 64)),
        ),
        "upsilon": (0.1, 0.25),
    },
)

FLAT: Flat = {
    "host": {
        "resnet": moved("resnet", "depths", "dims", "expansion", "stem_stride"),
        "wide": moved("wide_resnet", "depths", "dims"),
        "mnasnet": moved("mnasnet", "depths", "dims"),
    }
}

NAMES: dict[str, list] = {}

# In which convolution a host's blocks attend, and how many pixels are one position there: the first
# augmented stage of a ResNet attends to half its map, a MnasNet before a block's stride.
SIZES: dict[type, tuple[str, Callable[[Any, int, int], int]]] = {
    resnet.Config: ("mixer", lambda host, i, j: host.stem_stride * 2**i * (1 + (i == 1))),
    wide_resnet.Config: ("first", lambda host, i, j: 2**i),
    mnasnet.Config: ("expand", lambda host, i, j: 2 ** (1 + i + (j > 0))),
}


def grid(config: Config, stage: int, block: int) -> Grid:
    """Return rows and columns of the map that a block attends to."""
    _, size = SIZES[type(config.host)]
    pixels = size(config.host, stage, block)
    return -(-config.host.image[0] // pixels), -(-config.host.image[1] // pixels)


def _positions(config: Config) -> tuple[Table, Table]:
    """Return the tables of the convolution that attends in each block of the host."""
    name = f"stages.{{i}}.blocks.{{j}}.{SIZES[type(config.host)][0]}.position"
    return by_axis(name, lambda c, i, j: offsets(grid(c, i, j)))


POSITIONS = _positions


class AAConv(nn.Module):
    """A convolution, and attention to the whole map: (B, C, H, W) views to (B, dim, h, w), the
    last `values` channels from attention.

    `keys` and `values` are channels of all heads; `grid` is the map at which attention runs and
    its tables are made for: as large as the convolution's, or half that where `halved`.
    `projection` is the side of the kernel that makes queries, keys and values, 1 in the paper,
    which reads means of the map where there is a stride; without `pooled`, as in ports, it is the
    projection that has the stride.
    """

    def __init__(
        self,
        dim_in: int,
        dim: int,
        *,
        keys: int,
        values: int,
        heads: int,
        grid: Grid,
        kernel: int = 3,
        stride: int = 1,
        halved: bool = False,
        projection: int = 1,
        pooled: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if keys % heads or values % heads or not 0 < values < dim or keys < heads:
            raise ValueError(
                f"keys are {keys}, values {values} of {dim} channels: expected multiples of "
                f"{heads} heads, and channels left to the convolution"
            )
        self.heads, self.parts, self.halved = heads, (keys, keys, values), halved
        self.scale = (keys // heads) ** -0.5
        self.conv = Conv2d(dim_in, dim - values, kernel, stride, kernel // 2, bias=bias)
        steps = (stride if pooled else 1, 1 + halved)
        self.pool = nn.Sequential(*(nn.AvgPool2d(3, step, 1) for step in steps if step > 1))
        sizes = (sum(self.parts), projection, 1 if pooled else stride, projection // 2)
        self.qkv = Conv2d(dim_in, *sizes, bias=bias)
        self.position = RelativePosition(grid, keys // heads)
        self.proj = Linear(values, values, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        near = self.conv(x)
        q, k, v, grid = self._heads(x)
        position = partial(self.position, grid=grid)
        far = attend_by_parts(q, k, v, position, scale=1.0).transpose(1, 2).flatten(2)
        far = self.proj(far).unflatten(1, grid)
        if self.halved:
            size = (near.shape[2], near.shape[3])
            far = channels_last(F.interpolate(channels_first(far), size, mode="bilinear"))
        return channels_first(torch.cat([channels_last(near), far], 3))

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b heads n n"]:
        """Return the attention of every head, rows are queries."""
        q, k, _, grid = self._heads(x)
        return attention_weights(q, k, bias=self.position(q, grid), scale=1.0)

    def deployed(self) -> nn.Module:
        """Move the scale of the queries into what makes them."""
        scale = torch.ones(self.qkv.out_channels).to(self.qkv.weight)
        scale[: self.parts[0]] = self.scale
        self.qkv, self.scale = rescaled(self.qkv, scale), 1.0
        return self

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels and add to them, for good."""
        n = self.conv.out_channels
        self.conv = rescaled(self.conv, scale[:n], shift[:n])
        bias = shift[n:] if self.proj.bias is None else self.proj.bias * scale[n:] + shift[n:]
        self.proj = linear(self.proj.weight * scale[n:, None], bias)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Grid]:
        """Return scaled q, k and v (B, heads, n, d), and the map they are of."""
        qkv = channels_last(self.qkv(self.pool(x)))
        grid = (qkv.shape[1], qkv.shape[2])
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in qkv.flatten(1, 2).split(self.parts, 2)
        )
        return (q if self.scale == 1 else q * self.scale), k, v, grid


def augmented(
    config: Config, dim_in: int, dim: int, grid: Grid, *, kernel: int = 3, **how: Any
) -> nn.Module:
    """Return a convolution with attention to a map of `grid`; `stride` and `halved` as `AAConv`."""
    c = config

    def share(ratio: float) -> int:
        return max(round(ratio * dim / c.heads), 1) * c.heads

    keys = max(share(c.kappa), LEAST * c.heads)
    parts = {"keys": keys, "values": share(c.upsilon), "heads": c.heads}
    return AAConv(dim_in, dim, **parts, grid=grid, kernel=kernel, pooled=c.pooled, **how)


def in_resnet(config: Config, host: resnet.Config) -> Backbone:
    """Augment the last 3x3 convolution of each block in all stages but the first."""

    def mixer(i: int, j: int, dim: int, stride: int) -> nn.Module:
        if i == 0:
            return resnet.convolution(i, j, dim, stride)
        return augmented(config, dim, dim, grid(config, i, j), stride=stride, halved=i == 1)

    return resnet.ResNet(host, mixer)


def in_wide_resnet(config: Config, host: wide_resnet.Config) -> Backbone:
    """Augment the first convolution of each block."""

    def first(i: int, j: int, dim_in: int, dim: int, stride: int) -> nn.Module:
        return augmented(config, dim_in, dim, grid(config, i, j), stride=stride)

    return wide_resnet.WideResNet(host, first)


def in_mnasnet(config: Config, host: mnasnet.Config) -> Backbone:
    """Augment the convolution that widens the map of the last blocks."""

    def expand(i: int, j: int, dim_in: int, dim: int) -> nn.Module:
        if sum(host.depths[:i]) + j < sum(host.depths) - LAST:
            return Conv2d(dim_in, dim, 1, bias=False)
        stack = mnasnet.STACKS[i]
        seen = grid(config, stack.level, j if stack.stride > 1 else 1)
        return augmented(config, dim_in, dim, seen, kernel=1)

    return mnasnet.MnasNet(host, expand)


HOSTS: dict[type, Callable[[Config, Any], Backbone]] = {
    resnet.Config: in_resnet,
    wide_resnet.Config: in_wide_resnet,
    mnasnet.Config: in_mnasnet,
}


def build(config: Config) -> Backbone:
    """Build the network of a config, in its host. Raises ValueError."""
    made = HOSTS[type(config.host)](config, config.host)
    made.config = config
    made.undecayed = TABLES  # pyright: ignore[reportAttributeAccessIssue]
    return made


MODEL = build
