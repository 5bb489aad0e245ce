"""VATT's tower of sounds on spectrograms, with a head of classes.

Akbari et al., NeurIPS 2021, arXiv 2104.11178; see `vatt`. A spectrogram is a grey picture with a
row for each band, (B, 1, bands, steps); patches are 5 bands by 16 steps in the paper, whose
pictures are 80 by 150, and do not overlap: what does not fill one is left out. No linear layer of
the encoder has a bias. The head sees the aggregating token.

It is for sounds alone, so it is in no catalog of image backbones; `vitrail fit SOUNDS --task audio`
lets it race beside these. There is no golden of it: it is made of the parts of `vatt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vitrail.models.parts.vatt_encoder import Sizes
from vitrail.models.parts.vatt_inputs import Cut, Tower
from vitrail.models.trunk.backbone import Backbone, Level, Small
from vitrail.models.trunk.heads import linear_head


@dataclass(frozen=True)
class Config:
    """Sizes of a tower whose heads are 64 wide, for pictures of `image` = (bands, steps)."""

    dim: int = 768
    depth: int = 12
    hidden: int = 3072
    heads: int = 12
    patch: tuple[int, int] = (5, 16)
    dropout: float = 0.1
    image: tuple[int, int] = (80, 150)
    channels: int = 1
    classes: int = 527


SPACE = Small(
    Config(),
    {
        ("dim", "depth", "hidden", "heads"): (
            (64, 3, 192, 1),
            (128, 4, 256, 2),
            (192, 6, 512, 3),
        ),
        "patch": ((4, 16), (8, 8)),
    },
)

NAMES = {}


class SpectrogramVATT(Backbone):
    """A spectrogram (B, channels, bands, steps) to logits (B, classes)."""

    undecayed = ("tables.0", "tables.1", "token")

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        size = Sizes(c.dim, c.depth, c.hidden, c.heads)
        cut = Cut(c.channels, c.image, c.patch)
        if not all(cut.grid):
            raise ValueError(
                f"image is {c.image[0]}x{c.image[1]}; patches are {c.patch[0]}x{c.patch[1]}: take "
                "a smaller patch"
            )
        self.tower = Tower(cut, size, 1.0, c.dropout, bias=False)
        self.width, self.levels = c.dim, (Level(c.patch[0], c.dim),)
        self.head = linear_head(c.dim, c.classes)

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last map (B, h, w, C), a place for each patch."""
        grid = self.tower.placed.patches.grid(image.shape[2:])
        return [self.tower(image).tokens.unflatten(1, grid)]

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        """Return the aggregating token."""
        return self.tower(image).pooled


MODEL = SpectrogramVATT
