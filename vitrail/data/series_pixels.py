"""Time series as training sees them: arrays of one length, and batches of them.

A number that is missing is NaN, and so is every number of the padding behind the last step: one
array says all, and networks of series read it so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vitrail.data.batches import Batch, Batches
from vitrail.data.cache import Pixels
from vitrail.data.split import Part
from vitrail.data.uea import Series, Standard, padded


class SeriesPixels(Pixels):
    """The series of a part: `images` is float32 (N, T, F), NaN where a number is missing or behind
    the last step; `image` is (T, 1), `channels` F."""

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation of each feature; those that never change have deviation 1."""
        assert self.images is not None
        mask: np.ndarray = np.logical_not(np.isnan(self.images).all(2))
        standard = Standard.of(Series("", self.images, mask, None))
        return tuple(standard.mean.tolist()), tuple(standard.std.tolist())


def series_pixels(part: Part, length: int) -> SeriesPixels:
    """Return the series of a part with `length` steps. Raises DataError for longer ones."""
    series = part.source.series
    assert series is not None
    chosen = Series(series.name, series.values[part.rows], series.mask[part.rows], None)
    values = padded(chosen, length)
    return SeriesPixels(part, (length, 1), values.shape[2], values)


class SeriesBatches(Batches):
    """Batches whose `images` are standardised series, float32 (b, T, F), NaN where nothing is.

    Arguments are those of `Batches`. Series are shown as they are: there is no augmentation.
    """

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows."""
        indices, rows = self.drawn(epoch, number, rank=rank, world=world)
        mine = indices[rows]
        return Batch(
            torch.from_numpy(self.normalised(self.pixels.take(mine))),
            torch.from_numpy(self._labels[mine]),
            torch.from_numpy(mine),
        )

    def normalised(self, images: np.ndarray) -> np.ndarray:
        """Return series (b, T, F) less the mean and by the deviation, in float32."""
        return standardised(images, self.mean, self.std)


def standardised(series: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return float32 (..., F) less the mean and by the deviation of each feature."""
    middle, spread = (np.asarray(value, np.float32) for value in (mean, std))
    return (series - middle) / spread
