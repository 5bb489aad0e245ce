"""Neighbours of points: those nearest in space, and those that vote on a point's class.

The vote is that of range images (Milioto et al., RangeNet++, IROS 2019): several points may share
a pixel, and the label of what is before them is not theirs. So the pixels around it whose range is
most like a point's own decide, each the more the less their range differs.
"""

from __future__ import annotations

import numpy as np

from vitrail.data.lidar.projection import Projected

VOTERS, WINDOW, CUTOFF_M = 5, 13, 1.0
_AT_ONCE = 1 << 13


def nearest(xyz: np.ndarray, k: int) -> np.ndarray:
    """Return the rows of the `k` points nearest to each of (N, 3): int64 (N, k), itself first.

    Where there are fewer than k points the last ones repeat the point itself.
    """
    from scipy.spatial import KDTree

    n = len(xyz)
    if not n:
        return np.zeros((0, k), np.int64)
    found = KDTree(xyz).query(xyz, min(k, n))[1].reshape(n, -1)
    own = np.arange(n)
    # Of points at one place the tree may name another first.
    misplaced = np.flatnonzero(found[:, 0] != own)
    for row in misplaced:
        at = np.flatnonzero(found[row] == row)
        found[row, at[0] if len(at) else -1] = found[row, 0]
        found[row, 0] = row
    more = np.repeat(own[:, None], k - found.shape[1], 1)
    return np.concatenate([found, more], 1).astype(np.int64)


def voted(
    labels: np.ndarray, image: Projected, classes: int, *, k: int = VOTERS, window: int = WINDOW
) -> np.ndarray:
    """Return the class of each point, uint8 (N,), from those of pixels, uint8 (H, W).

    `k` pixels of the `window` x `window` around a point's own vote; the image goes on at its left
    and right. A pixel counts from 1 for the same range down to nothing at a metre's difference;
    where all are farther off, the point's own pixel decides.
    """
    row, column = image.cells()
    found = [
        _votes(labels, image, (row[at : at + _AT_ONCE], column[at : at + _AT_ONCE]), at, window)
        .partitioned(k)
        .answer(classes)
        for at in range(0, len(row), _AT_ONCE)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.uint8)


class _Votes:
    """How far off the pixels around some points are, (n, window^2), and what they say."""

    def __init__(self, far: np.ndarray, says: np.ndarray, own: np.ndarray) -> None:
        self.far, self.says, self.own = far, says, own

    def partitioned(self, k: int) -> _Votes:
        """Return the `k` votes that are least far off."""
        k = min(k, self.far.shape[1])
        best = np.argpartition(self.far, k - 1, axis=1)[:, :k]
        far, says = (np.take_along_axis(one, best, 1) for one in (self.far, self.says))
        return _Votes(far, says, self.own)

    def answer(self, classes: int) -> np.ndarray:
        weight = np.clip(1 - self.far / CUTOFF_M, 0, None)
        n = len(self.own)
        total = np.bincount(
            (np.arange(n)[:, None] * classes + self.says).ravel(),
            weight.ravel(),
            minlength=n * classes,
        ).reshape(n, classes)
        said = total.argmax(1).astype(np.uint8)
        return np.where(total.any(1), said, self.own)


def _votes(
    labels: np.ndarray,
    image: Projected,
    cells: tuple[np.ndarray, np.ndarray],
    start: int,
    window: int,
) -> _Votes:
    row, column = cells
    height, width = labels.shape
    reach = np.arange(window) - window // 2
    rows = row[:, None, None] + reach[:, None]
    inside = (rows >= 0) & (rows < height)
    rows = np.clip(rows, 0, height - 1)
    columns = (column[:, None, None] + reach) % width
    flat = rows * width + columns
    ranges = image.features[0].ravel()[flat]
    there = inside & image.seen.ravel()[flat]
    depth = image.depth[start : start + len(row), None, None]
    far = np.where(there, np.abs(ranges - depth), np.inf).reshape(len(row), -1)
    says = labels.ravel()[flat].reshape(len(row), -1).astype(np.int64)
    return _Votes(far, says, labels[row, column])
