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
from torch import Tensor

from vitrail.models import vatt, vatt_unified
from vitrail.models.parts.vatt_encoder import Sizes
from vitrail.models.parts.vatt_headed import HeadedTower
from vitrail.models.parts.vatt_inputs import Cut
from vitrail.models.trunk.backbone import InputKind, Level


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


class ClipsVATT(HeadedTower):
    """A clip (B, channels, T, H, W) to logits (B, classes)."""

    def __init__(self, config: Config) -> None:
        c = config
        cut = Cut(c.channels, (c.frames, *c.image), c.patch)
        if not all(cut.grid):
            sides, patch = ("x".join(map(str, one)) for one in (cut.sides, c.patch))
            raise ValueError(f"clips are {sides}; patches are {patch}: take a smaller patch")
        super().__init__(cut, c)
        self.levels = (Level(c.patch[1], self.width, c.patch[0]),)

    def features(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, clips: Float[Tensor, "b channels t h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last map (B, t, h, w, C), a place for each patch."""
        grid = self.tower.placed.patches.grid(clips.shape[2:])
        return [self.read(clips).tokens.unflatten(1, grid)]


MODEL = ClipsVATT
