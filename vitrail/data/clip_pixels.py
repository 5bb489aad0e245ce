"""Clips as training sees them: decoded frames of one size in one mapped file, and batches of them.

All frames of a part lie one after the other in the cache, so a view of a clip costs no decoding;
where they would fill the disk, a clip is decoded each time it is shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from vitrail.data import augment as augmentation
from vitrail.data.augment import Augment
from vitrail.data.batches import Batch, Batches, generator
from vitrail.data.builtin import cache_folder
from vitrail.data.cache import LIMIT_BYTES, Pixels, kept
from vitrail.data.clips import last_start, rows_of, view_start
from vitrail.data.decode import DECODER
from vitrail.data.parallel import in_order
from vitrail.data.source import Sampling
from vitrail.data.split import Part
from vitrail.data.videos import BrokenClip, file_digest, frames_of
from vitrail.errors import ConfigError, DataError

# What is of single pictures, and would differ from frame to frame or mixes what moves.
UNMEANT = ("randaugment", "policy", "mixup", "cutmix")


def check_augment(augment: Augment) -> None:
    """Raise ConfigError for what does not treat all frames of a clip alike."""
    for name in UNMEANT:
        if getattr(augment, name):
            raise ConfigError(
                f"augment.{name} is {getattr(augment, name)}: it is of single pictures, for clips "
                "use flip, shift, scale and erasing"
            )


class ClipPixels(Pixels):
    """The clips of a part at one size.

    `images` is uint8 (frames of all clips, H, W, 3), mapped from the cache, or None for a stream;
    `take` gives uint8 (n, T, H, W, 3), the middle of each clip, or `view` of `views`.
    """

    view, views = 0, 1

    @property
    def sampling(self) -> Sampling:
        """Return which frames are shown."""
        clips = self.part.source.clips
        assert clips is not None
        return clips

    @cached_property
    def lengths(self) -> np.ndarray:
        """Return the number of frames of each clip, int64 (N,)."""
        known = self.sampling.lengths
        return np.array([known[row] for row in self.part.rows.tolist()], np.int64)

    def seen_from(self, view: int, views: int) -> ClipPixels:
        """Return the same clips, of which `take` gives another view."""
        other = type(self)(self.part, self.image, self.channels, self.images, self.workers)
        other.view, other.views = view, views
        return other

    def first(self, n: int) -> ClipPixels:
        """Return the first `n` clips: a fair sample, as a part is in the order of its digests."""
        part = Part(self.part.source, self.part.rows[:n], self.part.digests[:n])
        images = None if self.images is None else self.images[: int(self.lengths[:n].sum())]
        other = type(self)(part, self.image, self.channels, images, self.workers)
        other.view, other.views = self.view, self.views
        return other

    def take(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the clips at `indices`, uint8 (n, T, H, W, 3). Streams decode them now."""
        return self.taken(indices, self.starts(indices))

    def starts(self, indices: Sequence[int] | np.ndarray) -> list[int]:
        """Return the frames from which on `take` shows the clips at `indices`."""
        lengths = self.lengths
        return [
            view_start(int(lengths[at]), self.sampling, self.view, self.views) for at in indices
        ]

    def taken(self, indices: Sequence[int] | np.ndarray, starts: Sequence[int]) -> np.ndarray:
        """Return the clips at `indices` from the frames `starts` on, uint8 (n, T, H, W, 3)."""
        lengths, sampling = self.lengths, self.sampling
        ends = np.cumsum(lengths)
        clips = []
        for at, start in zip(indices, starts, strict=True):
            rows = rows_of(int(lengths[at]), sampling, start)
            if self.images is None:
                clips.append(_frames(self.part, int(at), self.image, int(lengths[at]))[rows])
            else:
                clips.append(self.images[ends[at] - lengths[at] + rows])
        return np.stack(clips)


