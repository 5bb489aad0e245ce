"""BoTNet: global attention instead of the last 3x3 convolutions of a ResNet, nothing else.

Srinivas et al., "Bottleneck Transformers for Visual Recognition", CVPR 2021, arXiv 2101.11605.
Attention runs at the size of its input, is averaged over 2x2 cells where the convolution had a
stride, and has no output projection: the 1x1 convolution behind it is one. Logits are q'k and q'r
of two head-shared tables of offsets (`layers/relative.py`), or of places ("absolute").

Queries are scaled by d**-0.5 before both, as in the authors' gist; timm's networks scale q'k alone
(`scaled` is False). The gist has an activation behind the shortcut's BatchNorm, timm has none
(`active_shortcut`). Both keep the shortcut's convolution 1x1; a port with 3x3 differs. The T
series has SiLU and an excitation of 1/16 of a block's width before every addition, those of
attention included; the paper does not say the activation inside, here it is SiLU.

Any image may be given: maps round up, a cell at the border averages what it has, and the tables,
which are for the config's image, are interpolated linearly, at every other size or once by
loading with `image=`. Published operations and accuracies are from memory of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attention_weights
from vitrail.layers.checks import head_width
from vitrail.layers.conv import channels_first, channels_last
from vitrail.layers.linear import Linear, linear
from vitrail.layers.relative import (
    TABLES,
    AbsolutePosition,
    Grid,
    RelativePosition,
    attend_by_parts,
)
from vitrail.models import resnet
from vitrail.models.names import botnet as names
from vitrail.models.parts.attention_resnet import (
    ACTS,
    Excite,
    check_act,
    check_attending,
    finish,
    stem,
)
from vitrail.models.resnet import Bottleneck, ResNet, convolution, ungated
from vitrail.models.trunk.backbone import Small, Variant
from vitrail.models.trunk.positions import by_axis

KINDS = {"relative": RelativePosition, "absolute": AbsolutePosition}


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of a BoTNet: a ResNet's, and per stage which of its blocks attend. `squeeze` is a
    block's width over the inner one of its excitation, 0 for none. As in `halonet`, `excite`
    divides the inner width of blocks without attention for an excitation before their last
    convolution, `final` is the width of a 1x1 convolution before the head, 0 for none;
    `stem_strides` are those of a stem without a pool; `expansion` may be one number a stage."""

    expansion: int | float | tuple[int | float, ...] = 4  # pyright: ignore[reportIncompatibleVariableOverride]
    attending: tuple[tuple[int, ...], ...] = ((), (), (), (0, 1, 2))
    heads: int = 4
    position: str = "relative"
    scaled: bool = True
    active_shortcut: bool = True
    squeeze: int = 0
    excite: int = 0
    final: int = 0
    stem_strides: tuple[int, ...] = ()
    act: str = "relu"


_S1 = Config(strides=(2, 2, 1))
_26T = Config(
    depths=(2, 2, 2, 2),
    attending=((), (), (1,), (0, 1)),
    stem_kernel=3,
    stem_dims=(24, 32, 64),
    scaled=False,
    active_shortcut=False,
    image=(256, 256),
)
_50TS = replace(_26T, depths=(3, 4, 6, 3), attending=((), (3,), (1, 3, 5), (1,)), act="silu")
_SE33TS = replace(
    _50TS,
    depths=(2, 3, 3, 2),
    expansion=(4, 4, 4, 3),
    attending=((), (2,), (2,), (0, 1)),
    excite=16,
    final=1280,
    stem_strides=(2, 1, 2),
)
_WEIGHTS = "published are {} M, without norms, biases and tables"


def _t(depth: int, last: int, side: int) -> Config:
    return replace(
        _S1,
        depths=(3, 4, depth, last),
        attending=((), (), (), tuple(range(last))),
        act="silu",
        squeeze=16,
        image=(side, side),
    )


VARIANTS = {
    "botnet_50": Variant(Config(), params_m=20.8, top1=77.0),
    "botnet_s1_50": Variant(_S1, params_m=20.8, top1=79.1),
    "botnet_t3": Variant(_t(6, 6, 224), params_m=33.5, flops_g=7.3, top1=81.7),
    "botnet_t4": Variant(_t(23, 6, 224), params_m=54.7, flops_g=10.9, top1=82.8),
    "botnet_t5": Variant(_t(23, 12, 256), params_m=75.1, flops_g=19.3, top1=83.5),
    "botnet_t6": Variant(_t(6, 12, 320), flops_g=23.3, top1=84.0, note=_WEIGHTS.format(53.9)),
    "botnet_t7_320": Variant(_t(23, 12, 320), params_m=75.1, flops_g=30.9, top1=84.2),
    "botnet_t7": Variant(_t(23, 12, 384), flops_g=45.8, top1=84.7, note=_WEIGHTS.format(75.1)),
    "botnet_26t": Variant(_26T, params_m=12.49, hub={"timm": "hf-hub:timm/botnet26t_256.c1_in1k"}),
    "botnet_50ts": Variant(_50TS, params_m=22.74),
    "sebotnet_33ts": Variant(
        _SE33TS, params_m=13.7, hub={"timm": "hf-hub:timm/sebotnet33ts_256.a1h_in1k"}
    ),
}

