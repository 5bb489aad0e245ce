"""Swin: attention inside small windows, which every second block shifts by half a window.

Liu et al., ICCV 2021, arXiv 2103.14030.

A stage whose map at the config's image is no larger than the window on its shorter side
takes that side for its window and never shifts. Any other image may be given: as in
torchvision, maps are padded with zeros *after* the norm to whole windows (padding takes part
in attention), odd maps are padded before merging, and an axis that one window covers is not
shifted. At another size than the config's the last stage of swin_tiny therefore does shift;
`load(..., image=...)` gives the authors' model of that size, with tables resampled.

`mixer(i, j)` replaces the attention of block j of stage i: this trunk hosts other papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import Mean
from vitrail.layers.windows import WindowAttention, pad
from vitrail.models.names import swin as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table
from vitrail.models.trunk.sizes import PerBlock, Widths, by_stage

Mixer = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Config:
    """Sizes of a Swin: `dim` of the first stage, doubled by each; blocks and heads per stage.

    `position` is "relative" (bias tables) or "both" (and absolute positions after the stem).
    `heads`, `inner` (channels of all heads) and `hidden` have an entry a stage, one number or one
    a block; `inner` is as wide as the stage and `hidden` four times, unless given.
    """

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[PerBlock, ...] = (3, 6, 12, 24)
    window: int = 7
    patch: int = 4
    position: str = "relative"
    patch_norm: bool = True
    qkv_bias: bool = True
    inner: tuple[PerBlock, ...] = ()
    hidden: tuple[PerBlock, ...] = ()
    drop_path: float = 0.2
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


# name, dim, blocks of the third stage, channels per head, drop path, window, image; parameters,
# multiply-adds, accuracy of the released weights, timm's tag: some are pre-trained on ImageNet-22k
_ROWS = [
    ("swin_tiny", 96, 6, 32, 0.2, 7, 224, 28.29, 4.5, 81.2, "ms_in1k"),
    ("swin_small", 96, 18, 32, 0.3, 7, 224, 49.61, 8.7, 83.2, "ms_in1k"),
    ("swin_base", 128, 18, 32, 0.5, 7, 224, 87.77, 15.4, 83.5, "ms_in1k"),
    ("swin_base_384", 128, 18, 32, 0.5, 12, 384, 88.0, 47.0, 84.5, "ms_in1k"),
    ("swin_tiny_22k", 96, 6, 32, 0.1, 7, 224, 28.29, 4.5, 80.9, "ms_in22k_ft_in1k"),
    ("swin_small_22k", 96, 18, 32, 0.2, 7, 224, 49.61, 8.7, 83.2, "ms_in22k_ft_in1k"),
    ("swin_base_22k", 128, 18, 32, 0.2, 7, 224, 87.77, 15.4, 85.2, "ms_in22k_ft_in1k"),
    ("swin_base_384_22k", 128, 18, 32, 0.2, 12, 384, 88.0, 47.0, 86.4, "ms_in22k_ft_in1k"),
    ("swin_large", 192, 18, 32, 0.2, 7, 224, 196.5, 34.5, 86.3, "ms_in22k_ft_in1k"),
    ("swin_large_384", 192, 18, 32, 0.2, 12, 384, 196.5, 103.9, 87.3, "ms_in22k_ft_in1k"),
    ("swin_tiny_c24_w8", 96, 6, 24, 0.2, 8, 256, 28.0, 5.9, 81.6, None),
]


def _hub(name: str, window: int, side: int, tag: str | None) -> dict[str, str]:
    # transformers has weights of one training each: base and large with ImageNet-22k
    long = f"swin_{name.split('_')[1]}_patch4_window{window}_{side}"
    theirs = {"transformers": f"hf-hub:microsoft/{long.replace('_', '-')}"}
    both = tag == ("ms_in1k" if "tiny" in name or "small" in name else "ms_in22k_ft_in1k")
    return ({"timm": f"hf-hub:timm/{long}.{tag}"} if tag else {}) | (theirs if both else {})


VARIANTS = {
    name: Variant(
        Config(
            dim=dim,
            depths=(2, 2, blocks, 2),
            heads=tuple(dim * 2**i // channels for i in range(4)),
            window=window,
            drop_path=drop_path,
            image=(side, side),
        ),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub=_hub(name, window, side, tag),
    )
    for name, dim, blocks, channels, drop_path, window, side, params_m, flops_g, top1, tag in _ROWS
}

SPACE = Small(
    Config(drop_path=0.05),
    {
        ("dim", "depths", "heads"): (
            (32, (2, 2), (2, 4)),
            (48, (2, 4), (2, 4)),
            (64, (2, 4), (2, 4)),
            (48, (2, 2, 4), (2, 4, 8)),
        ),
        "patch": (2, 4, 8, 16),
    },
)


NAMES = names.TABLES
WIDTHS = names.widths
# Bias tables move only where an image is so small that a stage's window changes.
POSITIONS = (
    Table("stem.position", lambda c: grids(c)[0], bicubic_grid),
    Table(
        "stages.{i}.blocks.{j}.mixer.bias.table",
        lambda c, i, j: (2 * min(c.window, *grids(c)[i]) - 1,) * 2,
        bicubic_grid,
        axes=(0,),
    ),
)


def grids(config: Config) -> list[tuple[int, int]]:
    """Return the rows and columns of each stage's map at the config's image."""
    strides = [config.patch * 2**i for i in range(len(config.depths))]
    return [(-(-config.image[0] // s), -(-config.image[1] // s)) for s in strides]


def widths(config: Config) -> list[list[Widths]]:
    """Return the heads, inner and hidden width of every stage's blocks."""
    c = config
    dims = [c.dim * 2**i for i in range(len(c.depths))]
    return by_stage((c.heads, c.inner, c.hidden), c.depths, [(dim, 4 * dim) for dim in dims])