class MiddleFrames(Pixels):
    """The middle frame of each clip, as a picture: `take` gives uint8 (n, H, W, 3)."""

    def __init__(self, clips: ClipPixels) -> None:
        super().__init__(clips.part, clips.image, clips.channels, None)
        self._clips = clips

    def take(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the middle of the frames that are shown."""
        return self._clips.take(indices)[:, self._clips.sampling.frames // 2]


def clip_pixels(
    part: Part,
    image: tuple[int, int],
    *,
    folder: Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    limit_bytes: int = LIMIT_BYTES,
) -> ClipPixels:
    """Return the clips of `part` at `image` = (H, W), from a file of the cache that is made once;
    see `cache.pixels`. Raises DataError for a clip that is gone or has changed."""
    found = ClipPixels(part, image, 3, None, workers)
    lengths = found.lengths
    shape = (int(lengths.sum()), *image, 3)
    text = f"clips {part.digest} {shape} {DECODER}"
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    path = (cache_folder() if folder is None else folder) / "pixels" / f"{name}.npy"

    def blocks() -> Iterator[np.ndarray]:
        def work(rows: range) -> np.ndarray:
            return np.concatenate([_frames(part, at, image, int(lengths[at])) for at in rows])

        title = f"decoding to {image[0]}x{image[1]}"
        return in_order(work, len(part), size=1, workers=workers, title=title, progress=progress)

    found.images = kept(path, shape, blocks, limit_bytes=limit_bytes)
    return found


def _frames(part: Part, at: int, image: tuple[int, int], length: int) -> np.ndarray:
    item = part.source.items[part.rows[at]]
    changed = f"{item.key} of {part.source.origin} has changed since it was inspected: start again"
    try:
        path = part.source.path(item)
        if file_digest(path) != part.digests[at].astype(">u8").tobytes():
            raise DataError(changed)
        frames = frames_of(path, image)
    except (OSError, BrokenClip) as error:
        raise DataError(f"{changed} ({error})") from error
    if len(frames) != length:
        raise DataError(changed)
    return frames


class ClipBatches(Batches):
    """Batches whose `images` are clips, float32 (b, C, T, H, W).

    Arguments are those of `Batches`. In training the first frame is drawn anew each time, and all
    frames of a clip are moved alike; else each clip is seen as `pixels` gives it.
    """

    def __init__(self, pixels: ClipPixels, **order: object) -> None:
        super().__init__(pixels, **order)  # pyright: ignore[reportArgumentType]
        self._clips = pixels
        if self.augment is not None:
            check_augment(self.augment)

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows."""
        indices, rows = self.drawn(epoch, number, rank=rank, world=world)
        mine, clips = indices[rows], self._clips
        if self.augment is None:
            images = self.normalised(clips.take(mine))
        else:
            random = generator(self.seed, epoch, number + 1)
            starts = self._starts(indices, random)[rows]
            draws = self._draws(self.augment, indices, epoch, random)
            # Frames side by side as channels: so what moves one moves all.
            folded = _folded(clips.taken(mine, starts.tolist()))
            placed = augmentation.place(self.augment, folded, draws, rows)
            whole = self.normalised(_unfolded(placed, clips.sampling.frames))
            erased = augmentation.erase(_folded(whole), draws, rows)
            images = _unfolded(erased, clips.sampling.frames)
        return Batch(
            torch.from_numpy(np.ascontiguousarray(images)).permute(0, 4, 1, 2, 3),
            torch.from_numpy(self._labels[mine]),
            torch.from_numpy(mine),
        )

    def starts(self, epoch: int, number: int, rows: np.ndarray) -> np.ndarray:
        """Return the frames from which on some rows of a batch are seen."""
        indices, _ = self.drawn(epoch, number)
        if self.augment is None:
            return np.array(self._clips.starts(indices[rows]), np.int64)
        return self._starts(indices, generator(self.seed, epoch, number + 1))[rows]

    def _starts(self, indices: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Draw where each clip of a batch begins, which is the first that is drawn for it."""
        last = [last_start(int(n), self._clips.sampling) for n in self._clips.lengths[indices]]
        return random.integers(0, np.array(last) + 1)

    def normalised(self, images: np.ndarray) -> np.ndarray:
        """Return uint8 (b, T, H, W, C) as float32, less the mean and by the deviation."""
        flat = super().normalised(images.reshape(-1, *images.shape[2:]))
        return flat.reshape(images.shape)


def _folded(clips: np.ndarray) -> np.ndarray:
    """Fold (b, T, H, W, C) into (b, H, W, T C)."""
    b, t, h, w, c = clips.shape
    return np.ascontiguousarray(clips.transpose(0, 2, 3, 1, 4)).reshape(b, h, w, t * c)


def _unfolded(images: np.ndarray, frames: int) -> np.ndarray:
    """Unfold (b, H, W, T C) into (b, T, H, W, C)."""
    b, h, w, _ = images.shape
    return images.reshape(b, h, w, frames, -1).transpose(0, 3, 1, 2, 4)
