"""MobileNetV2: narrow maps are joined, and widened only inside of their blocks.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv
1801.04381.

A block widens its input six times by a 1x1 convolution, mixes places channel by channel, and goes
back to few channels without an activation, which would lose what a narrow map holds. Widths are
multiples of 8; the last 1x1 convolution has at least 1280 channels whatever the multiplier. "110d"
and "120d" are timm's: deeper by 1.2 and 1.4, stem and last convolution as in the network of
multiplier 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.models.names import mobilenet_v2 as names
from vitrail.models.parts.inverted import InvertedNet, Kind, stacks
from vitrail.models.trunk.backbone import IMAGENET, Inputs, Small, Variant


@dataclass(frozen=True)
class Config:
    """Sizes of a MobileNetV2: blocks, widths and strides of its stacks.

    Blocks are `expansion` times as wide inside as before, those of the first stack as wide; `width`
    is that of the last convolution, the embedding.
    """

    depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    dims: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expansion: int = 6
    stem_dim: int = 32
    stem_stride: int = 2
    width: int = 1280
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


# Parameters and accuracy are those that timm reports of its networks and weights, where the paper
# and its code round: the paper has 3.4M, 300M multiply-adds and 72.0 % of multiplier 1.
_DEEP = (1, 3, 4, 5, 4, 4, 1)
_DEEPER = (1, 3, 5, 6, 5, 5, 1)
_ROWS = [
    ("035", (8, 8, 16, 24, 32, 56, 112), None, 16, 1280, 1.68, 0.059, None, ""),
    ("050", (8, 16, 16, 32, 48, 80, 160), None, 16, 1280, 1.97, 0.097, 65.94, "050.lamb_in1k"),
    ("075", (16, 24, 24, 48, 72, 120, 240), None, 24, 1280, 2.64, 0.209, None, ""),
    ("100", Config.dims, None, 32, 1280, 3.505, 0.3, 72.98, "100.ra_in1k"),
    ("110d", (16, 24, 32, 72, 104, 176, 352), _DEEP, 32, 1280, 4.52, None, 75.06, "110d.ra_in1k"),
    ("120d", (24, 32, 40, 80, 112, 192, 384), _DEEPER, 32, 1280, 5.83, None, 77.30, "120d.ra_in1k"),
    ("140", (24, 32, 48, 88, 136, 224, 448), None, 48, 1792, 6.11, 0.582, 76.52, "140.ra_in1k"),
]
VARIANTS = {
    f"mobilenet_v2_{name}": Variant(
        Config(dims=dims, depths=depths or Config.depths, stem_dim=stem, width=width),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/mobilenetv2_{hub}"} if hub else {},
    )
    for name, dims, depths, stem, width, params_m, flops_g, top1, hub in _ROWS
}

SPACE = Small(
    Config(width=256),
    {
        ("dims", "depths", "strides"): (
            ((8, 16, 24, 48), (1, 2, 2, 2), (1, 2, 2, 2)),
            ((16, 24, 32, 64), (1, 2, 2, 2), (1, 2, 2, 2)),
            ((16, 24, 40, 80), (1, 2, 3, 3), (1, 2, 2, 2)),
            ((16, 24, 40, 80, 112, 160), (1, 2, 2, 3, 2, 2), (1, 2, 2, 2, 1, 2)),
        ),
        ("stem_dim", "stem_stride"): ((16, 1), (16, 2), (32, 1), (32, 2)),
        "expansion": (3, 6),
    },
)

NAMES = names.TABLES


class MobileNetV2(InvertedNet):
    """Stem, stacks of inverted bottlenecks, 1x1 convolution, mean, linear head; all with ReLU6."""

    def __init__(self, config: Config) -> None:
        kernels = (3,) * len(config.depths)
        super().__init__(config, stacks(config, kernels), Kind(), "mobilenet_v2")


TAKES = Inputs(IMAGENET.mean, IMAGENET.std, 0.875, "bilinear")  # torchvision's evaluation
ATTENDS = False  # no part of it has weights that sum to one
MODEL = MobileNetV2
