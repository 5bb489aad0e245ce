"""A list of labelled images, what is known of them, and how to read one."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from vitrail import files
from vitrail.data.boxes import Boxes
from vitrail.data.depth import Range
from vitrail.data.hearing import Hearing, Wanted
from vitrail.data.masks import Masks
from vitrail.data.uea import Series
from vitrail.errors import DataError
from vitrail.units import shortened

if TYPE_CHECKING:
    from vitrail.data.captions import Captions
    from vitrail.data.tracks import Tracks

PartName = Literal["train", "val", "test"]
Severity = Literal["info", "warning", "error"]
Kind = Literal["images", "series", "clips", "scans", "waves"]

# One item, and several.
NOUNS: dict[Kind, tuple[str, str]] = {
    "images": ("image", "images"), "series": ("series", "series"), "clips": ("clip", "clips"),
    "scans": ("scan", "scans"), "waves": ("sound", "sounds"),
}  # fmt: skip
SOUNDS = NOUNS["waves"]

_PARTS: dict[str, PartName] = {
    "train": "train", "training": "train", "trn": "train", "tr": "train", "learn": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "development": "val",
    "test": "test", "testing": "test", "tst": "test", "eval": "test", "evaluation": "test",
    "holdout": "test", "privatetest": "test",
    "publictest": "val",
}  # fmt: skip


def nouns(kind: Kind, *, heard: bool = False) -> tuple[str, str]:
    """Return what one item is called, and several; what is `heard` are sounds, of whatever kind."""
    return SOUNDS if heard else NOUNS[kind]


def part_of(name: str) -> PartName | None:
    """Return the part that a folder or a cell of a table names: "Test set" is "test"."""
    letters = "".join(c for c in name.casefold() if c.isalpha())
    for ending in ("", "ing", "images", "imgs", "image", "img", "data", "set", "split", "part"):
        if letters.endswith(ending) and letters.removesuffix(ending) in _PARTS:
            return _PARTS[letters.removesuffix(ending)]
    return None


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its `key` (path relative to the source), class index, and part where given.

    In a source of several labels per image `several` holds all of them in order, possibly none,
    and `label` is the first, or -1.
    """

    key: str
    label: int
    part: PartName | None = None
    several: tuple[int, ...] | None = None

    @property
    def labels(self) -> tuple[int, ...]:
        """Return all class indices of the image."""
        return (self.label,) if self.several is None else self.several


@dataclass(frozen=True)
class Finding:
    """Something to know about the data, in one sentence.

    `keys` names the images concerned; the members of a group are joined by " = ". `groups` has
    the keys of each group of duplicates, of which a few can be drawn (`pictures.thumbnails`).
    """

    kind: str
    severity: Severity
    message: str
    keys: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are shown: `frames` of them, every `stride`-th one; a test is of so
    many `views`. `lengths`, once the gate has looked, are the frames of each whole clip, by its row
    in the source."""

    frames: int
    stride: int
    views: int = 1
    lengths: Mapping[int, int] = field(default_factory=dict, repr=False)

    @property
    def span(self) -> int:
        """Return the number of frames from the first that is shown to the last."""
        return (self.frames - 1) * self.stride + 1


@dataclass(frozen=True, eq=False)
class Source:
    """A list of labelled images and how to read them.

    `pixels`, for sources that are arrays in memory, is uint8 (N, h, w), row i being items[i];
    else the images are files below `root`. `several` says that an image has any number of
    labels, `Item.labels`. `ranges`, once the gate has looked, are the values that become 0 and
    255 in images of more than 8 bits. With `masks` every pixel has a class, and the labels of an
    image are the classes in its mask; with `boxes` they are those of its boxes; with `captions`
    every image has sentences, with `tracks` clips may have sounds beside them. With `series` the
    items are time series, of which row i is items[i]; with `clips` they are files of videos. With
    `wanted` the files are sounds, and their images spectrograms unless waveforms are wanted, as
    `hearing` says once the gate has listened.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...] = field(repr=False)
    origin: str
    findings: tuple[Finding, ...] = ()
    root: Path | None = None
    pixels: np.ndarray | None = field(default=None, repr=False)
    several: bool = False
    ranges: tuple[Range, ...] = ()
    masks: Masks | None = field(default=None, repr=False)
    boxes: Boxes | None = field(default=None, repr=False)
    captions: Captions | None = field(default=None, repr=False)
    tracks: Tracks | None = field(default=None, repr=False)
    series: Series | None = field(default=None, repr=False)
    clips: Sampling | None = field(default=None, repr=False)
    wanted: Wanted | None = None
    hearing: Hearing | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def kind(self) -> Kind:
        """Return what the items are."""
        if self.clips is not None:
            return "clips"
        if self.wanted is not None and self.wanted.form == "waveform":
            return "waves"
        return "images" if self.series is None else "series"

    @property
    def noun(self) -> str:
        """Return what one item is called."""
        return nouns(self.kind, heard=self.wanted is not None)[0]

    @property
    def nouns(self) -> str:
        """Return what several items are called."""
        return nouns(self.kind, heard=self.wanted is not None)[1]

    def read(self, item: Item) -> bytes:
        """Return the encoded file of an image (PNG for array sources).
        Raises OSError of the file.
        """
        if self.pixels is None:
            return files.read(self.path(item), files.LARGE_BYTES)
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.pixels[self._rows[item.key]]).save(buffer, "PNG")
        return buffer.getvalue()

    def check(self, item: Item) -> None:
        """Raise BrokenImage for a file that should not be read: a pipe, an endless one; OSError."""
        from vitrail.data.formats import check_file

        check_file(os.stat(self.path(item)))

    def path(self, item: Item) -> Path:
        """Return the file of an image; raise DataError for array sources, which have none."""
        if self.root is None:
            raise DataError(f"{item.key} of {self.name} is not a file: read it with Source.read")
        return self.root / item.key

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item.key: row for row, item in enumerate(self.items)}


def label_array(source: Source, rows: np.ndarray) -> np.ndarray:
    """Return the labels of some items: int64 (N,), or 0 and 1 in (N, C) where they are several."""
    if not source.several:
        return np.fromiter((source.items[row].label for row in rows), np.int64, len(rows))
    marks = np.zeros((len(rows), len(source.classes)), np.int64)
    for at, row in enumerate(rows):
        marks[at, list(source.items[row].labels)] = 1
    return marks


def label_counts(source: Source, labels: np.ndarray) -> tuple[int, ...]:
    """Return how many images each class has, of what `label_array` gave."""
    if source.several:
        return tuple(labels.sum(0).tolist())
    return tuple(np.bincount(labels, minlength=len(source.classes)).tolist())


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Return class names in order: as numbers where all are whole numbers, else as text."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def require_classes(classes: tuple[str, ...], origin: str, why: str = "") -> None:
    """Raise DataError for fewer than two; `why` says what may be the reason."""
    if len(classes) < 2:
        found = f"only the class {shortened(classes[0])!r}" if classes else "no class"
        raise DataError(
            f"{origin} has {found}: learning to tell apart needs at least two classes{why}"
        )
