"""How images of one kind look, in a few numbers: whether a new one is of the same kind at all.

Brightness, contrast, black and white, edges at three scales and colour are held against those of
the training images by their Mahalanobis distance, as Lee et al. do with a network's features
(NeurIPS 2018, arXiv 1807.03888). That tells a scanned digit from a photograph, whatever the network
thinks of it. It cannot tell a photograph of something else, which looks like all photographs, and
knows little where the training images have every brightness and contrast themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vitrail.errors import ConfigError

SCALES = (1, 2, 4)
# So far beyond the farthest held-back image nothing of the same kind is expected.
MARGIN = 1.2
# Fewer images say too little about how far they differ.
FEWEST = 20
MOST_TRAITS = 64
_AT_ONCE = 64


@dataclass(frozen=True)
class Likeness:
    """The mean (D,) of the traits of training images, the inverse (D, D) of their covariance, and
    the distance from which on an image is unlike them. Raises ConfigError for anything else."""

    mean: tuple[float, ...]
    inverse: tuple[tuple[float, ...], ...]
    limit: float

    def __post_init__(self) -> None:
        size = len(self.mean)
        if not 1 <= size <= MOST_TRAITS or [len(row) for row in self.inverse] != [size] * size:
            raise ConfigError(f"look has a mean of {size} traits and an inverse of another shape")
        values = (*self.mean, *(value for row in self.inverse for value in row))
        if not all(map(math.isfinite, values)) or not 0 < self.limit < math.inf:
            raise ConfigError("look has numbers that are not finite, or a limit not above 0")

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Return how far images, uint8 (N, H, W, C), are from usual: about 1 for usual ones."""
        return _distances(traits(images), np.array(self.mean), np.array(self.inverse))

    def strange(self, images: np.ndarray) -> np.ndarray:
        """Tell of images, uint8 (N, H, W, C), whether they are unlike all others: bool (N,)."""
        return self.distances(images) > self.limit


def likeness(train: np.ndarray, held: np.ndarray) -> Likeness | None:
    """Return how training images look, with a limit that no held-back image reaches.

    Both are uint8 (N, H, W, C) of one size; None for fewer than 20 of either.
    """
    if min(len(train), len(held)) < FEWEST:
        return None
    known = traits(train)
    spread = np.cov(known.T)
    # A trait that hardly varies, such as the colour of grey photographs, must not decide alone.
    spread += np.diag(0.01 * np.diag(spread) + 1e-4)
    mean, inverse = known.mean(0), np.linalg.inv(spread)
    # A usual image is about 1 away, even where those that were held back are all the same.
    limit = MARGIN * max(1.0, float(_distances(traits(held), mean, inverse).max()))
    return Likeness(tuple(mean.tolist()), tuple(map(tuple, inverse.tolist())), limit)


def traits(images: np.ndarray) -> np.ndarray:
    """Map images, uint8 (N, H, W, C), to float64 (N, D): D is 10, with colour 13."""
    starts = range(0, len(images), _AT_ONCE)
    return np.concatenate([_traits(images[at : at + _AT_ONCE]) for at in starts])


def _traits(images: np.ndarray) -> np.ndarray:
    colour = images.astype(np.float32) / 255
    grey = colour.mean(3)
    found = [
        grey.mean((1, 2)), grey.std((1, 2)),
        (grey < 0.02).mean((1, 2)), (grey > 0.98).mean((1, 2)),
    ]  # fmt: skip
    for step in SCALES:
        for axis in (1, 2):
            found.append(_logarithm(_edges(grey, step, axis)))
    if colour.shape[3] == 3:
        first, second = (colour[..., i] - colour[..., i + 1] for i in (0, 1))
        found += [first.mean((1, 2)), second.mean((1, 2))]
        found.append(_logarithm((abs(first) + abs(second)).mean((1, 2))))
    return np.stack(found, 1).astype(np.float64)


def _edges(grey: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Return the mean difference of pixels so many apart; 0 in images that are smaller."""
    if grey.shape[axis] <= step:
        return np.zeros(len(grey))
    lower = np.take(grey, range(step, grey.shape[axis]), axis)
    return abs(lower - np.take(grey, range(grey.shape[axis] - step), axis)).mean((1, 2))


def _logarithm(values: np.ndarray) -> np.ndarray:
    return np.log(values + 1e-3)


def _distances(found: np.ndarray, mean: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    away = found - mean
    squared = np.einsum("nd,de,ne->n", away, inverse, away)
    return np.sqrt(np.maximum(squared, 0) / len(mean))
