"""Several crops of each image: two large ones that a teacher sees as well, and small ones.

Multi-crop: Caron et al., NeurIPS 2020, arXiv 2006.09882.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.layers.normal import Normal
from vitrail.objectives.parts.views import View, draw_for, make_view
from vitrail.training.batch import Batch
from vitrail.training.objective import Step

SHARE = 96 / 224  # of the image's side that a small crop has, where nobody says


@dataclass(frozen=True)
class Crops:
    """Two large views of the image's size, and `number` small ones of `size` pixels.

    Without a size it is about 3/7 of the image's side, in steps of the model's stride; a model that
    takes one size only sees small crops enlarged to that.
    """

    first: View = field(default_factory=lambda: View((0.25, 1.0), blur=1.0))
    second: View = field(default_factory=lambda: View((0.25, 1.0), blur=0.1, solarise=0.2))
    local: View = field(default_factory=lambda: View((0.05, 0.25), blur=0.5))
    number: int = 8
    size: int | None = None

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ConfigError(f"number {self.number} is below 0: give 0 for no small crops")
        if self.size is not None and self.size < 1:
            raise ConfigError(f"size {self.size} is below 1: give pixels, such as 96")

    def sizes(self, model: Any) -> tuple[int, int]:
        """Return height and width of small crops for a model.

        Raises ConfigError for crops that are larger than its images, or that it cannot read.
        """
        height, width = model.config.image
        image = height, width
        if not self.number:
            return image
        if self.size is not None:
            if self.size > min(image):
                raise ConfigError(
                    f"crops of {self.size} pixels are larger than the images of {_spoken(image)}: "
                    f"give objective.crops.size={_usual(min(image), 1)}, or larger images"
                )
            if (why := _refused(model, (self.size, self.size))) is not None:
                raise ConfigError(f"crops of {self.size} pixels do not fit the model ({why})")
            return self.size, self.size
        stride = max(level.stride for level in model.levels)
        usual = _usual(image[0], stride), _usual(image[1], stride)
        return usual if _refused(model, usual) is None else image

    def large(self, batch: Batch, normal: Normal, step: Step) -> tuple[Tensor, Tensor]:
        """Return two normalised views (B, C, H, W) of the size of the images."""
        pixels = normal.undo(batch.images)
        size = pixels.shape[-2], pixels.shape[-1]
        one, two = (
            normal.apply(make_view(pixels, view, size, draw_for(batch.indices, step, number)))
            for number, view in enumerate((self.first, self.second))
        )
        return one, two

    def small(
        self, batch: Batch, normal: Normal, step: Step, size: tuple[int, int]
    ) -> Tensor | None:
        """Return all small views (number B, C, h, w), view after view; None where there are
        none."""
        if not self.number:
            return None
        pixels = normal.undo(batch.images)
        views = [
            make_view(pixels, self.local, size, draw_for(batch.indices, step, 2 + number))
            for number in range(self.number)
        ]
        return normal.apply(torch.cat(views))


def _usual(side: int, stride: int) -> int:
    return max(1, round(SHARE * side / stride)) * stride


@torch.no_grad()
def _refused(model: Any, size: tuple[int, int]) -> str | None:
    """Say why a model cannot read images of a size, None where it can."""
    mode, config = model.training, model.config
    like = next(model.parameters())
    try:
        model.eval()
        image = like.new_zeros(1, config.channels, *size)
        model.embedding(image)
    except (ValueError, RuntimeError) as error:
        return str(error).splitlines()[0]
    finally:
        model.train(mode)
    return None


def _spoken(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
