"""ACmix: attention and convolution on the same three projections, in four hosts.

Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022, arXiv 2111.14556.
A k x k convolution is k^2 1x1 projections, shifted and summed; attention begins with three. So q,
k and v are projected once: local attention reads them, and a light path mixes the numbers that
the heads have in a channel to k^2 and sends them through grouped kernels, which start as shifts.
Two learned rates weigh the sum.

The hosts are ResNet and Swin, whose code and names are public, and PVT and SAN, which were only
reported and are readings. In ResNet every 3x3 convolution gives way: the attention of a 7x7
window, mirrored beyond the border, has positions from a linear map of the coordinates in
[-1, 1]. What a query's own position adds to all its logits goes out in the softmax, so keys less
their positions are enough. The convolution's output has channels [channel][head], the
attention's [head][channel]: the sum pairs different ones, as in the authors' code. A map that is
smaller than the window is mirrored again; the authors' code refuses it, and odd maps with strides.

In Swin the path runs on the shifted map of a block, padded as Swin's windows are, and sees the
seam. In PVT keys and values of the reduced map stand for all positions that they summarise, which
fits the published operations; the class token has attention only, so nobody reads what the last
block makes of the map. In SAN the path is added to patchwise attention, whose values are four
times as wide as its queries. The published parameters of ResNet and Swin hosts are rounded up;
here are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.checks import head_width
from vitrail.layers.conv import channels_first, channels_last
from vitrail.layers.linear import Linear
from vitrail.models import pvt, resnet, swin
from vitrail.models.names import acmix as names
from vitrail.models.parts import san
from vitrail.models.parts.acmix_mixers import PatchwiseACmix, ReducedACmix, WindowACmix
from vitrail.models.parts.acmix_paths import Coordinates, Gain, Mirrored, Rates, Shift
from vitrail.models.trunk.backbone import Backbone, Small, Variant
from vitrail.models.trunk.hosts import Flat, Hosted, moved, positions
from vitrail.models.trunk.sizes import each


@dataclass(frozen=True)
class Resnet(resnet.Config):
    """Sizes of a ResNet, of bottlenecks whatever its expansion, and of the local attention in it:
    heads of each stage, the side of the window."""

    heads: tuple[int, ...] = (4, 4, 4, 4)
    window: int = 7


_R26 = Resnet(depths=(1, 2, 4, 1))


@dataclass(frozen=True)
class Config(Hosted):
    """A host's sizes, its attention's among them, and the side of ACmix's convolution."""

    host: Resnet | swin.Config | pvt.Config | san.Config = _R26
    kernel: int = 3


_SWIN_T, _PVT_T = swin.Config(), pvt.Config()
_SWIN_S = replace(_SWIN_T, depths=(2, 2, 18, 2), drop_path=0.3)
_PVT_S = replace(_PVT_T, depths=(3, 4, 6, 3))
_KEYS = "counted are all keys of a tile of queries, masked ones too, published the window's alone"
_UNSURE = (
    "no code was published, this is a reading; reported are {} M parameters and {} G operations"
)
# name, host, blocks; parameters, multiply-adds, accuracy
_ROWS = [
    ("resnet26", _R26, 10.488, 2.3, 76.1),
    ("resnet38", replace(_R26, depths=(2, 3, 5, 2)), 14.411, 2.9, 77.4),
    ("resnet50", replace(_R26, depths=(3, 4, 6, 3)), 18.334, 3.6, 77.8),
    ("swin_tiny", _SWIN_T, 28.650, 4.6, 81.9),
    ("swin_small", _SWIN_S, 50.345, 9.0, 83.5),
    ("pvt_tiny", _PVT_T, 13.0, 2.0, 78.0),
    ("pvt_small", _PVT_S, 25.0, 3.9, 81.7),
    ("san10", san.Config(), 12.1, 1.9, 77.6),
    ("san15", san.Config(depths=(3, 2, 3, 5, 2)), 16.6, 2.7, 78.4),
    ("san19", san.Config(depths=(3, 3, 4, 6, 3)), 21.2, 3.4, 78.7),
]


def _variant(host: Any, params_m: float, flops_g: float, top1: float) -> Variant:
    if isinstance(host, san.Config):
        return Variant(Config(host), top1=top1, note=_UNSURE.format(params_m, flops_g))
    note = _KEYS if isinstance(host, Resnet) else ""
    return Variant(Config(host), params_m=params_m, flops_g=flops_g, top1=top1, note=note)


VARIANTS = {f"acmix_{name}": _variant(*row) for name, *row in _ROWS}

SPACE = Small(
    Config(),
    {
        "host": (
            Resnet((1, 1), (16, 32), 2, stem_stride=2, heads=(4, 4)),
            Resnet((1, 1, 1), (32, 64, 128), 2, stem_stride=1, heads=(4, 4, 4)),
            Resnet((1, 2, 1), (32, 64, 128), 2, stem_stride=4, heads=(4, 4, 4)),
            swin.Config(32, (2, 2), (2, 4), patch=2),
            swin.Config(48, (2, 4), (2, 4), patch=4),
        ),
    },
)

