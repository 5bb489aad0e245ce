"""The boxes of a source: what is where in each image, as files say it and as the gate leaves it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class BrokenBoxes(Exception):
    """Annotations of an image that cannot be used; the reason follows on "has annotations that"."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is in one image: boxes (n, 4), a class for each, and whether it is a crowd.

    Boxes are (x1, y1, x2, y2), in pixels from the upper left corner, or in `shares` of the sides.
    A `crowd` counts for nothing, neither as something to find nor as something wrong. `size` is
    (height, width) as the annotation has it, or None; `fault` says why nothing can be used.
    `outlines` are of each object what COCO calls its segmentation, polygons or run lengths in
    pixels, and `pictures` what is drawn of them in their boxes, in bits (n, bytes); both may be
    missing. Where only some classes were looked for in an image, `absent` are those that were and
    are not in it; None says that all were.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    size: tuple[int, int] | None = None
    shares: bool = False
    fault: str = ""
    outlines: tuple[Any, ...] = ()
    pictures: np.ndarray | None = None
    absent: frozenset[int] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> bytes:
        """Return the digest by which it is known."""
        state = hashlib.blake2b(self.boxes.astype("<f8").tobytes(), digest_size=16)
        state.update(self.labels.astype("<i8").tobytes() + self.crowd.tobytes())
        if self.pictures is not None:
            state.update(self.pictures.tobytes())
        if self.absent is not None:
            state.update(np.array(sorted(self.absent), "<i8").tobytes() + b"absent")
        return state.digest()

    @property
    def classes(self) -> tuple[int, ...]:
        """Return the classes that it shows, each once, without those of crowds."""
        return tuple(np.unique(self.labels[~self.crowd]).tolist())

    def kept(self, chosen: ArrayLike) -> Truth:
        """Return some of the boxes, by rows or by marks."""
        at = np.arange(len(self))[np.asarray(chosen)]
        pictures = None if self.pictures is None else self.pictures[at]
        return replace(
            self, boxes=self.boxes[at], labels=self.labels[at], crowd=self.crowd[at],
            outlines=tuple(self.outlines[i] for i in at) if self.outlines else (),
            pictures=pictures,
        )  # fmt: skip

    def as_shares(self) -> np.ndarray:
        """Return the boxes in shares of the sides, of what the gate has looked at."""
        if self.size is None or not len(self):
            return np.zeros((0, 4))
        height, width = self.size
        return self.boxes / [width, height, width, height]


def truth(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    crowd: Sequence[bool] | None = None,
    **more: object,
) -> Truth:
    """Return what is in an image, from lists."""
    marks = [False] * len(labels) if crowd is None else crowd
    return Truth(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64),
        np.array(marks, bool), **more,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def broken(reason: str) -> Truth:
    """Return that nothing can be used of an image's annotations."""
    return truth([], [], fault=reason)


@dataclass(frozen=True, eq=False)
class Boxes:
    """What is in each image of a source, in the order of its items."""

    truths: tuple[Truth, ...] = field(repr=False)

    def digests(self, rows: Sequence[int] | np.ndarray) -> bytes:
        """Return by what the boxes of some items are known."""
        return b"".join(self.truths[int(row)].digest for row in rows)

    def padded(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the truth of some items, float64 (n, m, 6): a box in pixels, its class and whether
        it is a crowd; rows without an object have the class -1."""
        some = [self.truths[int(row)] for row in rows]
        found = np.full((len(some), max(map(len, some), default=0), 6), -1.0)
        for out, one in zip(found, some, strict=True):
            out[: len(one), :4], out[: len(one), 4] = one.boxes, one.labels
            out[: len(one), 5] = one.crowd
        return found
