"""Sounds as waveforms, as training sees them: 16 bits a sample from the cache, and batches of them.

What is heard of each sound is what its spectrogram would be made of (`data.hearing`): the middle of
a long one, a short one between silences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.augment import Augment
from vitrail.data.batches import Batch, Batches
from vitrail.data.builtin import cache_folder
from vitrail.data.cache import LIMIT_BYTES, Pixels, kept
from vitrail.data.formats import BrokenImage
from vitrail.data.hearing import Hearing
from vitrail.data.parallel import in_order
from vitrail.data.scan import digest
from vitrail.data.sounds import wave_of
from vitrail.data.split import Part
from vitrail.data.waves import LOUDEST, in_16_bits
from vitrail.errors import ConfigError, DataError

_ROWS_AT_ONCE = 16
# What is of pictures: a sound has no rows, and played backwards it is another one.
UNMEANT = ("flip", "scale", "randaugment", "policy", "cutmix")


def check_augment(augment: Augment) -> None:
    """Raise ConfigError for what is not a change of a sound."""
    for name in UNMEANT:
        if getattr(augment, name):
            raise ConfigError(
                f"augment.{name} is {getattr(augment, name)}: it is of pictures, for waveforms use "
                "shift, mixup and erasing"
            )


class SoundWaves(Pixels):
    """The sounds of a part: `image` is (1, samples), and `images` its cache file.

    `take` gives float32 (n, samples) in [-1, 1].
    """

    @property
    def hearing(self) -> Hearing:
        """Return how the sounds are heard."""
        found = self.part.source.hearing
        assert found is not None
        return found

    def take(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the sounds at `indices`. Streams decode them now."""
        if self.images is None:
            stored = np.stack([_samples(self.part, int(at), self.hearing) for at in indices])
        else:
            stored = self.images[np.asarray(indices)].view(np.int16)[..., 0]
        return stored.astype(np.float32) / LOUDEST

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return a mean of 0 and a deviation of 1: samples are seen as they are."""
        return (0.0,), (1.0,)


def sound_waves(
    part: Part,
    *,
    folder: Path | None = None,
    progress: bool = True,
    limit_bytes: int = LIMIT_BYTES,
) -> SoundWaves:
    """Return the sounds of a part, from a file of the cache that is made once; see `cache.pixels`.

    Raises DataError for a sound that is gone or has changed.
    """
    hearing = part.source.hearing
    assert hearing is not None
    found = SoundWaves(part, (1, hearing.samples), 1, None)
    text = f"sounds {part.digest} {hearing.rate} {hearing.samples}"
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    path = (cache_folder() if folder is None else folder) / "pixels" / f"{name}.npy"

    def blocks() -> Iterator[np.ndarray]:
        def work(rows: range) -> np.ndarray:
            some = np.stack([_samples(part, at, hearing) for at in rows])
            return some.view(np.uint8).reshape(*some.shape, 2)

        return in_order(
            work, len(part), size=_ROWS_AT_ONCE, workers=None, title="decoding sounds",
            progress=progress,
        )  # fmt: skip

    shape = (len(part), hearing.samples, 2)
    found.images = kept(path, shape, blocks, limit_bytes=limit_bytes)
    return found


def _samples(part: Part, at: int, hearing: Hearing) -> np.ndarray:
    """Return what is heard of a sound, int16. Raises DataError."""
    item = part.source.items[part.rows[at]]
    changed = f"{item.key} of {part.source.origin} has changed since it was inspected: start again"
    try:
        data = part.source.read(item)
        if digest(data) != part.digests[at].astype(">u8").tobytes():
            raise DataError(changed)
        wave = wave_of(data, hearing)
    except (OSError, BrokenImage) as error:
        raise DataError(f"{changed} ({error})") from error
    return in_16_bits(wave)


class WaveBatches(Batches):
    """Batches whose `images` are sounds, float32 (b, 1, samples).

    Arguments are those of `Batches`. In training a sound is shifted in time, silence moving in, and
    mixed with another where that is asked for.
    """

    def __init__(self, sounds: SoundWaves, **order: Any) -> None:
        super().__init__(_InRows.of(sounds), **order)
        if self.augment is not None:
            check_augment(self.augment)

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows."""
        one = super().get(epoch, number, rank=rank, world=world)
        if one.embedded:
            return one
        return Batch(one.images[:, :, 0].contiguous(), one.targets, one.indices)

    def normalised(self, images: np.ndarray) -> np.ndarray:
        """Return sounds less the mean and by the deviation."""
        return (images - np.float32(self.mean[0])) / np.float32(self.std[0])


class _InRows(SoundWaves):
    """Sounds as what augmentation takes: pictures of one row, float32 (n, 1, samples, 1)."""

    @classmethod
    def of(cls, sounds: SoundWaves) -> _InRows:
        return cls(sounds.part, sounds.image, 1, sounds.images, sounds.workers)

    def take(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return super().take(indices)[:, None, :, None]
