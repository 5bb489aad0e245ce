"""VOLO: every position writes down, without looking at keys, how its neighbours attend.

Yuan et al., "VOLO: Vision Outlooker for Visual Recognition", TPAMI 2022, arXiv 2106.13112. At an
eighth of the image outlook attention takes the place of self-attention: one linear layer of a
position's features is the attention, kernel^2 x kernel^2, among the positions around it, and what
overlapping neighbourhoods make of a position is summed. Ordinary transformer blocks follow at a
sixteenth, then a class token that reads.

Positions are added after the outlookers only. Stochastic depth counts the outlookers but leaves
them and the class blocks alone. LayerNorm's eps is 1e-5 everywhere, also for the class token.
The answer is the class token's logits and half of each class's largest logit among the patches:
the second head is trained by labels for each patch, which are not here ("token labeling", Jiang et
al., NeurIPS 2021, arXiv 2104.10858). Training minimises the loss of the sum, and `dense` gives
both parts. A single head reads the class token, or the mean of all tokens, that one included. The
authors' network takes its config's image only; here any image may be given that
has a position of the coarse map: both maps round up, padded by zeros at the bottom and right, and
positions are resampled bicubically.

`mixer(j)` replaces the outlook attention of block j: this trunk hosts another paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention, ClassAttention
from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv, ConvNorm, channels_first, channels_last
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, Blocks, rising
from vitrail.layers.tokens import FirstToken, Mean
from vitrail.layers.windows import pad
from vitrail.models.names import volo as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table

Mixer = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Config:
    """Sizes of a VOLO: a width and heads of the outlookers and of the transformer blocks. `depths`
    are the outlookers, then the groups of transformer blocks, which nothing separates.

    `patch` is the stride of the outlookers' map, even, `stem` the width of the convolutions before
    it; outlook attention has a centre at every `stride`-th position. `reading` are class blocks.
    `answer` is "dense" (of the class token and of the patches), or by one head of the "token" or
    of the "mean".
    """

    dims: tuple[int, ...] = (192, 384)
    heads: tuple[int, ...] = (6, 12)
    depths: tuple[int, ...] = (4, 4, 8, 2)
    mlp_ratio: float = 3.0
    stem: int = 64
    patch: int = 8
    kernel: int = 3
    stride: int = 2
    reading: int = 2
    answer: str = "dense"
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_D1 = Config()
_D2 = Config(dims=(256, 512), heads=(8, 16), depths=(6, 4, 10, 4), drop_path=0.2)
_D3 = replace(_D2, depths=(8, 8, 16, 4), drop_path=0.5)
_D4 = replace(_D3, dims=(384, 768), heads=(12, 16))
_D5 = replace(_D4, depths=(12, 12, 20, 4), mlp_ratio=4.0, stem=128)
_NARROW = "published are the operations of a stem of width 64, that of the weights has 128"
_SMALLER = "published are the operations of an image of 384x384"
# size, config, side; parameters in 10^6, multiply-adds in 10^9, accuracy, why operations differ
_ROWS = [
    ("d1", _D1, 224, 26.6, 6.8, 84.2, ""),
    ("d1", _D1, 384, None, 22.8, 85.2, ""),
    ("d2", _D2, 224, 58.7, 14.1, 85.2, ""),
    ("d2", _D2, 384, None, 46.1, 86.0, ""),
    ("d3", _D3, 224, 86.3, 20.6, 85.4, ""),
    ("d3", _D3, 448, None, 67.9, 86.3, _SMALLER),
    ("d4", _D4, 224, 193.0, 43.8, 85.7, ""),
    ("d4", _D4, 448, None, 197.0, 86.8, ""),
    ("d5", _D5, 224, 296.0, 69.0, 86.1, _NARROW),
    ("d5", _D5, 448, None, 304.0, 87.0, _NARROW),
    ("d5", _D5, 512, None, 412.0, 87.1, _NARROW),
]
VARIANTS = {
    f"volo_{size}_{side}": Variant(
        replace(config, image=(side, side)),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/volo_{size}_{side}.sail_in1k"},
        note=note,
    )
    for size, config, side, params_m, flops_g, top1, note in _ROWS
}

SPACE = Small(
    Config(mlp_ratio=2.0, stem=32, reading=1, drop_path=0.05),
    {
        ("dims", "heads"): (((32, 64), (1, 2)), ((48, 96), (2, 3)), ((64, 128), (2, 4))),
        "depths": ((1, 3), (2, 4)),
        "patch": (2, 4, 8),
    },
)


NAMES = names.TABLES


def grid(config: Config, h: int, w: int) -> tuple[int, int]:
    """Return the rows and columns of the coarse map of an image of h x w pixels; raise ValueError
    for an image that is smaller than one of its positions.
    """
    stride = 2 * config.patch
    if min(h, w) < stride:
        raise ValueError(
            f"image is {h}x{w}; volo with a patch of {config.patch} needs {stride} pixels on each "
            "side: take a smaller patch or a larger image"
        )
    return -(-h // stride), -(-w // stride)


POSITIONS = (
    Table("stages.1.down.position", lambda c: grid(c, *c.image), bicubic_grid, axes=(1, 2)),
)


def _moved(table: Tensor, size: tuple[int, int]) -> Tensor:
    old = (table.shape[1], table.shape[2])
    return bicubic_grid(table.flatten(1, 2), old, size).unflatten(1, size)


class Stem(nn.Module):
    """7x7 of stride 2 and two 3x3 convolutions, each with BatchNorm and ReLU, then patches:
    (B, channels, H, W) to (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        if c.patch < 2 or c.patch % 2:
            raise ValueError(
                f"patch is {c.patch}: volo's first convolution halves the map, so that an even "
                "number is expected"
            )
        first = ConvNorm(c.channels, c.stem, 7, stride=2)
        self.convs = nn.ModuleList([first, *(ConvNorm(c.stem, c.stem, 3) for _ in range(2))])
        self.act = nn.ReLU(inplace=True)
        self.proj = Conv(c.stem, c.dims[0], c.patch // 2, c.patch // 2)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "volo")
        grid(self.config, *image.shape[-2:])
        x = image.contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = conv.then(x, self.act)  # pyright: ignore[reportCallIssue]
        return self.proj(pad(channels_last(x), self.config.patch // 2))


class Halve(nn.Module):
    """2x2 positions as one, and where they are: (B, h, w, C) to (B, h/2, w/2, C')."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.proj = Conv(config.dims[0], config.dims[1], 2, 2)
        size = grid(config, *config.image)
        self.position = nn.Parameter(torch.empty(1, *size, config.dims[1]))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = self.proj(pad(x, 2))
        return x + _moved(self.position, (x.shape[1], x.shape[2]))


class OutlookAttention(nn.Module):
    """Each centre's features are the attention among the kernel^2 positions around it, whose
    results are summed where they overlap: (B, h, w, C) to the same.

    Centres are `stride` apart, the features of one the mean over its cell. Beyond the border are
    zeros, which are attended to.
    """

    def __init__(self, dim: int, heads: int, *, kernel: int = 3, stride: int = 2) -> None:
        super().__init__()
        head_width(dim, heads)
        if kernel % 2 == 0 or not 1 <= stride <= kernel // 2 + 1:
            raise ValueError(
                f"kernel is {kernel}, stride {stride}: expected an odd kernel, which has a "
                "centre, and a stride from 1 to its larger half, which misses no position"
            )
        self.heads, self.kernel, self.stride = heads, kernel, stride
        self.v = Linear(dim, dim, bias=False)
        self.logits = Linear(dim, heads * kernel**4)
        self.proj = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        height, width = x.shape[1:3]
        maps, k, before = self._maps(x), self.kernel, self.kernel // 2
        rows, columns = (self.stride * (n - 1) + k for n in maps.shape[1:3])
        after = [max(0, n - s - before) for n, s in ((columns, width), (rows, height))]
        v = F.pad(self.v(x), (0, 0, before, after[0], before, after[1]))
        # A view of all neighbourhoods: the one copy of it is made in the order of the product.
        v = v.unfold(1, k, self.stride).unfold(2, k, self.stride)
        v = v.unflatten(3, (self.heads, -1)).permute(0, 1, 2, 3, 5, 6, 4).flatten(4, 5)
        y = (maps @ v).unflatten(4, (k, k))
        y = summed([summed(list(r.unbind(4)), self.stride, 2) for r in y.unbind(4)], self.stride, 1)
        y = y[:, before : before + height, before : before + width]
        return self.proj(y.flatten(3))

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b heads nk k"]:
        """Return the attention of every head among the kernel^2 positions around each centre, one
        centre after another; rows are queries.
        """
        return self._maps(x).flatten(1, 2).transpose(1, 2).flatten(2, 3)

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)

    def _maps(self, x: Tensor) -> Float[Tensor, "b h2 w2 n k k"]:
        stride, inside = self.stride, self.kernel**2
        whole = x.shape[1] % stride == x.shape[2] % stride == 0
        centres = x
        if stride > 1:
            pooled = F.avg_pool2d(channels_first(x), stride, stride, ceil_mode=not whole)
            centres = channels_last(pooled)
        logits = self.logits(centres).unflatten(3, (self.heads, inside, inside))
        logits = logits * (x.shape[3] // self.heads) ** -0.5
        # Over a last axis of 9 the softmax is ten times slower.
        return logits.movedim(-1, 0).contiguous().softmax(0).movedim(0, -1)


def summed(parts: list[Tensor], stride: int, axis: int) -> Tensor:
    """Add maps of equal shape, n positions along `axis`, of which part u lies at u, u + stride and
    so on: on a common axis, whose stride (n - 1) + len(parts) positions come first.

    F.fold without its transposed copies, and its backward is not a gather.
    """
    after = (len(parts) - 1) // stride
    lanes = []
    for first in range(stride):
        lane = None
        for turn, part in enumerate(parts[first::stride]):
            shift = [0, 0] * (part.ndim - 1 - axis) + [turn, after - turn]
            moved = F.pad(part, shift) if after else part
            lane = moved if lane is None else lane + moved
        lanes.append(lane)
    return torch.stack(lanes, axis + 1).flatten(axis, axis + 1)


class ClassBlock(nn.Module):
    """The first token reads, then has its own MLP: (B, 1 + N, C) to its new value (B, 1, C)."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer, self.ffn = ClassAttention(dim, heads, qkv_bias=False), Mlp(dim, hidden)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 c"]:
        token = x[:, :1] + self.mixer(self.norm1(x))
        return token + self.ffn(self.norm2(token))


class Reader(nn.Module):
    """A class token reads a map (B, h, w, C), which stays: all normed tokens (B, 1 + h w, C)."""

    def __init__(self, dim: int, blocks: list[ClassBlock]) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.blocks, self.norm = Blocks(blocks), nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b n c"]:
        patches, token = x.flatten(1, 2), self.token.expand(x.shape[0], -1, -1)
        for block in self.blocks:
            token = self.blocks.run(block, torch.cat([token, patches], 1))
        return self.norm(torch.cat([token, patches], 1))


class DenseHead(Linear):
    """Logits of a class token (B, C), and by `dense` those of the patches beside them."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(dim, classes)
        self.patches = Linear(dim, classes)

    def dense(self, tokens: Float[Tensor, "b n c"]) -> tuple[Tensor, Tensor]:
        """Return the logits of all tokens, the class token first: (B,
        classes) and (B, N - 1, classes).
        """
        return self(tokens[:, 0]), self.patches(tokens[:, 1:])


class VOLO(Pyramid):
    """Stem, outlookers, transformer blocks at half the resolution, a class token, one or two heads.

    A `head` that is replaced by another module takes the class token alone, (B, C).
    """

    undecayed = ("down.position", "pool.token")

    def __init__(self, config: Config, mixer: Mixer | None = None) -> None:
        c = config
        if not len(c.dims) == len(c.heads) == 2 <= len(c.depths):
            raise ValueError(
                f"dims {c.dims}, heads {c.heads}, depths {c.depths}: a volo has outlookers and "
                "transformer blocks, so that two entries are expected, of depths two or more"
            )
        if c.answer not in ("dense", "token", "mean"):
            raise ValueError(f"answer is {c.answer!r}: expected dense, token or mean")
        (fine, coarse), (few, many) = c.dims, c.heads
        first, rest = c.depths[0], sum(c.depths[1:])
        rates = rising(c.drop_path, first + rest)[first:]

        def outlook(_block: int) -> nn.Module:
            return OutlookAttention(fine, few, kernel=c.kernel, stride=c.stride)

        narrow, wide = (int(dim * c.mlp_ratio) for dim in c.dims)
        outlookers = [Block(fine, (mixer or outlook)(j), Mlp(fine, narrow)) for j in range(first)]
        blocks = [
            Block(
                coarse, Attention(coarse, many, qkv_bias=False), Mlp(coarse, wide), drop_path=rate
            )
            for rate in rates
        ]
        reading = [ClassBlock(coarse, many, wide) for _ in range(c.reading)]
        super().__init__(
            config,
            stem=Stem(config),
            stages=[Stage(nn.Identity(), outlookers), Stage(Halve(config), blocks)],
            norm=nn.Identity(),
            pool=Reader(coarse, reading),
            head=linear_head(coarse, c.classes, DenseHead if c.answer == "dense" else Linear),
            levels=[Level(c.patch, fine), Level(2 * c.patch, coarse)],
        )
        self.pick = Mean() if c.answer == "mean" else FirstToken()
        trunc_normal_linear(self)

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        """Return what the head reads, normed: the class token, or the mean of all tokens."""
        return self.pick(self.tokens(image))

    def tokens(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        """Return all tokens at the end, normed, the class token first."""
        return self.pool(self.norm(self.features(image)[-1]))

    def dense(self, image: Float[Tensor, "b channels h w"]) -> tuple[Tensor, Tensor]:
        """Return the logits of the image (B, classes) and of its patches, row
        by row, (B, h w, classes).
        """
        return self.head.dense(self.tokens(image))  # pyright: ignore[reportCallIssue]

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b classes"]:
        if not isinstance(self.head, DenseHead):
            return super().forward(image)  # pyright: ignore[reportReturnType]
        whole, patches = self.dense(image)
        return whole + 0.5 * patches.amax(1)


MODEL = VOLO
