"""Between pixels and what a network takes: mean and deviation of each channel."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Normal:
    """How pixels of 0 to 1 become numbers: mean and deviation of each channel, or one for all.

    Examples:
        >>> import torch
        >>> normal = Normal((0.5,), (0.25,))
        >>> normal.apply(torch.ones(1, 1, 1, 1)).item(), normal.undo(torch.zeros(1, 1, 1, 1)).item()
        (2.0, 0.5)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise pixels in [0, 1]."""
        mean, std = self._tensors(pixels)
        return (pixels - mean) / std

    def undo(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the pixels of normalised images; what lies beyond [0, 1] is cut off."""
        mean, std = self._tensors(images)
        return (images * std + mean).clamp(0, 1)

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return mean, std
