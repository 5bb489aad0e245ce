"""What stands between image files and a model: sizes, normalisation, class names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.config import to_json
from vitrail.data.depth import Range
from vitrail.data.hearing import MOST_RATE, MOST_S, Hearing
from vitrail.data.likeness import Likeness
from vitrail.data.source import Kind, nouns
from vitrail.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


# No camera and no model has more, and a side of a million would fill any memory.
MOST_SIDE = 1 << 14
MOST_CHANNELS = 1 << 10
MOST_SAMPLES = int(MOST_S * MOST_RATE)


@dataclass(frozen=True)
class Labels:
    """What stands between image files and a model, and between logits and class names.

    Images are decoded to `image` = (height, width) pixels and `channels`, divided by 255,
    normalised by `mean` and `std` per channel; probabilities are softmax(logits / temperature).
    `ranges` are the values that become 0 and 255 in images of more than 8 bits. An answer below
    `threshold`, a probability, is "none of these"; `look` tells images unlike all that the model
    learned from. With `several` an image has any number of
    labels: probabilities are sigmoid(logits / temperature), and a label whose probability reaches
    its own one of `thresholds` belongs to the image; before they are chosen there are none. What
    `takes` series has `image` = (steps, 1), a channel for each feature, and `mean` and `std` in
    the features' own units, and `features` are their names where files have any; clips have
    `frames`, every `stride`-th of a video, in so many `views`. With `hearing` the files are sounds,
    and the images their spectrograms; where it `takes` waves, they come as `image` = (1, samples).
    Raises ConfigError for figures with which there is no answer.
    """

    classes: tuple[str, ...]
    image: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float = 1.0
    ranges: tuple[Range, ...] = ()
    threshold: float | None = None
    several: bool = False
    thresholds: tuple[float, ...] = ()
    look: Likeness | None = None
    maps: bool = False
    boxes: bool = False
    takes: Kind = "images"
    frames: int = 1
    stride: int = 1
    views: int = 1
    hearing: Hearing | None = None
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("classes are none: give a name for each")
        most = MOST_SAMPLES if self.takes == "waves" else MOST_SIDE
        if not all(1 <= side <= most for side in self.image):
            raise ConfigError(f"image {self.image} is not of sides of 1 to {most} pixels")
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise ConfigError(f"channels {self.channels} is not 1 to {MOST_CHANNELS}")
        if not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise ConfigError(
                f"mean has {len(self.mean)} and std {len(self.std)} values, neither one for all "
                f"nor one for each of {self.channels} channels"
            )
        if not all(1 <= n <= MOST_SIDE for n in (self.frames, self.stride, self.views)):
            raise ConfigError(
                f"frames {self.frames}, stride {self.stride}, views {self.views} are not all 1 to "
                f"{MOST_SIDE}"
            )
        if not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"mean {self.mean} is not of finite numbers")
        if not all(0 < one < math.inf for one in self.std):
            raise ConfigError(f"std {self.std} is not above 0 everywhere")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature {self.temperature} is not above 0")
        if len(self.thresholds) not in ((0, len(self.classes)) if self.several else (0,)):
            raise ConfigError(
                f"thresholds are {len(self.thresholds)} for {len(self.classes)} classes: images of "
                "several labels have one for each, others none"
            )
        if len(self.features) not in (0, self.channels):
            raise ConfigError(
                f"features are {len(self.features)} for {self.channels} channels: name each or none"
            )
        if not all(0 <= one <= 1 for one in self.thresholds):
            raise ConfigError(f"thresholds {self.thresholds} are not all probabilities")

    @property
    def item(self) -> str:
        """Return what one of the things that are answered is called: an image, a sound, a clip."""
        return nouns(self.takes, heard=self.hearing is not None)[0]

    @property
    def items(self) -> str:
        """Return what several of them are called."""
        return nouns(self.takes, heard=self.hearing is not None)[1]

    def to_json(self) -> dict[str, Any]:
        """Return all fields in JSON; those of several labels only where images have several.

        So the labels of one class an image, and every digest of them, are what they were before
        there were others; the same holds for `look`, `maps`, `boxes`, `takes`,
        `hearing` and `features`.
        """
        fields = to_json(self)
        if self.look is None:
            del fields["look"]
        for name in ("maps", "boxes"):
            if not getattr(self, name):
                del fields[name]
        if self.takes == "images":
            del fields["takes"]
        if self.takes != "clips":
            del fields["frames"], fields["stride"], fields["views"]
        if self.hearing is None:
            del fields["hearing"]
        if not self.features:
            del fields["features"]
        if not self.several:
            del fields["several"], fields["thresholds"]
        return fields

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map logits (..., classes) to probabilities: they add up to 1 unless `several`."""
        scaled = logits / self.temperature
        return scaled.sigmoid() if self.several else scaled.softmax(-1)

    def chosen(self, probabilities: Tensor) -> Tensor:
        """Return which labels reach their thresholds: bool (..., classes)."""
        import torch

        bounds = torch.tensor(self.thresholds, dtype=torch.float64)
        return probabilities.double() >= bounds

    def normalised(self, images: Any) -> Tensor:
        """Turn uint8 (N, H, W, channels) into float32 (N, channels, H, W), as the model takes them.

        Series stay float32 (N, steps, channels); clips uint8 (N, T, H, W, channels) become float32
        (N, channels, T, H, W), waveforms float32 (N, samples) become (N, 1, samples).
        """
        import torch

        if self.takes == "series":
            middle, spread = (torch.tensor(v) for v in (self.mean, self.std))
            return (torch.as_tensor(images) - middle) / spread
        if self.takes == "waves":
            return (torch.as_tensor(images)[:, None] - self.mean[0]) / self.std[0]
        if self.takes == "clips":
            clips = torch.as_tensor(images).permute(0, 4, 1, 2, 3).float() / 255
            middle, spread = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (self.mean, self.std))
            return (clips - middle) / spread
        x = torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std
