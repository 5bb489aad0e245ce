"""Reading a picture in overlapping windows, at several scales and mirrored.

Segmenter, Strudel et al., ICCV 2021, arXiv 2105.05633: scores are averaged where windows overlap,
probabilities over scales and mirror images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.errors import ConfigError

Model = Callable[[Tensor], Tensor]
LONGEST = 4  # how many times `short` the longer side may be


class Copy(NamedTuple):
    """A picture (B, channels, H, W) at one scale, and whether it is mirrored already."""

    image: Tensor
    mirrored: bool = False


@dataclass(frozen=True)
class Sliding:
    """How a dense network reads a picture that is not of its own size.

    Windows of `window` pixels a side begin every `stride` pixels; the last ones end with the
    picture. `ratios` are its scales, each also mirrored with `mirrored`. With `short` the shorter
    side becomes that many pixels before, the longer one at most four times as many. So many
    windows as `batch` go through the model at once. Raises ConfigError for sizes below 1.

    Examples:
        >>> from vitrail.models.trunk.sliding import Sliding
        >>> read = Sliding(window=32, stride=24, ratios=(0.5, 1.0), mirrored=True)
        >>> model = lambda images: images.cumsum(1)
        >>> read.probabilities(model, torch.zeros(1, 3, 40, 50)).shape
        torch.Size([1, 3, 40, 50])
    """

    window: int
    stride: int
    ratios: tuple[float, ...] = (1.0,)
    mirrored: bool = False
    short: int = 0
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("window", "stride", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.stride > self.window:
            raise ConfigError(
                f"stride is {self.stride} with windows of {self.window}: pixels between them would "
                f"have no answer; give at most {self.window}"
            )
        if not self.ratios or min(self.ratios) <= 0:
            raise ConfigError(f"ratios are {self.ratios}: expected numbers above 0, e.g. (0.5, 1)")
        if self.short < 0:
            raise ConfigError(f"short is {self.short}: expected pixels, or 0 for the own size")

    @torch.no_grad()
    def probabilities(
        self, model: Model, image: Float[Tensor, "b channels h w"]
    ) -> Float[Tensor, "b classes h w"]:
        """Return the probability of every class for every pixel of a picture.

        `model` maps (B, channels, window, window) to scores (B, classes, window, window).
        """
        h, w = image.shape[-2:]
        return self.merged(model, list(self.copies(image)), (h, w))

    @torch.no_grad()
    def merged(
        self, model: Model, copies: Sequence[Copy], size: tuple[int, int]
    ) -> Float[Tensor, "b classes h w"]:
        """Return the mean over copies of one picture of the probabilities at `size` (H, W)."""
        total = None
        for image, mirrored in copies:
            scores = resized(self.scores(model, image), size)
            found = (scores.flip(3) if mirrored else scores).softmax(1)
            total = found if total is None else total + found
        if total is None:
            raise ConfigError("no copies of the picture are given: give at least one")
        return total / len(copies)

    def copies(self, image: Float[Tensor, "b channels h w"]) -> Iterator[Copy]:
        """Yield the picture at every scale, and mirrored where that is asked for."""
        h, w = image.shape[-2:]
        for ratio in self.ratios:
            if self.short:
                ratio *= min(self.short / min(h, w), LONGEST * self.short / max(h, w))
            scaled = resized(image, (max(1, int(h * ratio + 0.5)), max(1, int(w * ratio + 0.5))))
            yield Copy(scaled)
            if self.mirrored:
                yield Copy(scaled.flip(3), mirrored=True)

    def scores(
        self, model: Model, image: Float[Tensor, "b channels h w"]
    ) -> Float[Tensor, "b classes h2 w2"]:
        """Return the mean scores of all windows of one copy, enlarged where a side is shorter
        than a window."""
        image = enlarged(image, self.window)
        b, _, h, w = image.shape
        corners = [
            (top, left)
            for top in anchors(h, self.window, self.stride)
            for left in anchors(w, self.window, self.stride)
        ]
        total, times = None, image.new_zeros(h, w)
        step = max(1, self.batch // b)
        for first in range(0, len(corners), step):
            some = [
                (slice(top, top + self.window), slice(left, left + self.window))
                for top, left in corners[first : first + step]
            ]
            found = model(torch.cat([image[:, :, rows, columns] for rows, columns in some]))
            if total is None:
                total = found.new_zeros(b, found.shape[1], h, w)
            for (rows, columns), part in zip(some, found.split(b), strict=True):
                total[:, :, rows, columns] += part
                times[rows, columns] += 1
        assert total is not None  # there is always a window
        return total / times


def anchors(side: int, window: int, stride: int) -> list[int]:
    """Return where windows begin along a side: every `stride` pixels, and so that one ends with it.

    Examples:
        >>> from vitrail.models.trunk.sliding import anchors
        >>> anchors(140, 64, 48)
        [0, 48, 76]
    """
    return [*range(0, side - window, stride), side - window]


def enlarged(
    image: Float[Tensor, "b channels h w"], window: int
) -> Float[Tensor, "b channels h2 w2"]:
    """Return the image, its shorter side not below `window`; the longer one is rounded down."""
    h, w = image.shape[-2:]
    if min(h, w) >= window:
        return image
    if h < w:
        return resized(image, (window, int(w / h * window)))
    return resized(image, (int(h / w * window), window))


def resized(x: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Return maps or images at another size (H, W), bilinearly between centres of pixels."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
