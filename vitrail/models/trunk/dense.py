"""What networks share that answer for every pixel: a backbone under a head of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models.trunk.backbone import Backbone, Variant, check_image
from vitrail.models.trunk.sliding import Sliding, resized


@dataclass(frozen=True)
class DenseVariant(Variant):
    """A published network of maps: `miou` and `miou_scales` are its mean intersection over union
    in per cent of `dataset`, at one scale and at several mirrored ones; `reads` is how its authors
    evaluate it."""

    dataset: str = field(default="", kw_only=True)
    miou: float | None = field(default=None, kw_only=True)
    miou_scales: float | None = field(default=None, kw_only=True)
    reads: Sliding | None = field(default=None, kw_only=True)


class Dense(Backbone):
    """An image (B, channels, H, W) to scores of every pixel (B, classes, H, W).

    `backbone` gives the maps, `head` maps the coarsest one (B, h, w, C) to (B, h, w, classes), and
    the scores are enlarged bilinearly. An image whose sides the stride does not divide is padded
    with zeros below and right, and so much is cut off the scores.
    """

    backbone: Backbone

    def __init__(self, config: Any, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.head = backbone, head
        self.levels, self.width = backbone.levels, backbone.levels[-1].channels

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the backbone's maps (B, h, w, C), of an image that is padded where it must be."""
        return self.backbone.features(self._padded(image), at)

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return what the head sees: the coarsest map."""
        return self.features(image)[-1]

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b classes h w"]:
        check_image(image, self.config, type(self).__name__.lower())
        h, w = image.shape[-2:]
        stride = self.levels[-1].stride
        scores = self.head(self.embedding(image)).movedim(-1, 1)
        whole = (h + -h % stride, w + -w % stride)
        return resized(scores, whole)[..., :h, :w]

    def no_decay(self) -> set[str]:
        """Return the parameters of backbone and head that take no weight decay."""
        return super().no_decay() | {f"backbone.{name}" for name in self.backbone.no_decay()}

    @property
    def depth(self) -> int:
        """Return the layer-wise depth of the head: the backbone's."""
        return self.backbone.depth

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies: in the backbone as there, the head behind all."""
        inner = name.removeprefix("backbone.")
        return self.depth if inner == name else self.backbone.depth_of(inner)

    def _padded(self, image: Tensor) -> Tensor:
        stride = self.levels[-1].stride
        down, right = -image.shape[-2] % stride, -image.shape[-1] % stride
        return F.pad(image, (0, right, 0, down)) if down or right else image
