"""EfficientNet: depth, width and image grow together, by one rule.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv 1905.11946; without excitation and with ReLU6 for small devices: EfficientNet-Lite, of the
authors' repository (tensorflow/tpu, 2020).

MobileNetV2's blocks with squeeze-and-excitation, SiLU and kernels of 5 in some stacks. B1 to B8
multiply depths, rounded up, and widths, rounded to multiples of 8. The authors' weights ("tf_" as
in timm) pad as TensorFlow does, one more behind than before where a stride asks for it, and have
an eps of 1e-3; torchvision's and timm's own are padded evenly, with 1e-5, torchvision's B5 to B7
with 1e-3. The Lite networks keep stem, last convolution, and the depths of the first and the last
stack.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vitrail.models.names import efficientnet as names
from vitrail.models.parts.inverted import InvertedNet, Kind, stacks
from vitrail.models.trunk.backbone import Small, Variant


@dataclass(frozen=True)
class Config:
    """Sizes of an EfficientNet: blocks, widths, strides and depthwise kernels of its stacks.

    Blocks are `expansion` times as wide inside as before, those of the first stack as wide; an
    excitation's hidden width is `squeeze` times the block's input, 0 for none; `width` is that of
    the last convolution, the embedding. `act` is "silu" or "relu6", `padding` "symmetric" or
    "same", `eps` that of the norms.
    """

    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    dims: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    kernels: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    expansion: int = 6
    squeeze: float = 0.25
    stem_dim: int = 32
    stem_stride: int = 2
    width: int = 1280
    act: str = "silu"
    padding: str = "symmetric"
    eps: float = 1e-5
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


# widths, depths, stem, last width, million parameters
_SIZES = [
    (Config.dims, Config.depths, 32, 1280, 5.289),
    (Config.dims, (2, 3, 3, 4, 4, 5, 2), 32, 1280, 7.794),
    ((16, 24, 48, 88, 120, 208, 352), (2, 3, 3, 4, 4, 5, 2), 32, 1408, 9.110),
    ((24, 32, 48, 96, 136, 232, 384), (2, 3, 3, 5, 5, 6, 2), 40, 1536, 12.233),
    ((24, 32, 56, 112, 160, 272, 448), (2, 4, 4, 6, 6, 8, 2), 48, 1792, 19.342),
    ((24, 40, 64, 128, 176, 304, 512), (3, 5, 5, 7, 7, 9, 3), 48, 2048, 30.390),
    ((32, 40, 72, 144, 200, 344, 576), (3, 6, 6, 8, 8, 11, 3), 56, 2304, 43.041),
    ((32, 48, 80, 160, 224, 384, 640), (4, 7, 7, 10, 10, 13, 4), 64, 2560, 66.348),
    ((32, 56, 88, 176, 248, 424, 704), (4, 8, 8, 11, 11, 15, 4), 72, 2816, 87.413),
]


def _sized(n: int, side: int, **changes: Any) -> Config:
    dims, depths, stem, width, _ = _SIZES[n]
    sizes = {"dims": dims, "depths": depths, "stem_dim": stem, "width": width}
    return Config(**sizes, image=(side, side), **changes)


# Operations and accuracy are torchvision's of its weights. Image, multiply-adds, accuracy, timm's
_EVEN = [
    (224, 0.386, 77.69, "b0.ra_in1k"),
    (240, 0.687, 78.64, "b1.ft_in1k"),
    (288, 1.088, 80.61, "b2.ra_in1k"),
    (300, 1.827, 82.01, "b3.ra2_in1k"),
    (380, 4.394, 83.38, "b4.ra2_in1k"),
    (456, 10.266, 83.44, ""),
    (528, 19.068, 84.01, ""),
    (600, 37.746, 84.12, ""),
]
VARIANTS = {
    f"efficientnet_b{n}": Variant(
        _sized(n, side, eps=1e-5 if hub else 1e-3),
        params_m=_SIZES[n][-1],
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/efficientnet_{hub}"} if hub else {},
    )
    for n, (side, flops_g, top1, hub) in enumerate(_EVEN)
}

# Operations are the paper's, accuracy timm's of the authors' weights, as it stands on its page.
_PADDED = [
    (224, 0.39, 76.53, "in1k"),
    (240, 0.70, 78.56, "in1k"),
    (260, 1.0, 79.60, "in1k"),
    (300, 1.8, 80.88, "in1k"),
    (380, 4.2, 82.61, "in1k"),
    (456, 9.9, 83.18, "in1k"),
    (528, 19.0, None, "aa_in1k"),
    (600, 37.0, None, "ra_in1k"),
    (672, None, None, "ra_in1k"),
]
VARIANTS |= {
    f"tf_efficientnet_b{n}": Variant(
        _sized(n, side, padding="same", eps=1e-3),
        params_m=_SIZES[n][-1],
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/tf_efficientnet_b{n}.{tag}"},
        note="Operations are the paper's, which counts up to 6 % fewer." if flops_g else "",
    )
    for n, (side, flops_g, top1, tag) in enumerate(_PADDED)
}

_PLAIN = {"squeeze": 0.0, "act": "relu6"}
# depths, image, million parameters, accuracy of the authors' weights
_LITE = [
    (Config.depths, 224, 4.652, 74.83),
    ((1, 3, 3, 4, 4, 5, 1), 240, 5.417, 76.64),
    ((1, 3, 3, 4, 4, 5, 1), 260, 6.092, 77.46),
    ((1, 3, 3, 5, 5, 6, 1), 300, 8.197, 79.81),
    ((1, 4, 4, 6, 6, 8, 1), 380, 13.007, 81.53),
]
for _n, (_depths, _side, _params_m, _top1) in enumerate(_LITE):
    _config = replace(_sized(_n, _side, **_PLAIN), depths=_depths, stem_dim=32, width=1280)
    VARIANTS[f"tf_efficientnet_lite{_n}"] = Variant(
        replace(_config, padding="same", eps=1e-3),
        params_m=_params_m,
        top1=_top1,
        hub={"timm": f"hf-hub:timm/tf_efficientnet_lite{_n}.in1k"},
    )
VARIANTS["efficientnet_lite0"] = Variant(
    _sized(0, 224, **_PLAIN),
    params_m=4.652,
    top1=75.48,
    hub={"timm": "hf-hub:timm/efficientnet_lite0.ra_in1k"},
)

SPACE = Small(
    Config(width=256),
    {
        ("dims", "depths", "strides", "kernels"): (
            ((16, 24, 32, 64), (1, 2, 2, 2), (1, 2, 2, 2), (3, 3, 5, 3)),
            ((16, 24, 40, 80), (1, 2, 2, 3), (1, 2, 2, 2), (3, 3, 5, 3)),
            ((16, 24, 40, 80, 112), (1, 2, 2, 3, 2), (1, 2, 2, 2, 1), (3, 3, 5, 3, 5)),
        ),
        ("stem_dim", "stem_stride"): ((16, 1), (32, 1), (32, 2)),
        "expansion": (4, 6),
    },
)

NAMES = names.TABLES


class EfficientNet(InvertedNet):
    """Stem, stacks of inverted bottlenecks, 1x1 convolution, mean, linear head."""

    def __init__(self, config: Config) -> None:
        c = config
        kind = Kind(c.act, c.padding, c.eps, c.squeeze)
        super().__init__(config, stacks(config, c.kernels), kind, "efficientnet")


ATTENDS = False  # no part of it has weights that sum to one
MODEL = EfficientNet
