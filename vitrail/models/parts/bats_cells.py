"""The cells of BATS: layers of BatchNorm, convolution and PReLU, the operations, their sums.

Operations see channels-first views (B, C, h, w), h and w halved and rounded up at a stride of 2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.binary import Make, Straight
from vitrail.layers.conv import Conv2d, affine, channels_first, channels_last
from vitrail.layers.genotype import Genotype, nodes
from vitrail.layers.linear import frozen
from vitrail.layers.residual import DropPath

SHUFFLED = 4


class Layer(nn.Module):
    """PReLU(conv(norm(x))), the convolution real or binary."""

    def __init__(self, dim_in: int, dim: int, conv: nn.Module) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm2d(dim_in)
        self.conv, self.act = conv, nn.PReLU(dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.act(self.conv(self.norm(x)))

    def deployed(self) -> nn.Module:
        """Fold BatchNorm into a real 1x1 convolution, else make it a scale and a shift, as padding
        lies behind it.
        """
        self.norm, self.conv = _married(self.norm, self.conv)
        return self


def _married(norm: Any, conv: nn.Module) -> tuple[nn.Module, nn.Module]:
    if not (isinstance(conv, Conv2d) and conv.kernel_size == (1, 1)):
        return Straight(norm), conv
    scale, shift = affine(norm)
    made, weight = copy.copy(conv), conv.weight
    made._parameters = {"weight": frozen(weight * scale[:, None, None])}
    made.bias = frozen(weight[:, :, 0, 0] @ shift)
    return nn.Identity(), made


class Convolutions(nn.Module):
    """x + shuffle(layers(x)); without x where the shape changes."""

    def __init__(self, *layers: Layer, shuffle: bool, shortcut: bool) -> None:
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), shortcut
        self.shuffle = nn.ChannelShuffle(SHUFFLED) if shuffle else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        y = self.shuffle(self.layers(x))
        return x + y if self.shortcut else y


class Reduction(nn.Module):
    """BatchNorm, 1x1 convolutions of every second pixel and of those diagonally between, half of
    the channels each, PReLU: (B, C, h, w) to (B, C', h / 2, w / 2)."""

    def __init__(self, dim_in: int, dim: int, make: Make) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm2d(dim_in)
        self.conv1, self.conv2 = make(dim_in, dim // 2, 1, 1), make(dim_in, dim // 2, 1, 1)
        self.act = nn.PReLU(dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        x = self.norm(x)
        below, right = (side % 2 for side in x.shape[2:])
        y = self.conv2(F.pad(x[:, :, 1::2, 1::2], (0, right, 0, below)))
        return self.act(torch.cat([self.conv1(x[:, :, ::2, ::2]), y], 1))

    def deployed(self) -> nn.Module:
        """Turn the BatchNorm into a scale and a shift."""
        self.norm = Straight(self.norm)  # pyright: ignore[reportArgumentType]
        return self


class Nothing(nn.Module):
    """Zeros of the shape that an operation of the stride gives."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


Operation = Callable[[int, int, int, Make], nn.Module]


def _grouped(kernel: int, dilation: int = 1) -> Operation:
    def build(dim: int, stride: int, groups: int, make: Make) -> nn.Module:
        padding = kernel // 2 * dilation
        conv = make(dim, dim, kernel, stride, padding, dilation, groups=groups)
        return Convolutions(Layer(dim, dim, conv), shuffle=True, shortcut=stride == 1)

    return build


def _factorised(dim: int, stride: int, groups: int, make: Make) -> nn.Module:
    wide = make(dim, dim, (1, 7), (1, stride), (0, 3))
    high = make(dim, dim, (7, 1), (stride, 1), (3, 0))
    layers = Layer(dim, dim, wide), Layer(dim, dim, high)
    return Convolutions(*layers, shuffle=True, shortcut=stride == 1)


def _pool(kind: Callable[..., nn.Module], **options: Any) -> Operation:
    return lambda dim, stride, groups, make: kind(3, stride, 1, **options)


def _skip(dim: int, stride: int, groups: int, make: Make) -> nn.Module:
    return nn.Identity() if stride == 1 else Reduction(dim, dim, make)


OPERATIONS: dict[str, Operation] = {
    "none": lambda dim, stride, groups, make: Nothing(stride),
    "skip_connect": _skip,
    "max_pool_3x3": _pool(nn.MaxPool2d),
    "avg_pool_3x3": _pool(nn.AvgPool2d, count_include_pad=False),
    "sep_conv_3x3": _grouped(3),
    "sep_conv_5x5": _grouped(5),
    "sep_conv_7x7": _grouped(7),
    "dil_conv_3x3": _grouped(3, 2),
    "dil_conv_5x5": _grouped(5, 2),
    "conv_7x1_1x7": _factorised,
}


def _enter(dim_in: int, dim: int, make: Make) -> nn.Module:
    """Make a 1x1 layer, with a shortcut where the width stays."""
    layer = Layer(dim_in, dim, make(dim_in, dim, 1))
    return Convolutions(layer, shuffle=False, shortcut=dim_in == dim)


class Cell(nn.Module):
    """Nodes, each the sum of two operations on states before it: the two maps before, the first
    of them as large or twice as large, (B, h, w, C), to (B, h', w', n dim)."""

    def __init__(
        self,
        genotype: Genotype,
        concat: tuple[int, ...],
        dims: tuple[int, int],
        dim: int,
        groups: int,
        *,
        reduces: bool,
        shrinks: bool,
        make: Make,
        operations: Mapping[str, Operation],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        enter = Reduction if shrinks else _enter
        self.enter0, self.enter1 = enter(dims[0], dim, make), _enter(dims[1], dim, make)
        self.read = tuple((a, b) for (_, a), (_, b) in nodes(genotype))
        self.ops = nn.ModuleList(
            operations[name](dim, 2 if reduces and state < 2 else 1, groups, make)
            for name, state in genotype
        )
        self.concat = concat or tuple(range(2, 2 + len(self.read)))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, before: Float[Tensor, "b h w c"], last: Float[Tensor, "b h2 w2 c2"]
    ) -> Float[Tensor, "b h3 w3 c3"]:
        states = [self.enter0(channels_first(before)), self.enter1(channels_first(last))]
        ops = iter(self.ops)
        for a, b in self.read:
            states.append(self._edge(next(ops), states[a]) + self._edge(next(ops), states[b]))
        return channels_last(torch.cat([states[i] for i in self.concat], 1))

    def _edge(self, op: nn.Module, x: Tensor) -> Tensor:
        return x if isinstance(op, nn.Identity) else self.drop_path(op(x))
