"""MViT: attention that pools queries to shrink the map, and keys and values to be cheap.

Fan et al., "Multiscale Vision Transformers", ICCV 2021, arXiv 2104.11227 (v1); Li et al.,
"MViTv2: Improved Multiscale Vision Transformers for Classification and Detection", CVPR 2022,
arXiv 2112.01526. Early blocks see a large map with few channels, late ones a small map with
many, of images (B, C, H, W) or, where `frames` is above 1, of clips (B, C, T, H, W). v2 pools
queries in every block, adds them to what they found, and has relative positions, one table an
axis, in place of absolute ones.

Every size may be given: all pooling rounds up, tables are resampled linearly along each axis
where their length does not fit, as in the authors' video and detection code (their image code
reads past its tables there). Norms have an eps of 1e-6. The shortcut of a block that changes
its width starts at the *normed* input. The class token's row of the position table is part of
the token here. The authors' video code starts biases at 0.02, their image code, as this file,
at 0. Left out are the sizes of MViT-S, which are unsure, and other pooling than by convolution.

Where positions are "both", as detectors may have them, the absolute ones move bicubically.

With `window`, blocks are those of the detection backbone: all but the last of each later stage
attend within windows, cut after pooling and padded by zeros that are attended to; that last
block of inner stages has its keys reduced twice as much, and every level has a norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv2d
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.relative import resized
from vitrail.layers.residual import Blocks, rising
from vitrail.layers.tokens import FirstToken, Mean
from vitrail.models.names import mvit as names
from vitrail.models.parts.mvit_pooling import (
    Pool,
    PoolingAttention,
    PoolingBlock,
    WindowPoolingAttention,
)
from vitrail.models.parts.mvit_positions import (
    PLACES,
    ClipPosition,
    Grid,
    RelativePosition,
    key_stride,
    lengths,
    positions,
    query_stride,
    tokens_grid,
)
from vitrail.models.trunk.backbone import (
    Backbone,
    InputKind,
    Level,
    Small,
    Stage,
    Variant,
    check_image,
)
from vitrail.models.trunk.heads import linear_head

POOLS = {"mean": Mean, "token": FirstToken}


@dataclass(frozen=True)
class Config:
    """Sizes of an MViT: `dim` and `heads` of the first stage, doubled by each. `reduction` is
    the stride of its keys and values, halved by each stage, `kernel` the side of all pooling
    (0: one more than the stride, and no pooling where that is 1). `queries` are pooled in
    "every" block or in the "first" of later stages; `residual` adds them to what they found.
    `widen` says where channels double: in the "attention" that begins a stage or in the "mlp"
    before it. `position` is "relative", "absolute" or "both", `pool` "mean" or "token". `window`
    is that of the first stage's map, halved by each, or 0 for none. `frames` of 1 mean images.
    Without `classes` there is no head."""

    dim: int = 96
    heads: int = 1
    depths: tuple[int, ...] = (1, 2, 5, 2)
    reduction: int = 4
    kernel: int = 3
    queries: str = "every"
    residual: bool = True
    widen: str = "attention"
    position: str = "relative"
    pool: str = "mean"
    window: int = 0
    patch: int = 4
    drop_path: float = 0.1
    frames: int = 1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000

    @property
    def input_kind(self) -> InputKind:
        """Return the kind of input: images, or clips where there are frames."""
        return "clips" if self.frames > 1 else "images"


_T, _S, _B = Config(), Config(depths=(1, 2, 11, 2)), Config(depths=(2, 3, 16, 3), drop_path=0.3)
_L = Config(dim=144, heads=2, depths=(2, 6, 36, 4), drop_path=0.5)
_H = Config(dim=192, heads=3, depths=(4, 8, 60, 8), drop_path=0.8)
_V1 = {"queries": "first", "residual": False, "widen": "mlp", "position": "absolute"}
_16, _24 = (replace(c, **_V1, pool="token") for c in (_S, _B))
_24_WIDE = replace(_24, dim=112, image=(320, 320))


def _clip(base: Config, frames: int, drop_path: float) -> Config:
    sizes = {"frames": frames, "drop_path": drop_path, "reduction": 8, "classes": 400}
    return replace(base, pool="token", **sizes)


def _21k(base: Config) -> Config:
    return replace(base, pool="token", classes=19168)


def _det(base: Config, drop_path: float) -> Config:
    return replace(base, window=56, classes=0, drop_path=drop_path)


MLP = "the published figure is that of the same sizes whose width doubles in attention"
CHANNELS = "counted are also the channels that carry positions through the fused attention"
# name, sizes; parameters, multiply-adds, accuracy; what timm calls the weights
_ROWS = [
    ("mvit_b_16_conv", _16, 36.98, 7.81, 83.0, None),
    ("mvit_b_24", _24, 53.5, 10.9, 83.1, None),
    ("mvit_b_24_wide_320", _24_WIDE, 72.9, 32.7, 84.8, None),
    ("mvit_b_16x4", _clip(_16, 16, 0.2), 36.61, 70.6, None, None),
    ("mvit_b_32x3", _clip(_16, 32, 0.2), 36.6, 170.0, None, None),
    ("mvit_b_64x3", _clip(_16, 64, 0.2), 36.6, 455.0, None, None),
    ("mvit_b_24_32x3", replace(_clip(_24, 32, 0.3), kernel=0), 53.1, 236.0, None, None),
    ("mvitv2_t", _T, 24.17, 4.7, 82.3, "tiny.fb_in1k"),
    ("mvitv2_s", _S, 34.87, 7.0, 83.6, "small.fb_in1k"),
    ("mvitv2_b", _B, 51.47, 10.2, 84.4, "base.fb_in1k"),
    ("mvitv2_l", replace(_L, widen="mlp"), 217.99, 42.1, 85.3, "large.fb_in1k"),
    ("mvitv2_h", _H, 666.9, 120.6, 88.0, None),
    ("mvitv2_b_21k", _21k(_B), 65.44, 10.2, None, "base_cls.fb_inw21k"),
    ("mvitv2_l_21k", _21k(_L), 234.58, 42.2, None, "large_cls.fb_inw21k"),
    ("mvitv2_h_21k", _21k(_H), 694.8, 120.7, None, "huge_cls.fb_inw21k"),
    ("mvitv2_s_16x4", _clip(_S, 16, 0.2), 34.54, 64.0, None, None),
    ("mvitv2_b_32x3", _clip(_B, 32, 0.3), 51.23, 225.0, None, None),
    ("mvitv2_l_40x3", replace(_clip(_L, 40, 0.75), image=(312, 312)), 213.4, 2828.0, None, None),
    ("mvitv2_t_det", _det(_T, 0.2), None, None, None, None),
    ("mvitv2_s_det", _det(_S, 0.2), None, None, None, None),
    ("mvitv2_b_det", _det(_B, 0.4), None, None, None, None),
    ("mvitv2_l_det", _det(_L, 0.5), None, None, None, None),
    ("mvitv2_h_det", _det(_H, 0.6), None, None, None, None),
]
VARIANTS = {
    name: Variant(
        config,
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/mvitv2_{hub}"} if hub else {},
        note=CHANNELS if config.frames > 1 and config.residual else MLP * (name == "mvitv2_l"),
    )
    for name, config, params_m, flops_g, top1, hub in _ROWS
}

SPACE = Small(
    Config(reduction=2, drop_path=0.05),
    {
        ("dim", "heads", "depths"): (
            (32, 1, (1, 2)),
            (48, 1, (2, 2)),
            (64, 2, (1, 3)),
            (32, 1, (1, 2, 2)),
        ),
        "patch": (2, 4, 8),
    },
)

NAMES = names.TABLES
POSITIONS = positions


class Stem(nn.Module):
    """Overlapping patches, a class token, absolute positions: (B, channels, H, W), or (B, channels,
    T, H, W), to tokens (B, prefix + n, C) and their grid."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        side, reach = 2 * c.patch - 1, c.patch - 1
        if c.frames > 1:
            geometry = (3, side, side), (2, c.patch, c.patch), (1, reach, reach)
            self.proj = nn.Conv3d(c.channels, c.dim, *geometry)
        else:
            self.proj = Conv2d(c.channels, c.dim, side, c.patch, reach)
        self.grid = tokens_grid(c)
        sizes = {"token": 1} if c.pool == "token" else {}
        self.across = PLACES[c.position].absolute
        if self.across is not None:
            sizes["space"] = math.prod(self.grid[-2:])
            if c.frames > 1:
                sizes["time"] = self.grid[0]
        self.token, self.space, self.time = (
            nn.Parameter(torch.empty(1, sizes[name], c.dim)) if name in sizes else None
            for name in ("token", "space", "time")
        )
        for p in self.parameters():
            nn.init.trunc_normal_(p, std=0.02) if p.ndim > 1 else nn.init.zeros_(p)

    def forward(self, image: Float[Tensor, "b channels *s"]) -> tuple[Tensor, Grid]:
        check_image(image, self.config, "mvit")
        x = self.proj(image).movedim(1, -1)
        grid = tuple(x.shape[1:-1])
        if self.across is not None and self.space is not None:
            ours, (h, w) = (self.grid[-2], self.grid[-1]), grid[-2:]
            x = x + self.across(self.space, ours, (h, w)).unflatten(1, (h, w))
        if self.time is not None:
            x = x + resized(self.time[0], grid[0])[:, None, None]
        x = x.flatten(1, -2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return x, grid


class MViT(Backbone):
    """Patches, stages of pooling blocks, norm, class token or mean, linear head.

    The last level is normed, of detection backbones every one. `Level.channels` of models that
    widen in the "mlp" are those of the next stage: its width comes from the block before it.
    """

    undecayed = ("token", "space", "time", "position.t", "position.h", "position.w")

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        _check(c)
        self.stem, rates = Stem(c), iter(rising(c.drop_path, sum(c.depths)))
        last, stages, levels, width = len(c.depths) - 1, [], [], c.dim
        for i, depth in enumerate(c.depths):
            dim, blocks = c.dim * 2**i, []
            for j in range(depth):
                wider = c.widen == "mlp" and j == depth - 1 and i < last
                dims = (width, dim, 2 * dim if wider else dim)
                mixer = _mixer(c, i, j, dims[:2])
                blocks.append(PoolingBlock(dims, mixer, query_stride(i, j), next(rates)))
                width = dims[-1]
            stages.append(Stage(nn.Identity(), blocks))
            levels.append(Level(c.patch * 2**i, width, 2 if c.frames > 1 else 1))
        self.stages, self.levels, self.width = nn.ModuleList(stages), tuple(levels), width
        self.norm = nn.ModuleList(
            nn.LayerNorm(level.channels, eps=1e-6) if i == last or c.window else nn.Identity()
            for i, level in enumerate(levels)
        )
        self.pool = POOLS[c.pool]()
        self.head = linear_head(width, c.classes) if c.classes else nn.Identity()
        trunc_normal_linear(self)

    def features(
        self, image: Float[Tensor, "b channels *s"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return maps (B, h, w, C) of the levels, of clips (B, t, h, w, C);
        `at` picks some by index.
        """
        maps = [
            norm(x)[:, x.shape[1] - math.prod(grid) :].unflatten(1, grid)
            for norm, (x, grid) in zip(self.norm, self._stages(image), strict=True)
        ]
        return maps if at is None else [maps[i] for i in at]

    def embedding(self, image: Float[Tensor, "b channels *s"]) -> Float[Tensor, "b width"]:
        x, _ = self._stages(image)[-1]
        return self.pool(self.norm[-1](x))

    def _stages(self, image: Tensor) -> list[tuple[Tensor, Grid]]:
        """Return the tokens and grid after each stage."""
        found, (x, grid) = [], self.stem(image)
        for stage in self.stages:
            blocks: Blocks = stage.blocks  # pyright: ignore[reportAssignmentType]
            for block in blocks:
                x, grid = blocks.run(block, x, grid)
            found.append((x, grid))
        return found


def _mixer(c: Config, i: int, j: int, dims: tuple[int, int]) -> PoolingAttention:
    """Return the attention of block j of stage i, which widens the map as `dims` say."""
    heads, stride, keys = c.heads * 2**i, query_stride(i, j), key_stride(c, i, j)
    d, clip = dims[1] // heads, (1,) * (c.frames > 1)

    def pool(step: int) -> Pool | None:
        side = c.kernel or (step + 1 if step > 1 else 1)
        kernel = (*[c.kernel or 1 for _ in clip], side, side)
        return Pool(d, heads, kernel, (*clip, step, step)) if max(kernel) > 1 else None

    position = None
    if PLACES[c.position].relative:
        position = (ClipPosition if clip else RelativePosition)(d, lengths(c, i, j))
    query = pool(stride) if c.queries == "every" or stride > 1 else None
    pools = (query, pool(keys), pool(keys))
    parts = {"pools": pools, "position": position, "residual": c.residual}
    if not c.window or (i and j == c.depths[i] - 1):
        return PoolingAttention(*dims, heads, **parts)
    window = c.window // 2 ** (i if stride == 1 else i - 1)
    if not window or window % stride or window % keys:
        raise ValueError(
            f"window is {c.window}, in stage {i} {window}: expected multiples of {stride} and "
            f"{keys}, the strides of queries and keys there"
        )
    sides = (window // stride, window // keys)
    return WindowPoolingAttention(*dims, heads, sides=sides, **parts)


def _check(c: Config) -> None:
    """Raise ValueError for sizes that do not fit together."""
    known = {
        "queries": ("every", "first"),
        "widen": ("attention", "mlp"),
        "position": tuple(PLACES),
        "pool": tuple(POOLS),
    }
    for field, values in known.items():
        if getattr(c, field) not in values:
            raise ValueError(f"{field} is {getattr(c, field)!r}: expected {' or '.join(values)}")
    head_width(c.dim, c.heads)
    least = c.patch * 2 ** (len(c.depths) - 1)
    if min(c.image) < least:
        raise ValueError(
            f"image is {c.image[0]}x{c.image[1]}; {len(c.depths)} stages of mvit need {least} "
            "pixels a side: take fewer stages, a smaller patch or a larger image"
        )
    if c.window and (c.pool == "token" or c.frames > 1):
        raise ValueError(
            f"window is {c.window}, pool {c.pool!r}, frames {c.frames}: windows are of images "
            "without a class token; take window=0, or pool='mean' and frames=1"
        )


def idle(config: Config) -> tuple[str, ...]:
    """Return parts of names of parameters that no gradient reaches: nothing reads what the patches
    of a clip ask in the last block.
    """
    last = f"stages.{len(config.depths) - 1}.blocks.{config.depths[-1] - 1}.mixer."
    return tuple(last + n for n in ("pool_q.weight", "position.")) if config.frames > 1 else ()


MODEL = MViT
