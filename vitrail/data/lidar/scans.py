"""The scans of a part, projected when they are taken; files stay decoded while they fit."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from vitrail.data.lidar.folder import ScanSource
from vitrail.data.lidar.projection import CHANNELS, Projected, Projection
from vitrail.data.lidar.reading import BrokenScan, Scan
from vitrail.data.split import Part
from vitrail.errors import DataError
from vitrail.files import reason

# Decoded scans of one part that stay in memory.
KEPT_BYTES = 1 << 30


class Scans:
    """The scans of a part of a `ScanSource` as range images of one projection.

    `image` is the (height, width) that a network is trained on.
    """

    channels = CHANNELS

    def __init__(self, part: Part, projection: Projection, image: tuple[int, int]) -> None:
        assert isinstance(part.source, ScanSource)
        self.part, self.source = part, part.source
        self.projection, self.image = projection, image
        self._kept: dict[int, Scan] = {}
        self._bytes, self._lock = 0, threading.Lock()

    def __len__(self) -> int:
        return len(self.part)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return self.part.classes

    @property
    def keys(self) -> Sequence[str]:
        """Return the files."""
        return self.part.keys

    @property
    def labels(self) -> np.ndarray:
        """Return which classes each scan shows: 0 or 1 in int64 (N, C)."""
        return self.part.labels

    def first(self, n: int) -> Scans:
        """Return the first scans of the part, evenly over it."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).astype(int))
        some = Part(self.part.source, self.part.rows[rows], self.part.digests[rows])
        return Scans(some, self.projection, self.image)

    def scan(self, at: int) -> Scan:
        """Return a scan with its classes. Raises DataError where the file has changed."""
        with self._lock:
            known = self._kept.get(at)
        if known is not None:
            return known
        try:
            found = self.source.scan(int(self.part.rows[at]))
        except (BrokenScan, OSError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise DataError(
                f"scan {self.keys[at]} has changed since it was inspected ({why}): start again"
            ) from error
        size = 40 * len(found)
        with self._lock:
            if self._bytes + size <= KEPT_BYTES:
                self._kept[at] = found
                self._bytes += size
        return found

    def image_of(self, scan: Scan) -> Projected:
        """Return the range image of a scan."""
        return self.projection.image(scan.xyz, scan.intensity)


def statistics(scans: Scans, most: int = 200) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of range, x, y, z and intensity over the pixels that show a point.

    Of up to `most` scans, evenly over the part.
    """
    some = scans.first(most)
    total, squares, n = np.zeros(CHANNELS), np.zeros(CHANNELS), 0
    for at in range(len(some)):
        image = some.image_of(some.scan(at))
        values = image.features[:, image.seen].astype(np.float64)
        total += values.sum(1)
        squares += (values**2).sum(1)
        n += values.shape[1]
    mean = total / n
    deviation = np.sqrt(np.maximum(squares / n - mean**2, 1e-6))
    return tuple(mean.round(4).tolist()), tuple(deviation.round(4).tolist())
