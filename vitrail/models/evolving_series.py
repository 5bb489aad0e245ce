"""EA-DC-Transformer: evolving attention beside dilated causal convolutions, for time series.

Wang, Yang et al., "Convolution-enhanced Evolving Attention Networks", TPAMI 2023,
arXiv 2212.08330. A block has two augmented convolutions, each with a small network behind it;
some of their channels are attention to all steps, whose logits evolve from one to the next
through the whole network. Series are (B, T, features) of one length, shorter ones padded.

It is a network of series, so it is in no catalog of image backbones: `SERIES` has its published
sizes, and `vitrail.create` and `vitrail.load` take their name or a `Config`. Without a mask a
missing number, and all behind the last step, is NaN. `alpha` is the share of the logits before
and `beta` that of their convolution, as in the papers; the code calls them beta and alpha.

What the code does and trained weights rely on:
- what attention yields, (heads, T, channels), is read as (heads, channels, T) without being
  transposed, so that steps and channels of a head are mixed up;
- attention looks at all steps, later and padded ones too; the padding is 0 at the entrance and
  once more before the head;
- both convolutions of the first block leave the logits before them alone.
Not taken over: a relative term of the logits, which the code draws at random in every pass; and
the parameters that nothing reads (`pool_input`, `pool_input_att`, `att_conv2`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import affine
from vitrail.layers.evolving import Evolution
from vitrail.layers.linear import Linear, frozen, linear
from vitrail.layers.residual import Blocks
from vitrail.models.names import evolving_series as names
from vitrail.models.parts.evolving_series_conv import AugmentedConv
from vitrail.models.trunk.backbone import Backbone, InputKind, Small, Variant
from vitrail.models.trunk.heads import linear_head


@dataclass(frozen=True)
class Config:
    """Sizes of a network for series of `length` steps of `features` numbers.

    `depth` blocks are `hidden` wide and a last one `dim`; with `dilated` the steps between what
    a convolution reads double from block to block. `keys` and `values` are the shares of a
    convolution's channels that attention has: 1 leaves no convolution, 0 no attention.
    `positions` are "learned" or "fixed" (sines). `classes` may be targets of a regression.
    """

    features: int = 1
    length: int = 64
    classes: int = 2
    dim: int = 64
    hidden: int = 64
    depth: int = 3
    kernel: int = 3
    dilated: bool = True
    heads: int = 8
    ffn: int = 256
    keys: float = 0.125
    values: float = 0.125
    alpha: float = 0.7
    beta: float = 0.3
    positions: str = "learned"
    dropout: float = 0.1

    @property
    def input_kind(self) -> InputKind:
        """Return the kind of input: series."""
        return "series"

    @property
    def image(self) -> tuple[int, int]:
        """Return the steps, and 1: what others call the sides of an image."""
        return self.length, 1

    @property
    def channels(self) -> int:
        """Return the features, of which each is a channel."""
        return self.features


SERIES = {"ea_dc": Variant(Config())}
SPACE = Small(
    Config(dropout=0.1),
    {
        ("dim", "hidden", "ffn"): ((32, 32, 64), (64, 64, 256), (96, 96, 192)),
        "depth": (1, 2, 3),
        ("keys", "values"): ((0.125, 0.125), (0.25, 0.25), (0.5, 0.5)),
        "kernel": (3, 5),
    },
)


NAMES = names.TABLES


class Norm(nn.BatchNorm1d):
    """BatchNorm of the channels of (B, T, C)."""

    def forward(self, input: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        return super().forward(input.flatten(0, 1)).view(input.shape)


class Ffn(nn.Module):
    """Two linear layers of every step, LeakyReLU between them: (B, T, C) to the same."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1, self.linear2 = Linear(dim, hidden), Linear(hidden, dim)
        self.act, self.dropout = nn.LeakyReLU(), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        return self.linear2(self.dropout(self.act(self.linear1(x))))

    def preceded(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Scale and shift what comes in, for good."""
        weight, bias = self.linear1.weight, self.linear1.bias
        self.linear1 = linear(weight * scale, bias + weight @ shift)

    def followed(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Scale and shift what comes out, for good."""
        weight, bias = self.linear2.weight, self.linear2.bias
        self.linear2 = linear(weight * scale[:, None], bias * scale + shift)


class Scale(nn.Module):
    """Every channel times a fixed number."""

    def __init__(self, scale: Float[Tensor, "c"]) -> None:
        super().__init__()
        self.scale = frozen(scale)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        return x * self.scale


class Block(nn.Module):
    """norm(skip(x) + ffn2(norm2(mixer2(ffn1(norm1(mixer1(x)))))): (B, T, C) and logits to
    (B, T, C') and logits. The logits go through LeakyReLU after each mixer."""

    def __init__(self, config: Config, dim_in: int, dim: int, dilation: int, first: bool) -> None:
        super().__init__()
        c = config

        def mixer(width: int) -> AugmentedConv:
            evolves = not first and (c.alpha or c.beta) and c.values
            return AugmentedConv(
                width,
                dim,
                keys=int(c.keys * dim),
                values=int(c.values * dim),
                heads=c.heads,
                kernel=c.kernel,
                dilation=dilation,
                evolution=Evolution(c.heads, c.alpha, c.beta, nn.LeakyReLU()) if evolves else None,
            )

        self.mixer1, self.ffn1 = mixer(dim_in), Ffn(dim, c.ffn, c.dropout)
        self.mixer2, self.ffn2 = mixer(dim), Ffn(dim, c.ffn, c.dropout)
        self.norm1, self.norm2, self.norm = Norm(dim), Norm(dim), Norm(dim)
        self.skip: nn.Module = nn.Identity() if dim_in == dim else Linear(dim_in, dim)
        self.act, self.dropout = nn.LeakyReLU(), nn.Dropout(c.dropout)

    def forward(
        self, x: Float[Tensor, "b t c"], before: Float[Tensor, "b n t t"] | None = None
    ) -> tuple[Float[Tensor, "b t c2"], Float[Tensor, "b n t t"] | None]:
        y, logits = self.mixer1(x, before)
        y, logits = self.mixer2(self.ffn1(self.norm1(y)), self._passed(logits))
        y = self.ffn2(self.norm2(y))
        return self.norm(y + self.skip(x)), self._passed(logits)

    def deployed(self) -> nn.Module:
        """Fold every BatchNorm into the linear layers before or behind it."""
        norms = (self.norm1, self.norm2, self.norm)
        before1, before2, (scale, shift) = map(affine, norms)  # pyright: ignore[reportArgumentType]
        self.ffn1.preceded(*before1)
        self.ffn2.preceded(*before2)
        self.ffn2.followed(scale, shift)
        skip = self.skip
        self.skip = skip.scaled(scale) if isinstance(skip, Linear) else Scale(scale)
        self.norm1 = self.norm2 = self.norm = nn.Identity()
        return self

    def _passed(self, logits: Tensor | None) -> Tensor | None:
        return None if logits is None else self.dropout(self.act(logits))


class EvolvingSeries(Backbone):
    """Series (B, T, features) and which of their steps are real, (B, T), to (B, classes)."""

    undecayed = ("position",)
    levels = ()

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        if c.positions not in ("learned", "fixed"):
            raise ValueError(f"positions are {c.positions!r}: expected learned or fixed")
        self.embed = Linear(c.features, c.dim)
        if c.positions == "learned":
            self.position = nn.Parameter(torch.empty(c.length, c.dim).uniform_(-0.02, 0.02))
        else:
            self.register_buffer("position", sines(c.length, c.dim), persistent=False)
        widths = [c.dim, *[c.hidden] * c.depth, c.dim]
        self.blocks = Blocks(
            Block(c, a, b, 2**i if c.dilated else 1, i == 0)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.dropout, self.act = nn.Dropout(c.dropout), nn.GELU()
        self.width = c.length * c.dim
        self.head = linear_head(self.width, c.classes)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, series: Float[Tensor, "b t f"], mask: Tensor | None = None
    ) -> Float[Tensor, "b k"]:
        return self.head(self.embedding(series, mask))

    def features(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        series: Float[Tensor, "b t f"],
        mask: Tensor | None = None,
        at: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Return all steps (B, T, C) after the last block, or after the blocks `at`; raise
        ValueError for series of another length, and for a mask that is not theirs.
        """
        c = self.config
        if series.shape[1:] != (c.length, c.features):
            raise ValueError(
                f"series are {tuple(series.shape)}; this network takes (B, {c.length}, "
                f"{c.features}): pad them to that length, or build it for yours"
            )
        series, mask = _told(series, mask)
        x = self.embed(_kept(series, series, mask)) * c.dim**0.5
        x, logits, kept = self.dropout(x + self.position), None, []
        for block in self.blocks:
            x, logits = self.blocks.run(block, x, logits)
            kept.append(x)
        return [kept[j] for j in ((-1,) if at is None else at)]

    def embedding(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, series: Float[Tensor, "b t f"], mask: Tensor | None = None
    ) -> Float[Tensor, "b width"]:
        """Return what the head sees: all steps in a row, zeros where there is padding."""
        series, mask = _told(series, mask)
        x = self.dropout(self.act(self.features(series, mask)[0]))
        return _kept(x, series, mask).flatten(1)


def _told(series: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the series with 0 for NaN, and the mask, which is up to the last step that has a
    number where none is given.
    """
    if mask is not None:
        return series, mask
    number = torch.arange(1, series.shape[1] + 1, device=series.device)
    last = (number * (~torch.isnan(series)).any(2)).amax(1, keepdim=True)
    return torch.nan_to_num(series), number <= last


def _kept(x: Tensor, series: Tensor, mask: Tensor | None) -> Float[Tensor, "b t c"]:
    """Return `x` with zeros where the mask of the series has some."""
    if mask is None:
        return x
    if mask.shape != series.shape[:2]:
        raise ValueError(
            f"mask is {tuple(mask.shape)}; series of {tuple(series.shape)} take "
            f"{tuple(series.shape[:2])}: 1 for a step that is there, 0 for padding"
        )
    return x.masked_fill((mask == 0)[..., None], 0)


def sines(length: int, dim: int) -> Float[Tensor, "t d"]:
    """Return sines and cosines in turn, of frequencies from 1 to 1 /
    10000 (Vaswani et al., 2017).
    """
    frequency = 10000.0 ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.arange(length)[:, None] * frequency
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :dim]


MODEL = EvolvingSeries
