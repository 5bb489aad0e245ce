"""ResNet: every few convolutions learn what to add to their input.

He et al., CVPR 2016, arXiv 1512.03385; the stride sits in the 3x3 convolution ("v1.5"), as
in torchvision. Wide ones: Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146, with twice the
width inside the bottlenecks.

The trunk takes `mixer(i, j, dim, stride) -> Module`, which replaces the last 3x3 convolution
of block j of stage i by another spatial mixer on (B, C, H, W) views, and `gate(i, j, dim) ->
Module`, what acts on a branch before it is added: that is how attention enters a ResNet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

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
    folded,
)
from vitrail.layers.init import kaiming_conv
from vitrail.layers.protocols import AbsorbsNorm
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import Mean
from vitrail.models.names import resnet as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head

Mixer = Callable[[int, int, int, int], nn.Module]
Gate = Callable[[int, int, int], nn.Module]
Act = Callable[[], nn.Module]


@dataclass(frozen=True)
class Config:
    """Sizes of a ResNet: blocks and inner widths per stage.

    A block's output is `expansion` times as wide as its inside; 1 makes basic blocks of two 3x3
    convolutions. The stem has a convolution for each of `stem_dims`, one of the first width if
    there are none; its `stem_stride` is 4 (a convolution of stride 2 and a max pool, the
    published form), 2 or 1 (no pool; for small images). `strides` are those of the stages after
    the first, 2 each if there are none.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    dims: tuple[int, ...] = (64, 128, 256, 512)
    expansion: int | float = 4
    strides: tuple[int, ...] = ()
    stem_kernel: int = 7
    stem_stride: int = 4
    stem_dims: tuple[int, ...] = ()
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

_WIDE = Config(dims=(128, 256, 512, 1024), expansion=2, stem_dims=(64,))
for _layers, _config, _params_m, _flops_g, _top1 in (
    (50, _WIDE, 68.883, 11.40, 78.47),
    (101, replace(_WIDE, depths=(3, 4, 23, 3)), 126.887, 22.75, 78.85),
):
    VARIANTS[f"wide_resnet_{_layers}_2"] = Variant(
        _config,
        params_m=_params_m,
        flops_g=_flops_g,
        top1=_top1,
        hub={"timm": f"hf-hub:timm/wide_resnet{_layers}_2.tv_in1k"},
    )

SPACE = Small(
    Config(expansion=1, stem_kernel=3),
    {
        "dims": ((16, 32, 64), (24, 48, 96), (32, 64, 128), (48, 96, 192), (32, 64, 128, 256)),
        "depths": ((1, 1, 1), (2, 2, 2), (1, 1, 1, 1), (2, 2, 2, 2)),
        "stem_stride": (1, 2, 4),
    },
)


NAMES = names.TABLES


def relu() -> nn.Module:
    """Make the activation of a plain ResNet, in place."""
    return nn.ReLU(inplace=True)


class Stem(nn.Module):
    """Convolutions with BatchNorm and activation, and a max pool at stride 4: image to
    (B, h, w, C)."""

    def __init__(self, config: Config, act: Act = relu) -> None:
        super().__init__()
        if config.stem_stride not in (1, 2, 4):
            raise ValueError(f"stem_stride is {config.stem_stride}: expected 1, 2 or 4")
        self.config, self.act = config, act()
        dims = [config.channels, *(config.stem_dims or config.dims[:1])]
        self.convs = nn.ModuleList(
            ConvNorm(a, b, config.stem_kernel, stride=1 if i else min(config.stem_stride, 2))
            for i, (a, b) in enumerate(pairwise(dims))
        )
        self.pool = nn.MaxPool2d(3, 2, 1) if config.stem_stride == 4 else nn.Identity()

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "resnet")
        x = image.contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = conv.then(x, self.act)  # pyright: ignore[reportCallIssue]
        return channels_last(self.pool(x))


