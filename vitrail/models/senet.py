"""SENet: each channel weighed by what a small network makes of the means of all channels.

Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507. In a ResNet it acts on
every branch, behind its last BatchNorm and before the addition. "ese", effective SE, is one layer
of full width with a hard sigmoid: Lee and Park, "CenterMask", CVPR 2020, arXiv 1911.06667.

The paper's hidden width is a sixteenth of the channels. timm rounds it to the nearest multiple of
8, at least 8, which differs where that is 4: in the first stage of basic blocks. The paper's own
models have the stride in the first 1x1 convolution and a ceiling in the max pool (timm's
"legacy" ones); these have the trunk that timm and later papers compare in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.gates import Gate, channels, squeezed
from vitrail.layers.linear import Linear
from vitrail.models import resnet
from vitrail.models.resnet import ResNet
from vitrail.models.trunk.backbone import Small, Variant


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of an SE-ResNet: `gate` is "se" or "ese". SE's hidden width is that of its channels
    over `reduction`, rounded down, or to the nearest multiple of `divisor` if that is not 1."""

    gate: str = "se"
    reduction: int = 16
    divisor: int = 1


_COUNT = "Operations and accuracy are the authors', whose bottlenecks have the stride in the 1x1."
VARIANTS = {
    f"seresnet_{layers}": Variant(
        Config(depths=depths, expansion=expansion, divisor=8),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/{hub}"} if hub else {},
        note=_COUNT if top1 else "",
    )
    for layers, depths, expansion, params_m, flops_g, top1, hub in [
        (18, (2, 2, 2, 2), 1, 11.78, 1.814, None, ""),
        (34, (3, 4, 6, 3), 1, 21.96, 3.664, None, ""),
        (50, (3, 4, 6, 3), 4, 28.09, 3.87, 77.63, "seresnet50.ra2_in1k"),
        (101, (3, 4, 23, 3), 4, 49.33, 7.60, 78.25, ""),
        (152, (3, 8, 36, 3), 4, 66.82, 11.32, 78.66, ""),
    ]
}

SPACE = Small(Config(expansion=1, stem_kernel=3, reduction=4), resnet.SPACE.choices)


def _timm(config: Config) -> list:
    layers = ("fc1", "fc2") if config.gate == "se" else ("fc",)
    return [
        *((f".se.{n}.weight", f".gate.{n}.weight", lambda v: v.flatten(1)) for n in layers),
        (".se.", ".gate."),
        *resnet.NAMES["timm"](config),
    ]


NAMES = {"timm": _timm}


class SqueezeExcite(Gate):
    """Channels times sigmoid of two linear layers on their means: (B, C, H, W) to the same."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = Linear(dim, hidden), Linear(hidden, dim), nn.ReLU()

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        means = squeezed(x).to(self.fc1.weight.dtype)
        return self.fc2(self.fc1.then(means, self.act)).sigmoid().to(x.dtype)[:, :, None, None]


class EffectiveSqueezeExcite(Gate):
    """Channels times hard sigmoid of one linear layer on their means: (B, C, H, W) to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = Linear(dim, dim)

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        means = squeezed(x).to(self.fc.weight.dtype)
        return nn.functional.hardsigmoid(self.fc(means)).to(x.dtype)[:, :, None, None]


def rounded(width: float, divisor: int) -> int:
    """Return the nearest multiple of `divisor`, at least one of it."""
    return max(divisor, int(width + divisor / 2) // divisor * divisor)


class SENet(ResNet):
    """A ResNet whose branches are all gated."""

    def __init__(self, config: Config) -> None:
        c = config
        if c.divisor < 1:
            raise ValueError(f"divisor is {c.divisor}: expected 1 for none, or more")

        def excite(dim: int) -> nn.Module:
            hidden = channels(dim, c.reduction)
            return SqueezeExcite(
                dim, hidden if c.divisor == 1 else rounded(dim / c.reduction, c.divisor)
            )

        gates: dict[str, Callable[[int], nn.Module]] = {"se": excite, "ese": EffectiveSqueezeExcite}
        if c.gate not in gates:
            raise ValueError(f"gate is {c.gate!r}: expected {' or '.join(gates)}")
        super().__init__(config, gate=lambda i, j, dim: gates[c.gate](dim))


ATTENDS = False  # no part of it has weights that sum to one
MODEL = SENet
