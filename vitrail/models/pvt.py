"""PVT: a pyramid of transformers, whose attention reads keys from a smaller copy of the map.

Wang et al., "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without
Convolutions", ICCV 2021, arXiv 2102.12122. Spatial-reduction attention merges R x R positions
by one linear map before it makes keys and values of them. A class token joins in the last stage.

LayerNorm's eps is 1e-6 in blocks and at the end, 1e-5 behind patch embeddings and reductions;
transformers has one for all. Patches and reductions leave out the rows and columns that do not
fill one more, as in the authors' code: take multiples of 32 to use every pixel. Each stage's
positions are resampled bilinearly from the config's map to the one at hand; the authors compare
every map with that of the first stage, which fails for some sizes. `ffn` lets other papers
put theirs into the trunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d, channels_last
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.position import bilinear_grid
from vitrail.layers.reduction import Grid, ReducedAttention
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models.names import pvt as names
from vitrail.models.trunk.backbone import Backbone, Level, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table
from vitrail.models.trunk.sizes import PerBlock, by_stage


@dataclass(frozen=True)
class Config:
    """Sizes of a PVT, one entry a stage: `ratios` of the MLPs' hidden width, `reductions` of the
    keys' map. The first stage's patches are `patch` wide, the others' 2. Entries of `heads`,
    `inner` (channels of all heads, without entries `dims`) and `hidden` (without entries as
    `ratios` say) are one number or one a block."""

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[PerBlock, ...] = (1, 2, 5, 8)
    ratios: tuple[int, ...] = (8, 8, 4, 4)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    patch: int = 4
    inner: tuple[PerBlock, ...] = ()
    hidden: tuple[PerBlock, ...] = ()
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


VARIANTS = {
    name: Variant(
        Config(depths=depths, drop_path=drop_path),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"transformers": f"hf-hub:Zetatech/{name.replace('_', '-')}-224"},
    )
    for name, depths, drop_path, params_m, flops_g, top1 in [
        ("pvt_tiny", (2, 2, 2, 2), 0.1, 13.2, 1.9, 75.1),
        ("pvt_small", (3, 4, 6, 3), 0.1, 24.5, 3.8, 79.8),
        ("pvt_medium", (3, 4, 18, 3), 0.3, 44.2, 6.7, 81.2),
        ("pvt_large", (3, 8, 27, 3), 0.3, 61.4, 9.8, 81.7),
    ]
}

SPACE = Small(
    Config(drop_path=0.0),
    {
        ("dims", "depths", "heads", "ratios", "reductions"): (
            ((32, 64), (1, 2), (1, 2), (4, 4), (2, 1)),
            ((48, 96), (2, 2), (1, 2), (4, 4), (2, 1)),
            ((32, 64, 160), (1, 2, 2), (1, 2, 5), (4, 4, 4), (4, 2, 1)),
        ),
        "patch": (2, 4, 8),
    },
)


NAMES = names.TABLES
WIDTHS = names.widths
POSITIONS = (Table("stages.{i}.position", lambda c, i: grids(c, *c.image)[i], bilinear_grid),)


def grids(config: Config, h: int, w: int) -> list[Grid]:
    """Return the map of each stage for an image of h x w pixels; ValueError if one is empty."""
    strides = [config.patch * 2**stage for stage in range(len(config.dims))]
    if min(h, w) < strides[-1]:
        raise ValueError(
            f"image is {h}x{w}; this pvt needs {strides[-1]} pixels a side at least: take fewer "
            "stages, a smaller patch or a larger image"
        )
    return [(h // stride, w // stride) for stride in strides]


class Patches(nn.Module):
    """Patches of p x p positions as one, then LayerNorm: (B, C, H, W) to (B, h, w, C')."""

    def __init__(self, dim_in: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj, self.norm = Conv2d(dim_in, dim, patch, patch), nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h2 w2 c2"]:
        return self.norm(channels_last(self.proj(x)))


class PVTBlock(nn.Module):
    """x + mixer(norm1(x)), then x + ffn(norm2(x)); tokens (B, prefix + h w, C) to the same."""

    def __init__(self, dim: int, mixer: nn.Module, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.mixer, self.ffn = mixer, Mlp(dim, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c"]:
        x = x + self.drop_path(self.mixer(self.norm1(x), grid))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class PositionStage(Stage):
    """Patches, positions, a class token where there is one, blocks: (B, C, H, W) to tokens
    (B, prefix + h w, C') and their grid."""

    def __init__(self, down: nn.Module, blocks: list, dim: int, grid: Grid, token: bool) -> None:
        super().__init__(down, blocks)
        self.grid = grid
        self.position = nn.Parameter(torch.empty(1, math.prod(grid), dim))
        self.token = nn.Parameter(torch.empty(1, 1, dim)) if token else None
        for table in (self.position, self.token):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, Grid]:  # pyright: ignore
        x = self.down(x)
        grid = (x.shape[1], x.shape[2])
        x = x.flatten(1, 2) + bilinear_grid(self.position, self.grid, grid)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = self.blocks.run(block, x, grid)
        return x, grid


BlockOf = Callable[[int, nn.Module, int, float], nn.Module]


class PVT(Backbone):
    """Stages of patches, positions and blocks with reduced keys; class token, linear head.

    `block(stage, mixer, hidden, drop_path)` builds another paper's blocks.
    """

    undecayed = ("token",)

    def __init__(self, config: Config, block: BlockOf | None = None) -> None:
        super().__init__()
        c = self.config = self.sizes = config  # a guest's network has a config of its own
        lengths = {len(v) for v in (c.dims, c.depths, c.heads, c.ratios, c.reductions)}
        if len(lengths) > 1:
            raise ValueError(
                f"dims {c.dims}, depths {c.depths}, heads {c.heads}, ratios {c.ratios} and "
                f"reductions {c.reductions} differ in length: one each a stage"
            )
        if block is None:
            block = lambda i, *parts: PVTBlock(c.dims[i], *parts)  # noqa: E731
        usual = [(dim, ratio * dim) for dim, ratio in zip(c.dims, c.ratios, strict=True)]
        sizes = by_stage((c.heads, c.inner, c.hidden), c.depths, usual)
        rates, before, stages = iter(rising(c.drop_path, sum(c.depths))), c.channels, []
        for i, (dim, grid) in enumerate(zip(c.dims, grids(c, *c.image), strict=True)):
            blocks = [
                block(
                    i,
                    ReducedAttention(dim, size.heads, c.reductions[i], size.inner),
                    size.hidden,
                    next(rates),
                )
                for size in sizes[i]
            ]
            down = Patches(before, dim, 2 if i else c.patch)
            stages.append(PositionStage(down, blocks, dim, grid, token=i == len(c.dims) - 1))
            before = dim
        self.stages = nn.ModuleList(stages)
        self.norm, self.pool = nn.LayerNorm(before, eps=1e-6), FirstToken()
        self.head = linear_head(before, c.classes)
        self.levels = tuple(Level(c.patch * 2**i, dim) for i, dim in enumerate(c.dims))
        self.width = before
        trunc_normal_linear(self)

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        maps = []
        for x, grid in self._stages(image):
            maps.append(x[:, x.shape[1] - math.prod(grid) :].unflatten(1, grid))
        return maps if at is None else [maps[i] for i in at]

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        x, _ = self._stages(image)[-1]
        return self.norm(self.pool(x))

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies; the first stage's patches and
        positions are the stem.
        """
        first = name.startswith("stages.0.") and not name.startswith("stages.0.blocks.")
        return 0 if first else super().depth_of(name)

    def _stages(self, image: Tensor) -> list[tuple[Tensor, Grid]]:
        check_image(image, self.config, "pvt")
        grids(self.sizes, *image.shape[-2:])
        found, x = [], image
        for stage in self.stages:
            tokens, grid = stage(x)
            found.append((tokens, grid))
            if stage.token is None:
                x = tokens.unflatten(1, grid).permute(0, 3, 1, 2)
        return found


MODEL = PVT
