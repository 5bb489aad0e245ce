"""The masks of a source: which class each pixel of an image has, read from files of indices.

A mask is uint8 (H, W): the index of a class, or `IGNORE` where a pixel counts for nothing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from vitrail import files
from vitrail.data.parallel import in_order
from vitrail.errors import DataError

IGNORE = 255
MOST_CLASSES = 255
# What a mask may have at most: a side of a million would fill any memory.
MOST_PIXELS = 1 << 28

_AT_ONCE = 16
Colour = tuple[int, int, int]


class BrokenMask(Exception):
    """A mask that cannot be used: its kind, and the reason, which follows on "mask KEY ..."."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True)
class Meaning:
    """What the values of mask files mean: `values` maps a value to a class, `colours` an RGB
    colour. Values in `ignored` count for nothing. Where `values` is None every value is a class.
    """

    values: Mapping[int, int] | None = None
    colours: Mapping[Colour, int] = field(default_factory=dict)
    ignored: frozenset[int] = frozenset({IGNORE})


class Reader(Protocol):
    """Whatever gives the masks of a source, row by row."""

    def keys(self) -> Sequence[str]:
        """Return by which name each mask is known."""
        ...

    def read(self, row: int) -> np.ndarray:
        """Return the mask of an item, uint8 (H, W). Raises BrokenMask and OSError."""
        ...


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """Masks that are files below `root`, one for each item of the source."""

    root: Path
    files: tuple[str, ...] = field(repr=False)
    meaning: Meaning = Meaning()

    def keys(self) -> Sequence[str]:
        """Return the files, relative to the root."""
        return self.files

    def read(self, row: int) -> np.ndarray:
        """Return the mask of an item, uint8 (H, W). Raises BrokenMask and OSError."""
        data = files.read(self.root / self.files[row], files.LARGE_BYTES)
        return as_classes(values_of(data), self.meaning)


@dataclass(frozen=True)
class Fault:
    """A mask that cannot be used, and why."""

    kind: str
    reason: str


@dataclass(frozen=True, eq=False)
class Facts:
    """What one mask holds: (height, width), the pixels of each class, and a digest of it."""

    size: tuple[int, int]
    counts: np.ndarray
    ignored: int
    digest: bytes


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a source, in the order of its items, and what a pass over them saw."""

    reader: Reader = field(repr=False)
    seen: tuple[Facts | Fault, ...] = field(repr=False)

    def read(self, row: int) -> np.ndarray:
        """Return the mask of an item at its own size, uint8 (H, W). Raises DataError."""
        try:
            return self.reader.read(row)
        except (OSError, BrokenMask) as error:
            key = self.reader.keys()[row]
            raise DataError(
                f"mask {key} has changed since it was inspected ({error}): start again"
            ) from error

    def digests(self, rows: Sequence[int] | np.ndarray) -> bytes:
        """Return by what the masks of some items are known."""
        found = (self.seen[int(row)] for row in rows)
        return b"".join(one.digest for one in found if isinstance(one, Facts))


def values_of(data: bytes) -> np.ndarray:
    """Return the values of a mask file: uint8 (H, W) of grey or palette images, (H, W, 3)
    of colour. Raises BrokenMask.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in ("JPEG", "MPO", "WEBP") and image.info.get("lossless") is None:
                raise BrokenMask(
                    "mask format",
                    f"is a {image.format}, which changes values: save masks as PNG",
                )
            if image.width * image.height > MOST_PIXELS:
                raise BrokenMask("mask unreadable", f"has {image.width}x{image.height} pixels")
            image.load()
            return _plain(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenMask("mask unreadable", f"cannot be read as an image ({error})") from error


def _plain(image: Image.Image) -> np.ndarray:
    """Return the values of an image in one of the modes that masks have."""
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * 255
    if image.mode in ("L", "P"):
        return np.array(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > IGNORE:
            raise BrokenMask("mask value", f"holds the value {deep.max()}, where 255 is the most")
        return deep.astype(np.uint8)
    if image.mode == "LA":
        return np.asarray(image)[..., 0].copy()
    if image.mode in ("RGB", "RGBA"):
        colours = np.asarray(image)[..., :3]
        if (colours == colours[..., :1]).all():
            return colours[..., 0].copy()
        return colours.copy()
    raise BrokenMask("mask format", f"has pixels of mode {image.mode}, not indices of classes")


def as_classes(values: np.ndarray, meaning: Meaning) -> np.ndarray:
    """Return values or colours of a mask as classes, uint8 (H, W). Raises BrokenMask."""
    if values.ndim == 3:
        return _of_colours(values, meaning)
    if meaning.values is None:
        return values
    table = np.full(256, -1, np.int64)
    table[list(meaning.ignored)] = IGNORE
    for value, label in meaning.values.items():
        table[value] = label
    found = table[values]
    if found.min() < 0:
        unknown = np.unique(values[found < 0])
        raise BrokenMask(
            "mask value",
            f"holds the value {unknown[0]}, which stands for no class"
            + (f" (and {len(unknown) - 1} more such)" if len(unknown) > 1 else ""),
        )
    return found.astype(np.uint8)


def _of_colours(values: np.ndarray, meaning: Meaning) -> np.ndarray:
    if not meaning.colours:
        raise BrokenMask(
            "mask colour",
            "is in colours, of which nothing says what they mean: give class_dict.csv with the "
            "columns name,r,g,b, or masks of indices",
        )
    packed = (values.astype(np.int64) << np.array([16, 8, 0])).sum(-1)
    out = np.full(packed.shape, -1, np.int64)
    for (r, g, b), label in meaning.colours.items():
        out[packed == (r << 16 | g << 8 | b)] = label
    if out.min() < 0:
        r, g, b = values[out < 0][0].tolist()
        raise BrokenMask(
            "mask colour", f"holds the colour ({r}, {g}, {b}), which stands for no class"
        )
    return out.astype(np.uint8)


def look(reader: Reader, *, progress: bool = False, workers: int | None = None) -> Masks:
    """Read every mask once and keep what it holds."""

    def work(rows: range) -> list[Facts | Fault]:
        return [_facts(reader, row) for row in rows]

    n = len(reader.keys())
    parts = in_order(
        work, n, size=_AT_ONCE, workers=workers, title="reading masks", progress=progress
    )
    return Masks(reader, tuple(one for part in parts for one in part))


def _facts(reader: Reader, row: int) -> Facts | Fault:
    try:
        mask = reader.read(row)
    except BrokenMask as error:
        return Fault(error.kind, error.reason)
    except OSError as error:
        return Fault("mask unreadable", f"cannot be read ({error.strerror or error})")
    counts = np.bincount(mask.ravel(), minlength=256)
    digest = hashlib.blake2b(mask.tobytes(), digest_size=16, key=str(mask.shape).encode())
    height, width = mask.shape
    return Facts((height, width), counts[:IGNORE], int(counts[IGNORE]), digest.digest())


def resized(mask: np.ndarray, image: tuple[int, int]) -> np.ndarray:
    """Return a mask (h, w) at another size (H, W): the class nearest to each pixel's centre."""
    if mask.shape == tuple(image):
        return mask
    down, right = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(image, mask.shape, strict=True)
    )
    return np.ascontiguousarray(mask[down[:, None], right])
