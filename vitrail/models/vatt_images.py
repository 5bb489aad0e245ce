"""VATT's tower of clips on images: a picture is a clip in which nothing moves.

Akbari et al., NeurIPS 2021, arXiv 2104.11178; see `vatt` and `vatt_clips`. An image is repeated for
as many frames as a patch has, which the paper does for ImageNet (four times); positions in time are
then those of the first frames. `of` makes the Config, of a network of three towers or of one
encoder.

What it learned is of clips, so it is in no catalog of image backbones. There is no golden of it: it
is made of the parts of `vatt` and `vatt_unified`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from vitrail.models import vatt, vatt_clips, vatt_unified
from vitrail.models.parts.vatt_encoder import Sizes
from vitrail.models.parts.vatt_headed import HeadedTower
from vitrail.models.parts.vatt_inputs import Cut, Told
from vitrail.models.trunk.backbone import Level


@dataclass(frozen=True)
class Config:
    """The sizes of a tower of clips for images; fields are those of `vatt_clips`, less frames."""

    encoder: Sizes = field(default_factory=Sizes)
    patch: tuple[int, int, int] = (4, 16, 16)
    behind: int = 0
    keep: float = 1.0
    dropout: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


NAMES: dict[str, list] = {}


def of(config: vatt.Config | vatt_unified.Config) -> Config:
    """Return the Config for images of a network of clips, sounds and sentences."""
    tower = vatt_clips.of(config)
    return Config(
        encoder=tower.encoder, patch=tower.patch, behind=tower.behind, dropout=tower.dropout,
        image=tower.image, channels=tower.channels,
    )  # fmt: skip


class ImagesVATT(HeadedTower):
    """An image (B, channels, H, W) to logits (B, classes)."""

    def __init__(self, config: Config) -> None:
        c = config
        cut = Cut(c.channels, (c.patch[0], *c.image), c.patch)
        if not all(cut.grid):
            raise ValueError(
                f"image is {c.image[0]}x{c.image[1]}; patches are {c.patch[1]}x{c.patch[2]}: take "
                "a smaller patch"
            )
        super().__init__(cut, c)
        self.levels = (Level(c.patch[1], self.width),)

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last map (B, h, w, C), a place for each patch."""
        still = self._still(image)
        _, *grid = self.tower.placed.patches.grid(still.shape[2:])
        return [super().read(still).tokens.unflatten(1, grid)]

    def read(self, value: Float[Tensor, "b channels h w"]) -> Told:
        """Return what is said of images: pooled (B, C), tokens (B, n, C)."""
        return super().read(self._still(value))

    def embedding(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, value: Float[Tensor, "b channels h w"]
    ) -> Float[Tensor, "b width"]:
        """Return the aggregating token."""
        return super().embedding(self._still(value))

    def _still(self, images: Tensor) -> Tensor:
        return images[:, :, None].expand(-1, -1, self.config.patch[0], -1, -1)


MODEL = ImagesVATT
