"""SASA: every spatial convolution of a ResNet becomes attention to the k x k nearest positions.

Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", NeurIPS 2019, arXiv
1906.05909. Logits are q'k + q'r without a factor; r joins an embedding of the columns' offset,
seen by the first half of a head's channels, and one of the rows'. Where the convolution had a
stride, 2x2 cells are averaged behind the attention. The stem attends within 4x4 blocks of the
image, and each value is a mixture, by its place, of several projections of its pixel.

The paper leaves some points open. Projections are full, not grouped, and without biases: so the
published counts come out. Offset embeddings are shared by the heads. Beyond the border are zero
keys that take part in the softmax. The stem's logits are q'k alone, it has 4 heads and 4
mixtures, and its BatchNorm stands before the max pool, no activation behind it: the goldens'
reading.

Any image may be given: maps round up, a cell at the border averages what it has, and the stem
adds black pixels at the bottom and right, up to whole blocks. Nothing depends on the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.checks import head_width
from vitrail.layers.conv import affine, channels_first, channels_last
from vitrail.layers.linear import Linear, frozen, linear
from vitrail.layers.neighborhood import Neighborhood
from vitrail.layers.windows import pad, partition
from vitrail.models import resnet
from vitrail.models.names import sasa as names
from vitrail.models.resnet import ResNet
from vitrail.models.trunk.backbone import Small, Variant, check_image


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of a SASA: a ResNet's, the side of a neighbourhood, and the heads of every layer.
    `mixtures` of values has the stem of attention, whose blocks have the side `stem_stride`; 0
    makes it the ResNet's convolution."""

    kernel: int = 7
    heads: int = 8
    mixtures: int = 4
    stem_heads: int = 4


_NOTE = "counted are all keys of a tile of queries, published the kernel's alone"
_CUT = "; of the 14.17 M parameters are published 14.1"
VARIANTS = {
    f"sasa_{layers}{stem}": Variant(
        Config(depths=depths, mixtures=mixtures),
        params_m=None if (layers, mixtures) == (38, 0) else params_m,
        flops_g=flops_g,
        top1=top1,
        note=_NOTE + _CUT * (layers == 38),
    )
    for layers, depths, params_m, rows in [
        (26, (1, 2, 4, 1), 10.3, [("", 4, 2.35, 74.8), ("_conv_stem", 0, 2.25, 75.8)]),
        (38, (2, 3, 5, 2), 14.1, [("", 4, 3.0, 76.9), ("_conv_stem", 0, 2.85, 77.1)]),
        (50, (3, 4, 6, 3), 18.0, [("", 4, 3.6, 77.6), ("_conv_stem", 0, 3.5, 77.4)]),
    ]
    for stem, mixtures, flops_g, top1 in rows
}

SPACE = Small(
    Config(stem_kernel=3, expansion=2, heads=4, mixtures=0),
    {
        ("dims", "depths"): (
            ((16, 32, 64), (1, 1, 1)),
            ((32, 64, 128), (1, 1, 1)),
            ((32, 64, 128), (2, 2, 2)),
        ),
        "kernel": (3, 5, 7),
        ("stem_stride", "mixtures"): ((2, 0), (4, 0), (4, 4)),
    },
)


NAMES = names.TABLES


