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

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.conv import Conv
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import Mean
from vitrail.layers.windows import WindowBias, pad, partition, reverse
from vitrail.models.backbone import Level, Pyramid, Small, Stage, Variant, check_image

Mixer = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Config:
    """Sizes of a Swin: `dim` of the first stage, doubled by each; blocks and heads per stage.

    `position` is "relative" (bias tables) or "both" (and absolute positions after the stem).
    """

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    patch: int = 4
    position: str = "relative"
    patch_norm: bool = True
    qkv_bias: bool = True
    drop_path: float = 0.2
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_DEEP = (2, 2, 18, 2)
_BASE = Config(dim=128, depths=_DEEP, heads=(4, 8, 16, 32), drop_path=0.5)
_LARGE = Config(dim=192, depths=_DEEP, heads=(6, 12, 24, 48))
# config, parameters, multiply-adds, accuracy of the released weights, timm's tag for them
_ROWS = {
    "tiny": (Config(), 28.29, 4.5, 81.2, "ms_in1k"),
    "small": (Config(depths=_DEEP, drop_path=0.3), 49.61, 8.7, 83.2, "ms_in1k"),
    "base": (_BASE, 87.77, 15.4, 83.5, "ms_in1k"),
    "base_384": (replace(_BASE, window=12, image=(384, 384)), 88.0, 47.0, 84.5, "ms_in1k"),
    "large": (_LARGE, 196.5, 34.5, 86.3, "ms_in22k_ft_in1k"),
    "large_384": (
        *(replace(_LARGE, window=12, image=(384, 384)), 196.5, 103.9, 87.3),
        "ms_in22k_ft_in1k",
    ),
    "tiny_c24_w8": (
        *(Config(heads=(4, 8, 16, 32), window=8, image=(256, 256)), 28.0, 5.9, 81.6),
        None,
    ),
}


def _hub(size: str, config: Config, tag: str | None) -> dict[str, str]:
    if tag is None:
        return {}
    name = f"swin_{size.split('_')[0]}_patch4_window{config.window}_{config.image[0]}"
    ours = f"hf-hub:microsoft/{name.replace('_', '-')}"
    return {"timm": f"hf-hub:timm/{name}.{tag}", "transformers": ours}


VARIANTS = {
    f"swin_{size}": Variant(
        config, params_m=params_m, flops_g=flops_g, top1=top1, hub=_hub(size, config, tag)
    )
    for size, (config, params_m, flops_g, top1, tag) in _ROWS.items()
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
        "patch": (2, 4, 8),
    },
)

_BLOCK = [
    (".attn_mask", None),
    (".relative_position_index", None),
    (".relative_position_bias_table", ".bias.table"),
    (".attn.", ".mixer."),
    (".mlp.0.", ".ffn.fc1."),
    (".mlp.3.", ".ffn.fc2."),
    (".mlp.", ".ffn."),
]
_STEM = [("absolute_pos_embed", "stem.position"), ("patch_embed.", "stem.")]


def _torchvision(config: Config) -> list:
    stages = range(len(config.depths))
    return [
        ("features.0.0.", "stem.proj."),
        ("features.0.2.", "stem.norm."),
        *[(f"features.{2 * i + 1}.", f"stages.{i}.blocks.") for i in stages],
        *[(f"features.{2 * i}.", f"stages.{i}.down.") for i in stages[1:]],
        *_BLOCK,
    ]


