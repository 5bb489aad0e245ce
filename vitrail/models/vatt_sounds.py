"""VATT's tower of waveforms, with a head of classes.

Akbari et al., NeurIPS 2021, arXiv 2104.11178; see `vatt`. A sound is (B, 1, samples), from -1 to 1;
patches are 128 samples, and positions are those of one axis. This is what a training of clips,
sounds and sentences is fine-tuned as where sounds have classes: `of` makes the Config, of a network
of three towers or of one encoder. A sound of another length has its positions resampled by the
spline that `vatt` resamples them by. DropToken is for pretraining, so `keep` is 1 unless asked for.

It is for sounds alone, so it is in no catalog of image backbones. There is no golden of it: it is
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
from vitrail.models.trunk.backbone import InputKind, Level, Small


@dataclass(frozen=True)
class Config:
    """The sizes of a tower of sounds of so many `samples`, whose patches are `wave` of them.

    `behind` is the width of the layer behind an encoder that was shared with clips and words,
    which has one before it too; 0 for a tower of its own.
    """

    encoder: Sizes = field(default_factory=Sizes)
    wave: int = 128
    behind: int = 0
    keep: float = 1.0
    dropout: float = 0.1
    samples: int = 153_600
    channels: int = 1
    classes: int = 527

    @property
    def input_kind(self) -> InputKind:
        """Return "waves"."""
        return "waves"

    @property
    def image(self) -> tuple[int, int]:
        """Return (1, samples), which is what others have as height and width."""
        return 1, self.samples


SPACE = Small(
    Config(),
    {
        "encoder": (Sizes(64, 3, 192, 1), Sizes(128, 4, 256, 2), Sizes(192, 6, 512, 3)),
        "wave": (64, 128, 256),
    },
)

NAMES: dict[str, list] = {}


def of(config: vatt.Config | vatt_unified.Config) -> Config:
    """Return the Config of the tower of sounds of a network of clips, sounds and sentences.

    Raises ValueError where it has none.
    """
    if "audio" not in config.towers:
        raise ValueError(
            f"a network of {', '.join(config.towers)} has no tower of sounds: take one that "
            "learned with sounds"
        )
    shared = isinstance(config, vatt_unified.Config)
    inputs = config.inputs
    return Config(
        encoder=config.encoder if shared else config.audio,
        wave=inputs.wave,
        behind=config.width if shared else 0,
        dropout=config.dropout,
        samples=inputs.samples,
    )


class SoundsVATT(HeadedTower):
    """A sound (B, 1, samples) to logits (B, classes)."""

    def __init__(self, config: Config) -> None:
        c = config
        cut = Cut(c.channels, (c.samples,), (c.wave,))
        if not all(cut.grid):
            raise ValueError(
                f"sounds are {c.samples} samples; patches are {c.wave}: take a smaller patch"
            )
        super().__init__(cut, c)
        self.levels = (Level(c.wave, self.width),)

    def features(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, sounds: Float[Tensor, "b channels samples"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last map (B, 1, n, C), a place for each patch."""
        return [self.read(sounds).tokens[:, None]]


MODEL = SoundsVATT
