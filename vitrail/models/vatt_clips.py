"""VATT's tower of clips, with a head of classes.

Akbari et al., NeurIPS 2021, arXiv 2104.11178; see `vatt`. This is what a training of clips, sounds
and sentences is fine-tuned as: `of` makes the Config of a network of three towers, or of one
encoder, whose layers before and behind it stay. The head sees the aggregating token. DropToken is
for pretraining, so `keep` is 1 unless asked for.

It is for clips alone, so it is in no catalog of image backbones. There is no golden of it: it is
made of the parts of `vatt` and `vatt_unified`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.linear import Linear
from vitrail.models import vatt, vatt_unified
from vitrail.models.parts.vatt_encoder import Sizes
from vitrail.models.parts.vatt_inputs import Cut, Told, Tower
from vitrail.models.trunk.backbone import Backbone, InputKind, Level
from vitrail.models.trunk.heads import linear_head


@dataclass(frozen=True)
class Config:
    """The sizes of a tower of clips of `frames`, whose patches are frames by rows by columns.

    `behind` is the width of the layer behind an encoder that was shared with sounds and words,
    which has one before it too; 0 for a tower of its own.
    """

    encoder: Sizes = field(default_factory=Sizes)
    patch: tuple[int, int, int] = (4, 16, 16)
    behind: int = 0
    keep: float = 1.0
    dropout: float = 0.1
    frames: int = 32
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 400

    @property
    def input_kind(self) -> InputKind:
        """Return "clips"."""
        return "clips"


NAMES: dict[str, list] = {}


def of(config: vatt.Config | vatt_unified.Config) -> Config:
    """Return the Config of the tower of clips of a network of clips, sounds and sentences."""
    shared = isinstance(config, vatt_unified.Config)
    inputs = config.inputs
    return Config(
        encoder=config.encoder if shared else config.video,
        patch=inputs.patch,
        behind=config.width if shared else 0,
        dropout=config.dropout,
        frames=inputs.frames,
        image=inputs.image,
        channels=inputs.channels,
    )


def name_in(name: str, behind: int) -> str:
    """Return what a parameter of this network is called in one of three inputs.

    Examples:
        >>> name_in("tower.encoder.norm.bias", 0), name_in("tower.encoder.norm.bias", 64)
        ('towers.video.encoder.norm.bias', 'encoder.norm.bias')
    """
    if not behind:
        return name.replace("tower.", "towers.video.", 1)
    for ours, theirs in (
        ("tower.placed.", "placed.video."), ("tower.encoder.", "encoder."),
        ("tower.token", "tokens.video"), ("after.", "after.video."),
    ):  # fmt: skip
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


class ClipsVATT(Backbone):
    """A clip (B, channels, T, H, W) to logits (B, classes)."""

    undecayed = ("tables.0", "tables.1", "tables.2", "token")

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        cut = Cut(c.channels, (c.frames, *c.image), c.patch)
        if not all(cut.grid):
            sides, patch = ("x".join(map(str, one)) for one in (cut.sides, c.patch))
            raise ValueError(f"clips are {sides}; patches are {patch}: take a smaller patch")
        dim = c.encoder.dim
        self.tower = Tower(cut, c.encoder, c.keep, c.dropout)
        self.after: nn.Module = nn.Identity()
        if c.behind:
            self.tower.placed.before = nn.Sequential(Linear(dim, dim), nn.GELU())
            self.after = nn.Sequential(Linear(dim, c.behind), nn.GELU())
        self.width = c.behind or dim
        self.levels = (Level(c.patch[1], self.width, c.patch[0]),)
        self.head = linear_head(self.width, c.classes)

    @property
    def depth(self) -> int:
        """Return the depth of the head for layer-wise rates; that of patches is 0."""
        return self.config.encoder.depth + 1

    def depth_of(self, name: str) -> int:
        """Return how deep the parameter `name` lies, for layer-wise learning rates."""
        block = name.removeprefix("tower.encoder.blocks.")
        if block != name:
            return int(block.partition(".")[0]) + 1
        return self.depth if name.startswith(("head.", "after.", "tower.encoder.")) else 0

    def read(self, clips: Float[Tensor, "b channels t h w"]) -> Told:
        """Return what is said of clips: pooled (B, C), tokens (B, n, C)."""
        told = self.tower(clips)
        return Told(self.after(told.pooled), self.after(told.tokens))

    def features(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, clips: Float[Tensor, "b channels t h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last map (B, t, h, w, C), a place for each patch."""
        return [
            self.read(clips).tokens.unflatten(1, self.tower.placed.patches.grid(clips.shape[2:]))
        ]

    def embedding(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, clips: Float[Tensor, "b channels t h w"]
    ) -> Float[Tensor, "b width"]:
        """Return the aggregating token."""
        return self.after(self.tower(clips).pooled)


MODEL = ClipsVATT
