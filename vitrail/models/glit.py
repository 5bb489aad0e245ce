"""GLiT: some heads of a block attend globally, the others convolve; which was searched.

Chen et al., "GLiT: Neural Architecture Search for Global and Local Image Transformer", ICCV
2021, arXiv 2107.02960. DeiT's frame around three kinds of mixers: attention, a gated
convolution along the sequence of tokens, or both side by side on a share of the channels.

The convolution runs over the row-major sequence, class token included, so that a row of
patches touches the next one. Nothing projects the two shares of a mixed block together: they
meet in the MLP. `CHOICES` is the paper's space in two levels, `decoded` reads its codes. The
networks of GLiT-Small (24.6 M, 80.5) and GLiT-Base (96.1 M, 82.3) were never released. The
paper reads one size of images; positions move to another as DeiT's do (bicubic).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv, channels_first, channels_last, folded
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.patches import ClassPatches
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models.names import glit as names
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table, patches

# The second level of the search: what a block chooses from, by how many thirds of its heads
# attend. The first field of each is the outer loop of the authors' numbering.
CHOICES: dict[int, dict[str, tuple]] = {
    0: {"kernels": (17, 31, 45), "local_ratios": (1.0, 2.0, 4.0)},
    1: {"local_ratios": (1.0, 2.0, 4.0), "mlp_ratios": (2.0, 4.0, 6.0)},
    2: {"local_ratios": (1.0, 2.0, 4.0), "mlp_ratios": (2.0, 4.0, 6.0)},
    3: {"attention_ratios": (0.5, 1.0, 2.0), "mlp_ratios": (2.0, 4.0, 6.0)},
}
_PLAIN = {"attention_ratios": 1.0, "kernels": 31, "local_ratios": 1.0, "mlp_ratios": 4.0}


def plain(thirds: Sequence[int], heads: int) -> dict[str, tuple]:
    """Return the per-block fields of a Config at level 1: how many thirds of the heads attend, with
    plain details.
    """
    blocks = [{"local": heads - attending * heads // 3, **_PLAIN} for attending in thirds]
    return {name: tuple(block[name] for block in blocks) for name in blocks[0]}


def decoded(thirds: Sequence[int], numbers: Sequence[int], heads: int) -> dict[str, tuple]:
    """Decode the per-block fields of a Config from the authors' codes of both levels of the search.

    `thirds` says how many thirds of a block's heads attend (level 1), `numbers` which of the
    nine combinations of `CHOICES` it takes (level 2).
    """
    blocks: list[dict[str, Any]] = []
    for attending, number in zip(thirds, numbers, strict=True):
        (first, outer), (second, inner) = CHOICES[attending].items()
        chosen = {first: outer[number // len(inner)], second: inner[number % len(inner)]}
        blocks.append({**_PLAIN, "local": heads - attending * heads // 3, **chosen})
    return {name: tuple(block[name] for block in blocks) for name in blocks[0]}


@dataclass(frozen=True)
class Config:
    """Sizes of a GLiT, one entry a block: `local` heads convolve and the rest of `heads`
    attend; `attention_ratios` and `local_ratios` are the inner width of either share to its
    own, `kernels` the convolutions'. A block ignores the sizes of a share that it lacks."""

    dim: int = 192
    heads: int = 3
    local: tuple[int, ...] = (0,) * 12
    attention_ratios: tuple[float, ...] = (1.0,) * 12
    kernels: tuple[int, ...] = (31,) * 12
    local_ratios: tuple[float, ...] = (1.0,) * 12
    mlp_ratios: tuple[float, ...] = (4.0,) * 12
    patch: int = 16
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_TINY = decoded((3, 0, 1, 3, 0, 1, 3, 1, 0, 3, 0, 3), (1, 4, 8, 4, 8, 8, 3, 6, 8, 4, 5, 8), 3)
VARIANTS = {
    "glit_tiny": Variant(
        replace(Config(), **_TINY),
        params_m=7.264,
        flops_g=1.33,
        top1=76.4,
        note="the published operations count one of the two halves that enter a local head's gate",
    )
}


def _small(*local: int, kernel: int) -> tuple[tuple, ...]:
    """Return the fields of a small net: local heads, attention ratios,
    kernels, local and MLP ratios.
    """
    n = len(local)
    return local, (1.0,) * n, (kernel,) * n, (2.0,) * n, (2.0,) * n


SPACE = Small(
    Config(drop_path=0.0),
    {
        ("local", "attention_ratios", "kernels", "local_ratios", "mlp_ratios"): (
            _small(2, 2, 2, 0, kernel=9),
            _small(3, 2, 2, 0, kernel=17),
            _small(2, 2, 2, 2, 1, 0, kernel=17),
        ),
        "dim": (96, 144, 192),
        "patch": (4, 7, 8, 16),
    },
)


