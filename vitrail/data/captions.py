"""The sentences of a source's images, and batches of images with one of their sentences each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vitrail.data.augment import Augment
from vitrail.data.batches import Batch, Batches, generator
from vitrail.data.cache import Pixels
from vitrail.data.words import Words
from vitrail.errors import ConfigError


class Captions:
    """The sentences of each item of a source, and how they become ids: of an image at least one.

    `words` are settled once, by the sentences of the training part or a file.
    """

    def __init__(self, texts: Sequence[tuple[str, ...]]) -> None:
        self.texts = tuple(texts)
        self._words: Words | None = None

    @property
    def words(self) -> Words:
        """Return how sentences become ids. Raises ConfigError before that is settled."""
        if self._words is None:
            raise ConfigError("no vocabulary is settled: learn one from the training sentences")
        return self._words

    def settle(self, words: Words) -> None:
        """Take these words for all sentences."""
        self._words = words

    def of(self, rows: np.ndarray) -> list[tuple[str, ...]]:
        """Return the sentences of some items."""
        return [self.texts[row] for row in rows.tolist()]

    def digest(self, rows: np.ndarray) -> bytes:
        """Return by which the sentences of some items are known again."""
        state = hashlib.blake2b(digest_size=16)
        for some in self.of(rows):
            for text in some:
                state.update(text.encode() + b"\0")
            state.update(b"\1")
        return state.digest()


def captions_of(pixels: Pixels) -> Captions:
    """Return the sentences of the source that some images are of. Raises ConfigError."""
    found = pixels.part.source.captions
    if found is None:
        raise ConfigError(f"images of {pixels.part.source.origin} have no sentences")
    return found


def check_augment(augment: Augment) -> None:
    """Raise ConfigError for what mixes images: their sentences do not mix."""
    for name in ("mixup", "cutmix"):
        if getattr(augment, name):
            raise ConfigError(
                f"augment.{name} is {getattr(augment, name)}: sentences of two images do not mix, "
                "leave it out"
            )


class CaptionBatches(Batches):
    """Batches whose `targets` are ids of one sentence of each image, int64 (b, length).

    Of several sentences one is drawn, another in every epoch. Arguments are those of `Batches`.
    Raises ConfigError.
    """

    def __init__(self, pixels: Pixels, **order: Any) -> None:
        super().__init__(pixels, **order)
        if self.augment is not None:
            check_augment(self.augment)
        captions = captions_of(pixels)
        texts = captions.of(pixels.part.rows)
        self._ids: np.ndarray = captions.words([text for some in texts for text in some])
        self._counts: np.ndarray = np.array([len(some) for some in texts])
        self._begins: np.ndarray = np.cumsum(self._counts) - self._counts

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows."""
        found = super().get(epoch, number, rank=rank, world=world)
        indices, rows = self.drawn(epoch, number, rank=rank, world=world)
        shares = generator(self.seed, epoch, number + 1, 1).random(len(indices))[rows]
        mine = found.indices.numpy()
        at = self._begins[mine] + (shares * self._counts[mine]).astype(np.int64)
        return replace(found, targets=torch.from_numpy(self._ids[at]))
