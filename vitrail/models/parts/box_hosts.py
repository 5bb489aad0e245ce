"""Backbones under a detector: which there are, and the pyramid that is made of their maps.

A pyramid's levels get a feature pyramid network (Lin et al., CVPR 2017, arXiv 1612.03144), the one
map of a plain backbone the simple pyramid of ViTDet (Li et al., ECCV 2022, arXiv 2203.16527): it is
enlarged by transposed convolutions and halved by a pooling. Coarser levels follow by convolutions
of stride 2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from vitrail.config import members
from vitrail.models import beit, cait, deit, flexivit, resnet, t2t_vit, vit, vit_hybrid, xcit
from vitrail.models.parts import pyramid_hosts
from vitrail.models.parts.pyramid_hosts import Pyramids
from vitrail.models.trunk import hosts
from vitrail.models.trunk.backbone import Backbone, Level

Plain = (
    beit.Config
    | cait.Config
    | deit.Config
    | flexivit.Config
    | t2t_vit.Config
    | vit.Config
    | vit_hybrid.Config
    | xcit.Config
)
Hosts = Pyramids | Plain
# How much finer or coarser than its map the levels of a plain backbone are.
SCALES = (4.0, 2.0, 1.0, 0.5)
# Channels that a GroupNorm of a head takes together: 32 groups at the published width.
GROUP = 8


@dataclass(frozen=True)
class OneStage(hosts.Hosted):
    """A backbone, `host`, the channels `width` of pyramid and head (a multiple of 8), the stride
    of the `finest` level at least, and `extra` coarser levels."""

    host: Hosts = field(default_factory=resnet.Config)
    width: int = 256
    finest: int = 8
    extra: int = 2


def hosted(config: Any) -> Backbone:
    """Return the backbone of a config, without what reads its last map for
    a label. Raises ValueError.
    """
    if isinstance(config.host, members(Pyramids)):
        return pyramid_hosts.hosted(config)
    if getattr(config.host, "pre_logits", 0):
        raise ValueError(
            f"host.pre_logits is {config.host.pre_logits}: a detector reads maps, not what is "
            "pooled from them; give 0"
        )
    made = hosts.host_module(config).MODEL(replace(config.host, classes=0))
    made.pool = nn.Identity()
    return made


def neck(levels: Sequence[Level], width: int, finest: int, extra: int) -> nn.Module:
    """Return what maps a backbone's maps (B, h, w, C) to levels (B, width, h, w), finest first.

    No level is finer than a stride of `finest`, unless the backbone has no coarser one; `extra`
    coarser levels follow. Raises ValueError for levels that do not double their strides.
    """
    if len(levels) == 1:
        return SimplePyramid(levels[0], width, finest, extra)
    used = [i for i, level in enumerate(levels) if level.stride >= finest] or [len(levels) - 1]
    strides = [levels[i].stride for i in used]
    if any(b <= a for a, b in pairwise(strides)):
        raise ValueError(
            f"the levels of this host have strides {strides}: a detector needs each to be coarser "
            "than the one before, take another host"
        )
    return Fpn(levels, used, width, extra)


def check_width(width: int) -> None:
    """Raise ValueError for a width whose channels form no groups of `GROUP`."""
    if width < GROUP or width % GROUP:
        raise ValueError(f"width is {width}: give a multiple of {GROUP}, which norms take together")


class Coarser(nn.Module):
    """Adds levels of half the resolution each to maps (B, C, h, w), by convolutions."""

    def __init__(self, width: int, extra: int) -> None:
        super().__init__()
        self.halve = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(extra)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = list(maps)
        for i, halve in enumerate(self.halve):
            maps.append(halve(maps[-1].relu() if i else maps[-1]))
        return maps


class Fpn(nn.Module):
    """Normed maps (B, h, w, C) of the levels `used` to (B, width, h, w), each with what the coarser
    ones see."""

    def __init__(
        self, levels: Sequence[Level], used: Sequence[int], width: int, extra: int
    ) -> None:
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        self.used, chosen = tuple(used), [levels[i] for i in used]
        self.strides = _followed([level.stride for level in chosen], extra)
        self.norms = nn.ModuleList(nn.LayerNorm(level.channels) for level in chosen)
        self.fpn = FeaturePyramidNetwork([level.channels for level in chosen], width)
        self.coarser = Coarser(width, extra)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        some = [norm(maps[i]) for norm, i in zip(self.norms, self.used, strict=True)]
        named = OrderedDict((str(i), x.permute(0, 3, 1, 2)) for i, x in enumerate(some))
        return self.coarser(list(self.fpn(named).values()))


class SimplePyramid(nn.Module):
    """One map (B, h, w, C) to levels (B, width, h, w) of several resolutions, each by itself."""

    def __init__(self, level: Level, width: int, finest: int, extra: int) -> None:
        super().__init__()
        scales = [s for s in SCALES if level.stride / s >= finest] or [SCALES[-1]]
        self.strides = _followed([round(level.stride / s) for s in scales], extra)
        self.branches = nn.ModuleList(_branch(level.channels, width, s) for s in scales)
        self.coarser = Coarser(width, extra)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        x = maps[-1].permute(0, 3, 1, 2)
        return self.coarser([branch(x) for branch in self.branches])


def _branch(dim: int, width: int, scale: float) -> nn.Sequential:
    """Return what makes a level of the one map: to its resolution, then
    to the width, normed twice.
    """
    parts: list[nn.Module] = []
    if scale == 4:
        parts += [nn.ConvTranspose2d(dim, dim // 2, 2, 2), nn.GroupNorm(1, dim // 2), nn.GELU()]
        parts += [nn.ConvTranspose2d(dim // 2, dim // 4, 2, 2)]
        dim //= 4
    elif scale == 2:
        parts += [nn.ConvTranspose2d(dim, dim // 2, 2, 2)]
        dim //= 2
    elif scale < 1:
        parts += [nn.MaxPool2d(2, 2, ceil_mode=True)]
    parts += [nn.Conv2d(dim, width, 1, bias=False), nn.GroupNorm(1, width)]
    parts += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(1, width)]
    return nn.Sequential(*parts)


def _followed(strides: list[int], extra: int) -> tuple[int, ...]:
    return (*strides, *(strides[-1] << i for i in range(1, extra + 1)))
