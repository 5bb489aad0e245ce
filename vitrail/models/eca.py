"""ECA-Net: each channel weighed by its own mean and those of a few channels beside it.

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR
2020, arXiv 1910.03151. A 1-D convolution over the channels, without reduction: 3 to 7 numbers a
block. In a ResNet it acts on every branch, behind its last BatchNorm and before the addition.

The paper finds the kernel from the number of channels, and so does timm, which takes at least 3.
The authors' published weights have one kernel a stage instead: 3, 5, 5, 7 and in the deeper ones
3, 3, 5, 7. That is what the variants have; without `kernels` the rule holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.gates import Gate, squeezed
from vitrail.models import resnet
from vitrail.models.names import eca as names
from vitrail.models.resnet import ResNet
from vitrail.models.trunk.backbone import Small, Variant


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of an ECA-ResNet: `kernels` are odd, one a stage, or none for the paper's rule."""

    kernels: tuple[int, ...] = ()


VARIANTS = {
    f"eca_resnet_{layers}": Variant(
        Config(depths=depths, expansion=expansion, kernels=kernels),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
    )
    for layers, depths, expansion, kernels, params_m, flops_g, top1 in [
        (18, (2, 2, 2, 2), 1, (), 11.69, None, None),
        (34, (3, 4, 6, 3), 1, (), 21.80, None, None),
        # The authors count in units of 2^20 and 2^30: 24.37M and 3.86G, and so on.
        (50, (3, 4, 6, 3), 4, (3, 5, 5, 7), 25.55, 4.14, 77.48),
        (101, (3, 4, 23, 3), 4, (3, 3, 5, 7), 44.55, 7.89, 78.65),
        (152, (3, 8, 36, 3), 4, (3, 3, 5, 7), 60.20, 11.63, 78.92),
    ]
}

SPACE = Small(Config(expansion=1, stem_kernel=3), resnet.SPACE.choices)


NAMES = names.TABLES


def kernel_of(dim: int) -> int:
    """Return the odd kernel for so many channels: about half their binary logarithm, at least 3."""
    size = int(abs(math.log2(dim) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)


class ChannelAttention(Gate):
    """Channels times sigmoid of a convolution over their means, with zeros beyond the first and
    the last: (B, C, H, W) to the same. ValueError if the kernel is even."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"the kernel over channels is {kernel}: expected an odd number")
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        means = squeezed(x).to(self.conv.weight.dtype)
        return self.conv(means[:, None]).sigmoid().to(x.dtype).mT[..., None]


class ECANet(ResNet):
    """A ResNet whose branches are all gated."""

    def __init__(self, config: Config) -> None:
        kernels = config.kernels
        if kernels and len(kernels) != len(config.depths):
            raise ValueError(
                f"kernels {kernels} for {len(config.depths)} stages: expected one each, or none "
                "for the paper's rule"
            )

        def gate(i: int, j: int, dim: int) -> nn.Module:
            return ChannelAttention(kernels[i] if kernels else kernel_of(dim))

        super().__init__(config, gate=gate)


ATTENDS = False  # no part of it has weights that sum to one
MODEL = ECANet
