"""AutoFormer: DeiT's frame with a width, heads and MLPs that a search chose block by block.

Chen et al., "AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021, arXiv
2107.00651. All candidates of the search are slices of one network, which is
`vitrail.search.supernets.autoformer`; released files hold that network whole, so weights of a
searched one are taken from it there and not by `load`.

Heads have 64 channels whatever the width, so attention is wider or narrower than its tokens. Keys
and values have relative positions of their own: of the offset between rows and between columns,
clipped at 14, and one entry for all pairs with the class token. The head reads the mean of the
patches; the class token takes part in attention alone. LayerNorm's eps is 1e-5. The published
operations count norms and biases and leave out the products with relative positions. The golden is
that of the shared network, at the searched and at the largest candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.patches import ClassPatches
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, rising
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table, patches

WIDTH = 64  # channels of a head
REACH = 14  # the furthest offset that has an entry of its own


@dataclass(frozen=True)
class Config:
    """Sizes of an AutoFormer: `heads` and `mlp_ratios` have an entry a block."""

    dim: int = 192
    heads: tuple[int, ...] = (3,) * 12
    mlp_ratios: tuple[float, ...] = (4.0,) * 12
    patch: int = 16
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


def _searched(dim: int, ratios: str, heads: str) -> Config:
    """Return a config of ratios, a word each, and heads."""
    chosen = tuple(map(float, ratios.split()))
    return replace(Config(), dim=dim, mlp_ratios=chosen, heads=tuple(map(int, heads.split())))


_FLOPS = "the published operations leave out the products with relative positions"
VARIANTS = {
    "autoformer_tiny": Variant(
        _searched(
            192, "3.5 3.5 3 3.5 3 3 4 4 3.5 4 3.5 4 3.5", "3 3 3 3 3 3 3 3 3 3 4 3 3"
        ),
        params_m=5.868, flops_g=1.34, top1=75.3, note=_FLOPS,
    ),
    "autoformer_small": Variant(
        _searched(384, "3 3.5 3 3.5 4 4 4 4 4 4 4 3.5 4", "6 6 5 7 5 5 5 6 6 7 7 6 7"),
        params_m=22.891, flops_g=4.89, top1=81.7, note=_FLOPS,
    ),
    "autoformer_base": Variant(
        _searched(
            576, "3.5 3.5 4 3.5 4 3.5 3.5 3 4 4 3 4 3 3.5", "9 9 9 9 9 10 9 9 10 9 10 9 9 10"
        ),
        params_m=53.692, flops_g=11.24, top1=82.4, note=_FLOPS,
    ),
}  # fmt: skip


def _small(depth: int, heads: int) -> tuple[tuple, ...]:
    return (heads,) * depth, (3.0,) * depth


SPACE = Small(
    Config(drop_path=0.0),
    {
        "dim": (64, 96, 128),
        ("heads", "mlp_ratios"): (_small(4, 1), _small(4, 2), _small(6, 2)),
        "patch": (4, 7, 8, 16),
    },
)

NAMES: dict[str, list] = {}
POSITIONS = (Table("embed.position", patches, bicubic_grid),)


class Embed(ClassPatches):
    """Image (B, channels, H, W) to the class token and patches (B, 1 + h w, C)."""

    def __init__(self, config: Config) -> None:
        self.config = c = config
        super().__init__(c.channels, c.dim, c.patch, image=c.image, std=0.02)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return the grid of patches; raise ValueError for another image size than the config's."""
        if hasattr(self, "made_for") and (h, w) != tuple(self.config.image):
            height, width = self.config.image
            raise ValueError(
                f"image is {h}x{w}; this autoformer was built for {height}x{width}, as offsets are "
                f"of its grid: resize, or create it with image=({h}, {w})"
            )
        return super().grid(h, w)

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        check_image(image, self.config, "autoformer")
        return image


class Offsets(nn.Module):
    """An embedding of `WIDTH` channels for each pair of tokens on a grid behind a class token.

    It is the sum of an entry for the offset between rows and one for that between columns; entry 0
    is that of every pair with the class token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * REACH + 2, WIDTH))
        self.columns = nn.Parameter(torch.zeros(2 * REACH + 2, WIDTH))
        for table in (self.rows, self.columns):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "n n c"]:
        h, w = grid
        place = torch.arange(h * w, device=self.rows.device)
        found = []
        for table, at in ((self.rows, place // w), (self.columns, place % w)):
            offsets = (at - at[:, None]).clamp(-REACH, REACH) + REACH + 1
            found.append(table[nn.functional.pad(offsets, (1, 0, 1, 0))])
        return found[0] + found[1]


class RelativeAttention(nn.Module):
    """Attention over (B, 1 + h w, C) whose keys and values know their offset from the query.

    `qkv` is packed `[q | k | v]`, each `[head][channel]`.
    """

    def __init__(self, dim: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.grid = heads, grid
        self.qkv = Linear(dim, 3 * WIDTH * heads)
        self.proj = Linear(WIDTH * heads, dim)
        self.keys, self.values = Offsets(), Offsets()

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        seen, v = self._seen(x)
        out = seen @ v
        # One product for each query, over the keys of all heads and images at once.
        placed = seen.flatten(0, 1).transpose(0, 1) @ self.values(self.grid)
        out = out + placed.transpose(0, 1).view_as(out)
        return self.proj(out.transpose(1, 2).flatten(2))

    def weights(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom: attention of every head, rows are queries."""
        return self._seen(x)[0]

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)

    def _seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, WIDTH).permute(2, 0, 3, 1, 4)
        placed = q.flatten(0, 1).transpose(0, 1) @ self.keys(self.grid).mT
        logits = q @ k.mT + placed.transpose(0, 1).view(b, self.heads, n, n)
        return (logits * WIDTH**-0.5).softmax(-1), v


class PatchMean(nn.Module):
    """The mean of the patches, without the class token: (B, 1 + n, C) to (B, C)."""

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        return x[:, 1:].mean(1)


class AutoFormer(Isotropic):
    """Patches and class token, blocks of searched widths, mean of the patches, linear head."""

    undecayed = ("embed.position", "embed.token", "rows", "columns")

    def __init__(self, config: Config) -> None:
        c = config
        if len(c.heads) != len(c.mlp_ratios) or not c.heads:
            raise ValueError(
                f"heads {c.heads} and mlp_ratios {c.mlp_ratios}: expected one entry a block each"
            )
        embed = Embed(config)
        blocks = [
            Block(
                c.dim, RelativeAttention(c.dim, heads, embed.made_for),
                Mlp(c.dim, int(c.dim * ratio)), drop_path=rate,
            )
            for heads, ratio, rate in zip(
                c.heads, c.mlp_ratios, rising(c.drop_path, len(c.heads)), strict=True
            )
        ]  # fmt: skip
        super().__init__(
            config,
            embed=embed,
            blocks=blocks,
            norm=nn.LayerNorm(c.dim),
            pool=PatchMean(),
            head=linear_head(c.dim, c.classes),
            levels=[Level(c.patch, c.dim)],
        )
        trunc_normal_linear(self)


MODEL = AutoFormer