POSITIONS = positions
NAMES = names.TABLES
_WIDTH, _STRIDE = {"dim": lambda v: v["dims"][0]}, {"stem_stride": lambda v: v["patch"]}
_IN_RESNET = ("depths", "dims", "expansion", "heads", "window")
FLAT: Flat = {
    "host": {
        "resnet": moved("resnet", *_IN_RESNET, made=_STRIDE),
        "swin": moved("swin", "depths", "heads", "window", "patch", made=_WIDTH),
        "pvt": moved("pvt", "dims", "depths", "heads", "ratios", "reductions", "patch"),
        "san": moved("san", "dims", "depths", "window", "patch"),
    }
}


class ACmix(nn.Module):
    """Local attention and convolution: (B, C, h, w) views to (B, C', h', w'), of a `stride`."""

    def __init__(
        self,
        dim_in: int,
        dim: int,
        heads: int,
        *,
        window: int = 7,
        kernel: int = 3,
        stride: int = 1,
    ) -> None:
        super().__init__()
        head_width(dim, heads)
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window is {window}: expected an odd number, it has a centre")
        self.heads, self.local = heads, Mirrored(window, stride)
        self.qkv = Linear(dim_in, 3 * dim)
        self.position = Coordinates(dim // heads)
        sizes = {"kernel": kernel, "stride": stride, "bias": False}
        self.path = Shift(3 * heads, dim // heads, heads, **sizes)
        self.rates: nn.Module = Rates()
        self.reset()

    def reset(self) -> None:
        """Initialise projections He-normal by fan-out, as the convolutions of a ResNet."""
        nn.init.normal_(self.qkv.weight, std=(6 / self.qkv.out_features) ** 0.5)
        nn.init.zeros_(self.qkv.bias)
        self.path.reset()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        qkv = self.qkv(channels_last(x))
        attended = self.local.attend(*self._heads(qkv)).flatten(3)
        return channels_first(self.rates(attended, channels_last(self.path(qkv))))

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "bt n t s"]:
        """Return the attention of every head in every tile of queries, rows are queries."""
        q, k, _ = self._heads(self.qkv(channels_last(x)))
        return self.local.weights(q, k)

    def deployed(self) -> nn.Module:
        """Give the convolution its rate."""
        assert isinstance(self.rates, Rates)
        self.path.absorb(self.rates.convolution.expand(self.qkv.out_features // 3))
        self.rates = Gain(self.rates.attention)
        return self

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels of a deployed module and add to them, for good."""
        assert isinstance(self.rates, Gain)
        self.path.absorb(scale, shift)
        self.rates = Gain(self.rates.gain * scale)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k less positions, and v, (B, h, w, heads, d) each."""
        q, k, v = qkv.unflatten(3, (3, self.heads, -1)).unbind(3)
        return q, k - self.position((qkv.shape[1], qkv.shape[2])), v


def in_resnet(config: Config, host: Resnet) -> Backbone:
    """Build a ResNet with ACmix in place of every 3x3 convolution. Raises ValueError."""
    if len(host.heads) != len(host.depths):
        raise ValueError(
            f"heads {host.heads} and depths {host.depths} differ in length: one each a stage"
        )

    def mixed(i: int, j: int, dim: int, stride: int) -> nn.Module:
        sizes = {"window": host.window, "kernel": config.kernel, "stride": stride}
        return ACmix(dim, dim, host.heads[i], **sizes)

    return resnet.ResNet(host, mixed, bottleneck=True)


def in_swin(config: Config, host: swin.Config) -> Backbone:
    """Build a Swin with ACmix in every block. Raises ValueError."""
    grids = swin.grids(host)

    def windowed(i: int, j: int) -> nn.Module:
        sizes = {"window": host.window, "shifted": j % 2 == 1, "grid": grids[i]}
        heads = each(host.heads[i], host.depths[i], "heads")[j]
        return WindowACmix(host.dim * 2**i, heads, kernel=config.kernel, **sizes)

    return swin.Swin(host, windowed)


def in_pvt(config: Config, host: pvt.Config) -> Backbone:
    """Build a PVT with ACmix in every block. Raises ValueError."""

    def block(i: int, mixer: Any, hidden: int, drop_path: float) -> nn.Module:
        # In the place of the host's own mixer, with as many heads.
        own = ReducedACmix(host.dims[i], mixer.heads, host.reductions[i], kernel=config.kernel)
        return pvt.PVTBlock(host.dims[i], own, hidden, drop_path)

    return pvt.PVT(host, block)


def in_san(config: Config, host: san.Config) -> Backbone:
    """Build a SAN with ACmix beside its patchwise attention. Raises ValueError."""

    def patchwise(i: int, j: int) -> nn.Module:
        window = host.window if i else 3
        return PatchwiseACmix(host.dims[i], window=window, kernel=config.kernel)

    return san.SAN(host, patchwise)


HOSTS: dict[type, Callable[[Config, Any], Backbone]] = {
    Resnet: in_resnet,
    swin.Config: in_swin,
    pvt.Config: in_pvt,
    san.Config: in_san,
}


def build(config: Config) -> Backbone:
    """Build the network of a config, in its host. Raises ValueError."""
    made = HOSTS[type(config.host)](config, config.host)
    for module in made.modules():
        if isinstance(module, Shift | ACmix):  # hosts initialise all convolutions alike
            module.reset()
    made.config = config
    return made


def idle(config: Config) -> tuple[str, ...]:
    """Return parts of names of parameters without gradients but by rounding: the position's bias is
    added to all logits of a softmax alike.
    """
    return ("position.bias",)


MODEL = build
