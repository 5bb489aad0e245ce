"""CBAM and BAM: what matters in a map, and where.

Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521: channels are
weighed by their mean and maximum, then positions by the mean and maximum over channels; on every
branch of a ResNet, behind its last BatchNorm and before the addition. Park et al., "BAM:
Bottleneck Attention Module", BMVC 2018, arXiv 1807.06514: both at once, between the stages.

Readings. The authors' MLP has biases, timm's none; timm stacks the mean before the maximum, which
its name table turns. The authors' code multiplies BAM's two branches; the paper adds them. BAM's
pooling window there is a square of the map's height: a global mean here, the same on square maps.
The spatial gate's norm begins at 0, so the gate begins at a half, as the authors train it.
BAM's maps are weighed on their way into the next stage: levels are the maps before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d, ConvNorm, affine, channels_first, channels_last
from vitrail.layers.gates import Gate, channels, squeezed
from vitrail.layers.init import kaiming_conv
from vitrail.layers.linear import Linear, linear
from vitrail.models import resnet
from vitrail.models.resnet import ResNet
from vitrail.models.trunk.backbone import Small, Variant


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of a ResNet with `attention` "cbam" or "bam". `reduction` divides the channels for
    the hidden ones; CBAM's `pools` are some of "avg", "max", "lp" and "lse", `bias` says whether
    its MLP has biases, and `kernel` is the odd side of its convolution over positions."""

    attention: str = "cbam"
    reduction: int = 16
    pools: tuple[str, ...] = ("avg", "max")
    bias: bool = True
    kernel: int = 7


_COUNT = (
    "The paper counts bottlenecks with the stride in the 1x1 convolution; the code has it later."
)
VARIANTS = {
    f"{attention}_resnet_{layers}": Variant(
        Config(depths=depths, expansion=expansion, attention=attention),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        note=_COUNT if layers > 34 and flops_g else "",
    )
    for attention, layers, depths, expansion, params_m, flops_g, top1 in [
        ("cbam", 18, (2, 2, 2, 2), 1, 11.78, 1.815, None),
        ("cbam", 34, (3, 4, 6, 3), 1, 21.96, 3.665, None),
        ("cbam", 50, (3, 4, 6, 3), 4, 28.09, 3.864, 77.62),
        ("cbam", 101, (3, 4, 23, 3), 4, 49.33, 7.581, None),
        ("bam", 18, (2, 2, 2, 2), 1, 11.71, None, None),
        ("bam", 34, (3, 4, 6, 3), 1, None, None, None),
        ("bam", 50, (3, 4, 6, 3), 4, 25.92, None, 76.86),
        ("bam", 101, (3, 4, 23, 3), 4, 44.91, None, None),
    ]
}

SPACE = Small(
    Config(expansion=1, stem_kernel=3, reduction=4),
    {**resnet.SPACE.choices, "attention": ("cbam", "bam")},
)

_CHANNEL, _SPATIAL = ".channel_att.gate_c.gate_c_", ".spatial_att.gate_s.gate_s_"
_AUTHORS = [
    (".cbam.ChannelGate.mlp.1.", ".gate.channel.fc1."),
    (".cbam.ChannelGate.mlp.3.", ".gate.channel.fc2."),
    (".cbam.SpatialGate.spatial.conv.", ".gate.spatial.gather.conv."),
    (".cbam.SpatialGate.spatial.bn.", ".gate.spatial.gather.norm."),
    ("bam{i}.", "stages.{i}.down."),
    (f"{_CHANNEL}fc_0.", ".channel.fc1."),
    (f"{_CHANNEL}bn_1.", ".channel.norm."),
    (f"{_CHANNEL}fc_final.", ".channel.fc2."),
    (f"{_SPATIAL}conv_reduce0.", ".spatial.convs.0.conv."),
    (f"{_SPATIAL}bn_reduce0.", ".spatial.convs.0.norm."),
    (f"{_SPATIAL}conv_di_{{i}}.", ".spatial.convs.{i+1}.conv."),
    (f"{_SPATIAL}bn_di_{{i}}.", ".spatial.convs.{i+1}.norm."),
    (f"{_SPATIAL}conv_final.", ".spatial.leave."),
]
_TIMM = [
    (".se.channel.fc1.weight", ".gate.channel.fc1.weight", lambda v: v.flatten(1)),
    (".se.channel.fc2.weight", ".gate.channel.fc2.weight", lambda v: v.flatten(1)),
    (".se.channel.", ".gate.channel."),
    (".se.spatial.conv.conv.weight", ".gate.spatial.gather.conv.weight", lambda v: v.flip(1)),
    (".se.spatial.conv.bn.", ".gate.spatial.gather.norm."),
]


def _behind(rows: list) -> Callable[[Config], list]:
    return lambda config: [*rows, *resnet.NAMES["timm"](config)]


NAMES = {"Jongchan/attention-module": _behind(_AUTHORS), "timm": _behind(_TIMM)}

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": squeezed,
    "max": lambda x: x.amax((2, 3)),
    "lp": lambda x: torch.linalg.vector_norm(_exact(x), dim=(2, 3)),
    "lse": lambda x: _exact(x).logsumexp((2, 3)),
}