NAMES = names.TABLES
POSITIONS = (Table("embed.position", patches, bicubic_grid),)


class Embed(ClassPatches):
    """Image (B, channels, H, W) to the class token and patches (B, 1 + h w, C)."""

    def __init__(self, config: Config) -> None:
        c = config
        super().__init__(c.channels, c.dim, c.patch, image=c.image, std=0.02)
        self.config = config

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        check_image(image, self.config, "glit")
        return image


class LocalHeads(nn.Module):
    """A gated depthwise convolution along the sequence: (B, N, C) to the same."""

    def __init__(self, dim: int, hidden: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: expected an odd number, as it has a centre")
        self.enter = Linear(dim, 2 * hidden)
        padding = (0, kernel // 2)
        self.conv = Conv(hidden, hidden, (1, kernel), padding=padding, groups=hidden)
        self.norm = nn.BatchNorm2d(hidden)
        self.act = nn.SiLU()
        self.leave = Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        x = self.conv(F.glu(self.enter(x), -1).unsqueeze(1))  # the sequence is a map of one row
        x = self.act(self.norm(channels_first(x)))
        return self.leave(channels_last(x).squeeze(1))

    def deployed(self) -> LocalHeads:
        """Fold BatchNorm into the convolution."""
        self.conv = folded(self.conv, self.norm)  # pyright: ignore[reportArgumentType]
        self.norm = nn.Identity()
        return self


class MixedHeads(nn.Module):
    """Attention on the first `share` channels, local heads on the rest: (B, N, C) to the same."""

    def __init__(self, attention: Attention, local: LocalHeads, share: int) -> None:
        super().__init__()
        self.attention, self.local, self.share = attention, local, share

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        y = self.attention(x[..., : self.share]), self.local(x[..., self.share :])
        return torch.cat(y, -1)

    def weights(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom: attention of the heads that attend, rows are queries."""
        return self.attention.weights(x[..., : self.share])


def _mixer(config: Config, i: int) -> nn.Module:
    """Return the heads of block i: all attending, all local, or some of each."""
    c, attending = config, config.heads - config.local[i]
    share = c.dim * attending // c.heads
    inner, hidden = int(c.attention_ratios[i] * share), int(c.local_ratios[i] * (c.dim - share))
    if attending and (inner < 1 or inner % attending):
        raise ValueError(
            f"attention_ratios is {c.attention_ratios[i]} in block {i}, which makes {inner} "
            f"channels: they do not divide into the {attending} heads that attend"
        )
    if attending < c.heads and hidden < 1:
        raise ValueError(
            f"local_ratios is {c.local_ratios[i]} in block {i}, which makes {hidden} channels: "
            "expected one at least"
        )
    if not attending:
        return LocalHeads(c.dim, hidden, c.kernels[i])
    attention = Attention(share, attending, inner=inner)
    if attending == c.heads:
        return attention
    return MixedHeads(attention, LocalHeads(c.dim - share, hidden, c.kernels[i]), share)


class GLiT(Isotropic):
    """Patches and class token, blocks of global and local heads, class token, linear head."""

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        c, depth = config, len(config.local)
        ratios = (c.attention_ratios, c.kernels, c.local_ratios, c.mlp_ratios)
        if depth == 0 or any(len(r) != depth for r in ratios):
            raise ValueError(f"local is {c.local}; the other sizes {ratios} need one entry a block")
        head_width(c.dim, c.heads)
        if not all(0 <= n <= c.heads for n in c.local):
            raise ValueError(f"local is {c.local}: expected 0 to {c.heads}, a block's heads")
        norm = partial(nn.LayerNorm, eps=1e-6)
        blocks = [
            Block(
                c.dim,
                _mixer(c, i),
                Mlp(c.dim, int(c.mlp_ratios[i] * c.dim)),
                norm=norm,
                drop_path=rate,
            )
            for i, rate in enumerate(rising(c.drop_path, depth))
        ]
        super().__init__(
            config,
            embed=Embed(config),
            blocks=blocks,
            norm=norm(c.dim),
            pool=FirstToken(),
            head=linear_head(c.dim, c.classes),
            levels=[Level(c.patch, c.dim)],
        )
        for part in self.modules():  # local heads keep a convolution's initialisation
            if isinstance(part, Attention | Mlp):
                trunc_normal_linear(part)
        trunc_normal_linear(self.head)


MODEL = GLiT
