"""UPerNet: a pyramid pooling of the coarsest map and a feature pyramid give every pixel a class.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018, arXiv 1807.10221;
its head for scenes, as Swin's and CSWin's authors train it in mmsegmentation: every level of the
host has a LayerNorm, convolutions are without bias, with BatchNorm and ReLU. Enlargements are
bilinear between centres of pixels.

The auxiliary head of the published trainings, a convolution on the third level, is left out; it
counts in the published numbers of parameters. So does the dropout of 0.1 before the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import ConvNorm, channels_first, channels_last
from vitrail.layers.linear import Linear
from vitrail.models import cswin, swin
from vitrail.models.names import upernet as names
from vitrail.models.parts.pyramid_hosts import Finest, OnPyramid, Pyramids, positions, widths
from vitrail.models.trunk import hosts
from vitrail.models.trunk.dense import DenseVariant
from vitrail.models.trunk.sliding import Sliding, resized

SCALES = (1, 2, 3, 6)
_USUAL = swin.Config()


@dataclass(frozen=True)
class Config(hosts.Hosted):
    """A pyramid, `host`, and the channels `width` of the head, before whose last layer a share
    `dropout` of channels is dropped."""

    host: Pyramids = _USUAL
    width: int = 512
    dropout: float = 0.1


_IMAGE = {"image": (512, 512), "classes": 150}
_SWIN = swin.Config(**_IMAGE, drop_path=0.3)
_CSWIN = cswin.Config(**_IMAGE, drop_path=0.3)
_COUNTED = "published is 60, counted with the auxiliary head of the training are 52.1"
_READS = Sliding(512, 341, short=512)
# name, host, published parameters and multiply-adds at 512x2048, mIoU at one and several scales
_ROWS = [
    ("upernet_swin_tiny", _SWIN, 60.0, 44.5, 45.8),
    ("upernet_swin_small", replace(_SWIN, depths=(2, 2, 18, 2)), 81.0, 47.6, 49.5),
    (
        "upernet_swin_base",
        replace(_SWIN, dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
        121.0, 48.1, 49.7,
    ),
    ("upernet_cswin_tiny", _CSWIN, 60.0, 49.3, 50.7),
    ("upernet_cswin_small", replace(_CSWIN, depths=(2, 4, 32, 2), drop_path=0.4), 65.0, 50.4, 51.5),
    (
        "upernet_cswin_base",
        replace(_CSWIN, dim=96, depths=(2, 4, 32, 2), heads=(4, 8, 16, 32), drop_path=0.6),
        109.0, 51.1, 52.2,
    ),
]  # fmt: skip
DENSE = {
    name: DenseVariant(
        Config(host), params_m=params_m, dataset="ADE20K", miou=miou, miou_scales=scales,
        reads=_READS, note=_COUNTED if name == "upernet_cswin_tiny" else "",
    )
    for name, host, params_m, miou, scales in _ROWS
}  # fmt: skip
NAMES = names.TABLES
POSITIONS = positions


class UperHead(nn.Module):
    """Maps (B, h, w, C) of falling resolution to scores (B, h, w, classes) at the first."""

    def __init__(self, widths: Sequence[int], config: Config, classes: int) -> None:
        super().__init__()
        width, last = config.width, widths[-1]
        self.pooled = nn.ModuleList(ConvNorm(last, width, 1) for _ in SCALES)
        self.scene = ConvNorm(last + len(SCALES) * width, width, 3)
        self.laterals = nn.ModuleList(ConvNorm(dim, width, 1) for dim in widths[:-1])
        self.smooth = nn.ModuleList(ConvNorm(width, width, 3) for _ in widths[:-1])
        self.fused = ConvNorm(len(widths) * width, width, 3)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = Linear(width, classes)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b h2 w2 k"]:
        *finer, last = map(channels_first, maps)
        levels = [lateral(x).relu() for lateral, x in zip(self.laterals, finer, strict=True)]
        levels.append(self._scene(last))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resized(levels[i], _size(levels[i - 1]))
        smoothed = [smooth(x).relu() for smooth, x in zip(self.smooth, levels[:-1], strict=True)]
        size = _size(levels[0])
        whole = torch.cat([resized(x, size) for x in [*smoothed, levels[-1]]], 1)
        return self.classifier(channels_last(self.dropout(self.fused(whole).relu())))

    def _scene(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """Return the coarsest map with its means over grids of 1, 2, 3 and 6 cells a side."""
        seen = [
            resized(conv(F.adaptive_avg_pool2d(x, cells)).relu(), _size(x))
            for cells, conv in zip(SCALES, self.pooled, strict=True)
        ]
        return self.scene(torch.cat([x, *seen], 1)).relu()


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


class UperNet(OnPyramid):
    """A pyramid under UPerNet's head: an image (B, channels, H, W) to scores (B, classes, H, W).

    Raises ValueError for images of other channels. In training a batch has two images or more,
    since a mean over the whole map has one value for each.

    Examples:
        >>> import torch, vitrail
        >>> model = vitrail.create("upernet_swin_tiny", classes=5, width=64, image=(64, 96)).eval()
        >>> model(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 5, 64, 96])
    """

    def __init__(self, config: Config) -> None:
        classes = config.classes or 0
        super().__init__(config, UperHead(widths(config), config, classes) if classes else Finest())


MODEL = UperNet
