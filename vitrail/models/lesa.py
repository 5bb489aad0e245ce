"""LESA: attention's own-position term by a convolution, fused with the rest by a learned gate.

Yang, Qiao, Kortylewski, Yuille, "Locally Enhanced Self-Attention: Combining Self-Attention and
Convolution as Local and Context Terms", 2021, arXiv 2107.05637. What a position says of itself
(the unary term) is a grouped 3x3 and a 1x1 convolution, what the others say (the binary term)
global attention with positions; a small network of both draws a gate for the latter. It takes the
place of the 3x3 convolutions, and of the BatchNorm after them, in the last two stages of a ResNet,
but for the first block of the two; the last stage keeps its resolution.

Logits are not scaled: each of their terms has a BatchNorm over groups. For classification
positions are one learned vector for each difference of *flat* indices, query minus key, so that
the end of a row is next to the beginning of the following one; they act on queries, keys and
values. For detection ("axes") they are BoTNet's, of rows and columns, key minus query, and act on
queries. The deformable convolutions of the unary term in the authors' detectors are not here.
The authors' tables are for one size; a map of another reads them interpolated linearly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d, ConvNorm, LinearNorm, affine, channels_first, channels_last
from vitrail.layers.linear import Linear, frozen, linear
from vitrail.layers.position import linear_line
from vitrail.layers.relative import Grid, RelativePosition, resized
from vitrail.models import resnet
from vitrail.models.names import lesa as names
from vitrail.models.parts.lesa_fusion import PUBLISHED, Fusion, HiddenConvs
from vitrail.models.trunk.backbone import Small, Variant
from vitrail.models.trunk.positions import Table, by_axis, offsets

TABLES = ("position.table", "position.rows", "position.columns")


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of a LESA network: a ResNet's, `groups` of channels that attend by themselves, and
    `position`, "flat" or "axes". `fusion` are the hidden layers that draw the gate: what a width
    is divided by, a kernel's side and its groups."""

    strides: tuple[int, ...] = (2, 2, 1)
    groups: int = 8
    position: str = "flat"
    fusion: Fusion = PUBLISHED


_WIDE = Config(dims=(128, 256, 512, 1024), expansion=2, stem_dims=(64,))
VARIANTS = {
    "lesa_resnet50": Variant(Config(), params_m=23.778, top1=79.55),
    "lesa_resnet101": Variant(Config(depths=(3, 4, 23, 3)), params_m=41.159),
    "lesa_wrn50": Variant(_WIDE, params_m=61.146, top1=80.18),
}

SPACE = Small(
    Config(expansion=2, stem_kernel=3, groups=4),
    {
        ("dims", "depths", "strides"): (
            ((16, 32, 64), (1, 2, 1), (2, 1)),
            ((32, 64, 128), (1, 2, 1), (2, 1)),
            ((32, 64, 128), (2, 2, 2), (2, 2)),
        ),
        "position": ("flat", "axes"),
        "stem_stride": (1, 2, 4),
    },
)


NAMES = names.TABLES


