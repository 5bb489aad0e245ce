"""Semantic FPN: a light feature pyramid gives every pixel a class, on the levels of any pyramid.

Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv 1901.02446: 1x1 convolutions
bring all levels to one width, each is added, enlarged, to the finer one, and a sum of all of them
at the finest is classified.

Lighter than the paper's, whose branch has a convolution and an enlargement for every factor of two:
here a level goes to the finest resolution by one 3x3 convolution and one enlargement. Norms are
BatchNorms, which are folded at inference, where the paper has GroupNorms, and every level of the
host gets a LayerNorm. There is no golden, since the published networks have the heavier branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import ConvNorm, channels_first, channels_last
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.models import resnet
from vitrail.models.parts.pyramid_hosts import Finest, OnPyramid, Pyramids, positions, widths
from vitrail.models.trunk import hosts
from vitrail.models.trunk.dense import DenseVariant
from vitrail.models.trunk.sliding import resized

_RESNET = resnet.Config()


@dataclass(frozen=True)
class Config(hosts.Hosted):
    """A pyramid, `host`, and the channels `width` of the head."""

    host: Pyramids = _RESNET
    width: int = 128


DENSE: dict[str, DenseVariant] = {}
NAMES: dict[str, list] = {}
POSITIONS = positions


class Fpn(nn.Module):
    """Maps (B, h, w, C) of falling resolution to scores (B, h, w, classes) at the first."""

    def __init__(self, widths: Sequence[int], width: int, classes: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvNorm(dim, width, 1) for dim in widths)
        self.smooth = nn.ModuleList(ConvNorm(width, width, 3) for _ in widths)
        self.classifier = Linear(width, classes)
        trunc_normal_linear(self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b h2 w2 k"]:
        levels = [
            lateral(channels_first(x)) for lateral, x in zip(self.laterals, maps, strict=True)
        ]
        for i in range(len(levels) - 1, 0, -1):
            finer = levels[i - 1]
            levels[i - 1] = finer + resized(levels[i], (finer.shape[-2], finer.shape[-1]))
        size = levels[0].shape[-2], levels[0].shape[-1]
        smoothed = [
            resized(smooth(x).relu(), size) for smooth, x in zip(self.smooth, levels, strict=True)
        ]
        return self.classifier(channels_last(torch.stack(smoothed).sum(0)))


class SemanticFpn(OnPyramid):
    """A pyramid under a light FPN: an image (B, channels, H, W) to scores (B, classes, H, W).

    Raises ValueError for images of other channels.

    Examples:
        >>> import torch, vitrail
        >>> from vitrail.models import semantic_fpn, swin
        >>> host = swin.Config(image=(64, 96), classes=5, drop_path=0.0)
        >>> model = vitrail.create(semantic_fpn.Config(host, width=64)).eval()
        >>> model(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 5, 64, 96])
    """

    def __init__(self, config: Config) -> None:
        classes = config.classes or 0
        super().__init__(
            config, Fpn(widths(config), config.width, classes) if classes else Finest()
        )


MODEL = SemanticFpn
