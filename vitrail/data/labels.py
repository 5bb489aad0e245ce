"""What stands between image files and a model: sizes, normalisation, class names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.data.depth import Range
from vitrail.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


# No camera and no model has more, and a side of a million would fill any memory.
MOST_SIDE = 1 << 14
MOST_CHANNELS = 1 << 10


@dataclass(frozen=True)
class Labels:
    """What stands between image files and a model, and between logits and class names.

    Images are decoded to `image` = (height, width) pixels and `channels`, divided by 255,
    normalised by `mean` and `std` per channel; probabilities are softmax(logits / temperature).
    `ranges` are the values that become 0 and 255 in images of more than 8 bits. An answer below
    `threshold`, a probability, is "none of these". Raises ConfigError for figures with which there
    is no answer.
    """

    classes: tuple[str, ...]
    image: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float = 1.0
    ranges: tuple[Range, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("classes are none: give a name for each")
        if not all(1 <= side <= MOST_SIDE for side in self.image):
            raise ConfigError(f"image {self.image} is not of sides of 1 to {MOST_SIDE} pixels")
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise ConfigError(f"channels {self.channels} is not 1 to {MOST_CHANNELS}")
        if not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise ConfigError(
                f"mean has {len(self.mean)} and std {len(self.std)} values, neither one for all "
                f"nor one for each of {self.channels} channels"
            )
        if not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"mean {self.mean} is not of finite numbers")
        if not all(0 < one < math.inf for one in self.std):
            raise ConfigError(f"std {self.std} is not above 0 everywhere")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature {self.temperature} is not above 0")

    def normalised(self, images: Any) -> Tensor:
        """uint8 (N, H, W, channels) to float32 (N, channels, H, W), as the model takes them."""
        import torch

        x = torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std
