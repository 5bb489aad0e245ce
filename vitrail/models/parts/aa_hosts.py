"""Two hosts of attention-augmented convolutions, beside ResNet.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146, for small images:
pre-activated blocks of two 3x3 convolutions, `first(i, j, dim_in, dim, stride)` makes the first.
Tan et al., "MnasNet", CVPR 2019, arXiv 1807.11626, the form without squeeze-and-excitation:
inverted bottlenecks, `expand(i, j, dim_in, dim)` makes the 1x1 convolution that widens the map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import (
    Affine,
    Conv2d,
    ConvNorm,
    affine,
    channels_first,
    channels_last,
    rescaled,
)
from vitrail.layers.init import kaiming_conv
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import Mean
from vitrail.models.trunk.backbone import Level, Pyramid, Stage, check_image
from vitrail.models.trunk.heads import linear_head

First = Callable[[int, int, int, int, int], nn.Module]
Expand = Callable[[int, int, int, int], nn.Module]


def absorbed(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A convolution, or what can `absorb_norm`, with the BatchNorm behind it in it."""
    scale, shift = affine(norm)  # pyright: ignore[reportArgumentType]
    if isinstance(layer, nn.Conv2d):
        return rescaled(layer, scale, shift)
    layer.absorb_norm(scale, shift)  # pyright: ignore[reportCallIssue]
    return layer


