"""How far an attack may move pixels: a ball around each image, in one of two norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.errors import ConfigError

Norm = Literal["linf", "l2"]
# Keeps the direction of a gradient of zeros defined.
TINY = 1e-10


@dataclass(frozen=True)
class Ball:
    """Images (B, C, H, W) whose difference from others is at most `radius`, per image.

    `norm` "linf" bounds every pixel's change, "l2" the Euclidean length of all changes of an image.
    Pixels are in units of 0 to 1, so that 4/255 is usual for "linf" and 0.5 for "l2". Raises
    ConfigError for a radius that is not above 0, or for "linf" above 1, where any image is inside.
    """

    norm: Norm = "linf"
    radius: float = 4 / 255

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ConfigError(f"norm {self.norm!r} is unknown: give one of linf, l2")
        if not (0 < self.radius < math.inf):
            raise ConfigError(f"radius {self.radius:g} is not above 0: {_usual(self.norm)}")
        if self.norm == "linf" and self.radius > 1:
            raise ConfigError(
                f"radius {self.radius:g} is beyond the pixels' range of 0 to 1: {_usual(self.norm)}"
            )

    def check(self, values: int) -> None:
        """Raise ConfigError where a ball around an image of so many values holds any other."""
        if self.norm == "l2" and self.radius > math.sqrt(values):
            raise ConfigError(
                f"radius {self.radius:g} is beyond the pixels' range: two images of {values} "
                f"values in 0 to 1 are at most {math.sqrt(values):.1f} apart, and 0.5 is usual"
            )

    def projected(
        self, moved: Float[Tensor, "b c h w"], pixels: Float[Tensor, "b c h w"], radius: float
    ) -> Float[Tensor, "b c h w"]:
        """Bring moved pixels back into the ball of `radius`, then into [0, 1], in this order."""
        change = moved - pixels
        if self.norm == "linf":
            change = change.clamp(-radius, radius)
        else:
            change = torch.renorm(change, p=2, dim=0, maxnorm=radius)
        return (pixels + change).clamp(0, 1)

    def direction(self, gradient: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the step of length 1 that raises a loss most; a gradient of 0 does not move."""
        if self.norm == "linf":
            return gradient.sign()
        length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return gradient / (length + TINY)


def _usual(norm: Norm) -> str:
    return "4/255 is usual for linf" if norm == "linf" else "0.5 is usual for l2"