class PatchEmbed(nn.Module):
    """Patches of p x p pixels, normed: (B, channels, H, W) to a map (B, h, w, C).

    An image that is not a multiple of the patch is padded with zeros.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.grid = config, grids(config)[0]
        self.proj = Conv(config.channels, config.dim, config.patch, config.patch)
        self.norm = nn.LayerNorm(config.dim) if config.patch_norm else nn.Identity()

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "swin")
        return self.norm(self.proj(pad(image.permute(0, 2, 3, 1), self.config.patch)))


class PlacedEmbed(PatchEmbed):
    """And absolute positions, at another grid than the config's resampled on the way."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.position = nn.Parameter(torch.empty(1, math.prod(self.grid), config.dim))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        x = super().forward(image)
        grid = (x.shape[1], x.shape[2])
        return x + bicubic_grid(self.position, self.grid, grid).view(1, *grid, -1)


STEMS = {"relative": PatchEmbed, "both": PlacedEmbed}


class Merge(nn.Module):
    """Four neighbours become one position of twice the width: (B, h, w, C) to (B, h/2, w/2, 2C).

    Column by column, (0,0), (1,0), (0,1), (1,1); an odd map is padded with zeros.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        b, h, w, c = (x := pad(x, 2)).shape
        x = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(b, h // 2, w // 2, 4 * c)))


class Swin(Pyramid):
    """Patch embedding, stages of windowed blocks with merging between, norm, mean, linear."""

    undecayed = ("bias.table", "stem.position")

    def __init__(self, config: Config, mixer: Mixer | None = None) -> None:
        if len(config.depths) != len(config.heads):
            raise ValueError(
                f"depths {config.depths} and heads {config.heads} differ in length: "
                "one each a stage"
            )
        if config.position not in STEMS:
            raise ValueError(f"position is {config.position!r}: expected {' or '.join(STEMS)}")
        sizes = grids(config)
        if min(sizes[-1]) < 2 or config.window < 2:
            h, w = config.image
            raise ValueError(
                f"image is {h}x{w}, window {config.window}; the last of {len(sizes)} swin stages "
                f"would see windows of one position: take a smaller patch than {config.patch}, "
                "fewer stages or a larger image"
            )

        dims, own = [config.dim * 2**i for i in range(len(config.depths))], widths(config)

        def windows(i: int, j: int) -> nn.Module:
            return WindowAttention(
                dims[i],
                own[i][j].heads,
                inner=own[i][j].inner,
                window=config.window,
                shifted=j % 2 == 1,
                grid=sizes[i],
                qkv_bias=config.qkv_bias,
            )

        rates = iter(rising(config.drop_path, sum(config.depths)))
        stages = []
        for i, dim in enumerate(dims):
            blocks = [
                Block(dim, (mixer or windows)(i, j), Mlp(dim, hidden), drop_path=next(rates))
                for j, (_, _, hidden) in enumerate(own[i])
            ]
            stages.append(Stage(Merge(dims[i - 1]) if i else nn.Identity(), blocks))
        super().__init__(
            config,
            stem=STEMS[config.position](config),
            stages=stages,
            norm=nn.LayerNorm(dims[-1]),
            pool=Mean(),
            head=linear_head(dims[-1], config.classes),
            levels=[Level(config.patch * 2**i, dim) for i, dim in enumerate(dims)],
        )
        trunc_normal_linear(self)


MODEL = Swin