class WideBlock(nn.Module):
    """shortcut + conv of ReLU of BatchNorm, twice: (B, h, w, C) to (B, h', w', C'). The shortcut is
    a 1x1 convolution of the first activation where shapes change."""

    def __init__(
        self, dim_in: int, dim: int, stride: int, first: nn.Module, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1: nn.Module = nn.BatchNorm2d(dim_in)
        self.first, self.act = first, nn.ReLU()
        self.norm2: nn.Module = nn.BatchNorm2d(dim)
        self.conv2 = Conv2d(dim, dim, 3, padding=1, bias=False)
        same = dim_in == dim and stride == 1
        self.shortcut = None if same else Conv2d(dim_in, dim, 1, stride, bias=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = channels_first(x)
        y = self.act(self.norm1(x))
        other = x if self.shortcut is None else self.shortcut(y)
        y = self.conv2(self.act(self.norm2(self.first(y))))
        return channels_last(other + self.drop_path(y))

    def deployed(self) -> nn.Module:
        """The first BatchNorm as scale and shift, the second in the layer before it."""
        self.norm1 = Affine(self.norm1)  # pyright: ignore[reportArgumentType]
        self.first, self.norm2 = absorbed(self.first, self.norm2), nn.Identity()
        return self


class Plain(nn.Module):
    """One convolution of an image, without norm: (B, channels, H, W) to (B, H, W, C)."""

    def __init__(self, config: Any, dim: int) -> None:
        super().__init__()
        self.config, self.conv = config, Conv2d(config.channels, dim, 3, padding=1, bias=False)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h w c"]:
        check_image(image, self.config, "wide resnet")
        return channels_last(self.conv(image.contiguous(memory_format=torch.channels_last)))


class NormAct(nn.Module):
    """BatchNorm and ReLU of a map (B, h, w, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm2d(dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return channels_last(self.norm(channels_first(x)).relu())

    def deployed(self) -> nn.Module:
        """The BatchNorm as scale and shift."""
        self.norm = Affine(self.norm)  # pyright: ignore[reportArgumentType]
        return self


class WideResNet(Pyramid):
    """3x3 convolution to 16 channels, stages of wide blocks, BatchNorm and ReLU, mean, linear."""

    STEM = 16

    def __init__(self, config: Any, first: First) -> None:
        c, before, stages = config, self.STEM, []
        rates = iter(rising(c.drop_path, sum(c.depths)))
        for i, (dim, depth) in enumerate(zip(c.dims, c.depths, strict=True)):
            blocks = []
            for j in range(depth):
                stride = 2 if i and j == 0 else 1
                mixed = first(i, j, before, dim, stride)
                blocks.append(WideBlock(before, dim, stride, mixed, next(rates)))
                before = dim
            stages.append(Stage(nn.Identity(), blocks))
        super().__init__(
            config,
            stem=Plain(config, self.STEM),
            stages=stages,
            norm=NormAct(before),
            pool=Mean(),
            head=linear_head(before, c.classes),
            levels=[Level(2**i, dim) for i, dim in enumerate(c.dims)],
        )
        kaiming_conv(self)


class Stack(NamedTuple):
    """Inverted bottlenecks of one width: the depthwise kernel, stride, expansion, and to which
    level of the pyramid they belong."""

    kernel: int
    stride: int
    ratio: int
    level: int


STACKS = (
    Stack(3, 2, 3, 0),
    Stack(5, 2, 3, 1),
    Stack(5, 2, 6, 2),
    Stack(3, 1, 6, 2),
    Stack(5, 2, 6, 3),
    Stack(3, 1, 6, 3),
)


class Inverted(nn.Module):
    """1x1 to a greater width, depthwise, 1x1 back: (B, h, w, C) to (B, h', w', C'), added to the
    input where shapes stay."""

    def __init__(
        self, dim_in: int, dim: int, hidden: int, stack: Stack, expand: nn.Module, drop_path: float
    ) -> None:
        super().__init__()
        self.expand, self.norm = expand, nn.BatchNorm2d(hidden)
        self.depthwise = ConvNorm(hidden, hidden, stack.kernel, stride=stack.stride, groups=hidden)
        self.project, self.act = ConvNorm(hidden, dim, 1), nn.ReLU(inplace=True)
        self.same, self.drop_path = dim_in == dim and stack.stride == 1, DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        y = self.act(self.norm(self.expand(channels_first(x))))
        y = channels_last(self.project(self.depthwise.then(y, self.act)))
        return x + self.drop_path(y) if self.same else y

    def deployed(self) -> nn.Module:
        """The BatchNorm of the wide map within what makes it."""
        self.expand, self.norm = absorbed(self.expand, self.norm), nn.Identity()
        return self


class MnasStem(nn.Module):
    """3x3 of stride 2 to 32 channels, a depthwise 3x3 and a 1x1 convolution: (B, channels, H, W)
    to (B, h, w, C)."""

    def __init__(self, config: Any, dim: int) -> None:
        super().__init__()
        self.config, self.act = config, nn.ReLU(inplace=True)
        self.conv = ConvNorm(config.channels, 32, 3, stride=2)
        self.depthwise, self.project = ConvNorm(32, 32, 3, groups=32), ConvNorm(32, dim, 1)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "mnasnet")
        x = self.conv.then(image.contiguous(memory_format=torch.channels_last), self.act)
        return channels_last(self.project(self.depthwise.then(x, self.act)))


class Last(nn.Module):
    """1x1 convolution, BatchNorm, ReLU of a map (B, h, w, C)."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.conv, self.act = ConvNorm(dim_in, dim, 1), nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c2"]:
        return channels_last(self.conv.then(channels_first(x), self.act))


class MnasNet(Pyramid):
    """Stem, six stacks of inverted bottlenecks on four levels, 1x1 to 1280 channels, mean, linear.

    `dims` are the widths of the stem and of the stacks, `depths` the stacks' blocks.
    """

    WIDTH = 1280

    def __init__(self, config: Any, expand: Expand) -> None:
        c, before = config, config.dims[0]
        if len(c.dims) != len(STACKS) + 1 or len(c.depths) != len(STACKS):
            raise ValueError(
                f"dims are {c.dims}, depths {c.depths}: a mnasnet has widths of its stem and of "
                f"{len(STACKS)} stacks, and depths of these"
            )
        rates = iter(rising(c.drop_path, sum(c.depths)))
        levels: list[list[nn.Module]] = [[] for _ in range(STACKS[-1].level + 1)]
        widths = [0] * len(levels)
        for i, (dim, depth, stack) in enumerate(zip(c.dims[1:], c.depths, STACKS, strict=True)):
            for j in range(depth):
                own, hidden = stack if j == 0 else stack._replace(stride=1), stack.ratio * before
                mixed = expand(i, j, before, hidden)
                block = Inverted(before, dim, hidden, own, mixed, next(rates))
                levels[stack.level].append(block)
                before = widths[stack.level] = dim
        super().__init__(
            config,
            stem=MnasStem(config, c.dims[0]),
            stages=[Stage(nn.Identity(), blocks) for blocks in levels],
            norm=Last(before, self.WIDTH),
            pool=Mean(),
            head=linear_head(self.WIDTH, c.classes),
            levels=[Level(4 * 2**i, dim) for i, dim in enumerate(widths)],
        )
        self.width = self.WIDTH
        kaiming_conv(self)
