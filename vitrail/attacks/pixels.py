"""Between what a model takes and what an attack sees: normalised images, and pixels in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """Knows how images are normalised: mean and deviation per channel, or one for all channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the pixels of normalised images; what lies beyond [0, 1] is cut off."""
        mean, std = (images.new_tensor(some).view(1, -1, 1, 1) for some in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1)

    def normalised(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return what a model takes."""
        mean, std = (pixels.new_tensor(some).view(1, -1, 1, 1) for some in (self.mean, self.std))
        return (pixels - mean) / std
