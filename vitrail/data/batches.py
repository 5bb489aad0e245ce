"""A batch is a function of (seed, epoch, number), whatever ran before and whoever computes it.

So a run that was stopped goes on with the very bits of one that was not, threads that work
ahead change nothing, and two processes see between them what one would see.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from vitrail.data import augment as augmentation
from vitrail.data.augment import Augment, Draws
from vitrail.data.cache import Pixels
from vitrail.errors import ConfigError

_AHEAD = 2  # batches under way or waiting, for each worker


@dataclass(frozen=True, eq=False)
class Batch:
    """`images` float32 (b, C, H, W), normalised, channels last in memory; `targets` int64 (b,)
    class indices, or float32 (b, classes) where images are mixed or have several labels; `indices`
    int64 (b,) into the pixels; `views` int64 (b,) is 1 for mirrored images and 0 for those that are
    as they were, None where augmentation does more (`Augment.views`). Where `embedded`, the images
    are features (b, width), as a head sees them."""

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    views: torch.Tensor | None = None
    embedded: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch on a device."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.indices.to(device, non_blocking=True),
            None if self.views is None else self.views.to(device, non_blocking=True),
            self.embedded,
        )


class Batches:
    """Batches of `batch` images of `pixels`, shuffled anew each epoch, augmented, normalised.

    `mean` and `std` are per channel in units of 0 to 1 (`data.cache.statistics`); `classes` the
    number of classes (default: those of the pixels). For evaluation take shuffle=False,
    drop_last=False and no augmentation: each epoch then has every image once, in order. Fewer
    images than `batch` make one smaller batch per epoch. Raises ConfigError.
    """

    def __init__(
        self,
        pixels: Pixels,
        *,
        batch: int,
        seed: int = 0,
        augment: Augment | None = None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        classes: int | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        if batch < 1:
            raise ConfigError(f"batch is {batch}: expected at least 1 image")
        if seed < 0:
            raise ConfigError(f"seed is {seed}: expected 0 or a positive whole number")
        if not len(mean) == len(std) == pixels.channels:
            raise ConfigError(
                f"mean has {len(mean)} values and std {len(std)}: expected one for each of the "
                f"{pixels.channels} channels"
            )
        self.pixels, self.batch, self.seed, self.augment = pixels, batch, seed, augment
        self.mean, self.std, self.shuffle = tuple(mean), tuple(std), shuffle
        self.classes = len(pixels.classes) if classes is None else classes
        labels = pixels.labels
        self._labels = labels if labels.ndim == 1 else labels.astype(np.float32)
        n = len(pixels)
        self.steps_per_epoch = max(1, n // batch) if drop_last else -(-n // batch)
        # One row of pixels, so that the broadcast runs along memory even with one channel.
        width = pixels.image[1]
        std_32, mean_32 = np.asarray(std, np.float64), np.asarray(mean, np.float64)
        self._factor = np.tile(1 / (255 * std_32), width).astype(np.float32)
        self._offset = np.tile(-mean_32 / std_32, width).astype(np.float32)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._first: np.ndarray | None = None  # who is flipped in the first epoch
        # What is known of each view, (N, views, width), to be given in place of the images.
        self.features: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return self.steps_per_epoch

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows.

        All draws are made for the whole batch. The shares are contiguous and cover it once;
        those of a last, smaller batch may be empty. Raises ConfigError for a number too large.
        """
        indices, rows = self.drawn(epoch, number, rank=rank, world=world)
        mine = indices[rows]
        if self.features is not None:
            return self._embedded(indices, rows, epoch, generator(self.seed, epoch, number + 1))
        labels = self._labels
        augment = self.augment
        views: np.ndarray | None = np.zeros(len(mine), np.int64)
        if augment is None:
            images, targets = self.normalised(self.pixels.take(mine)), labels[mine]
        else:
            random = generator(self.seed, epoch, number + 1)
            draws = self._draws(augment, indices, epoch, random)
            views = None if augment.views is None else draws.flip[rows].astype(np.int64)
            if augment.mixes:
                images = self._mixed(augment, indices, draws, rows)
                targets = augmentation.soften(labels[indices], draws, rows, self.classes)
            else:
                placed = augmentation.place(augment, self.pixels.take(mine), draws, rows)
                images = augmentation.erase(self.normalised(placed), draws, rows)
                targets = labels[mine]
        return Batch(
            torch.from_numpy(images).permute(0, 3, 1, 2),
            torch.from_numpy(targets),
            torch.from_numpy(mine),
            None if views is None else torch.from_numpy(views),
        )

    def drawn(
        self, epoch: int, number: int, *, rank: int = 0, world: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return which images batch `number` of `epoch` has, and which of its rows are rank's.

        Raises ConfigError for a number too large.
        """
        if not 0 <= number < self.steps_per_epoch:
            raise ConfigError(f"batch {number} of an epoch of {self.steps_per_epoch} batches")
        indices = self._epoch(epoch)[number * self.batch : (number + 1) * self.batch]
        n = len(indices)
        return indices, np.arange(rank * n // world, (rank + 1) * n // world)

    def iterate(
        self, step: int = 0, *, stop: int, workers: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Yield the batches of the steps from `step` up to, not including, `stop`, over the epochs.

        With `workers` threads working ahead; order and bits are those without.
        """
        places = (divmod(at, self.steps_per_epoch) for at in range(step, stop))
        if not workers:
            for place in places:
                yield self.get(*place, rank=rank, world=world)
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        waiting: deque = deque()
        try:
            for place in places:
                waiting.append(pool.submit(self.get, *place, rank=rank, world=world))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _embedded(
        self, indices: np.ndarray, rows: np.ndarray, epoch: int, random: np.random.Generator
    ) -> Batch:
        """Return the features of those views that would be shown."""
        assert self.features is not None
        mine = indices[rows]
        views = np.zeros(len(mine), np.int64)
        if self.augment is not None:
            drawn = self._draws(self.augment, indices, epoch, random)
            views = drawn.flip[rows].astype(np.int64)
        return Batch(
            torch.from_numpy(self.features[mine, views]),
            torch.from_numpy(self._labels[mine]),
            torch.from_numpy(mine),
            torch.from_numpy(views),
            embedded=True,
        )

    def _draws(
        self, augment: Augment, indices: np.ndarray, epoch: int, random: np.random.Generator
    ) -> Draws:
        """Draw for the images of a batch; alternating flips depend on image and epoch alone."""
        draws = augmentation.draw(augment, len(indices), self.pixels.image, random)
        if augment.flips == "random":
            return draws
        if self._first is None:
            coins = generator(self.seed, 0, 0, 1).random(len(self.pixels))
            self._first = coins < augment.flip
        turned = self._first[indices] ^ bool(epoch % 2) if augment.flip else draws.flip
        return replace(draws, flip=turned)

    def _mixed(
        self, augment: Augment, indices: np.ndarray, draws: Draws, rows: np.ndarray
    ) -> np.ndarray:
        needed, at = np.unique(np.concatenate([rows, draws.partner[rows]]), return_inverse=True)
        placed = augmentation.place(augment, self.pixels.take(indices[needed]), draws, needed)
        # As published: what is erased of one image may show the other.
        images = augmentation.erase(self.normalised(placed), draws, needed)
        return augmentation.blend(images[at[: len(rows)]], images[at[len(rows) :]], draws, rows)

    def normalised(self, images: np.ndarray) -> np.ndarray:
        """Return uint8 (b, H, W, C) as float32, less the mean and by the deviation."""
        flat = images.reshape(*images.shape[:2], -1)
        out = np.multiply(flat, self._factor, dtype=np.float32)
        out += self._offset
        return out.reshape(images.shape)

    def _epoch(self, epoch: int) -> np.ndarray:
        known, order = self._order
        if known != epoch:
            n = len(self.pixels)
            order = generator(self.seed, epoch, 0).permutation(n) if self.shuffle else np.arange(n)
            if self.shuffle and self.augment is not None:
                order = order.repeat(self.augment.repeats)[:n]
            self._order = (epoch, order)
        return order


def generator(*words: int) -> np.random.Generator:
    """Return the generator that some whole numbers name: the same on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
