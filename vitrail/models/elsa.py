"""ELSA: local attention whose map a small convolutional network draws, in Swin and in VOLO.

Zhou et al., "ELSA: Enhanced Local Self-Attention for Vision Transformer", 2021, arXiv 2112.12786.
Queries and keys of a position meet in a product channel by channel (Hadamard attention), from
which a grouped k x k convolution and a 1x1 predict the attention of each head to the k^2 nearest
positions, or to ones that are further apart if dilated. A ghost head then makes of each head's map
one for each of its channels: a static kernel is added to it, in VOLO another one multiplies it
before.

In Swin it stands in all stages but the last, which has windows; in VOLO it takes the place of
outlook attention. The filter of channel c is m_c h + s_c with the head's map h, so that what s_c
contributes is a depthwise convolution of the values, and the rest shifted multiply-adds.
Beyond the border are zeros. Weights were published for Swin alone: that ELSA in VOLO has kernels
of 5, groups of 8 channels and biases is a reading. Its logits take q k as it is, without the d^-0.5
of the bare layer. Images of any size are treated as by the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv
from vitrail.layers.linear import Linear
from vitrail.layers.neighborhood import aggregate
from vitrail.layers.windows import WindowAttention
from vitrail.models import swin, volo
from vitrail.models.names import elsa as names
from vitrail.models.trunk.backbone import Backbone, Small, Variant
from vitrail.models.trunk.hosts import Earlier, Flat, Hosted, moved, positions
from vitrail.models.trunk.sizes import each

_SWIN = swin.Config(drop_path=0.1)


@dataclass(frozen=True)
class Config(Hosted):
    """A host's sizes, and those of ELSA in it: a `kernel` x `kernel` convolution that sees `group`
    channels at once and, as attention does, every `dilation`-th position. `ghost` heads may "mul",
    "add", both or neither. Of a VOLO the kernel and stride of its own attention say nothing."""

    host: swin.Config | volo.Config = _SWIN
    kernel: int = 7
    group: int = 4
    dilation: int = 1
    ghost: tuple[str, ...] = ("add",)
    qkv_bias: bool = True


_SMALL = replace(_SWIN, depths=(2, 2, 18, 2), drop_path=0.3)
_BASE = replace(_SMALL, dim=128, heads=(4, 8, 16, 32), drop_path=0.5)
_BOTH = {"kernel": 5, "group": 8, "ghost": ("mul", "add")}
_SUMS = "published are the weighted sums of neighbours, too, counted matrix products alone"
_UNSURE = "no network was published: kernel and groups are readings, so no figure is compared"
VARIANTS = {
    "elsa_swin_tiny": Variant(Config(), params_m=29.14, flops_g=4.8, top1=82.7, note=_SUMS),
    "elsa_swin_small": Variant(Config(_SMALL, group=8), params_m=52.87, flops_g=9.6, top1=83.5),
    "elsa_swin_base": Variant(Config(_BASE, group=8), params_m=92.68, flops_g=16.7, top1=84.0),
    **{
        f"elsa_volo_d{n}": Variant(
            Config(volo.VARIANTS[f"volo_d{n}_224"].config, **_BOTH), note=_UNSURE
        )
        for n in range(1, 6)
    },
}

_FEW = {"mlp_ratio": 2.0, "stem": 32, "reading": 1}
SPACE = Small(
    Config(kernel=5, drop_path=0.05),
    {
        ("host", "ghost"): tuple(
            (replace(host, patch=patch), ghost)
            for (host, ghost), patch in product(
                (
                    (swin.Config(32, (2, 2), (2, 4)), ("add",)),
                    (volo.Config((48, 96), (2, 3), (2, 3), **_FEW), ("mul", "add")),
                    (swin.Config(48, (2, 2, 4), (2, 4, 8)), ("add",)),
                ),
                (2, 4, 8),
            )
        ),
    },
)

POSITIONS = positions
NAMES = names.TABLES


def _flat(of: Earlier) -> Earlier:
    return lambda v: {**of(v), "ghost": ("mul", "add") if v["multiplied"] else ("add",)}


_SAME = ("depths", "heads", "patch")
FLAT: Flat = {
    "host": {
        "swin": _flat(moved("swin", *_SAME, "window", made={"dim": lambda v: v["dims"][0]})),
        "volo": _flat(moved("volo", *_SAME, "dims", "mlp_ratio", "stem", "reading")),
    }
}


class ELSA(nn.Module):
    """Hadamard attention to the kernel x kernel positions around each, and a `ghost` head that
    multiplies each channel's filter by a static kernel ("mul"), then adds one to it ("add"): a map
    (B, h, w, C) to the same. Raises ValueError for sizes that do not fit."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kernel: int = 7,
        group: int = 8,
        dilation: int = 1,
        scale: float = 1.0,
        ghost: tuple[str, ...] = ("add",),
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        head_width(dim, heads)
        if kernel % 2 == 0 or kernel < 1 or group < 1 or dilation < 1:
            raise ValueError(
                f"kernel is {kernel}, group {group}, dilation {dilation}: expected an odd kernel, "
                "which has a centre, a channel a group and a dilation of 1 at least"
            )
        if not set(ghost) <= {"mul", "add"}:
            raise ValueError(f"ghost is {ghost}: expected mul, add, both or neither")
        inner = -(-(dim // 3 * 2) // group) * group  # of whole groups
        self.heads, self.kernel, self.dilation, self.scale = heads, kernel, dilation, scale
        self.qk, self.v = Linear(dim, 2 * inner, bias=qkv_bias), Linear(dim, dim, bias=qkv_bias)
        near = (kernel, 1, kernel // 2 * dilation, dilation)
        self.mix = Conv(inner, inner, *near, groups=inner // group)
        self.act = nn.GELU()
        self.logits = Linear(inner, heads * kernel**2)
        self.ghost = self.factor = None
        if "add" in ghost:
            self.ghost = Conv(dim, dim, *near, groups=dim, bias=False)
        if "mul" in ghost:
            self.factor = nn.Parameter(torch.empty(dim, 1, kernel, kernel))
        self.proj = Linear(dim, dim)
        self.reset()

    def reset(self) -> None:
        """Set the authors' initialisation, of which only the output is a transformer's; factors are
        standard normal.
        """
        for layer in (self.qk, self.v, self.mix, self.logits):
            layer.reset_parameters()
        if self.ghost is not None:
            nn.init.trunc_normal_(self.ghost.weight, std=0.02)
        if self.factor is not None:
            nn.init.normal_(self.factor)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        maps, v = self._maps(x), self.v(x)
        each, factors = v.unflatten(3, (self.heads, -1)), None
        if self.factor is not None:
            factors = self.factor.flatten(1).mT.reshape(-1, *each.shape[3:])
        sizes = {"kernel": self.kernel, "dilation": self.dilation}
        y = aggregate(maps, each, factors=factors, **sizes).flatten(3)
        return self.proj(y if self.ghost is None else y + self.ghost(v))

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b heads n k"]:
        """Return the attention of every head to the kernel^2 positions around each one, before the
        ghost head; rows are queries, one after another.
        """
        return self._maps(x).flatten(1, 2).transpose(1, 2)

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)

    def _maps(self, x: Tensor) -> Float[Tensor, "b h w n k"]:
        q, k = self.qk(x).chunk(2, 3)
        both = q * k if self.scale == 1 else q * k * self.scale
        return self.logits(self.act(self.mix(both))).unflatten(3, (self.heads, -1)).softmax(-1)


def in_swin(config: Config, host: swin.Config) -> Backbone:
    """Build a Swin with ELSA in all stages but the last. Raises ValueError."""
    sizes, last = swin.grids(host), len(host.depths) - 1

    def mixer(i: int, j: int) -> nn.Module:
        dim, heads = host.dim * 2**i, each(host.heads[i], host.depths[i], "heads")[j]
        if i < last:
            return layer(config, dim, heads)
        shifted = j % 2 == 1
        return WindowAttention(dim, heads, window=host.window, shifted=shifted, grid=sizes[i])

    return swin.Swin(host, mixer)


def in_volo(config: Config, host: volo.Config) -> Backbone:
    """Build a VOLO with ELSA in place of its outlook attention. Raises ValueError."""
    return volo.VOLO(host, lambda _block: layer(config, host.dims[0], host.heads[0]))


def layer(config: Config, dim: int, heads: int) -> ELSA:
    """Return the layer of a config for a map of `dim` channels."""
    c = config
    sizes = {"kernel": c.kernel, "group": c.group, "dilation": c.dilation}
    return ELSA(dim, heads, **sizes, ghost=c.ghost, qkv_bias=c.qkv_bias)


HOSTS: dict[type, Callable[[Config, Any], Backbone]] = {
    swin.Config: in_swin,
    volo.Config: in_volo,
}


def build(config: Config) -> Backbone:
    """Build the network of a config, in its host. Raises ValueError."""
    made = HOSTS[type(config.host)](config, config.host)
    for module in made.modules():
        if isinstance(module, ELSA):  # hosts initialise all linear layers alike
            module.reset()
    made.config = config
    return made


MODEL = build
