"""The trunk of a MnasNet, a host of other papers.

Tan et al., "MnasNet", CVPR 2019, arXiv 1807.11626, the form without squeeze-and-excitation:
inverted bottlenecks, `expand(i, j, dim_in, dim)` makes the 1x1 convolution that widens the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import ConvNorm, channels_first, channels_last
from vitrail.layers.init import kaiming_conv
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import Mean
from vitrail.models.parts.wide_resnet import absorbed
from vitrail.models.trunk.backbone import Level, Pyramid, Stage, check_image
from vitrail.models.trunk.heads import linear_head

Expand = Callable[[int, int, int, int], nn.Module]


@dataclass(frozen=True)
class Config:
    """Sizes of a MnasNet: widths of the stem and of the stacks, and the blocks of the stacks."""

    depths: tuple[int, ...] = (3, 3, 3, 2, 4, 1)
    dims: tuple[int, ...] = (16, 24, 40, 80, 96, 192, 320)
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


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
        """Fold the BatchNorm of the wide map into what makes it."""
        self.expand, self.norm = absorbed(self.expand, self.norm), nn.Identity()
        return self


class MnasStem(nn.Module):
    """3x3 of stride 2 to 32 channels, a depthwise 3x3 and a 1x1 convolution: (B, channels, H, W)
    to (B, h, w, C)."""

    def __init__(self, config: Config, dim: int) -> None:
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
    """Stem, six stacks of inverted bottlenecks on four levels, 1x1 to 1280, mean, linear."""

    WIDTH = 1280

    def __init__(self, config: Config, expand: Expand) -> None:
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
