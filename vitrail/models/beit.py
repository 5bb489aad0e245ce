"""BEiT's network: a ViT in whose blocks every pair of positions has a learned bias.

Bao, Dong, Piao, Wei, "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, arXiv 2106.08254.
SimMIM (Xie et al., CVPR 2022, arXiv 2111.09886) fine-tunes it without LayerScale, and PSS (McDanel
and Huynh, 2022, arXiv 2208.09520) trains both that and one of DeiT's sizes, with absolute positions
as well.

A table has (2 h - 1)(2 w - 1) rows for offsets, *query minus key*, and three for the class token:
as query, as key, and with itself. They come first here, in the authors' files last. Queries and
values have a bias, keys have none. The answer is read from the mean over the patches, which is
normed; the class token only takes part. LayerNorm's eps is 1e-6. Other image sizes need other
tables: `load(..., image=...)` resamples them bicubically, where the authors interpolate along
steps that grow geometrically.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.attention import Attention, attend, attention_weights
from vitrail.layers.conv import Conv2d
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.patches import PatchTokens
from vitrail.layers.position import BiasTable, bicubic_grid, offset_index
from vitrail.layers.residual import Block, rising
from vitrail.models.names import beit as names
from vitrail.models.trunk.backbone import HALF, Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table, patches


@dataclass(frozen=True)
class Config:
    """Sizes of a BEiT. `position` is "relative" (bias tables) or "both" (and absolute ones);
    `scale` is where LayerScale starts, 0 for none."""

    dim: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    patch: int = 16
    position: str = "relative"
    scale: float = 0.0
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_BASE = Config(dim=768, heads=12, hidden=3072)
_BOTH = Config(position="both")
VARIANTS = {
    "beit_b16": Variant(replace(_BASE, scale=0.1), params_m=86.53, takes=HALF),
    "simmim_b16": Variant(_BASE, top1=83.7),
    "pss_s16": Variant(_BOTH, top1=80.4),
    "pss_s16_384": Variant(replace(_BOTH, image=(384, 384)), top1=82.7),
}

SPACE = Small(
    Config(drop_path=0.0),
    {
        ("dim", "heads", "hidden"): ((64, 2, 128), (96, 3, 192), (128, 4, 256), (192, 4, 384)),
        "depth": (3, 6),
        "patch": (4, 7, 8, 16),
    },
)


def _offsets(config: Config, i: int) -> tuple[int, int]:
    """Count the offsets between rows and between columns."""
    h, w = patches(config)
    return 2 * h - 1, 2 * w - 1


NAMES = names.TABLES
POSITIONS = (
    Table("embed.position", patches, bicubic_grid),
    Table("blocks.{i}.mixer.bias.table", _offsets, bicubic_grid, axes=(0,), prefix=3),
)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def class_index(grid: tuple[int, int]) -> Int[Tensor, "n n"]:
    """Return rows of a table for every pair of tokens, the class token
    first, then patches row by row.
    """
    index = nn.functional.pad(offset_index(grid) + 3, (1, 0, 1, 0))
    index[1:, 0] = 1
    index[0, 0] = 2
    return index


class Embed(PatchTokens):
    """Image (B, channels, H, W) to the class token and patches (B, 1 + h w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.position not in ("relative", "both"):
            raise ValueError(f"position is {config.position!r}: expected relative or both")
        self.config = c = config
        h, w = self.grid(*c.image)
        self.proj = Conv2d(c.channels, c.dim, c.patch, c.patch)
        self.token = nn.Parameter(torch.empty(1, 1, c.dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.position = None
        if c.position == "both":
            self.position = nn.Parameter(torch.empty(1, h * w, c.dim))
            nn.init.trunc_normal_(self.position, std=0.02)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return patches down and across an image of h x w pixels; ValueError unless they fit."""
        if (h, w) != tuple(self.config.image):
            raise ValueError(
                f"image is {h}x{w}; this beit has bias tables for "
                f"{'x'.join(map(str, self.config.image))}: create or load it with "
                f"image=({h}, {w}), or resize the image"
            )
        if h % self.config.patch or w % self.config.patch:
            raise ValueError(
                f"image is {h}x{w}; beit needs multiples of its patch {self.config.patch}: "
                "choose another patch or resize"
            )
        return h // self.config.patch, w // self.config.patch

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        check_image(image, self.config, "beit")
        self.grid(*image.shape[-2:])
        return image

    def behind(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n2 c"]:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)

    def _positions(self, grid: tuple[int, int]) -> Tensor | None:
        return self.position


class BiasedAttention(Attention):
    """Attention with a bias for each pair of positions, and of queries and values: (B, N, C) to
    the same."""

    def __init__(self, dim: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__(dim, heads, qkv_bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        h, w = grid
        self.bias = BiasTable((2 * h - 1) * (2 * w - 1) + 3, heads, class_index(grid))
        nn.init.trunc_normal_(self.bias.table, std=0.02)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        q, k, v = self._heads(x)
        out = attend(q, k, v, bias=self.bias())
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def weights(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom: attention of every head, rows are queries."""
        q, k, _ = self._heads(x)
        return attention_weights(q, k, bias=self.bias())

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super()._heads(x)
        by_head = (self.heads, 1, -1)
        return q + self.q_bias.view(by_head), k, v + self.v_bias.view(by_head)


class PatchMean(nn.Module):
    """The mean over all tokens but the first, normed: (B, 1 + N, C) to (B, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        return self.norm(x[:, 1:].mean(1))


class BEiT(Isotropic):
    """Patches and class token, blocks with bias tables, mean over the patches, linear head."""

    undecayed = ("embed.position", "embed.token", "bias.table")

    def __init__(self, config: Config) -> None:
        c, embed = config, Embed(config)
        grid = embed.grid(*c.image)
        blocks = [
            Block(
                c.dim,
                BiasedAttention(c.dim, c.heads, grid),
                Mlp(c.dim, c.hidden),
                norm=partial(nn.LayerNorm, eps=1e-6),
                scale=c.scale or None,
                drop_path=rate,
            )
            for rate in rising(c.drop_path, c.depth)
        ]
        super().__init__(
            config,
            embed=embed,
            blocks=blocks,
            norm=nn.Identity(),
            pool=PatchMean(c.dim),
            head=linear_head(c.dim, c.classes),
            levels=[Level(c.patch, c.dim)],
        )
        trunc_normal_linear(self)
        self._shrink()

    @torch.no_grad()
    def _shrink(self) -> None:
        """Divide what leaves block l by sqrt(2 l), and the head by 1000."""
        for depth, block in enumerate(self.blocks, 1):
            for last in (block.mixer.proj, block.ffn.fc2):  # pyright: ignore
                last.weight.div_((2 * depth) ** 0.5)  # pyright: ignore
        for parameter in self.head.parameters():
            parameter.mul_(0.001)


MODEL = BEiT