def grids(config: Config) -> list[Grid]:
    """Return the rows and columns of the map that each stage makes of the config's image."""
    stride, found = config.stem_stride, []
    for step in (1, *config.strides):
        stride *= step
        found.append((-(-config.image[0] // stride), -(-config.image[1] // stride)))
    return found


def _grid(config: Config, stage: int, block: int) -> Grid:
    """Return the map that a block sees: the first of a stage has that of the stage before."""
    return grids(config)[stage if block else stage - 1]


def _flattened(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Interpolate differences of flat indices (1, 2 n - 1, C) linearly for another map."""
    return linear_line(table, *((2 * math.prod(grid) - 1,) for grid in (old, new)))


_POSITION = "stages.{i}.blocks.{j}.mixer.position"
POSITIONS = (
    Table(f"{_POSITION}.table", _grid, _flattened, axes=(1,), between=1),
    *by_axis(_POSITION, lambda c, i, j: offsets(_grid(c, i, j))),
)


class FlatPosition(nn.Module):
    """Vectors of the differences of flat indices, query minus key, for maps of n positions: what
    they say of queries and keys, and what they add to values.

    `table` (2 a + e, 2 n - 1) has a rows each for queries and keys of that width, e for values.
    """

    def __init__(self, grid: Grid, width: int, value: int) -> None:
        super().__init__()
        self.width = width
        entries = 2 * grid[0] * grid[1] - 1
        self.table = nn.Parameter(torch.randn(2 * width + value, entries) * value**-0.5)

    def terms(
        self, q: Float[Tensor, "b g n d"], k: Float[Tensor, "b g n d"], grid: Grid
    ) -> list[Tensor]:
        """Return the logits (B, g, n, n) of the queries' vectors, and of the keys'."""
        both = self._turned(q.shape[2])
        asked, told = q @ both[: self.width], k @ both[self.width : 2 * self.width]
        return [_by_key(asked), _by_key(told).mT]

    def read(self, attention: Float[Tensor, "b g n n"]) -> Float[Tensor, "b g n e"]:
        """Return the values' vectors, weighted."""
        n = attention.shape[-1]
        spread = F.pad(attention, (0, n - 2)) if n > 1 else attention[..., :0]
        spread = F.pad(spread.flatten(2), (n - 1, 1)).unflatten(2, (n, 2 * n - 1))
        if n == 1:
            spread = attention
        return spread @ self._turned(n)[2 * self.width :].mT

    def _turned(self, n: int) -> Float[Tensor, "c m"]:
        """Return the table for n positions by key minus query: so a row of keys is a slice."""
        return resized(self.table.mT, 2 * n - 1).mT.flip(1)


def _by_key(x: Float[Tensor, "b g n m"]) -> Float[Tensor, "b g n n"]:
    """Pick, of each query i's 2 n - 1 differences (key minus query), those of the n keys: a view of
    the same memory whose rows are one shorter.
    """
    n = x.shape[2]
    if n == 1:
        return x
    flat = x.flatten(2)[..., n - 1 : n - 1 + n * (2 * n - 2)]
    return flat.unflatten(2, (n, 2 * n - 2))[..., :n]


class AxesPosition(RelativePosition):
    """As `FlatPosition`, of rows and columns, and of queries alone; nothing for values."""

    def terms(
        self, q: Float[Tensor, "b g n d"], k: Float[Tensor, "b g n d"], grid: Grid
    ) -> list[Tensor]:
        """Return the logits (B, g, n, n) of the queries' vectors."""
        return [self(q, grid)]


class Similarity(nn.Module):
    """The sum of an attention's normed terms: maps (B, g, n, n) to one."""

    def __init__(self, terms: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(terms * groups)

    def forward(self, terms: list[Tensor]) -> Float[Tensor, "b g n n"]:
        return self.norm(torch.cat(terms, 1)).unflatten(1, (len(terms), -1)).sum(1)


class Output(nn.Module):
    """The sum of attention's normed parts, each (B, n, C); their channels alternate."""

    def __init__(self, parts: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(parts * dim)

    def forward(self, parts: list[Tensor]) -> Float[Tensor, "b n c"]:
        both = torch.stack(parts, -1)
        return self.norm(both.flatten(2).flatten(0, 1)).view(both.shape).sum(-1)


class LESA(nn.Module):
    """unary + gate * binary: (B, C, h, w) views to `dim` channels, a mean of `stride` squared of
    them. C is `dim_in`, `dim` unless given.

    `grid` is the map for which the tables of positions are made.
    """

    def __init__(
        self,
        dim: int,
        groups: int,
        *,
        grid: Grid,
        position: str = "flat",
        stride: int = 1,
        dim_in: int | None = None,
        fusion: Fusion = PUBLISHED,
    ) -> None:
        super().__init__()
        dim_in = dim_in or dim
        if groups < 1 or dim % (2 * groups) or dim_in % groups:
            raise ValueError(
                f"dim {dim} does not divide into {groups} groups of an even width, or dim_in "
                f"{dim_in} into any: choose another number of groups"
            )
        if position not in ("flat", "axes"):
            raise ValueError(f"position is {position!r}: expected flat or axes")
        self.groups, self.key_width = groups, dim // groups // 2
        self.qkv = LinearNorm(dim_in, 2 * dim)
        sizes, parts = (grid, self.key_width), 2 if position == "flat" else 1
        self.position = FlatPosition(*sizes, dim // groups) if parts == 2 else AxesPosition(*sizes)
        self.similarity, self.output = Similarity(parts + 1, groups), Output(parts, dim)
        local = Conv2d(dim_in, dim, 3, padding=1, groups=groups, bias=False)
        self.unary = (
            nn.Sequential(local, ConvNorm(dim, dim, 1)) if groups > 1 else ConvNorm(dim_in, dim, 3)
        )
        plain = fusion == PUBLISHED
        self.hidden = LinearNorm(2 * dim, dim) if plain else HiddenConvs(2 * dim, fusion)
        self.gate = LinearNorm(dim if plain else self.hidden.width, dim)  # pyright: ignore
        self.act, self.pool = nn.ReLU(inplace=True), _pool(stride)
        self.reset()

    def reset(self) -> None:
        """Initialise projections by fan-in, the fusion He-normal by fan-out as all convolutions."""
        nn.init.normal_(self.qkv.linear.weight, std=self.qkv.linear.in_features**-0.5)
        for layer in (self.hidden, self.gate):
            if isinstance(layer, LinearNorm):
                nn.init.normal_(layer.linear.weight, std=(2 / layer.linear.out_features) ** 0.5)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        grid = (x.shape[2], x.shape[3])
        unary = channels_last(self.unary(x)).flatten(1, 2)
        binary = self._binary(channels_last(x).flatten(1, 2), grid)
        both = torch.cat([unary, binary], 2).relu()
        if isinstance(self.hidden, HiddenConvs):
            told = self.hidden(both, grid)
        else:
            told = self.hidden.then(both, self.act)
        out = torch.addcmul(unary, self.gate(told).sigmoid(), binary)
        return self.pool(channels_first(out.unflatten(1, grid)))

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b g n n"]:
        """Return the attention of every group, rows are queries."""
        q, k, _ = self._heads(channels_last(x).flatten(1, 2))
        return self._attention(q, k, (x.shape[2], x.shape[3]))

    def deployed(self) -> nn.Module:
        """Return the layer without BatchNorms."""
        return DeployedLESA(self)

    def _heads(self, x: Float[Tensor, "b n c"]) -> tuple[Tensor, ...]:
        """Return q, k and v of every group, (B, g, n, d) each."""
        qkv = self.qkv(x).unflatten(2, (self.groups, -1)).transpose(1, 2)
        return qkv.split((self.key_width, self.key_width, 2 * self.key_width), 3)

    def _attention(self, q: Tensor, k: Tensor, grid: Grid) -> Float[Tensor, "b g n n"]:
        return self.similarity([q @ k.mT, *self.position.terms(q, k, grid)]).softmax(-1)

    def _binary(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c2"]:
        q, k, v = self._heads(x)
        return self.output(self._parts(self._attention(q, k, grid), v))

    def _parts(self, attention: Tensor, v: Tensor) -> list[Tensor]:
        """Return what is read from the values, and from the vectors of positions."""
        parts = [attention @ v]
        if isinstance(self.position, FlatPosition):
            parts.append(self.position.read(attention))
        return [part.transpose(1, 2).flatten(2) for part in parts]


def _pool(stride: int) -> nn.Module:
    """Make a pool of means of stride x stride positions, of those there at the border."""
    if stride == 1:
        return nn.Identity()
    return nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)


class DeployedLESA(LESA):
    """What a LESA computes in eval mode, its other parts being deployed.

    The logits' BatchNorm is a scalar for each term and group, put to queries and keys: what it
    adds goes out in the softmax. The output's scales the values, whose weights sum to one.
    """

    def __init__(self, whole: LESA) -> None:
        nn.Module.__init__(self)
        self.groups, self.key_width, self.position = whole.groups, whole.key_width, whole.position
        self.unary, self.hidden, self.gate = whole.unary, whole.hidden, whole.gate
        self.act, self.pool = whole.act, whole.pool
        scales, _ = affine(whole.similarity.norm)
        self.scales = frozen(scales.view(-1, whole.groups, 1, 1))
        values = (self.groups, 2 * self.key_width, -1)
        scale, shift = (part.unflatten(0, values) for part in affine(whole.output.norm))
        old = whole.qkv  # deployed: a linear layer with bias
        assert isinstance(old, Linear)
        weight = old.weight.detach().clone().unflatten(0, (self.groups, -1))
        bias = old.bias.detach().clone().unflatten(0, (self.groups, -1))
        weight[:, 2 * self.key_width :] *= scale[..., :1]
        bias[:, 2 * self.key_width :] *= scale[..., 0]
        bias[:, 2 * self.key_width :] += shift.sum(-1)
        self.qkv = linear(weight.flatten(0, 1), bias.flatten())
        self.factor = frozen(scale[..., -1].flatten())

    def deployed(self) -> nn.Module:
        """Return itself."""
        return self

    def _attention(self, q: Tensor, k: Tensor, grid: Grid) -> Float[Tensor, "b g n n"]:
        own, *others = self.scales
        logits = q @ (k * own).mT
        for term in self.position.terms(q * others[0], k * others[-1], grid):
            logits = logits.add_(term)
        return logits.softmax(-1)

    def _binary(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c2"]:
        q, k, v = self._heads(x)
        read, *positions = self._parts(self._attention(q, k, grid), v)
        return torch.addcmul(read, positions[0], self.factor) if positions else read


class LESANet(resnet.ResNet):
    """A ResNet with LESA in its last two stages, but for the first block of the two."""

    undecayed = TABLES

    def __init__(self, config: Config) -> None:
        c, first = config, len(config.depths) - 2

        def mixer(i: int, j: int, dim: int, stride: int) -> nn.Module:
            if i < first or (i == first and j == 0):
                return resnet.convolution(i, j, dim, stride)
            how = {"position": c.position, "stride": stride, "fusion": c.fusion}
            return LESA(dim, c.groups, grid=_grid(c, i, j), **how)

        super().__init__(config, mixer, bottleneck=True)
        for block in self.modules():
            if isinstance(block, resnet.Bottleneck) and isinstance(block.mixer, LESA):
                block.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]


def idle(config: Config) -> tuple[str, ...]:
    """Return parts of names of parameters without gradients but by rounding: the norm's bias is
    added to all logits of a softmax alike.
    """
    return ("similarity.norm.bias",)


MODEL = LESANet
