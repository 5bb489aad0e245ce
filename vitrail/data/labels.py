"""What stands between image files and a model: sizes, normalisation, class names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.data.depth import Range

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """What stands between image files and a model, and between logits and class names.

    Images are decoded to `image` = (height, width) pixels and `channels`, divided by 255,
    normalised by `mean` and `std` per channel; probabilities are softmax(logits / temperature).
    `ranges` are the values that become 0 and 255 in images of more than 8 bits. An answer below
    `threshold`, a probability, is "none of these".
    """

    classes: tuple[str, ...]
    image: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float = 1.0
    ranges: tuple[Range, ...] = ()
    threshold: float | None = None

    def normalised(self, images: Any) -> Tensor:
        """uint8 (N, H, W, channels) to float32 (N, channels, H, W), as the model takes them."""
        import torch

        x = torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std