_TRANSFORMERS = [
    ("swin.", ""),
    ("embeddings.position_embeddings", "stem.position"),
    ("embeddings.patch_embeddings.projection.", "stem.proj."),
    ("embeddings.norm.", "stem.norm."),
    ("encoder.layers.{i}.downsample.", "stages.{i+1}.down."),
    ("encoder.layers.", "stages."),
    *[  # the second form of each name is that of release 5 and later
        (f".attention.{old}.{leaf}", f".mixer.qkv.{leaf}[{part}/3]")
        for part, names in enumerate(zip(("query", "key", "value"), "qkv", strict=True))
        for old in (f"self.{names[0]}", f"{names[1]}_proj")
        for leaf in ("weight", "bias")
    ],
    (".attention.relative_position_bias.", ".attn."),
    (".attention.self.", ".attn."),
    (".attention.output.dense.", ".mixer.proj."),
    (".attention.o_proj.", ".mixer.proj."),
    (".intermediate.dense.", ".ffn.fc1."),
    (".output.dense.", ".ffn.fc2."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    ("layernorm.", "norm."),
    ("classifier.", "head."),
    *_BLOCK,
]
NAMES: dict[str, list | Callable[[Config], list]] = {
    "microsoft/Swin-Transformer": [
        *_STEM,
        ("layers.{i}.downsample.", "stages.{i+1}.down."),
        ("layers.", "stages."),
        *_BLOCK,
    ],
    "timm": [
        *_STEM,
        ("layers.{i}.downsample.", "stages.{i}.down."),
        ("layers.", "stages."),
        ("head.fc.", "head."),
        *_BLOCK,
    ],
    "torchvision": _torchvision,
    "transformers": _TRANSFORMERS,
}


def grids(config: Config) -> list[tuple[int, int]]:
    """Rows and columns of each stage's map at the config's image."""
    strides = [config.patch * 2**i for i in range(len(config.depths))]
    return [(-(-config.image[0] // s), -(-config.image[1] // s)) for s in strides]


def resample(state: dict[str, Tensor], old: Config, new: Config) -> dict[str, Tensor]:
    """Move to another image size: bicubic, bias tables only where a stage's window changes."""
    moved, before, after = dict(state), grids(old), grids(new)
    if "stem.position" in state:
        moved["stem.position"] = bicubic_grid(state["stem.position"], before[0], after[0])
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        sides = [2 * min(old.window, *grid) - 1 for grid in (a, b)]
        for j in range(old.depths[i]):
            name = f"stages.{i}.blocks.{j}.mixer.bias.table"
            squares = [(side, side) for side in sides]
            moved[name] = bicubic_grid(state[name][None], *squares)[0]
    return moved


class PatchEmbed(nn.Module):
    """Patches of p x p pixels, normed, and absolute positions: (B, channels, H, W) to a map.

    An image that is no multiple of the patch is padded with zeros; at another grid than the
    config's, positions are resampled on the way.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.position not in ("relative", "both"):
            raise ValueError(f"position is {config.position!r}: expected relative or both")
        self.config, self.grid = config, grids(config)[0]
        self.proj = Conv(config.channels, config.dim, config.patch, config.patch)
        self.norm = nn.LayerNorm(config.dim) if config.patch_norm else nn.Identity()
        if config.position == "both":
            rows = self.grid[0] * self.grid[1]
            self.position = nn.Parameter(torch.empty(1, rows, config.dim))
            nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "swin")
        x = self.norm(self.proj(pad(image.permute(0, 2, 3, 1), self.config.patch)))
        if self.config.position == "both":
            grid = (x.shape[1], x.shape[2])
            x = x + bicubic_grid(self.position, self.grid, grid).view(1, *grid, -1)
        return x


class Merge(nn.Module):
    """Four neighbours become one position of twice the width: (B, h, w, C) to (B, h/2, w/2, 2C).

    Column by column, (0,0), (1,0), (0,1), (1,1); an odd map is padded with zeros.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        b, h, w, c = (x := pad(x, 2)).shape
        x = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(b, h // 2, w // 2, 4 * c)))


class WindowAttention(nn.Module):
    """Attention within windows of a map (B, h, w, C), shifted or not, with a relative bias.

    `grid` is the map at the config's image, which decides on window and shift.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int,
        shifted: bool,
        grid: tuple[int, int],
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} does not divide into {heads} heads: choose a divisor")
        self.heads, self.window = heads, min(window, *grid)
        self.shift = self.window // 2 if shifted else 0
        self.unshifted = grid if self.window == min(grid) else None
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.bias = WindowBias(self.window, heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        b, h, w, c = x.shape
        x, shift = self._shifted(x)
        grid = (x.shape[1], x.shape[2])
        q, k, v, bias = self._heads(x, shift)
        out = attend(q, k, v, bias=bias).transpose(1, 2).reshape(-1, self.window**2, c)
        out = reverse(self.proj(out), self.window, grid)
        if any(shift):
            out = out.roll(shift, (1, 2))
        return out if grid == (h, w) else out[:, :h, :w]

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "bn heads t t"]:
        """Attention of every head in every window, rows are queries."""
        q, k, _, bias = self._heads(*self._shifted(x))
        return attention_weights(q, k, bias=bias)

    def _shifted(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The map padded to whole windows and rolled, and by how much."""
        size = (x.shape[1], x.shape[2])
        shift = tuple(self.shift if s > self.window and size != self.unshifted else 0 for s in size)
        x = pad(x, self.window)
        return (x.roll([-s for s in shift], (1, 2)) if any(shift) else x), shift

    def _heads(self, x: Tensor, shift: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        b, h, w, c = x.shape
        qkv = self.qkv(partition(x, self.window))
        q, k, v = qkv.view(-1, self.window**2, 3, self.heads, c // self.heads).permute(
            2, 0, 3, 1, 4
        )
        bias = self.bias((h, w), shift)
        return q, k, v, bias if len(bias) == 1 else bias.repeat(b, 1, 1, 1)


class Swin(Pyramid):
    """Patch embedding, stages of windowed blocks with merging between, norm, mean, linear."""

    undecayed = ("bias.table", "stem.position")

    def __init__(self, config: Config, mixer: Mixer | None = None) -> None:
        if len(config.depths) != len(config.heads):
            raise ValueError(
                f"depths {config.depths} and heads {config.heads} differ in length: "
                "one each a stage"
            )
        sizes = grids(config)
        if min(sizes[-1]) < 2 or config.window < 2:
            h, w = config.image
            raise ValueError(
                f"image is {h}x{w}, window {config.window}; the last of {len(sizes)} swin stages "
                f"would see windows of one position: take a smaller patch than {config.patch}, "
                "fewer stages or a larger image"
            )

        def windows(i: int, j: int) -> nn.Module:
            return WindowAttention(
                config.dim * 2**i,
                config.heads[i],
                window=config.window,
                shifted=j % 2 == 1,
                grid=sizes[i],
                qkv_bias=config.qkv_bias,
            )

        rates = iter(rising(config.drop_path, sum(config.depths)))
        dims = [config.dim * 2**i for i in range(len(config.depths))]
        stages = [
            Stage(
                Merge(dims[i - 1]) if i else nn.Identity(),
                [
                    Block(
                        dim,
                        (mixer or windows)(i, j),
                        Mlp(dim, 4 * dim),
                        drop_path=next(rates),
                    )
                    for j in range(config.depths[i])
                ],
            )
            for i, dim in enumerate(dims)
        ]
        super().__init__(
            config,
            stem=PatchEmbed(config),
            stages=stages,
            norm=nn.LayerNorm(dims[-1]),
            pool=Mean(),
            head=nn.Linear(dims[-1], config.classes),
            levels=[Level(config.patch * 2**i, dim) for i, dim in enumerate(dims)],
        )
        trunc_normal_linear(self)


MODEL = Swin
