"""Batches of images, what each is asked for in words, and the objects that are asked for.

Minderer et al., "Simple Open-Vocabulary Object Detection with Vision Transformers", ECCV 2022,
arXiv 2205.06230: images are padded with grey below and right to a square, several may lie side by
side (`data.mosaics`), and queries may be federated, so that what nobody looked for costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data import augment as augmentation
from vitrail.data import mosaics
from vitrail.data.batches import generator
from vitrail.data.box_batches import BoxBatches, moved
from vitrail.data.boxes import Truth
from vitrail.data.decode import resize
from vitrail.data.mosaics import Tile, mosaic

GREY, NOTHING = 128, -1.0


@dataclass(frozen=True, eq=False)
class QueryBatch:
    """`images` float32 (b, C, H, W); `tokens` ids of Q sentences each, int64 (b, Q, N), padded with
    zeros; `targets` float32 (b, m, 5): which of the sentences an object is, -1 in empty rows, and
    its box (cx, cy, w, h) in shares of the square; `indices` int64 (b,)."""

    images: Tensor
    targets: Tensor
    indices: Tensor
    tokens: Tensor
    views: Tensor | None = None
    embedded: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> QueryBatch:
        """Return the same batch on a device."""
        names = ("images", "targets", "indices", "tokens")
        return replace(
            self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names}
        )


@dataclass(frozen=True, eq=False)
class Asking:
    """What images are asked for: the kinds of `learned`, bool (K,), each by one of its sentences,
    ids int64 (K, P, N).

    With `federated` an image is asked for what it is known to show or not to show, and for up to
    `least` other kinds, `most` in all; else for all kinds that are learned. With `mosaics` several
    images lie side by side.
    """

    sentences: np.ndarray
    learned: np.ndarray
    federated: bool = True
    least: int = 50
    most: int = 100
    mosaics: bool = False


class QueryBatches(BoxBatches):
    """Batches of images with boxes and what they are asked for. Further arguments are those of
    `Batches`; without augmentation every image is asked for all kinds that are learned, alone."""

    def __init__(self, pixels: Any, asking: Asking, **order: Any) -> None:
        super().__init__(pixels, **order)
        self._asking = asking
        truths = [self._truth(at) for at in range(len(pixels))]
        counts = np.zeros(len(pixels.classes))
        for one in truths:
            counts[list(one.classes)] += 1
        self._frequencies: np.ndarray = counts * asking.learned

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> QueryBatch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows."""
        indices, rows = self.drawn(epoch, number, rank=rank, world=world)
        if self.augment is None:
            shown = self._tiles(indices[rows], None)
            images = self._images(shown)
            queries = [self._all(one) for one in shown]
        else:
            shown, images = self._augmented(indices, rows, epoch, number + 1)
            queries = [
                self._queries(one, generator(self.seed, epoch, number + 1, 5, row))
                for one, row in zip(shown, rows.tolist(), strict=True)
            ]
        objects = [_objects(one, asked) for one, (asked, _) in zip(shown, queries, strict=True)]
        return QueryBatch(
            torch.from_numpy(images).permute(0, 3, 1, 2),
            _padded(objects, NOTHING),
            torch.from_numpy(indices[rows]),
            _padded([tokens for _, tokens in queries], 0),
        )

    def _augmented(
        self, indices: np.ndarray, rows: np.ndarray, *words: int
    ) -> tuple[list[Tile], np.ndarray]:
        """Return what some rows of a batch show, of one image or several side by side, and the
        normalised pixels; `words` name the batch."""
        assert self.augment is not None
        random, sides = generator(self.seed, *words), [1] * len(indices)
        if self._asking.mosaics:
            sides = [
                mosaics.side(generator(self.seed, *words, 4, row)) for row in range(len(indices))
            ]
        begins = [0, *accumulate(side * side for side in sides)]
        beside = random.integers(len(self.pixels), size=begins[-1])
        beside[begins[:-1]] = indices  # the first of each is its own
        draws = augmentation.draw(self.augment, len(beside), self.pixels.image, random)
        shown = []
        for row in rows.tolist():
            own = np.arange(begins[row], begins[row + 1])
            shown.append(mosaic(self._tiles(beside[own], (draws, own))))
        first = np.array(begins, np.int64)[rows]
        return shown, augmentation.erase(self._images(shown), draws, first)

    def _truth(self, at: int) -> Truth:
        return self._boxes.truths[int(self.pixels.part.rows[at])]

    def _tiles(self, mine: np.ndarray, drawn: Any) -> list[Tile]:
        """Return some images, each in its square, with their objects of kinds that are learned."""
        images, targets = self.pixels.take(mine), [self._targets(int(at)) for at in mine]
        if drawn is not None:
            assert self.augment is not None
            images, targets = moved(self.augment, images, targets, *drawn)
        tiles, learned = [], self._asking.learned
        for image, own, at in zip(images, targets, mine.tolist(), strict=True):
            truth = self._truth(at)
            kinds = own[:, 0].astype(np.int64)
            real = (kinds >= 0) & learned[np.maximum(kinds, 0)]
            square, shares = squared(image, truth.size)
            corners = own[real, 1:5] * np.tile(shares, 2)
            sides = corners[:, 2:] - corners[:, :2]
            boxes = np.concatenate([corners[:, :2] + sides / 2, sides], 1)
            tiles.append(Tile(square, boxes, kinds[real], absent(truth, learned)))
        return tiles

    def _images(self, shown: Sequence[Tile]) -> np.ndarray:
        """Return pictures at the size of the network, normalised."""
        same = [resize(one.image[None], self.pixels.image)[0] for one in shown]
        return self.normalised(np.stack(same))

    def _all(self, shown: Tile) -> tuple[np.ndarray, np.ndarray]:
        asked = np.flatnonzero(self._asking.learned)
        return asked, self._asking.sentences[asked, 0]

    def _queries(self, shown: Tile, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the kinds that an image is asked for, and a sentence of each."""
        asking = self._asking
        asked = np.flatnonzero(asking.learned)
        if asking.federated:
            there = np.unique(shown.kinds).tolist()
            # In no order, so that where there are too many each is left out as often.
            known = random.permutation(sorted(shown.absent)).tolist()
            asked = federated(
                there, known, self._frequencies, random, least=asking.least, most=asking.most
            )
        said = random.integers(asking.sentences.shape[1], size=len(asked))
        return asked, asking.sentences[asked, said]


def absent(truth: Truth, learned: np.ndarray) -> frozenset[int]:
    """Return the kinds that an image is known not to show, of those that are learned, bool (K,)."""
    every = range(len(learned)) if truth.absent is None else truth.absent
    there = set(truth.labels.tolist())
    return frozenset(kind for kind in every if learned[kind] and kind not in there)


def squared(
    image: np.ndarray, size: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return a picture of (height, width) `size`, which is stretched to the image, in its own
    proportions above and left of grey, and which shares of (width, height) it fills."""
    height, width = size or image.shape[:2]
    whole = image.shape[0], image.shape[1]
    shares = width / max(height, width), height / max(height, width)
    inner = max(1, round(whole[0] * shares[1])), max(1, round(whole[1] * shares[0]))
    if inner == whole:
        return image, shares
    out = np.full_like(image, GREY)
    out[: inner[0], : inner[1]] = resize(image[None], inner)[0]
    return out, shares


def federated(
    positives: Sequence[int],
    negatives: Sequence[int],
    frequencies: np.ndarray,
    random: np.random.Generator,
    *,
    least: int = 50,
    most: int = 100,
) -> np.ndarray:
    """Return the kinds that an image is asked for, int64 (Q,) of at most `most`.

    First those that it shows, then those that it is known not to show, then up to `least` others
    drawn without repetition by how often the data set has them. What is unknown of an image is
    asked for only by that draw.
    """
    known = list(dict.fromkeys([*positives, *negatives]))
    weights = np.asarray(frequencies, np.float64).copy()
    weights[known] = 0
    room = max(0, min(least, most - len(known), int((weights > 0).sum())))
    drawn = (
        random.choice(len(weights), room, replace=False, p=weights / weights.sum()) if room else []
    )
    return np.array([*known, *drawn], np.int64)[:most]


def _objects(shown: Tile, asked: np.ndarray) -> np.ndarray:
    """Return the objects of kinds that are asked for, float32 (m, 5)."""
    places = {kind: at for at, kind in enumerate(asked.tolist())}
    at = np.array([places.get(kind, -1) for kind in shown.kinds.tolist()], np.float32)
    return np.column_stack([at, shown.boxes.reshape(-1, 4)])[at >= 0].astype(np.float32)


def _padded(some: Sequence[np.ndarray], filler: float) -> Tensor:
    """Return arrays (n, w) of several lengths as one tensor (b, m, w), with one row at least."""
    most = max(1, *map(len, some), 1)
    out = np.full((len(some), most, some[0].shape[1]), filler, some[0].dtype)
    for row, own in zip(out, some, strict=True):
        row[: len(own)] = own
    return torch.from_numpy(out)
