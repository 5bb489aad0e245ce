"""What ResNets with attention in some of their blocks share: which, activations, timm's names, and
what timm put around them: stems without a pool, excitations, a last convolution."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import ConvNorm, channels_first, channels_last, folded
from vitrail.layers.gates import Gate
from vitrail.layers.mbconv import Excitation
from vitrail.models.resnet import Act, Bottleneck, ResNet, Stem, relu
from vitrail.models.senet import SqueezeExcite, rounded
from vitrail.models.trunk.heads import linear_head

ACTS = {"relu": relu, "silu": lambda: nn.SiLU(inplace=True)}


def matrix(kernel: Tensor) -> Tensor:
    """Turn a 1x1 kernel (C', C, 1, 1) into the weight of a linear layer (C', C)."""
    return kernel.flatten(1)


# What timm's networks of byoanet.py call their parts.
BYOB = [
    ("stem.conv{i}.", "stem.convs.{i-1}."),
    ("stages.{i}.{j}.", "stages.{i}.blocks.{j}."),
    (".conv1_1x1.", ".conv1."),
    (".conv2_kxk.conv.", ".mixer."),
    (".conv2_kxk.bn.", ".norm."),
    (".conv3_1x1.", ".conv3."),
    *[(f".attn.{fc}.weight", f".conv3.excite.{fc}.weight", matrix) for fc in ("fc1", "fc2")],
    (".attn.", ".conv3.excite."),
    ("final_conv.conv.", "norm.conv.conv."),
    ("final_conv.bn.", "norm.conv.norm."),
    (".post_attn.", ".norm."),
    (".self_attn.pos_embed.height_rel", ".mixer.position.rows"),
    (".self_attn.pos_embed.width_rel", ".mixer.position.columns"),
    *[
        (f".self_attn.{name}.weight", f".mixer.{name}.weight", matrix)
        for name in ("q", "kv", "qkv")
    ],
    (".bn.", ".norm."),
    ("head.fc.", "head."),
]


def check_attending(attending: tuple[tuple[int, ...], ...], depths: tuple[int, ...]) -> None:
    """Raise ValueError unless `attending` names blocks that there are, a tuple of them a stage."""
    if len(attending) != len(depths):
        raise ValueError(
            f"attending {attending} and depths {depths} differ in length: one each a stage"
        )
    for i, (blocks, depth) in enumerate(zip(attending, depths, strict=True)):
        if any(not 0 <= j < depth for j in blocks):
            raise ValueError(
                f"attending has blocks {blocks} of stage {i}, which has {depth}: count from 0"
            )


def check_act(act: str) -> None:
    """Raise ValueError unless the activation is known."""
    if act not in ACTS:
        raise ValueError(f"act is {act!r}: expected {' or '.join(ACTS)}")


class StridedStem(Stem):
    """A stem whose convolutions have the given strides and no max pool behind them: (B, channels,
    H, W) to (B, h, w, C)."""

    def __init__(self, config: Any, act: Act, strides: tuple[int, ...]) -> None:
        super().__init__(config, act)
        dims = (config.channels, *config.stem_dims)
        if len(strides) != len(config.stem_dims) or prod(strides) != config.stem_stride:
            raise ValueError(
                f"stem_strides are {strides}: expected one for each of {len(config.stem_dims)} "
                f"stem_dims, whose product is the stem_stride {config.stem_stride}"
            )
        self.convs = nn.ModuleList(
            ConvNorm(a, b, config.stem_kernel, stride=step)
            for (a, b), step in zip(pairwise(dims), strides, strict=True)
        )
        self.pool = nn.Identity()


def stem(config: Any) -> nn.Module | None:
    """Return the stem of a config that has `stem_strides`; None leaves it to the ResNet."""
    c = config
    return StridedStem(c, ACTS[c.act], c.stem_strides) if c.stem_strides else None


class ExcitedConvNorm(ConvNorm):
    """Squeeze-and-excitation, then the given convolution and BatchNorm: (B, C, H, W) to
    (B, C', H', W'). Hidden widths are multiples of 8, as timm's."""

    def __init__(self, plain: ConvNorm, reduction: int) -> None:
        nn.Module.__init__(self)
        self.conv, self.norm = plain.conv, plain.norm
        dim = plain.conv.in_channels
        self.excite = SqueezeExcite(dim, rounded(dim / reduction, 8))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return super().forward(self.excite(x))

    def deployed(self) -> nn.Module:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fold the BatchNorm into the convolution."""
        return ExcitedConv(self.excite, folded(self.conv, self.norm))


class ExcitedConv(nn.Module):
    """Squeeze-and-excitation, then a convolution: (B, C, H, W) to (B, C', H', W')."""

    def __init__(self, excite: nn.Module, conv: nn.Module) -> None:
        super().__init__()
        self.excite, self.conv = excite, conv

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.conv(self.excite(x))

    def joined(
        self, x: Float[Tensor, "b c h w"], other: Float[Tensor, "b c2 h2 w2"], act: nn.Module
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """Return act(conv(excite(x)) + other), as `Conv2d.joined`."""
        return self.conv.joined(self.excite(x), other, act)  # pyright: ignore[reportCallIssue]


class Excite(Gate):
    """Squeeze-and-excitation of (B, C, H, W) views (Hu et al., arXiv 1709.01507)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.excite = Excitation(dim, hidden)

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        return channels_first(self.excite(channels_last(x)))


class Final(nn.Module):
    """1x1 convolution, BatchNorm and activation of a map: (B, h, w, C) to (B, h, w, C')."""

    def __init__(self, dim_in: int, dim: int, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = ConvNorm(dim_in, dim, 1), act

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c2"]:
        return channels_last(self.conv.then(channels_first(x), self.act))


def finish(model: ResNet, config: Any) -> None:
    """Give a network the excitations and the last convolution that its config asks for, in place.

    `config.excite` is a reduction, of blocks whose mixer is a convolution, `config.final` a width;
    0 leaves either out. Raises ValueError for negative ones.
    """
    c = config
    for name in ("excite", "final"):
        if getattr(c, name) < 0:
            raise ValueError(f"{name} is {getattr(c, name)}: expected 0 for none, or more")
    for block in model.modules() if c.excite else ():
        if isinstance(block, Bottleneck) and isinstance(block.mixer, nn.Conv2d):
            block.conv3 = ExcitedConvNorm(block.conv3, c.excite)
    if c.final:
        model.norm = Final(model.width, c.final, ACTS[c.act]())
        model.width, model.head = c.final, linear_head(c.final, c.classes)
