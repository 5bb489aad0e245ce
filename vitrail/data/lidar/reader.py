"""How a network reads a whole scan: windows of its range image, averaged, then points.

The network and what refines its map are handed over as functions of arrays, so that torch and an
exported file answer by one and the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitrail.data.lidar.near import VOTERS, WINDOW, nearest, voted
from vitrail.data.lidar.projection import CHANNELS, Projected, Projection, placed
from vitrail.errors import ConfigError

# Range images (B, 5, H, W) to maps (B, C, H, W): of features, or of scores.
Maps = Callable[[np.ndarray], np.ndarray]
# A map (C, H, W), places (N, 2), xyz (N, 3), neighbours (N, K) to scores of points (N, classes).
Refines = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Network:
    """The two functions, and the neighbours that `refine` asks for; None where pixels answer."""

    maps: Maps
    refine: Refines | None = None
    neighbours: int = 7


@dataclass(frozen=True)
class Answered:
    """The class of each point, uint8 (N,), and its scores, float32 (N, classes): where pixels
    answer, those of the point's own pixel."""

    labels: np.ndarray
    scores: np.ndarray
    image: Projected


@dataclass(frozen=True)
class Reader:
    """How scans become answers: `width` of a window, `stride` from one to the next, statistics of
    the channels, and the vote of pixels where no network refines points."""

    projection: Projection
    width: int
    stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    voters: int = VOTERS
    window: int = WINDOW

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.width:
            raise ConfigError(
                f"stride is {self.stride} with windows of {self.width} pixels: give 1 to the width"
            )
        if not len(self.mean) == len(self.std) == CHANNELS:
            raise ConfigError(f"mean and std are not of {CHANNELS} channels: train again")

    def answer(self, xyz: np.ndarray, intensity: np.ndarray, network: Network) -> Answered:
        """Return what a network says of a scan of points (N, 3) with intensities (N,)."""
        image = self.projection.image(xyz, intensity)
        whole = self.averaged(image.normalised(self.mean, self.std), network.maps)
        if network.refine is not None:
            places = placed(image.places, 0, image.index.shape)
            near = nearest(xyz, network.neighbours)
            scores = network.refine(whole, places, xyz, near)
            return Answered(scores.argmax(1).astype(np.uint8), scores, image)
        row, column = image.cells()
        said = whole.argmax(0).astype(np.uint8)
        labels = voted(said, image, len(whole), k=self.voters, window=self.window)
        return Answered(labels, whole[:, row, column].T, image)

    def averaged(self, image: np.ndarray, maps: Maps) -> np.ndarray:
        """Return the map (C, H, W) of a range image (5, H, W): the mean of all windows.

        Windows begin every `stride` columns, and the last one ends with the image.
        """
        width = image.shape[2]
        begins = window_begins(width, self.width, self.stride)
        total, times = None, np.zeros(width, np.float32)
        for begin in begins:
            columns = slice(begin, begin + self.width)
            found = maps(np.ascontiguousarray(image[None, :, :, columns]))[0]
            if total is None:
                total = np.zeros((*found.shape[:2], width), np.float32)
            total[:, :, columns] += found
            times[columns] += 1
        assert total is not None  # there is always a window
        return total / times


def window_begins(width: int, window: int, stride: int) -> list[int]:
    """Return the first columns of windows over `width`; one that is wider begins at 0.

    Examples:
        >>> window_begins(2048, 384, 256)
        [0, 256, 512, 768, 1024, 1280, 1536, 1664]
    """
    last = max(0, width - window)
    return [*range(0, last, stride), last]
