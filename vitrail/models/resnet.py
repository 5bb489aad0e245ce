"""ResNet: every few convolutions learn what to add to their input.

He et al., CVPR 2016, arXiv 1512.03385; the stride sits in the 3x3 convolution ("v1.5"), as
in torchvision. The trunk takes `mixer(i, j, dim, stride) -> Module`, which replaces the last
3x3 convolution of block j of stage i by another spatial mixer on (B, C, H, W) views: that is
how attention enters a ResNet.

`stem_stride` is 4 (convolution and max pool, the published form), 2 or 1 (no pool; for small
images), `expansion` 4 makes bottlenecks and 1 the basic block of two 3x3 convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d, ConvNorm, channels_first, channels_last, folded
from vitrail.layers.init import kaiming_conv
from vitrail.layers.linear import Linear
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import Mean
from vitrail.models.backbone import Level, Pyramid, Small, Stage, Variant, check_image

Mixer = Callable[[int, int, int, int], nn.Module]


@dataclass(frozen=True)
class Config:
    """Sizes of a ResNet: blocks and inner widths per stage; the stem has the first width."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    dims: tuple[int, ...] = (64, 128, 256, 512)
    expansion: int = 4
    stem_kernel: int = 7
    stem_stride: int = 4
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


VARIANTS = {
    f"resnet_{layers}": Variant(
        Config(depths=depths, expansion=expansion),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={
            "timm": f"hf-hub:timm/resnet{layers}.tv_in1k",
            "transformers": f"hf-hub:microsoft/resnet-{layers}",
        },
    )
    for layers, depths, expansion, params_m, flops_g, top1 in [
        (18, (2, 2, 2, 2), 1, 11.690, 1.814, 69.76),
        (34, (3, 4, 6, 3), 1, 21.798, 3.664, 73.31),
        (50, (3, 4, 6, 3), 4, 25.557, 4.09, 76.13),
        (101, (3, 4, 23, 3), 4, 44.549, 7.80, 77.37),
        (152, (3, 8, 36, 3), 4, 60.193, 11.51, 78.31),
    ]
}

SPACE = Small(
    Config(expansion=1, stem_kernel=3),
    {
        "dims": ((16, 32, 64), (24, 48, 96), (32, 64, 128), (48, 96, 192), (32, 64, 128, 256)),
        "depths": ((1, 1, 1), (2, 2, 2), (1, 1, 1, 1), (2, 2, 2, 2)),
        "stem_stride": (1, 2, 4),
    },
)

_TRUNK = [
    ("layer1.", "stages.0.blocks."),
    ("layer2.", "stages.1.blocks."),
    ("layer3.", "stages.2.blocks."),
    ("layer4.", "stages.3.blocks."),
    (".downsample.0.", ".shortcut.conv."),
    (".downsample.1.", ".shortcut.norm."),
    ("conv1.", "stem.conv.conv."),
    ("bn1.", "stem.conv.norm."),
    ("fc.", "head."),
]


def _torchvision(config: Config) -> list:
    """conv1, bn1 ... of a block: the last 3x3 of the two or three is our mixer."""
    names = ("conv1", "mixer") if config.expansion == 1 else ("conv1", "mixer", "conv3")
    inside = [
        row
        for n, ours in enumerate(names, 1)
        for row in [
            (f".conv{n}.", f".{ours}.conv." if ours != "mixer" else ".mixer."),
            (f".bn{n}.", f".{ours}.norm." if ours != "mixer" else ".norm."),
        ]
    ]
    return [*_TRUNK, *inside]


def _transformers(config: Config) -> list:
    names = ("conv1", "mixer") if config.expansion == 1 else ("conv1", "mixer", "conv3")
    inside = [
        row
        for n, ours in enumerate(names)
        for row in [
            (f".layer.{n}.convolution.", f".{ours}.conv." if ours != "mixer" else ".mixer."),
            (f".layer.{n}.normalization.", f".{ours}.norm." if ours != "mixer" else ".norm."),
        ]
    ]
    return [
        ("resnet.", ""),
        ("embedder.embedder.convolution.", "stem.conv.conv."),
        ("embedder.embedder.normalization.", "stem.conv.norm."),
        ("encoder.stages.{i}.layers.", "stages.{i}.blocks."),
        (".shortcut.convolution.", ".shortcut.conv."),
        (".shortcut.normalization.", ".shortcut.norm."),
        *inside,
        ("classifier.1.", "head."),
    ]


NAMES = {"torchvision": _torchvision, "timm": _torchvision, "transformers": _transformers}