def _exact(x: Tensor) -> Tensor:
    """Convert to float32 at least: sums over a map leave the range of float16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class ChannelGate(Gate):
    """Channels times sigmoid of the sum of one MLP's outputs for each pooling over positions."""

    def __init__(self, dim: int, hidden: int, pools: tuple[str, ...], *, bias: bool = True) -> None:
        super().__init__()
        if not pools or not set(pools) <= set(POOLS):
            raise ValueError(f"pools are {pools}: expected one or more of {', '.join(POOLS)}")
        self.pools = pools
        self.fc1, self.fc2 = Linear(dim, hidden, bias=bias), Linear(hidden, dim, bias=bias)
        self.act = nn.ReLU()

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        pooled = torch.stack([POOLS[pool](x).to(self.fc1.weight.dtype) for pool in self.pools], 1)
        weights = self.fc2(self.fc1.then(pooled, self.act)).sum(1).sigmoid()
        return weights.to(x.dtype)[:, :, None, None]


class SpatialGate(Gate):
    """Positions times sigmoid of a normed convolution over the maximum and the mean of all
    channels, in this order; 7x7 in the paper. Raises ValueError for an even kernel."""

    def __init__(self, kernel: int = 7) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: expected an odd number, it has a centre")
        self.gather = ConvNorm(2, 1, kernel, scale=0.0)
        self.gather.norm.momentum = 0.01

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        told = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return self.gather(told).sigmoid()


class CBAM(Gate):
    """The channel gate, then the spatial gate: (B, C, H, W) to the same."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        pools: tuple[str, ...],
        *,
        bias: bool = True,
        kernel: int = 7,
    ) -> None:
        super().__init__()
        self.channel = ChannelGate(dim, hidden, pools, bias=bias)
        self.spatial = SpatialGate(kernel)

    def parts(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
        x = self.channel(x)
        return x, self.spatial.factor(x)


class ChannelBranch(nn.Module):
    """BAM's word on channels: a map (B, C, H, W) to (B, C). In training BatchNorm sees one value
    a sample, so a batch needs two."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.norm = Linear(dim, hidden), nn.BatchNorm1d(hidden)
        self.act, self.fc2 = nn.ReLU(), Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        means = squeezed(x).to(self.fc1.weight.dtype)
        return self.fc2(self.act(self.norm(self.fc1(means))))

    def deployed(self) -> nn.Module:
        """Fold the BatchNorm into the layer before it."""
        if isinstance(self.norm, nn.BatchNorm1d):
            scale, shift = affine(self.norm)
            self.fc1 = linear(self.fc1.weight * scale[:, None], self.fc1.bias * scale + shift)
            self.norm = nn.Identity()
        return self


class Dilated(ConvNorm):
    """Convolution with bias and of the given dilation, then BatchNorm: (B, C, H, W) to the same
    size."""

    def __init__(self, dim_in: int, dim: int, kernel: int, dilation: int = 1) -> None:
        super().__init__(dim_in, dim, kernel)
        self.conv = Conv2d(dim_in, dim, kernel, 1, kernel // 2 * dilation, dilation)


class SpatialBranch(nn.Module):
    """BAM's word on positions, from windows of 9x9 twice: a map (B, C, H, W) to (B, 1, H, W)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        wide = [Dilated(hidden, hidden, 3, 4) for _ in range(2)]
        self.convs = nn.ModuleList([Dilated(dim, hidden, 1), *wide])
        self.act, self.leave = nn.ReLU(), Conv2d(hidden, 1, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        for conv in self.convs:
            x = conv.then(x, self.act)  # pyright: ignore[reportCallIssue]
        return self.leave(x)


class BAM(nn.Module):
    """x (1 + sigmoid(channels times positions)): a map (B, h, w, C) to the same."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.channel, self.spatial = ChannelBranch(dim, hidden), SpatialBranch(dim, hidden)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        seen = channels_first(x)
        logits = self.channel(seen).to(x.dtype)[:, None, None] * channels_last(self.spatial(seen))
        return torch.addcmul(x, x, logits.sigmoid_())


class AttentiveResNet(ResNet):
    """A ResNet whose branches are gated by CBAM, or whose maps between stages are by BAM."""

    def __init__(self, config: Config) -> None:
        c = config
        if c.attention not in ("cbam", "bam"):
            raise ValueError(f"attention is {c.attention!r}: expected cbam or bam")

        def gate(i: int, j: int, dim: int) -> nn.Module:
            if c.attention == "bam":
                return nn.Identity()
            hidden = channels(dim, c.reduction)
            return CBAM(dim, hidden, c.pools, bias=c.bias, kernel=c.kernel)

        super().__init__(config, gate=gate)
        if c.attention == "bam":
            for level, stage in zip(self.levels, self.stages[1:], strict=False):
                stage.down = BAM(level.channels, channels(level.channels, c.reduction))
            kaiming_conv(self)


ATTENDS = False  # no part of it has weights that sum to one
MODEL = AttentiveResNet
