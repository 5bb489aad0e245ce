"""Some of the masks of a source, or the same ones with the numbers of other classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vitrail.data.masks import Facts, Masks, Reader


@dataclass(frozen=True, eq=False)
class Some:
    """The masks of some rows of a reader."""

    reader: Reader = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)

    def keys(self) -> Sequence[str]:
        """Return by which name each mask is known."""
        names = self.reader.keys()
        return [names[row] for row in self.rows]

    def read(self, row: int) -> np.ndarray:
        """Return the mask of an item, uint8 (H, W). Raises BrokenMask and OSError."""
        return self.reader.read(self.rows[row])


@dataclass(frozen=True, eq=False)
class Renumbered:
    """The masks of a reader, whose values are looked up in a `table` of 256."""

    reader: Reader = field(repr=False)
    table: np.ndarray = field(repr=False)

    def keys(self) -> Sequence[str]:
        """Return by which name each mask is known."""
        return self.reader.keys()

    def read(self, row: int) -> np.ndarray:
        """Return the mask of an item, uint8 (H, W). Raises BrokenMask and OSError."""
        return self.table[self.reader.read(row)]


def some(masks: Masks, rows: Sequence[int] | np.ndarray) -> Masks:
    """Return the masks of some items, in their order."""
    chosen = tuple(int(row) for row in rows)
    return Masks(Some(masks.reader, chosen), tuple(masks.seen[row] for row in chosen))


def renumbered(masks: Masks, order: Sequence[int], classes: int) -> Masks:
    """Return masks whose class i is `order[i]` of so many `classes`; what is ignored stays so."""
    table = np.arange(256, dtype=np.uint8)
    table[: len(order)] = order

    def moved(facts: Facts) -> Facts:
        counts = np.zeros(classes, facts.counts.dtype)
        counts[list(order)] = facts.counts
        return replace(facts, counts=counts)

    seen = (moved(one) if isinstance(one, Facts) else one for one in masks.seen)
    return Masks(Renumbered(masks.reader, table), tuple(seen))
