"""What VATT's networks take: sizes of clips, sounds and sentences, and the towers that read one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.linear import Linear
from vitrail.models.parts.vatt_encoder import Encoder, Sizes, WordEncoder
from vitrail.models.parts.vatt_tokens import Axes, DropToken, Patches, aggregate, with_first
from vitrail.models.trunk.backbone import InputKind

KINDS = ("video", "audio", "text")
NAMES = {"video": "clips", "audio": "sounds", "text": "words"}


@dataclass(frozen=True)
class Inputs:
    """Sizes of what is read: clips of `frames`, sounds of `samples`, sentences of `words`.

    Patches are `patch` (frames, rows, columns) of a clip and `wave` samples of a sound. `vectors`
    is the width of the vectors of the `vocabulary`, which stay as they are. `keep` is the share of
    the tokens of clips and sounds that DropToken leaves in training.
    """

    frames: int = 32
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    patch: tuple[int, int, int] = (4, 16, 16)
    samples: int = 153_600
    wave: int = 128
    words: int = 16
    vocabulary: int = 65_536
    vectors: int = 300
    keep: float = 0.5


class Told(NamedTuple):
    """What a tower says of its input: `pooled` (B, C), `tokens` (B, n, C)."""

    pooled: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Cut:
    """How one kind of input is cut: `channels`, the sides of an input and those of a patch."""

    channels: int
    sides: tuple[int, ...]
    patch: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Return the patches along each axis."""
        return tuple(side // p for side, p in zip(self.sides, self.patch, strict=True))


def cut(kind: str, inputs: Inputs) -> Cut:
    """Return how clips ("video") or sounds ("audio") are cut."""
    c = inputs
    if kind == "video":
        return Cut(c.channels, (c.frames, *c.image), c.patch)
    return Cut(1, (c.samples,), (c.wave,))


class Placed(nn.Module):
    """Patches, mapped by `before`, with positions and dropout: (B, channels, *S) to tokens.

    In training some are dropped, which are then neither cut nor projected.
    """

    def __init__(self, cut: Cut, dim: int, keep: float, dropout: float, *, bias: bool = True):
        super().__init__()
        self.cut = cut
        self.patches = Patches(cut.channels, cut.patch, dim, bias=bias)
        self.before: nn.Module = nn.Identity()
        self.position, self.drop = Axes(cut.grid, dim), nn.Dropout(dropout)
        self.drop_tokens = DropToken(keep, math.prod(cut.grid))

    def forward(self, x: Float[Tensor, "b channels *s"]) -> Float[Tensor, "b n c"]:
        c = self.cut
        if x.ndim != 2 + len(c.sides) or x.shape[1] != c.channels:
            axes = ", ".join(("T", "H", "W") if len(c.sides) == 3 else ("N", "M")[: len(c.sides)])
            raise ValueError(
                f"input is {tuple(x.shape)}; this tower takes (B, {c.channels}, {axes})"
            )
        grid = self.patches.grid(x.shape[2:])
        places = self.drop_tokens(math.prod(grid), x.device)
        position = self.position(grid)
        position = position if places is None else position[places]
        return self.drop(self.before(self.patches(x, places)) + position)


class Tower(nn.Module):
    """An encoder of clips, sounds or spectrograms of its own: (B, channels, *S) to `Told`."""

    def __init__(
        self, cut: Cut, size: Sizes, keep: float, dropout: float, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.width = size.dim
        self.placed = Placed(cut, size.dim, keep, dropout, bias=bias)
        self.token = aggregate(size.dim)
        self.encoder = Encoder(size, dropout, bias=bias)

    def forward(self, x: Float[Tensor, "b channels *s"]) -> Told:
        out = self.encoder(with_first(self.token, self.placed(x)))
        return Told(out[:, 0], out[:, 1:])


class Words(nn.Module):
    """An encoder of words: ids (B, n), 0 where there is none, to `Told`."""

    def __init__(self, inputs: Inputs, size: Sizes, dropout: float) -> None:
        super().__init__()
        self.width = size.dim
        self.vectors = vectors(inputs)
        self.token = aggregate(inputs.vectors)
        self.embed, self.act = Linear(inputs.vectors, size.dim, bias=False), nn.GELU()
        self.encoder = WordEncoder(size, dropout)

    def forward(self, ids: Int[Tensor, "b n"]) -> Told:
        x = with_first(self.token, self.vectors(ids))
        out = self.encoder(self.act(self.embed(x)), seen_words(ids))
        return Told(out[:, 0], out[:, 1:])


def vectors(inputs: Inputs) -> nn.Embedding:
    """Return the vectors of the words, which take no gradient."""
    made = nn.Embedding(inputs.vocabulary, inputs.vectors)
    made.weight.requires_grad_(False)
    return made


def seen_words(ids: Int[Tensor, "b n"]) -> Tensor:
    """Return bool (B, 1 + n): the aggregating token counts, and so do ids that are not 0."""
    return torch.cat([torch.ones_like(ids[:, :1], dtype=torch.bool), ids != 0], 1)


def check_kinds(kinds: tuple[str, ...]) -> None:
    """Raise ValueError for towers that do not exist, none, or one twice."""
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong or not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(
            f"towers are {', '.join(kinds) or 'none'}: expected some of {', '.join(KINDS)}, each "
            "once"
        )


@dataclass(frozen=True)
class Spaces:
    """Widths of the spaces in which clips meet sounds (`fine`) and sentences (`coarse`)."""

    fine: int = 512
    coarse: int = 256


@dataclass(frozen=True)
class Triple:
    """The fields of all networks of clips, sounds and sentences: `towers`, and what these take."""

    towers: tuple[str, ...] = KINDS
    inputs: Inputs = field(default_factory=Inputs)
    spaces: Spaces = field(default_factory=Spaces)
    dropout: float = 0.1

    @property
    def image(self) -> tuple[int, int]:
        """Return the height and width of clips."""
        return self.inputs.image

    @property
    def frames(self) -> int:
        """Return the frames of clips."""
        return self.inputs.frames

    @property
    def channels(self) -> int:
        """Return the channels of clips."""
        return self.inputs.channels

    @property
    def input_kind(self) -> InputKind:
        """Return the kind of input: clips, sounds and sentences."""
        return "triples"