class Stem(nn.Module):
    """Convolution, BatchNorm, ReLU and, at stride 4, a max pool: image to (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.stem_stride not in (1, 2, 4):
            raise ValueError(f"stem_stride is {config.stem_stride}: expected 1, 2 or 4")
        self.config = config
        stride = min(config.stem_stride, 2)
        self.conv = ConvNorm(config.channels, config.dims[0], config.stem_kernel, stride=stride)
        self.pool = nn.MaxPool2d(3, 2, 1) if config.stem_stride == 4 else nn.Identity()

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "resnet")
        x = image.contiguous(memory_format=torch.channels_last)
        return channels_last(self.pool(self.conv(x).relu_()))


class Basic(nn.Module):
    """3x3 convolution with the stride, then the mixer (3x3): (B, h, w, C) to (B, h', w', C')."""

    def __init__(
        self, dim_in: int, dim: int, stride: int, mixer: nn.Module, drop_path: float
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim_in, dim, 3, stride=stride)
        self.mixer = mixer
        self.norm = nn.BatchNorm2d(dim)
        self.shortcut = _shortcut(dim_in, dim, stride)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = channels_first(x)
        y = self.norm(self.mixer(self.conv1(x).relu_()))
        return channels_last(torch.relu_(self.drop_path(y) + self.shortcut(x)))

    def deployed(self) -> nn.Module:
        """The BatchNorm after the mixer folded into it, where it is a convolution."""
        return _fold_mixer(self)


class Bottleneck(nn.Module):
    """1x1, mixer with the stride (3x3), 1x1 to four times the width."""

    def __init__(
        self, dim_in: int, dim: int, stride: int, mixer: nn.Module, drop_path: float
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim_in, dim, 1)
        self.mixer = mixer
        self.norm = nn.BatchNorm2d(dim)
        self.conv3 = ConvNorm(dim, 4 * dim, 1)
        self.shortcut = _shortcut(dim_in, 4 * dim, stride)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = channels_first(x)
        y = self.norm(self.mixer(self.conv1(x).relu_())).relu_()
        return channels_last(torch.relu_(self.drop_path(self.conv3(y)) + self.shortcut(x)))

    def deployed(self) -> nn.Module:
        """The BatchNorm after the mixer folded into it, where it is a convolution."""
        return _fold_mixer(self)


def _shortcut(dim_in: int, dim: int, stride: int) -> nn.Module:
    if dim_in == dim and stride == 1:
        return nn.Identity()
    return ConvNorm(dim_in, dim, 1, stride=stride)


def _fold_mixer(block: Basic | Bottleneck) -> nn.Module:
    if isinstance(block.mixer, nn.Conv2d) and isinstance(block.norm, nn.BatchNorm2d):
        block.mixer = folded(block.mixer, block.norm)
        block.norm = nn.Identity()
    return block


def convolution(i: int, j: int, dim: int, stride: int) -> nn.Module:
    """The mixer of a plain ResNet: a 3x3 convolution."""
    return Conv2d(dim, dim, 3, stride, 1, bias=False)


class ResNet(Pyramid):
    """Stem, stages of residual blocks, mean, linear head."""

    def __init__(self, config: Config, mixer: Mixer = convolution) -> None:
        if len(config.depths) != len(config.dims):
            raise ValueError(
                f"depths {config.depths} and dims {config.dims} differ in length: one each a stage"
            )
        if config.expansion not in (1, 4):
            raise ValueError(f"expansion is {config.expansion}: expected 1 or 4")
        block = Basic if config.expansion == 1 else Bottleneck
        rates = iter(rising(config.drop_path, sum(config.depths)))
        stages, levels, stride, dim_in = [], [], config.stem_stride, config.dims[0]
        for i, (depth, dim) in enumerate(zip(config.depths, config.dims, strict=True)):
            blocks = []
            for j in range(depth):
                step = 2 if i > 0 and j == 0 else 1
                # In a basic block the first convolution has the stride.
                mixed = mixer(i, j, dim, 1 if config.expansion == 1 else step)
                blocks.append(block(dim_in, dim, step, mixed, next(rates)))
                dim_in = dim * config.expansion
            stride *= 2 if i > 0 else 1
            stages.append(Stage(nn.Identity(), blocks))
            levels.append(Level(stride, dim_in))
        super().__init__(
            config,
            stem=Stem(config),
            stages=stages,
            norm=nn.Identity(),
            pool=Mean(),
            head=Linear(dim_in, config.classes),
            levels=levels,
        )
        kaiming_conv(self)


MODEL = ResNet
