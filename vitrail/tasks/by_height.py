"""What a network of scans is held against: the usual class of points so high and so far away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vitrail.data.lidar.reader import Answered
from vitrail.data.lidar.reading import Scan
from vitrail.data.lidar.scans import Scans
from vitrail.data.masks import IGNORE

# Bins of height and range in metres; the first and the last take what lies beyond.
HEIGHTS = np.arange(-4, 6, 0.25)
RANGES = np.array([3, 5, 8, 12, 17, 23, 30, 40, 55])
MOST = 500


def by_height(train: Scans) -> tuple[int, Callable[[Scan], Answered]]:
    """Return the most frequent class of the training scans, and what answers by height and range.

    Where no training point was, the most frequent class is the answer.
    """
    classes, some = len(train.classes), train.first(MOST)
    counts = np.zeros(((len(HEIGHTS) + 1) * (len(RANGES) + 1), classes), np.int64)
    for at in range(len(some)):
        scan = some.scan(at)
        assert scan.labels is not None
        there = scan.labels != IGNORE
        cells = _cells(scan)[there] * classes + scan.labels[there]
        counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
    frequent = int(counts.sum(0).argmax())
    usual = np.where(counts.any(1), counts.argmax(1), frequent)
    shares = (counts + 1e-3) / (counts + 1e-3).sum(1, keepdims=True)

    def answer(scan: Scan) -> Answered:
        cells = _cells(scan)
        scores = np.log(shares[cells]).astype(np.float32)
        return Answered(usual[cells].astype(np.uint8), scores, train.image_of(scan))

    return frequent, answer


def _cells(scan: Scan) -> np.ndarray:
    far = np.hypot(scan.xyz[:, 0], scan.xyz[:, 1])
    height = np.searchsorted(HEIGHTS, scan.xyz[:, 2])
    return height * (len(RANGES) + 1) + np.searchsorted(RANGES, far)