class LocalAttention(nn.Module):
    """Attention to the kernel x kernel nearest positions on (B, C, H, W) views, then the mean of
    cells of stride x stride. `qkv` is packed [q | k | v], each [head][channel]; `columns` and
    `rows` are embeddings of offsets, from -(kernel // 2) on."""

    def __init__(
        self, dim_in: int, heads: int, kernel: int, *, dim: int | None = None, stride: int = 1
    ) -> None:
        super().__init__()
        dim = dim_in if dim is None else dim
        if dim % (2 * heads):
            raise ValueError(
                f"dim {dim} does not divide into two halves of {heads} heads: choose a divisor"
            )
        self.heads, self.local = heads, Neighborhood(kernel, border="zero")
        half = dim // heads // 2
        self.qkv = Linear(dim_in, 3 * dim, bias=False)
        nn.init.kaiming_normal_(self.qkv.weight, mode="fan_out", nonlinearity="relu")
        self.columns, self.rows = (
            nn.Parameter(torch.randn(kernel, half) * (2 * half) ** -0.5) for _ in range(2)
        )
        self.shift: nn.Parameter | None = None
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        q, k, v = self._heads(x)
        out = self.local.attend(q, k, v, None, tables=self._tables(), scale=1.0).flatten(3)
        out = self.pool(channels_first(out))
        return out if self.shift is None else out + self.shift

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b tiles_n t s"]:
        """Return the attention of every head in every tile of queries, rows are queries."""
        q, k, _ = self._heads(x)
        return self.local.weights(q, k, None, tables=self._tables(), scale=1.0)

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels and add to them, for good. Values take the scale; not
        the shift, since those beyond the border are zeros."""
        q, k, v = self.qkv.weight.chunk(3)
        self.qkv = linear(torch.cat([q, k, v * scale[:, None]]), None)
        self.shift = frozen(shift[:, None, None])

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(channels_last(x)).unflatten(3, (3, self.heads, -1))
        return torch.unbind(qkv, 3)  # pyright: ignore[reportReturnType]

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Return the tables of the rows and the columns, for all the channels
        and 2 kernel - 1 offsets.
        """
        side, half = self.local.kernel // 2, self.rows.shape[1]
        return (
            F.pad(self.rows, (half, 0, side, side)),
            F.pad(self.columns, (0, half, side, side)),
        )


class AttentionStem(nn.Module):
    """Attention within blocks of the image with values mixed by place, BatchNorm, max pool:
    (B, channels, H, W) to (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, dim, heads = config, config.dims[0], config.stem_heads
        head_width(dim, heads)
        if c.stem_stride < 2:
            raise ValueError(
                f"stem_stride is {c.stem_stride}; blocks of a stem of attention need 2 or more: "
                "choose that, or mixtures=0 for a convolution"
            )
        self.config, self.heads, self.block = config, heads, c.stem_stride
        self.query, self.key = (nn.Parameter(torch.empty(dim, c.channels)) for _ in range(2))
        self.values = nn.Parameter(torch.empty(c.mixtures, dim, c.channels))
        width = dim // heads
        self.rows, self.columns, self.mixes = (
            nn.Parameter(torch.randn(n, width) * width**-0.5)
            for n in (self.block, self.block, c.mixtures)
        )
        self.norm, self.shift = nn.BatchNorm2d(dim), None
        for weight in (self.query, self.key, *self.values):
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "sasa")
        x = pad(channels_last(image), self.block)
        grid = [side // self.block for side in x.shape[1:3]]
        q, k, v = self._heads(x)
        out = attend(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
        if not isinstance(self.norm, nn.Identity):
            out = self.norm(out.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        out = out.amax(1).unflatten(0, (len(x), *grid))
        return out if self.shift is None else out + self.shift

    def weights(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "bn heads t t"]:
        """Return the attention of every head in every block, rows are queries."""
        q, k, _ = self._heads(pad(channels_last(image), self.block))
        return attention_weights(q, k, scale=1.0)

    def deployed(self) -> AttentionStem:
        """Move the BatchNorm's scale into the values; its shift may as well follow the pool."""
        if isinstance(self.norm, nn.BatchNorm2d):
            scale, shift = affine(self.norm)
            self.values, self.shift = frozen(self.values * scale[:, None]), frozen(shift)
            self.norm = nn.Identity()
        return self

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v (B n, heads, block^2, d) of the n blocks of an
        image (B, h, w, channels).
        """
        x = partition(x, self.block)
        q, k = x @ self.query.mT, x @ self.key.mT
        places = (self.rows[:, None] + self.columns).flatten(0, 1)
        shares = (places @ self.mixes.mT).softmax(1)
        v = torch.einsum("npc,pdc->npd", x, torch.einsum("pm,mdc->pdc", shares, self.values))
        return tuple(y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))  # pyright: ignore[reportReturnType]


class SASA(ResNet):
    """A ResNet of bottlenecks that attend to neighbourhoods, and a stem that attends in blocks."""

    undecayed = (".rows", ".columns", ".mixes")

    def __init__(self, config: Config) -> None:
        c = config

        def mixer(i: int, j: int, dim: int, stride: int) -> nn.Module:
            return LocalAttention(dim, c.heads, c.kernel, stride=stride)

        stem = AttentionStem(c) if c.mixtures else None
        super().__init__(c, mixer, stem=stem, bottleneck=True)


MODEL = SASA
