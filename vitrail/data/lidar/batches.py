"""Batches of crops of range images with their points, a function of (seed, epoch, number)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vitrail.data.batches import Batches, generator
from vitrail.data.lidar.near import nearest
from vitrail.data.lidar.projection import ByScan, Projected, placed
from vitrail.data.lidar.reading import Scan
from vitrail.data.lidar.scans import Scans
from vitrail.data.masks import IGNORE
from vitrail.errors import ConfigError
from vitrail.layers.points import Points


@dataclass(frozen=True)
class Moves:
    """How often a scan is changed before it is projected, each a share of all: mirrored in y,
    shifted by up to 5 m along x, 3 m along y and 1 m down, turned by up to 5 degrees.

    Published values of RangeViT. Where rows are those of the file nothing is moved.
    """

    flip: float = 0.5
    shift: float = 0.5
    turn: float = 0.5

    def __post_init__(self) -> None:
        for name in ("flip", "shift", "turn"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected a share from 0 to 1")

    def moved(self, scan: Scan, random: np.random.Generator) -> Scan:
        """Return the scan as the generator moves it; draws are as many whatever they say."""
        chance, draws = random.random(3), random.random(4)
        xyz = scan.xyz.copy()
        if chance[0] < self.flip:
            xyz[:, 1] *= -1
        if chance[1] < self.shift:
            low, high = np.array([-5, -3, -1]), np.array([5, 3, 0])
            xyz += (low + (high - low) * draws[:3]).astype(np.float32)
        if chance[2] < self.turn:
            angle = math.radians(10 * draws[3] - 5)
            c, s = math.cos(angle), math.sin(angle)
            xyz[:, :2] = xyz[:, :2] @ np.array([[c, s], [-s, c]], np.float32)
        return replace(scan, xyz=xyz)


@dataclass(frozen=True, eq=False)
class ScanBatch:
    """`images` float32 (b, 5, H, W) normalised; `points` those in the crops, None for a network
    that answers for pixels; `targets` int64 (N,) their classes, or those of pixels (b, H, W);
    `indices` int64 (b,). `IGNORE` counts for nothing."""

    images: Tensor
    targets: Tensor
    indices: Tensor
    points: Points | None = None
    views: Tensor | None = None
    embedded: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> ScanBatch:
        """Return the same batch on a device."""
        points = self.points
        if points is not None:
            places, xyz, near = (one.to(device, non_blocking=True) for one in points[:3])
            points = Points(places, xyz, near, points.counts)
        images, targets, indices = (
            one.to(device, non_blocking=True) for one in (self.images, self.targets, self.indices)
        )
        return ScanBatch(images, targets, indices, points)


@dataclass(frozen=True)
class Crop:
    """What a batch takes of a scan: `neighbours` of each point (0: no points but pixels), mean and
    deviation of the channels, and moves (None: as it is)."""

    neighbours: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    moves: Moves | None = None


class ScanBatches(Batches):
    """Batches of `batch` scans, shuffled anew each epoch: of each a crop of the network's width, at
    a place that the batch's own generator draws."""

    def __init__(self, scans: Scans, crop: Crop, *, batch: int, seed: int = 0) -> None:
        super().__init__(scans, batch=batch, seed=seed, mean=crop.mean, std=crop.std)  # pyright: ignore[reportArgumentType]
        self.scans, self.crop = scans, crop

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> ScanBatch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows."""
        indices, rows = self.drawn(epoch, number, rank=rank, world=world)
        parts = [
            self._crop(int(indices[row]), generator(self.seed, epoch, number + 1, int(row)))
            for row in rows
        ]
        return joined(parts, indices[rows])

    def _crop(self, at: int, random: np.random.Generator) -> Cropped:
        scan = self.scans.scan(at)
        if self.crop.moves is not None and not isinstance(self.scans.projection, ByScan):
            scan = self.crop.moves.moved(scan, random)
        image, width = self.scans.image_of(scan), self.scans.image[1]
        free = max(0, image.index.shape[1] - width)
        begin = int(random.integers(0, free + 1))
        _, column = image.cells()
        inside = (column >= begin) & (column < begin + width)
        if not inside.any():  # there is always a point somewhere
            begin = min(free, max(0, int(column[random.integers(len(column))]) - width // 2))
        return cropped(scan, image, slice(begin, begin + width), self.crop)


@dataclass(frozen=True, eq=False)
class Cropped:
    """One crop: image (5, H, W), classes of points (N,) or pixels (H, W), places, xyz and
    neighbours of the points."""

    image: np.ndarray
    targets: np.ndarray
    places: np.ndarray
    xyz: np.ndarray
    neighbours: np.ndarray | None


def cropped(scan: Scan, image: Projected, columns: slice, crop: Crop) -> Cropped:
    """Return some columns of a range image with the points in them."""
    assert scan.labels is not None
    seen = image.normalised(crop.mean, crop.std)[:, :, columns]
    if not crop.neighbours:
        index = image.index[:, columns]
        targets = np.where(index >= 0, scan.labels[index], IGNORE)
        return Cropped(seen, targets, image.places[:0], scan.xyz[:0], None)
    _, column = image.cells()
    inside = np.flatnonzero((column >= columns.start) & (column < columns.stop))
    places = placed(image.places[inside], columns.start, seen.shape[1:])
    xyz = scan.xyz[inside]
    return Cropped(seen, scan.labels[inside], places, xyz, nearest(xyz, crop.neighbours))


def joined(parts: list[Cropped], indices: np.ndarray) -> ScanBatch:
    """Return a batch of crops, the rows of neighbours counted over all of them."""
    images = torch.from_numpy(np.stack([one.image for one in parts]))
    if parts[0].neighbours is None:
        targets = torch.from_numpy(np.stack([one.targets for one in parts]).astype(np.int64))
        return ScanBatch(images, targets, torch.from_numpy(indices))
    counts = tuple(len(one.targets) for one in parts)
    begins = np.cumsum([0, *counts[:-1]])
    near = [one.neighbours + begin for one, begin in zip(parts, begins, strict=True)]  # pyright: ignore[reportOptionalOperand]
    points = Points(
        torch.from_numpy(np.concatenate([one.places for one in parts])),
        torch.from_numpy(np.concatenate([one.xyz for one in parts])),
        torch.from_numpy(np.concatenate(near)),
        counts,
    )
    targets = torch.from_numpy(np.concatenate([one.targets for one in parts]).astype(np.int64))
    return ScanBatch(images, targets, torch.from_numpy(indices), points)
