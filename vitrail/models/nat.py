"""NAT and DiNAT: every position attends to its k x k nearest ones, or to ones farther apart.

Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, arXiv 2204.07143; Hassani and
Shi, "Dilated Neighborhood Attention Transformer", 2022, arXiv 2209.15001. NAT's convolutions
overlap where Swin cuts patches; a DiNAT is a NAT whose every second block looks `dilation`
positions apart. DiNAT's two other networks are in `dinat`.

At the border a window moves inward: a corner has all its k^2 keys on one side, and the bias
table (key minus query) has rows that only borders read. Any image may be given. As in the
authors' code and transformers, a map smaller than k times the dilation is padded by zeros at
the bottom and right *after* the norm and before q, k and v: padding has their biases for
values, and is attended to. NATTEN from release 0.20 on neither pads nor knows a bias table;
the published weights need both. DiNAT-Small has no LayerScale, though NAT-Small has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.neighborhood import Neighborhood, NeighborhoodBias
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import Mean
from vitrail.models.names import nat as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table

Down = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Config:
    """Sizes of a NAT: `dim` of the first stage, doubled by each; per stage its blocks, heads and
    the dilation of every second block. `patch` is the stride of the stem, a power of two, and
    `scale` where LayerScale starts, None for none."""

    dim: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 5)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    kernel: int = 7
    dilations: tuple[int, ...] = (1, 1, 1, 1)
    mlp_ratio: float = 3.0
    scale: float | None = None
    patch: int = 4
    drop_path: float = 0.2
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_MINI, _TINY = Config(), Config(depths=(3, 4, 18, 5))
_SMALL = replace(_TINY, dim=96, heads=(3, 6, 12, 24), mlp_ratio=2.0, drop_path=0.3)
_BASE = replace(_SMALL, dim=128, heads=(4, 8, 16, 32), scale=1e-5, drop_path=0.5)
_LARGE = replace(_BASE, dim=192, heads=(6, 12, 24, 48), scale=None, drop_path=0.35)
_FAR, _FARTHER = {"dilations": (8, 4, 2, 1)}, {"dilations": (13, 6, 3, 1), "image": (384, 384)}
_WIDE = {**_FAR, "kernel": 11, "image": (384, 384)}
KEYS = "counted are all keys of a tile of queries, masked ones too, published the kernel's alone"

# name, sizes, changes of them; parameters, multiply-adds, accuracy; what shi-labs call the weights
_ROWS = [
    ("nat_mini", _MINI, {}, 19.98, 2.7, 81.8, "nat-mini-in1k-224"),
    ("nat_tiny", _TINY, {}, 27.90, 4.3, 83.2, "nat-tiny-in1k-224"),
    ("nat_small", _SMALL, {"scale": 1e-5}, 50.74, 7.8, 83.7, "nat-small-in1k-224"),
    ("nat_base", _BASE, {}, 89.77, 13.7, 84.3, "nat-base-in1k-224"),
    ("dinat_mini", _MINI, _FAR, 19.98, 2.7, 81.8, "dinat-mini-in1k-224"),
    ("dinat_tiny", _TINY, _FAR, 27.90, 4.3, 82.7, "dinat-tiny-in1k-224"),
    ("dinat_small", _SMALL, _FAR, 50.74, 7.8, 83.8, "dinat-small-in1k-224"),
    ("dinat_base", _BASE, _FAR, 89.77, 13.7, 84.4, "dinat-base-in1k-224"),
    ("dinat_large", _LARGE, _FAR, 200.9, 30.6, 86.6, "dinat-large-in22k-in1k-224"),
    ("dinat_large_384", _LARGE, _FARTHER, 200.9, 89.7, 87.4, "dinat-large-in22k-in1k-384"),
    ("dinat_large_k11_384", _LARGE, _WIDE, 200.9, 92.4, 87.5, "dinat-large-11x11-in22k-in1k-384"),
]
VARIANTS = {
    name: Variant(
        replace(base, **changes),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"transformers": f"hf-hub:shi-labs/{hub}"},
        note=KEYS,
    )
    for name, base, changes, params_m, flops_g, top1, hub in _ROWS
}

SPACE = Small(
    Config(mlp_ratio=2.0, drop_path=0.05),
    {
        ("dim", "depths", "heads", "dilations"): (
            (32, (2, 2), (1, 2), (2, 1)),
            (48, (2, 4), (2, 4), (1, 1)),
            (64, (2, 4), (2, 4), (2, 1)),
            (32, (2, 2, 4), (1, 2, 4), (2, 2, 1)),
        ),
        "kernel": (3, 7),
        "patch": (2, 4, 8),
    },
)

NAMES = names.TABLES
# Tables of another kernel move as the released 11x11 models' did; images change nothing.
POSITIONS = (Table(".bias.table", lambda c: (2 * c.kernel - 1,) * 2, bicubic_grid, axes=(1, 2)),)


class Stem(nn.Module):
    """3x3 convolutions of stride 2, nothing between, LayerNorm: (B, channels, H, W) to a map."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, count = config, config.patch.bit_length() - 1
        if config.patch < 2 or config.patch != 2**count or config.dim % 2 ** (count - 1):
            raise ValueError(
                f"patch is {config.patch}, dim {config.dim}; a nat's stem halves its map and "
                "doubles its width up to dim: expected a power of two that divides 2 dim"
            )
        dims = [config.channels, *(config.dim // 2**n for n in reversed(range(count)))]
        self.proj = nn.Sequential(*(Conv(*pair, 3, 2, 1) for pair in pairwise(dims)))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "nat")
        return self.norm(self.proj(image.permute(0, 2, 3, 1)))


def halved(dim: int) -> nn.Module:
    """Make a 3x3 convolution of stride 2, then LayerNorm: (B, h, w,
    dim) to (B, h/2, w/2, 2 dim).
    """
    return nn.Sequential(Conv(dim, 2 * dim, 3, 2, 1, bias=False), nn.LayerNorm(2 * dim))


class NeighborhoodAttention(nn.Module):
    """Attention to the nearest positions of a map (B, h, w, C), with a relative bias."""

    def __init__(self, dim: int, heads: int, local: Neighborhood) -> None:
        super().__init__()
        head_width(dim, heads)
        self.local = local
        self.qkv = Linear(dim, 3 * dim)
        self.bias = NeighborhoodBias(heads, local)
        self.proj = Linear(dim, dim)
        nn.init.trunc_normal_(self.bias.table, std=0.02)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        h, w = x.shape[1:3]
        q, k, v, bias = self._heads(x)
        return self.proj(self.local.attend(q, k, v, bias)[:, :h, :w].flatten(3))

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b tiles_n t s"]:
        """Return the attention of every head in every tile of queries, rows are queries."""
        q, k, _, bias = self._heads(x)
        return self.local.weights(q, k, bias)

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return q, k and v (B, h, w, heads, d) of the padded map, and the bias."""
        below, right = (max(0, self.local.least - side) for side in x.shape[1:3])
        if below or right:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        q, k, v = self.qkv(x).unflatten(3, (3, len(self.bias.table), -1)).unbind(3)
        return q, k, v, self.bias((x.shape[1], x.shape[2]))


class NAT(Pyramid):
    """Stem, stages of neighborhood attention, norm, mean, linear.

    Another `stem`, and `down(dim)` from (B, h, w, dim) to half the map and twice the width,
    may stand around the same blocks. All round sizes up.
    """

    undecayed = ("bias.table",)

    def __init__(
        self, config: Config, *, stem: nn.Module | None = None, down: Down = halved
    ) -> None:
        c = config
        if not len(c.depths) == len(c.heads) == len(c.dilations):
            raise ValueError(
                f"depths {c.depths}, heads {c.heads} and dilations {c.dilations} differ in "
                "length: one each a stage"
            )
        if min(c.dilations) < 1:
            raise ValueError(f"dilations are {c.dilations}: expected 1 or more, 1 is next to it")
        rates = iter(rising(c.drop_path, sum(c.depths)))
        dims, stages = [c.dim * 2**i for i in range(len(c.depths))], []
        for i, dim in enumerate(dims):
            blocks = [
                Block(
                    dim,
                    NeighborhoodAttention(
                        dim, c.heads[i], Neighborhood(c.kernel, c.dilations[i] if j % 2 else 1)
                    ),
                    Mlp(dim, int(dim * c.mlp_ratio)),
                    scale=c.scale,
                    drop_path=next(rates),
                )
                for j in range(c.depths[i])
            ]
            stages.append(Stage(down(dims[i - 1]) if i else nn.Identity(), blocks))
        super().__init__(
            config,
            stem=Stem(config) if stem is None else stem,
            stages=stages,
            norm=nn.LayerNorm(dims[-1]),
            pool=Mean(),
            head=linear_head(dims[-1], c.classes),
            levels=[Level(c.patch * 2**i, dim) for i, dim in enumerate(dims)],
        )
        trunc_normal_linear(self)


MODEL = NAT
