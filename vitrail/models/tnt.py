"""TNT: inside every patch of a transformer a smaller transformer looks at its pixels.

Han et al., "Transformer in Transformer", NeurIPS 2021, arXiv 2103.00112. Pixels of a patch are
tokens of an inner block; what it makes of them is added to the patch's token, which then
passes an outer block.

q and k are one linear layer without bias, v another. LayerNorm's eps is 1e-5 and acts on each
pixel before pixels are joined to a patch in a block, as in the authors' first code and timm's
`legacy` models. At another image size positions are resampled bicubically. `outer` lets
another paper put its own feed-forward in place of the outer MLP and its norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv2d
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Blocks, DropPath, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models.names import tnt as names
from vitrail.models.trunk.backbone import Backbone, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table, patches

Grid = tuple[int, int]


@dataclass(frozen=True)
class Config:
    """Sizes of a TNT: `inner` and `inner_heads` of the pixels' transformer; a patch has
    (`patch` / `pixel`)^2 pixels, each a stride of `pixel`."""

    dim: int = 384
    depth: int = 12
    heads: int = 6
    inner: int = 24
    inner_heads: int = 4
    patch: int = 16
    pixel: int = 4
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


VARIANTS = {
    "tnt_ti": Variant(
        Config(dim=192, heads=3, inner=12, inner_heads=2), params_m=6.1, flops_g=1.4, top1=73.9
    ),
    "tnt_s": Variant(Config(), params_m=23.8, flops_g=5.2, top1=81.5),
    "tnt_b": Variant(Config(dim=640, heads=10, inner=40), params_m=65.6, flops_g=14.1, top1=82.9),
}

SPACE = Small(
    Config(drop_path=0.0, inner=12, inner_heads=2),
    {
        ("dim", "heads"): ((64, 2), (96, 3), (128, 4)),
        "depth": (3, 5),
        ("patch", "pixel"): ((4, 2), (8, 4), (8, 2), (16, 4)),
    },
)


NAMES = names.TABLES
POSITIONS = (Table("position", patches, bicubic_grid),)


def grid(config: Config, h: int, w: int) -> Grid:
    """Return the patches down and across an image of h x w pixels; ValueError unless they fit."""
    if h % config.patch or w % config.patch:
        raise ValueError(
            f"image is {h}x{w}; tnt needs multiples of its patch {config.patch}: choose another "
            "patch or resize"
        )
    return h // config.patch, w // config.patch


class SplitAttention(nn.Module):
    """Attention with one linear layer for q and k and one for v, without biases: (B, N, C) to
    the same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        head_width(dim, heads)
        self.heads = heads
        self.qk, self.v = Linear(dim, 2 * dim, bias=False), Linear(dim, dim, bias=False)
        self.proj = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        q, k = self._heads(x)
        v = self.v(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))

    def weights(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom, rows are queries."""
        return attention_weights(*self._heads(x))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self.qk(x).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k


class PixelEmbed(nn.Module):
    """Pixels of every patch as tokens: an image to (B patches, pixels, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        if c.patch % c.pixel:
            raise ValueError(f"patch {c.patch} does not divide into pixels of {c.pixel}")
        self.side = c.patch // c.pixel
        self.proj = Conv2d(c.channels, c.inner, 7, c.pixel, 3)
        self.position = nn.Parameter(torch.empty(1, c.inner, self.side, self.side))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "bn p c"]:
        x = self.proj(image)
        x = x.unflatten(3, (-1, self.side)).unflatten(2, (-1, self.side))
        x = x + self.position[:, :, None, :, None, :]
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


class Join(nn.Module):
    """Pixels, normed, as one vector a patch, projected: (B patches, pixels, C) to (B, patches,
    C'). The norm is of each pixel, or of the whole `vector`."""

    def __init__(self, config: Config, *, vector: bool = False) -> None:
        super().__init__()
        width = config.inner * (config.patch // config.pixel) ** 2
        self.norm = nn.LayerNorm(width if vector else config.inner)
        self.proj, self.vector = Linear(width, config.dim), vector

    def forward(self, pixels: Float[Tensor, "bn p c"], patches: int) -> Float[Tensor, "b n c2"]:
        flat = self.norm(pixels.flatten(1)) if self.vector else self.norm(pixels).flatten(1)
        return self.proj(flat.unflatten(0, (-1, patches)))


class InnerBlock(nn.Module):
    """A pre-norm block on pixels."""

    def __init__(self, config: Config, drop_path: float) -> None:
        super().__init__()
        c = config
        self.norm1, self.norm2 = nn.LayerNorm(c.inner), nn.LayerNorm(c.inner)
        self.mixer = SplitAttention(c.inner, c.inner_heads)
        self.ffn, self.drop_path = Mlp(c.inner, 4 * c.inner), DropPath(drop_path)

    def forward(self, x: Float[Tensor, "bn p c"]) -> Float[Tensor, "bn p c"]:
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class TNTBlock(nn.Module):
    """An inner block on pixels, their sum into the patches, an outer block: both to the same."""

    def __init__(self, config: Config, drop_path: float, outer: nn.Module | None) -> None:
        super().__init__()
        c = config
        self.inner, self.join = InnerBlock(c, drop_path), Join(c)
        self.norm1, self.mixer = nn.LayerNorm(c.dim), SplitAttention(c.dim, c.heads)
        self.norm2 = nn.LayerNorm(c.dim) if outer is None else None
        self.ffn = Mlp(c.dim, 4 * c.dim) if outer is None else outer
        self.drop_path = DropPath(drop_path)

    def forward(self, pixels: Tensor, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        pixels = self.inner(pixels)
        x = torch.cat([x[:, :1], x[:, 1:] + self.join(pixels, math.prod(grid))], 1)
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        if self.norm2 is None:
            return pixels, self.ffn(x, grid)
        return pixels, x + self.drop_path(self.ffn(self.norm2(x)))


class TNT(Backbone):
    """Pixels and patches, blocks of both, class token, linear head."""

    undecayed = ("position", "token")

    def __init__(self, config: Config, outer: Callable[[], nn.Module] | None = None) -> None:
        super().__init__()
        c = self.config = self.sizes = config  # a guest's network has a config of its own
        self.pixels, self.join = PixelEmbed(c), Join(c, vector=True)
        self.join_norm = nn.LayerNorm(c.dim)
        self.token = nn.Parameter(torch.empty(1, 1, c.dim))
        self.position = nn.Parameter(torch.empty(1, math.prod(grid(c, *c.image)), c.dim))
        for table in (self.token, self.position):
            nn.init.trunc_normal_(table, std=0.02)
        self.blocks = Blocks(
            TNTBlock(c, rate, outer() if outer else None) for rate in rising(c.drop_path, c.depth)
        )
        self.norm, self.pool = nn.LayerNorm(c.dim), FirstToken()
        self.head = linear_head(c.dim, c.classes)
        self.levels, self.width = (Level(c.patch, c.dim),), c.dim
        trunc_normal_linear(self)

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last block's map after the norm, or those after the blocks `at`, unnormed."""
        found, size = self._tokens(image)
        chosen = [self.norm(found[-1])] if at is None else [found[j] for j in at]
        return [x[:, 1:].unflatten(1, size) for x in chosen]

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        return self.norm(self.pool(self._tokens(image)[0][-1]))

    def _tokens(self, image: Tensor) -> tuple[list[Tensor], Grid]:
        """Return the tokens (B, 1 + h w, C) after every block, and their grid."""
        check_image(image, self.config, "tnt")
        size, made = (grid(self.sizes, *hw) for hw in (image.shape[-2:], self.sizes.image))
        pixels = self.pixels(image)
        x = self.join_norm(self.join(pixels, math.prod(size)))
        x = torch.cat(
            [self.token.expand(x.shape[0], -1, -1), x + bicubic_grid(self.position, made, size)], 1
        )
        found = []
        for block in self.blocks:
            pixels, x = self.blocks.run(block, pixels, x, size)  # pyright: ignore
            found.append(x)
        return found, size


MODEL = TNT
