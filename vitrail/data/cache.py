"""Decoded images of one size: a memory-mapped file made once, or a stream where that is too big.

What else is made of images once (`kept`) lies in rooms beside them, under the same limit.

A cache file is written under a name of its own and renamed when it is complete, so a kill
half-way leaves no half file behind that anyone would read, and two runs at once do not meet.
"""

import hashlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vitrail import units
from vitrail.data import store
from vitrail.data.builtin import cache_folder
from vitrail.data.decode import DECODER, BrokenImage, decode, decode_full, resize
from vitrail.data.parallel import in_order
from vitrail.data.scan import digest
from vitrail.data.sounds import sound_picture
from vitrail.data.split import Part
from vitrail.errors import DataError
from vitrail.measure.machine import cores

__all__ = ["Pixels", "decode", "decode_full", "kept", "pixels", "statistics"]

# More than this is streamed, and so is what would take nine tenths of the free disk.
LIMIT_BYTES = 64 << 30

# What the cache may take while nobody uses it, unless VITRAIL_CACHE_LIMIT says otherwise.
CACHE_BYTES = 10 * 10**9
ROOMS = ("pixels", "features", "answers", "latency")

_ROWS_AT_ONCE = 64


class Pixels:
    """The images of a part at one size.

    `images` is uint8 (N, H, W, C), mapped from the cache and read-only, or None for a stream;
    `labels` int64 (N,), or 0 and 1 in (N, K) where images have several; `keys` the names of the
    images; `image` (H, W); `channels` C.
    """

    def __init__(
        self, part: Part, image: tuple[int, int], channels: int, images: np.ndarray | None,
        workers: int | None = None,
    ) -> None:  # fmt: skip
        self.part, self.image, self.channels, self.images = part, image, channels, images
        self.labels, self.classes = part.labels, part.classes
        self.workers = workers

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def keys(self) -> tuple[str, ...]:
        return self.part.keys

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the number of images of each class."""
        return self.part.counts

    def first(self, n: int) -> "Pixels":
        """Return the first `n` images: a fair sample, as a part is in the order of its digests."""
        part = Part(self.part.source, self.part.rows[:n], self.part.digests[:n])
        images = None if self.images is None else self.images[:n]
        return type(self)(part, self.image, self.channels, images, self.workers)

    def halves(self) -> tuple["Pixels", "Pixels"]:
        """Return the images in two halves, both fair samples."""
        half = len(self) // 2
        part, images = self.part, self.images
        rest = Part(part.source, part.rows[half:], part.digests[half:])
        held = None if images is None else images[half:]
        return self.first(half), Pixels(rest, self.image, self.channels, held, self.workers)

    def take(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return a copy of the images at `indices`, uint8 (n, H, W, C). Streams decode them now."""
        if self.images is not None:
            return self.images[indices]
        return _decoded(self.part, np.asarray(indices), self.image, self.channels, self.workers)


def pixels(
    part: Part,
    image: tuple[int, int],
    channels: int,
    *,
    folder: Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    limit_bytes: int = LIMIT_BYTES,
) -> Pixels:
    """Give the images of `part` at `image` = (H, W) with 1 or 3 channels.

    Decodes them once to a file in `folder` (default: $VITRAIL_CACHE, or ~/.cache/vitrail),
    which is found again by the digest of the part, checked, and made again where it is damaged;
    where the file would have more than `limit_bytes` or $VITRAIL_CACHE_LIMIT or fill the disk,
    the images are decoded each time they are taken. Files that were not used for longest make
    room for it. Raises DataError for a file that is gone or has changed since it was inspected.
    """
    height, width = image
    shape = (len(part), height, width, channels)
    folder = cache_folder() if folder is None else Path(folder)
    path = folder / "pixels" / f"{_name(part, shape)}.npy"
    images = kept(
        path, shape, lambda: _blocks(part, shape, workers, progress), limit_bytes=limit_bytes
    )
    return Pixels(part, image, channels, images, workers)


def kept(
    path: Path,
    shape: tuple[int, ...],
    make: Callable[[], Iterable[np.ndarray]],
    *,
    limit_bytes: int = LIMIT_BYTES,
) -> np.ndarray | None:
    """Return the uint8 array of a cache file, read-only; `make` gives its rows where it lacks.

    `path` is folder / room / name. None where the file would have more than `limit_bytes` or
    $VITRAIL_CACHE_LIMIT, or fill the disk. Raises DataError for a cache that cannot be written.
    """
    try:
        values = _found(path, shape)
        if values is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            store.sweep(path.parent)
            if not _room(path.parents[1], math.prod(shape), limit_bytes):
                return None
            store.write_array(path, shape, make())
            values = store.open_array(path, shape)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the cache {path.parent} cannot be written ({getattr(error, 'strerror', 0) or error}):"
            " free some space, or name another folder in VITRAIL_CACHE"
        ) from error
    return values


