"""CSWin: half of the heads attend within vertical stripes, the other half within horizontal ones.

Dong et al., "CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped
Windows", CVPR 2022, arXiv 2107.00652. Stripes grow wider with depth; positions enter as a
depthwise convolution of the values inside each stripe (LePE).

The last stage, and any whose map at the config's image is no larger than a stripe is wide, has
one branch in which all attend to all. The authors' classifier takes square images that stripes
divide; ours takes any, as their backbone for segmentation does: q, k and v are padded by zeros
to whole stripes, half of them in front, and the zeros take part in attention, unmasked. An image
is padded at the bottom and right to whole patches of the stem; the authors' stem leaves out
what does not fill half a patch. `load(..., image=...)` joins or splits the branches' LePE where
the new size asks for it. The last stage of the large model has 24 heads in the authors' code,
48 in the paper's table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.conv import Conv, channels_first, channels_last
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import Mean
from vitrail.layers.windows import pad
from vitrail.models.names import cswin as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head


@dataclass(frozen=True)
class Config:
    """Sizes of a CSWin: `dim` of the first stage, doubled by each; one entry a stage of blocks,
    heads and `stripes`, the stripes' widths. The stem's stride is `patch`."""

    dim: int = 64
    depths: tuple[int, ...] = (1, 2, 21, 1)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    stripes: tuple[int, ...] = (1, 2, 7, 7)
    patch: int = 4
    drop_path: float = 0.2
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_SMALL = Config(depths=(2, 4, 32, 2), drop_path=0.4)
_BASE = replace(_SMALL, dim=96, heads=(4, 8, 16, 32), drop_path=0.5)
_LARGE = replace(_SMALL, dim=144, heads=(6, 12, 24, 24), drop_path=0.2)
_384 = {"stripes": (1, 2, 12, 12), "image": (384, 384)}
_HEADS = "published is about 5 % less than the layers of the released model take"

# parameters as counted: the paper rounds them, and 23 for 22.3
VARIANTS = {
    name: Variant(config, params_m=params_m, flops_g=flops_g, top1=top1, note=note)
    for name, config, params_m, flops_g, top1, note in [
        ("cswin_tiny", Config(), 22.321, 4.3, 82.8, ""),
        ("cswin_small", _SMALL, 34.643, 6.9, 83.6, ""),
        ("cswin_base", _BASE, 77.382, 15.0, 84.2, ""),
        ("cswin_base_22k", _BASE, 77.382, 15.0, 85.9, ""),
        ("cswin_large", _LARGE, 173.263, 31.5, 86.5, _HEADS),
        ("cswin_tiny_384", replace(Config(), **_384), 22.321, 14.0, 84.3, ""),
        ("cswin_small_384", replace(_SMALL, **_384), 34.643, 22.0, 85.0, ""),
        ("cswin_base_384", replace(_BASE, drop_path=0.7, **_384), 77.382, 47.0, 85.5, ""),
        ("cswin_base_384_22k", replace(_BASE, **_384), 77.382, 47.0, 87.0, ""),
        ("cswin_large_384", replace(_LARGE, **_384), 173.263, 96.8, 87.5, _HEADS),
    ]
}

SPACE = Small(
    Config(drop_path=0.0),
    {
        ("dim", "depths", "heads", "stripes"): (
            (32, (2, 2), (2, 4), (1, 7)),
            (48, (2, 4), (2, 4), (2, 7)),
            (64, (2, 4), (2, 4), (2, 7)),
            (32, (1, 2, 4), (2, 4, 8), (1, 2, 7)),
            (48, (1, 2, 6, 1), (2, 4, 8, 16), (1, 2, 7, 7)),
        ),
        "patch": (2, 4),
    },
)

NAMES = names.TABLES


def branches(config: Config, stage: int) -> int:
    """Return 2 where a stage has stripes both ways, 1 where all positions attend to all."""
    side = math.ceil(max(config.image) / (config.patch * 2**stage))
    return 1 if stage == len(config.depths) - 1 or side <= config.stripes[stage] else 2


def resample(state: dict[str, Tensor], old: Config, new: Config) -> dict[str, Tensor]:
    """Move to another image size: LePE is joined or split where the number of branches changes."""
    moved = dict(state)
    for name in state:
        if ".branches.0.lepe." not in name:
            continue
        stage, other = int(name.split(".")[1]), name.replace("branches.0", "branches.1")
        before, after = branches(old, stage), branches(new, stage)
        if before > after:
            moved[name] = torch.cat([state[name], moved.pop(other)])
        elif before < after:
            moved[name], moved[other] = state[name].chunk(2)
    return moved


class Stem(nn.Module):
    """Overlapping patches, normed: (B, channels, H, W) to a map (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, p = config, config.patch
        self.proj = Conv(config.channels, config.dim, 2 * p - 1, p, p // 2)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "cswin")
        return self.norm(self.proj(pad(image.permute(0, 2, 3, 1), self.config.patch)))


class Merge(nn.Module):
    """3x3 convolution to half the map and twice the width, normed: (B, h, w, C), rounded up."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv, self.norm = Conv(dim, 2 * dim, 3, 2, 1), nn.LayerNorm(2 * dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        return self.norm(self.conv(x))


class Stripes(nn.Module):
    """Attention within stripes of a map, and LePE: q, k, v (B, h, w, 3, C) to (B, h, w, C).

    A stripe is `width` rows, or columns if `vertical`; with width 0 the map is one. Columns are
    rows of the transposed map: then every stripe is a view.
    """

    def __init__(self, dim: int, heads: int, *, width: int = 0, vertical: bool = False) -> None:
        super().__init__()
        self.heads, self.width, self.vertical = heads, width, vertical
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, qkv: Float[Tensor, "b h w 3 c"]) -> Float[Tensor, "b h w c"]:
        x, front = self._padded(qkv)
        b, rows, length, _, c = x.shape
        out = attend(*self._heads(x)).transpose(1, 2).reshape(b, rows, length, c)
        out = out + self._positions(x[:, :, :, 2])
        if front is not None:
            out = out[:, front : front + qkv.shape[2 if self.vertical else 1]]
        return out.transpose(1, 2) if self.vertical else out

    def weights(self, qkv: Float[Tensor, "b h w 3 c"]) -> Float[Tensor, "bn heads t t"]:
        """Return the attention of every head in every stripe, rows are queries."""
        q, k, _ = self._heads(self._padded(qkv)[0])
        return attention_weights(q, k)

    def _padded(self, qkv: Tensor) -> tuple[Tensor, int | None]:
        """Return the map in whole stripes of rows, and how many rows of
        zeros come first, if any do.
        """
        x = qkv.transpose(1, 2) if self.vertical else qkv
        missing = -x.shape[1] % (self.width or x.shape[1])
        if missing:
            front = missing // 2
            return F.pad(x, (0, 0, 0, 0, 0, 0, front, missing - front)), front
        return (x.contiguous() if self.vertical else x), None

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, rows, length, _, c = x.shape
        width = self.width or rows
        x = x.reshape(b * rows // width, width * length, 3, self.heads, c // self.heads)
        q, k, v = x.permute(2, 0, 3, 1, 4)
        return q, k, v

    def _positions(self, v: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Return LePE: a depthwise convolution that sees zeros beyond a stripe's border."""
        kernel, bias, groups = self.lepe.weight, self.lepe.bias, self.lepe.groups
        if self.vertical:
            kernel = kernel.mT
        if self.width == 1:  # of three rows, one is not a border
            x = F.conv2d(channels_first(v), kernel[:, :, 1:2], bias, padding=(0, 1), groups=groups)
            return channels_last(x)
        stripes = v.reshape(-1, self.width or v.shape[1], *v.shape[2:])
        x = F.conv2d(channels_first(stripes), kernel, bias, padding=1, groups=groups)
        return channels_last(x).reshape(v.shape)


class CrossAttention(nn.Module):
    """Attention in stripes of `width` both ways, half the heads each, or from all to all with
    width 0: a map (B, h, w, C) to the same. Packed [q | k | v][vertical | horizontal][head]."""

    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        count = 2 if width else 1
        if dim % heads or heads % count:
            raise ValueError(
                f"dim {dim}, heads {heads}; {count} branches of attention need a multiple of "
                f"{count} heads, which divides dim: choose other heads"
            )
        self.qkv, self.proj = Linear(dim, 3 * dim), Linear(dim, dim)
        self.branches = nn.ModuleList(
            Stripes(dim // count, heads // count, width=width, vertical=vertical)
            for vertical in ([True, False] if width else [False])
        )

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        b, h, w, c = x.shape
        count = len(self.branches)
        qkv = self.qkv(x).view(b, h, w, 3, count, c // count).unbind(4)
        out = [branch(part) for branch, part in zip(self.branches, qkv, strict=True)]
        return self.proj(torch.cat(out, -1) if count > 1 else out[0])


class CSWin(Pyramid):
    """Stem, stages of cross-shaped blocks with merging between, norm, mean, linear."""

    def __init__(self, config: Config) -> None:
        c, count = config, len(config.depths)
        if not count == len(c.heads) == len(c.stripes):
            raise ValueError(
                f"depths {c.depths}, heads {c.heads} and stripes {c.stripes} differ in length: "
                "one each a stage"
            )
        stride = c.patch * 2 ** (count - 1)
        if min(c.image) < stride or c.patch < 2 or min(c.stripes) < 1:
            h, w = c.image
            raise ValueError(
                f"image is {h}x{w}, patch {c.patch}, stripes {c.stripes}; expected sides from "
                f"{stride}, the stride of the last of {count} stages, patch from 2, stripes from 1"
            )
        rates = iter(rising(c.drop_path, sum(c.depths)))
        dims, stages = [c.dim * 2**i for i in range(count)], []
        for i, (dim, depth) in enumerate(zip(dims, c.depths, strict=True)):
            width = c.stripes[i] if branches(c, i) == 2 else 0
            mixers = [CrossAttention(dim, c.heads[i], width) for _ in range(depth)]
            blocks = [Block(dim, m, Mlp(dim, 4 * dim), drop_path=next(rates)) for m in mixers]
            stages.append(Stage(Merge(dims[i - 1]) if i else nn.Identity(), blocks))
        super().__init__(
            config,
            stem=Stem(config),
            stages=stages,
            norm=nn.LayerNorm(dims[-1]),
            pool=Mean(),
            head=linear_head(dims[-1], c.classes),
            levels=[Level(c.patch * 2**i, dim) for i, dim in enumerate(dims)],
        )
        trunc_normal_linear(self)


MODEL = CSWin