SPACE = Small(
    Config(stem_kernel=3, expansion=2, heads=4),
    {
        ("dims", "depths", "attending"): (
            ((16, 32, 64), (1, 1, 2), ((), (), (0, 1))),
            ((32, 64, 128), (1, 1, 2), ((), (), (0, 1))),
            ((32, 64, 128), (2, 2, 2), ((), (), (0, 1))),
            ((32, 64, 96, 128), (2, 2, 2, 2), ((), (), (1,), (0, 1))),
        ),
        "stem_stride": (1, 2, 4),
    },
)

NAMES = names.TABLES


def grids(config: Config) -> list[tuple[Grid, Grid]]:
    """Return what the first and the other mixers of every stage see of the config's image."""
    c = config
    steps = c.strides or (2,) * (len(c.depths) - 1)
    sizes = [
        (-(-c.image[0] // stride), -(-c.image[1] // stride))
        for stride in accumulate(steps, mul, initial=c.stem_stride)
    ]
    return list(zip([sizes[0], *sizes], sizes, strict=False))


def _entries(config: Config, stage: int, block: int) -> Grid:
    """Count the entries of the two tables of a block."""
    h, w = grids(config)[stage][block > 0]
    entries = KINDS[config.position].entries
    return entries(h), entries(w)


POSITIONS = by_axis("stages.{i}.blocks.{j}.mixer.position", _entries)


class BottleneckAttention(nn.Module):
    """Global attention on (B, C, H, W) views with q'k and logits of positions, then the mean of
    cells of stride x stride. `qkv` is packed [q | k | v], each [head][channel]."""

    def __init__(
        self,
        dim: int,
        heads: int,
        position: nn.Module,
        *,
        stride: int = 1,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        head_width(dim, heads)
        self.heads, self.scaled, self.position = heads, scaled, position
        self.qkv = Linear(dim, 3 * dim, bias=False)
        nn.init.normal_(self.qkv.weight, std=0.01)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        q, k, v = self._heads(x)
        out = attend_by_parts(q, k, v, lambda part: self._bias(part, x))
        out = out.transpose(1, 2).reshape(x.shape[0], *x.shape[2:], -1)
        return self.pool(channels_first(out))

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom: attention of every head, rows are queries."""
        q, k, _ = self._heads(x)
        return attention_weights(q, k, bias=self._bias(q, x))

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels and add to them, for good: values can, as the weights
        of a query, and the shares of a cell, sum to one."""
        q, k, v = self.qkv.weight.chunk(3)
        bias = torch.cat([torch.zeros_like(shift), torch.zeros_like(shift), shift])
        self.qkv = linear(torch.cat([q, k, v * scale[:, None]]), bias)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(channels_last(x)).flatten(1, 2)
        qkv = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return torch.unbind(qkv)  # pyright: ignore[reportReturnType]

    def _bias(self, q: Tensor, x: Tensor) -> Tensor:
        q = q * q.shape[-1] ** -0.5 if self.scaled else q
        return self.position(q, (x.shape[2], x.shape[3]))


class BoTNet(ResNet):
    """A ResNet of bottlenecks, some of which attend to the whole map."""

    undecayed = TABLES

    def __init__(self, config: Config) -> None:
        c = config
        _check(c)
        sizes = grids(c)

        def mixer(i: int, j: int, dim: int, stride: int) -> nn.Module:
            if j not in c.attending[i]:
                return convolution(i, j, dim, stride)
            position = KINDS[c.position](sizes[i][j > 0], head_width(dim, c.heads))
            return BottleneckAttention(dim, c.heads, position, stride=stride, scaled=c.scaled)

        def gate(i: int, j: int, dim: int) -> nn.Module:
            return Excite(dim, max(1, dim // c.squeeze)) if c.squeeze else ungated(i, j, dim)

        act = ACTS[c.act]
        super().__init__(c, mixer, gate=gate, act=act, stem=stem(c), bottleneck=True)
        finish(self, c)
        for block in self.modules():
            if isinstance(block, Bottleneck) and isinstance(block.mixer, BottleneckAttention):
                nn.init.zeros_(block.conv3.norm.weight)
                if c.active_shortcut and not isinstance(block.shortcut, nn.Identity):
                    shortcut = nn.Sequential(block.shortcut, ACTS[c.act]())
                    block.add_module("shortcut", shortcut)


def _check(c: Config) -> None:
    check_attending(c.attending, c.depths)
    check_act(c.act)
    if c.position not in KINDS:
        raise ValueError(f"position is {c.position!r}: expected {' or '.join(KINDS)}")
    if c.squeeze < 0:
        raise ValueError(f"squeeze is {c.squeeze}: expected 0, or a width over another")


MODEL = BoTNet
