"""A list of labelled images, what is known of them, and how to read one."""

import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from vitrail.data.depth import Range
from vitrail.errors import DataError

PartName = Literal["train", "val", "test"]
Severity = Literal["info", "warning", "error"]

# Spellings of the three parts, as folder names and in the `split` column of a table.
PARTS: dict[str, PartName] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its `key` (path relative to the source), class index, and part where given."""

    key: str
    label: int
    part: PartName | None = None


@dataclass(frozen=True)
class Finding:
    """Something to know about the data, in one sentence.

    `keys` names the images concerned; the members of a group are joined by " = ".
    """

    kind: str
    severity: Severity
    message: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """A list of labelled images and how to read them.

    `pixels`, for sources that are arrays in memory, is uint8 (N, h, w), row i being items[i];
    else the images are files below `root`. `ranges`, once the gate has looked, are the values that
    become 0 and 255 in images of more than 8 bits.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...] = field(repr=False)
    origin: str
    findings: tuple[Finding, ...] = ()
    root: Path | None = None
    pixels: np.ndarray | None = field(default=None, repr=False)
    ranges: tuple[Range, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def read(self, item: Item) -> bytes:
        """The encoded file of an image (PNG for array sources). Raises OSError of the file."""
        if self.pixels is None:
            return self.path(item).read_bytes()
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.pixels[self._rows[item.key]]).save(buffer, "PNG")
        return buffer.getvalue()

    def path(self, item: Item) -> Path:
        """The file of an image; array sources have none and raise DataError."""
        if self.root is None:
            raise DataError(f"{item.key} of {self.name} is no file: read it with Source.read")
        return self.root / item.key

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item.key: row for row, item in enumerate(self.items)}


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Class names in order: as numbers where all are whole numbers, else as text."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def require_classes(classes: tuple[str, ...], origin: str) -> None:
    """Raises DataError for fewer than two."""
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no class"
        raise DataError(f"{origin} has {found}: learning to tell apart needs at least two classes")
