"""The trunk that MobileNetV2 and EfficientNet share: inverted bottlenecks with a norm behind each
convolution.

Sandler et al., "MobileNetV2", CVPR 2018, arXiv 1801.04381; with squeeze-and-excitation as in Tan
and Le, "EfficientNet", ICML 2019, arXiv 1905.11946.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import ConvNorm, channels_first, channels_last
from vitrail.layers.init import kaiming_conv
from vitrail.layers.mbconv import Excitation, PaddedConv2d, same, symmetric
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import Mean
from vitrail.models.trunk.backbone import Level, Pyramid, Stage, check_image
from vitrail.models.trunk.heads import linear_head

PADS = {"same": same, "symmetric": symmetric}
ACTS = {"relu6": nn.ReLU6, "silu": nn.SiLU}


class Stack(NamedTuple):
    """Blocks of one width: how many, the width behind them, the first one's stride, the depthwise
    kernel, and how much wider than its input a block is inside."""

    depth: int
    dim: int
    stride: int
    kernel: int
    ratio: int


class PaddedConvNorm(ConvNorm):
    """ConvNorm with the padding and the eps of a `Kind`."""

    def __init__(
        self, kind: Kind, dim_in: int, dim: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        nn.Module.__init__(self)
        pads = PADS[kind.padding]
        self.conv = PaddedConv2d(dim_in, dim, kernel, stride, pads=pads, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(dim, eps=kind.eps)


@dataclass(frozen=True)
class Kind:
    """How the layers of a network are made: `act` is "relu6" or "silu", `padding` "symmetric" as in
    PyTorch or "same" as in TensorFlow, `eps` that of all norms; an excitation's hidden width is
    `squeeze` times the width *before* its block, 0 for none. Raises ValueError."""

    act: str = "relu6"
    padding: str = "symmetric"
    eps: float = 1e-5
    squeeze: float = 0.0

    def __post_init__(self) -> None:
        for name, value, known in (("act", self.act, ACTS), ("padding", self.padding, PADS)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}: expected {' or '.join(known)}")
        if self.eps <= 0 or not 0 <= self.squeeze <= 1:
            raise ValueError(
                f"eps is {self.eps} and squeeze {self.squeeze}: expected an eps above 0 and a "
                "squeeze from 0 to 1"
            )

    def excitation(self, dim_in: int, hidden: int) -> nn.Module | None:
        """Return what weighs `hidden` channels, or None without squeeze."""
        if not self.squeeze:
            return None
        return Excitation(hidden, max(1, int(dim_in * self.squeeze)), act=ACTS[self.act]())


class Separable(nn.Module):
    """Depthwise convolution, excitation, 1x1 without activation: (B, h, w, C) to (B, h', w', C'),
    added to the input where shapes stay. `hidden` is the width inside, here that of the input."""

    def __init__(self, dim_in: int, stack: Stack, kind: Kind, *, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = self._begin(dim_in, stack, kind)
        self.depthwise = PaddedConvNorm(
            kind, hidden, hidden, stack.kernel, stride=stack.stride, groups=hidden
        )
        self.excite = kind.excitation(dim_in, hidden)
        self.project = PaddedConvNorm(kind, hidden, stack.dim, 1)
        self.act = ACTS[kind.act]()
        self.same, self.drop_path = dim_in == stack.dim and stack.stride == 1, DropPath(drop_path)

    def _begin(self, dim_in: int, stack: Stack, kind: Kind) -> int:
        return dim_in

    def _widened(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        return x

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        y = channels_last(self.depthwise.then(self._widened(channels_first(x)), self.act))
        if self.excite is not None:
            y = y * self.excite(y)
        y = channels_last(self.project(channels_first(y)))
        return x + self.drop_path(y) if self.same else y


class Inverted(Separable):
    """As `Separable`, behind a 1x1 convolution to `ratio` times the width."""

    def _begin(self, dim_in: int, stack: Stack, kind: Kind) -> int:
        hidden = dim_in * stack.ratio
        self.expand = PaddedConvNorm(kind, dim_in, hidden, 1)
        return hidden

    def _widened(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        return self.expand.then(x, self.act)


class Stem(nn.Module):
    """3x3 convolution, norm, activation: (B, channels, H, W) to (B, h, w, C)."""

    def __init__(self, config: Any, kind: Kind, family: str) -> None:
        super().__init__()
        self.config, self.family, self.act = config, family, ACTS[kind.act]()
        c = config
        self.conv = PaddedConvNorm(kind, c.channels, c.stem_dim, 3, stride=c.stem_stride)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, self.family)
        x = image.contiguous(memory_format=torch.channels_last)
        return channels_last(self.conv.then(x, self.act))


class Last(nn.Module):
    """1x1 convolution, norm, activation of a map (B, h, w, C)."""

    def __init__(self, dim_in: int, dim: int, kind: Kind) -> None:
        super().__init__()
        self.conv, self.act = PaddedConvNorm(kind, dim_in, dim, 1), ACTS[kind.act]()

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c2"]:
        return channels_last(self.conv.then(channels_first(x), self.act))


def places(strides: Sequence[int]) -> list[int]:
    """Return the level of the pyramid of each stack: a stride begins a new one."""
    found, level = [], 0
    for i, stride in enumerate(strides):
        level += i > 0 and stride > 1
        found.append(int(level))
    return found


def stacks(config: Any, kernels: Sequence[int]) -> list[Stack]:
    """Return the stacks that a config with depths, dims, strides and expansion asks for; blocks of
    the first are not wider inside. Raises ValueError where they differ in length."""
    c = config
    if not len(c.depths) == len(c.dims) == len(c.strides) == len(kernels):
        raise ValueError(
            f"depths {c.depths}, dims {c.dims}, strides {c.strides} and kernels {tuple(kernels)} "
            "differ in length: one each a stack of blocks"
        )
    if any(kernel % 2 == 0 for kernel in kernels):
        raise ValueError(f"kernels are {tuple(kernels)}: expected odd numbers")
    ratios = (1, *(c.expansion,) * (len(c.depths) - 1))
    rows = zip(c.depths, c.dims, c.strides, kernels, ratios, strict=True)
    return [Stack(*row) for row in rows]


class InvertedNet(Pyramid):
    """Stem, stacks of inverted bottlenecks on the levels that strides make, 1x1 convolution to
    `config.width`, mean, linear head."""

    def __init__(self, config: Any, stacked: Sequence[Stack], kind: Kind, family: str) -> None:
        c, dim, stride = config, config.stem_dim, config.stem_stride
        rates = iter(rising(c.drop_path, sum(c.depths)))
        levels: list[Level] = []
        blocks: list[list[nn.Module]] = []
        for stack, place in zip(stacked, places(c.strides), strict=True):
            stride *= stack.stride
            if place == len(blocks):
                blocks.append([])
                levels.append(Level(stride, stack.dim))
            for j in range(stack.depth):
                own = stack if j == 0 else stack._replace(stride=1)
                block = Separable if stack.ratio == 1 else Inverted
                blocks[place].append(block(dim, own, kind, drop_path=next(rates)))
                dim = stack.dim
            levels[place] = Level(stride, dim)
        super().__init__(
            config,
            stem=Stem(config, kind, family),
            stages=[Stage(nn.Identity(), own) for own in blocks],
            norm=Last(dim, c.width, kind),
            pool=Mean(),
            head=linear_head(c.width, c.classes),
            levels=levels,
        )
        self.width = c.width
        kaiming_conv(self)