class Basic(nn.Module):
    """act(shortcut(x) + gate(branch(x))): (B, h, w, C) to (B, h', w', C'). The branch is a 3x3
    convolution with the stride, then the mixer (3x3)."""

    def __init__(
        self,
        dim_in: int,
        inner: int,
        dim: int,
        stride: int,
        mixer: nn.Module,
        *,
        gate: nn.Module | None = None,
        act: Act = relu,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self._begin(dim_in, inner, stride)
        self.mixer, self.act = mixer, act()
        self.norm = nn.BatchNorm2d(getattr(mixer, "width", inner))
        self._end(inner, dim)
        self.gate = nn.Identity() if gate is None else gate
        same = dim_in == dim and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(dim_in, dim, 1, stride=stride)
        self.drop_path = DropPath(drop_path)

    def _begin(self, dim_in: int, inner: int, stride: int) -> None:
        self.conv1, self.mixer_stride = ConvNorm(dim_in, inner, 3, stride=stride), 1

    def _end(self, inner: int, dim: int) -> None:
        pass

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = channels_first(x)
        y, other = self.conv1.then(x, self.act), self.shortcut(x)
        if self._plain and self._whole:
            return channels_last(self.mixer.joined(y, other, self.act))  # pyright: ignore[reportCallIssue]
        return channels_last(self._closed(self._mixed(y), other))

    def deployed(self) -> nn.Module:
        """Fold the BatchNorm after the mixer into it, where it is a convolution or can
        `absorb_norm(scale, shift)`; else turn it into a scale and a shift.
        """
        if isinstance(self.norm, nn.BatchNorm2d):
            if isinstance(self.mixer, nn.Conv2d):
                self.mixer, self.norm = folded(self.mixer, self.norm), nn.Identity()
            elif isinstance(self.mixer, AbsorbsNorm):
                self.mixer.absorb_norm(*affine(self.norm))
                self.norm = nn.Identity()
            else:
                self.norm = Affine(self.norm)
        return self

    @property
    def _whole(self) -> bool:
        """Return whether mixer and norm are one convolution."""
        return isinstance(self.mixer, Conv2d) and isinstance(self.norm, nn.Identity)

    @property
    def _plain(self) -> bool:
        """Return whether a branch is added as it is."""
        return isinstance(self.gate, nn.Identity) and not self._dropping

    @property
    def _dropping(self) -> bool:
        return self.training and self.drop_path.rate > 0

    def _closed(
        self, y: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return act(gate(y) + other); a gate that has `joined(y, other)` adds in its own pass."""
        if self._dropping or not hasattr(self.gate, "joined"):
            return self.act(self.drop_path(self.gate(y)) + other)
        return self.act(self.gate.joined(y, other))  # pyright: ignore[reportCallIssue]

    def _mixed(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return the mixer's output, normed; ValueError unless it is as
        small as its stride asks.
        """
        y, (h, w) = self.mixer(x), x.shape[2:]
        expected = tuple(-(-side // self.mixer_stride) for side in (h, w))
        if y.ndim != 4 or tuple(y.shape[2:]) != expected:
            raise ValueError(
                f"{type(self.mixer).__name__} made {'x'.join(map(str, y.shape[1:]))} of a map of "
                f"{h}x{w}; as a mixer of stride {self.mixer_stride} it should make a map of "
                f"{'x'.join(map(str, expected))}"
            )
        return self.norm(y)


class Bottleneck(Basic):
    """As `Basic`; the branch is 1x1, the mixer with the stride (3x3), 1x1 to another width."""

    def _begin(self, dim_in: int, inner: int, stride: int) -> None:
        self.conv1, self.mixer_stride = ConvNorm(dim_in, inner, 1), stride

    def _end(self, inner: int, dim: int) -> None:
        self.conv3 = ConvNorm(getattr(self.mixer, "width", inner), dim, 1)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = channels_first(x)
        y = self.conv1.then(x, self.act)
        y = self.mixer.then(y, self.act) if self._whole else self.act(self._mixed(y))  # pyright: ignore[reportCallIssue]
        other = self.shortcut(x)
        if self._plain:
            return channels_last(self.conv3.joined(y, other, self.act))
        return channels_last(self._closed(self.conv3(y), other))


def convolution(i: int, j: int, dim: int, stride: int) -> nn.Module:
    """Make the mixer of a plain ResNet: a 3x3 convolution."""
    return Conv2d(dim, dim, 3, stride, 1, bias=False)


def ungated(i: int, j: int, dim: int) -> nn.Module:
    """Make the gate of a plain ResNet: none."""
    return nn.Identity()


class ResNet(Pyramid):
    """Stem, stages of residual blocks, mean, linear head.

    Mixers see the inner width, gates the output's. `bottleneck` says which blocks, where the
    expansion does not.
    """

    def __init__(
        self,
        config: Config,
        mixer: Mixer = convolution,
        *,
        gate: Gate = ungated,
        act: Act = relu,
        stem: nn.Module | None = None,
        bottleneck: bool | None = None,
    ) -> None:
        c, stages, levels = config, [], []
        strides = (1, *(c.strides or (2,) * (len(c.depths) - 1)))
        if not len(c.depths) == len(c.dims) == len(strides):
            raise ValueError(
                f"depths {c.depths}, dims {c.dims} and strides {c.strides} differ in length: one "
                "each a stage, and strides of all but the first"
            )
        each = c.expansion if isinstance(c.expansion, tuple) else (c.expansion,) * len(c.depths)
        if len(each) != len(c.depths) or min(each) <= 0:
            raise ValueError(
                f"expansion is {c.expansion}: expected a positive number, or one for each of "
                f"{len(c.depths)} stages"
            )
        wide = any(e != 1 for e in each) if bottleneck is None else bottleneck
        block = Bottleneck if wide else Basic
        rates = iter(rising(c.drop_path, sum(c.depths)))
        stride, dim_in = c.stem_stride, (c.stem_dims or c.dims)[-1 if c.stem_dims else 0]
        for i, (depth, inner) in enumerate(zip(c.depths, c.dims, strict=True)):
            blocks, dim = [], int(inner * each[i])
            for j in range(depth):
                step = strides[i] if j == 0 else 1
                # In a basic block the first convolution has the stride.
                mixed = mixer(i, j, inner, step if wide else 1)
                parts = {"gate": gate(i, j, dim), "act": act, "drop_path": next(rates)}
                blocks.append(block(dim_in, inner, dim, step, mixed, **parts))
                dim_in = dim
            stride *= strides[i]
            stages.append(Stage(nn.Identity(), blocks))
            levels.append(Level(stride, dim_in))
        super().__init__(
            config,
            stem=Stem(config, act) if stem is None else stem,
            stages=stages,
            norm=nn.Identity(),
            pool=Mean(),
            head=linear_head(dim_in, c.classes),
            levels=levels,
        )
        kaiming_conv(self)


ATTENDS = False  # no part of it has weights that sum to one
MODEL = ResNet
