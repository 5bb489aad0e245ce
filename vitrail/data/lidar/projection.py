"""Range images: each point of a scan at the pixel that its beam goes through.

Two ways, as RangeViT's authors have them (arXiv 2301.10222): by angles, and by the order of the
file, in which a spinning sensor writes one ring after the other. In both the nearest point of a
pixel is seen. The authors take point number 0 for no point; here it is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vitrail.errors import ConfigError

# Channels of a range image: range, x, y, z, intensity.
CHANNELS = 5
EMPTY = np.array([-1, -1, -1, -1, 0], np.float32)
MOST_SIDE = 1 << 14


@dataclass(frozen=True, eq=False)
class Projected:
    """A scan as a range image.

    `index` int32 (H, W) is the point that each pixel shows, -1 for none; `features` float32
    (5, H, W) its range, x, y, z and intensity, in metres; `places` float32 (N, 2) where every
    point lies, (u, v) in pixels, also of points that another hides; `depth` float32 (N,).
    """

    index: np.ndarray
    features: np.ndarray
    places: np.ndarray
    depth: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """Return which pixels show a point: bool (H, W)."""
        return self.index >= 0

    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and the column of each point's pixel: int64 (N,) each."""
        height, width = self.index.shape
        column, row = np.minimum(self.places, [width - 1, height - 1]).astype(np.int64).T
        return row, column

    def normalised(self, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
        """Return the features as a network takes them, float32 (5, H, W): 0 where no point is."""
        shape = (CHANNELS, 1, 1)
        centred = self.features - np.array(mean, np.float32).reshape(shape)
        return centred / np.array(std, np.float32).reshape(shape) * self.seen


@dataclass(frozen=True)
class Spherical:
    """Rows by the angle above the horizon, columns by that around the sensor.

    `up` and `down` are the least and the greatest elevation in degrees, 10 and -30 on nuScenes.
    Raises ConfigError for sizes and angles that cannot be.

    Examples:
        >>> import numpy as np
        >>> ahead = np.array([[10.0, 0.0, 0.0]], np.float32)
        >>> image = Spherical(height=4, width=8).image(ahead, np.zeros(1, np.float32))
        >>> image.index.max(), image.features[0].max()
        (0, 10.0)
    """

    height: int = 32
    width: int = 2048
    up: float = 10.0
    down: float = -30.0

    def __post_init__(self) -> None:
        _check_sides(self.height, self.width)
        if not -90 <= self.down < self.up <= 90:
            raise ConfigError(
                f"up is {self.up} and down {self.down}: give angles from -90 to 90, down below up"
            )

    def image(self, xyz: np.ndarray, intensity: np.ndarray) -> Projected:
        """Return the range image of points (N, 3) in metres with intensities (N,)."""
        x, y, z = xyz.T
        depth = np.sqrt(np.einsum("nc,nc->n", xyz, xyz))
        u = (0.5 - np.arctan2(y, x) / (2 * math.pi)) * self.width
        up, down = math.radians(self.up), math.radians(self.down)
        sine = np.clip(z / np.maximum(depth, 1e-6), -1, 1)
        v = (1 - (np.arcsin(sine) - down) / (up - down)) * self.height
        return _drawn((self.height, self.width), np.stack([u, v], 1), depth, xyz, intensity)


@dataclass(frozen=True)
class ByScan:
    """Rows by the order of the file: a new one begins where the angle jumps back to its start.

    What SemanticKITTI's 64 beams need, whose angles are not even. Points lie at the middle of
    their row. Raises ConfigError for sizes that cannot be.
    """

    height: int = 64
    width: int = 2048

    def __post_init__(self) -> None:
        _check_sides(self.height, self.width)

    def image(self, xyz: np.ndarray, intensity: np.ndarray) -> Projected:
        """Return the range image of points (N, 3) in metres, in the file's order."""
        turn = 0.5 * (1 - np.arctan2(xyz[:, 1], -xyz[:, 0]) / math.pi)
        jumps = (turn[:-1] > 0.8) & (turn[1:] < 0.2)
        row = np.concatenate([[0], np.cumsum(jumps)])[: len(xyz)]
        v = np.minimum(row, self.height - 1) + 0.5
        depth = np.sqrt(np.einsum("nc,nc->n", xyz, xyz))
        places = np.stack([turn * self.width - 0.001, v], 1)
        return _drawn((self.height, self.width), places, depth, xyz, intensity)


Projection = Spherical | ByScan


def placed(places: np.ndarray, begin: int, size: tuple[int, ...]) -> np.ndarray:
    """Return where points at (u, v) pixels lie in a crop of (H, W): (x, y) from -1 to 1."""
    height, width = size
    scale = np.array([2 / width, 2 / height], np.float32)
    return (places - np.array([begin, 0], np.float32)) * scale - 1


def _check_sides(height: int, width: int) -> None:
    if not (1 <= height <= MOST_SIDE and 1 <= width <= MOST_SIDE):
        raise ConfigError(f"a range image of {height}x{width} is not of sides of 1 to {MOST_SIDE}")


def _drawn(
    size: tuple[int, int],
    places: np.ndarray,
    depth: np.ndarray,
    xyz: np.ndarray,
    intensity: np.ndarray,
) -> Projected:
    """Draw the range image of points at (u, v) pixels; of equally near ones the last is seen."""
    height, width = size
    places = np.clip(places, 0, [width, height]).astype(np.float32)
    column = np.minimum(places[:, 0].astype(np.int32), width - 1)
    row = np.minimum(places[:, 1].astype(np.int32), height - 1)
    cell = row * width + column
    nearest = np.full(height * width, np.inf, depth.dtype)
    np.minimum.at(nearest, cell, depth)
    chosen = np.flatnonzero(depth == nearest[cell])
    index = np.full(height * width, -1, np.int32)
    index[cell[chosen]] = chosen
    features = np.repeat(EMPTY[:, None], height * width, 1)
    seen = np.flatnonzero(index >= 0)
    of = index[seen]
    features[0, seen], features[1:4, seen], features[4, seen] = depth[of], xyz[of].T, intensity[of]
    shape = (CHANNELS, height, width)
    return Projected(index.reshape(size), features.reshape(shape), places, depth.astype(np.float32))
