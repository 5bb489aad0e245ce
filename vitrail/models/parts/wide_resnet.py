"""The trunk of a Wide ResNet for small images, a host of other papers.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146: pre-activated blocks
of two 3x3 convolutions, `first(i, j, dim_in, dim, stride)` makes the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import (
    Affine,
    Conv2d,
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


@dataclass(frozen=True)
class Config:
    """Sizes of a Wide ResNet: blocks and widths of its stages, each but the first of stride 2."""

    depths: tuple[int, ...] = (4, 4, 4)
    dims: tuple[int, ...] = (160, 320, 640)
    drop_path: float = 0.0
    image: tuple[int, int] = (32, 32)
    channels: int = 3
    classes: int = 100


def absorbed(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """Fold the BatchNorm behind a convolution, or behind what can `absorb_norm`, into it."""
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
        """Turn the first BatchNorm into scale and shift, and fold the second
        into the layer before it.
        """
        self.norm1 = Affine(self.norm1)  # pyright: ignore[reportArgumentType]
        self.first, self.norm2 = absorbed(self.first, self.norm2), nn.Identity()
        return self


class Plain(nn.Module):
    """One convolution of an image, without norm: (B, channels, H, W) to (B, H, W, C)."""

    def __init__(self, config: Config, dim: int) -> None:
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
        """Turn the BatchNorm into scale and shift."""
        self.norm = Affine(self.norm)  # pyright: ignore[reportArgumentType]
        return self


class WideResNet(Pyramid):
    """3x3 convolution to 16 channels, stages of wide blocks, BatchNorm and ReLU, mean, linear."""

    STEM = 16

    def __init__(self, config: Config, first: First) -> None:
        c, before, stages = config, self.STEM, []
        if len(c.depths) != len(c.dims):
            raise ValueError(
                f"depths {c.depths} and dims {c.dims} differ in length: one each a stage"
            )
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
