"""What detectors share: a backbone under a pyramid, which answers at every place.

Boxes are in shares of the image's sides, (x1, y1, x2, y2) from 0 to 1, so that they hold at every
size of an image; overlaps are the same in shares and in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.boxes import Answers, Boxes, best
from vitrail.models.trunk.backbone import Backbone, check_image

# What a target says in place of a class: nothing is there, or many that are not told apart.
NOTHING, CROWD = -1, -2


@dataclass(frozen=True, eq=False)
class Place:
    """Where a detector answers: `centres` (N, 2) in pixels and the stride (N,) of each."""

    centres: Tensor
    strides: Tensor


class Detector(Backbone):
    """An image (B, channels, H, W) to what it says at every place, (B, places, 4 + ...).

    `backbone` gives maps, `neck` makes a pyramid (B, width, h, w) of them, `head` answers on each
    of its levels; `answers` reads boxes and scores off that, `losses` compares it with the truth.
    """

    backbone: Backbone
    neck: nn.Module

    def __init__(self, config: Any, backbone: Backbone, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        if not config.classes:
            raise ValueError("classes is 0: a detector has a head for one class at least")
        self.config = config
        self.backbone, self.neck, self.head = backbone, neck, head
        self.levels, self.width = backbone.levels, config.width
        self._grids: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the backbone's maps (B, h, w, C)."""
        check_image(image, self.config, type(self).__name__.lower())
        return self.backbone.features(image, at)

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> list[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return what the head sees: the levels of the pyramid (B, width, h, w), finest first."""
        return self.neck(self.features(image))

    def places(self, image: tuple[int, int], device: torch.device) -> Place:
        """Return where it answers in images of (H, W) that it has seen, finest level first."""
        centres, strides = [], []
        for (h, w), stride in zip(self._grids[image], self.neck.strides, strict=True):  # pyright: ignore[reportArgumentType]
            down = (torch.arange(h, device=device) + 0.5) * (image[0] / h)
            right = (torch.arange(w, device=device) + 0.5) * (image[1] / w)
            grid = torch.stack(torch.meshgrid(right, down, indexing="xy"), -1)
            centres.append(grid.reshape(-1, 2))
            strides.append(torch.full((h * w,), float(stride), device=device))
        return Place(torch.cat(centres), torch.cat(strides))

    def levels_of(self, image: Float[Tensor, "b channels h w"]) -> list[Tensor]:
        """Return the levels of the pyramid, and remember their sizes for `places`."""
        maps = self.embedding(image)
        self._grids[image.shape[-2], image.shape[-1]] = [(x.shape[-2], x.shape[-1]) for x in maps]
        return maps

    def answers(self, raw: Tensor) -> Answers:
        """Return boxes and scores at every place from what `forward` gave."""
        raise NotImplementedError

    def found(self, raw: Any) -> list[Boxes]:
        """Return what is left of that, image by image: the best boxes of each class."""
        return best(self.answers(raw))

    def losses(self, raw: Any, targets: Tensor, image: tuple[int, int]) -> dict[str, Tensor]:
        """Return terms by name, "loss" among them, of images of (H, W).

        `targets` (B, M, 5) are a class and a box in shares for each object; the class is `NOTHING`
        where a row is empty, and `CROWD` where what is inside counts for nothing.
        """
        raise NotImplementedError

    def no_decay(self) -> set[str]:
        """Return the parameters of the backbone that take no weight decay."""
        return super().no_decay() | {f"backbone.{name}" for name in self.backbone.no_decay()}

    @property
    def depth(self) -> int:
        """Return the layer-wise depth of the head: the backbone's."""
        return self.backbone.depth

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies: in the backbone as there, the rest behind all."""
        inner = name.removeprefix("backbone.")
        return self.depth if inner == name else self.backbone.depth_of(inner)