def cache_limit() -> tuple[int, bool]:
    """Return what the cache may take, in bytes, and whether VITRAIL_CACHE_LIMIT says so.

    Raises ConfigError for a limit that cannot be read.
    """
    text = os.environ.get("VITRAIL_CACHE_LIMIT", "").strip()
    return (units.parse_size(text, "VITRAIL_CACHE_LIMIT"), True) if text else (CACHE_BYTES, False)


def statistics(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, in units of 0 to 1.

    Counted in whole numbers, so the same on every machine. Of a stream up to 2,048 images,
    evenly spaced, are taken. A channel without contrast has deviation 1/255.
    """
    n = len(pixels)
    step = -(-n // 2048) if pixels.images is None else 1
    wanted = np.arange(0, n, step)
    histogram = np.zeros((pixels.channels, 256), np.int64)
    for start in range(0, len(wanted), 256):
        block = pixels.take(wanted[start : start + 256])
        for channel in range(pixels.channels):
            histogram[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    levels = np.arange(256)
    means, deviations = [], []
    for counts in histogram:
        total, first, second = (int((counts * levels**power).sum()) for power in range(3))
        means.append(first / total / 255)
        variance = max(0, second * total - first * first) / total**2
        deviations.append(max(math.sqrt(variance), 1.0) / 255)
    return tuple(means), tuple(deviations)


def _name(part: Part, shape: tuple[int, ...]) -> str:
    """Return the name by which the images of a part are found again:
    contents, size, decoder and scales.
    """
    text = f"{part.digest} {shape} {DECODER} {part.source.ranges}"
    if part.source.hearing is not None:
        text += f" {part.source.hearing}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _found(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the cached array, or None where there is none, or none that can be trusted."""
    try:
        return store.open_array(path, shape)
    except ValueError as error:
        warnings.warn(f"the cache file {path} {error}: it is made again", stacklevel=4)
        return None


def _room(folder: Path, need: int, limit_bytes: int) -> bool:
    """Remove what was not used for longest for `need` bytes; whether these may be written."""
    limit, told = cache_limit()
    if need > (min(limit, limit_bytes) if told else limit_bytes):
        return False
    found = [entry for entry in store.entries(folder) if entry.room in ROOMS]
    full = sum(entry.size for entry in found) + need - limit
    short = int(need - 0.9 * shutil.disk_usage(folder).free)
    for _ in store.trim(found, max(full, short)):
        pass
    return need <= 0.9 * shutil.disk_usage(folder).free


def _blocks(
    part: Part, shape: tuple[int, int, int, int], workers: int | None, progress: bool
) -> Iterator[np.ndarray]:
    def work(rows: range) -> np.ndarray:
        return _decoded(part, np.arange(rows.start, rows.stop), shape[1:3], shape[3], 1)

    size = _ROWS_AT_ONCE if part.source.pixels is None else 4096
    title = f"decoding to {shape[1]}x{shape[2]}"
    return in_order(work, shape[0], size=size, workers=workers, title=title, progress=progress)


def _decoded(
    part: Part, at: np.ndarray, image: tuple[int, int], channels: int, workers: int | None
) -> np.ndarray:
    source, rows = part.source, part.rows[at]
    if source.pixels is not None:
        images = resize(source.pixels[rows][..., None], image)
        return np.repeat(images, channels, axis=3) if channels == 3 else images
    out = np.empty((len(rows), *image, channels), np.uint8)

    def work(some: range) -> None:
        for i in some:
            out[i] = _read(part, int(at[i]), image, channels)

    size = max(1, len(rows) // (4 * (workers or cores())))
    for _ in in_order(work, len(rows), size=size, workers=workers, title="", progress=False):
        pass
    return out


def _read(part: Part, at: int, image: tuple[int, int], channels: int) -> np.ndarray:
    item = part.source.items[part.rows[at]]
    changed = f"{item.key} of {part.source.origin} has changed since it was inspected: start again"
    try:
        data = part.source.read(item)
        if digest(data) != part.digests[at].astype(">u8").tobytes():
            raise DataError(changed)
        if part.source.hearing is not None:
            return sound_picture(data, part.source.hearing, image)
        return decode(data, image, channels, part.source.ranges)
    except (OSError, BrokenImage) as error:
        raise DataError(f"{changed} ({error})") from error
