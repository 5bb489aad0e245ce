"""What a pass over images has seen, gathered image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vitrail.data import twins
from vitrail.data.depth import Range, Values
from vitrail.data.source import Item

# Keys that are kept of each trait: a broken file is always named, a grey one need not be.
KEYS_SHOWN = 1000


class Broken(NamedTuple):
    """A file left out: its key, kind and the reason, which follows on "key ..."."""

    key: str
    kind: str
    reason: str


@dataclass(frozen=True, eq=False)
class Scan:
    """What a pass saw: of the images that were read, row by row, what `gate.Inspection` says and
    the signatures of `twins`; of the broken ones, the reasons; of each trait, how many have it
    and some keys; of each kind of values beyond 8 bits, the range that becomes 0 to 255; `groups`
    are those of copies where they are not told by signatures."""

    rows: np.ndarray
    digests: np.ndarray
    sizes: np.ndarray
    modes: np.ndarray
    mode_names: tuple[str, ...]
    signatures: np.ndarray
    grey: bool
    broken: list[Broken]
    traits: dict[str, tuple[int, list[str]]]
    ranges: tuple[Range, ...] = ()
    groups: np.ndarray | None = None


class Seen(NamedTuple):
    """What is kept of one image: see `scan`; `limits` are its own where the set has none yet."""

    digest: bytes
    size: tuple[int, int]
    mode: str
    signature: bytes
    grey: bool
    traits: tuple[str, ...]
    values: Values | None
    limits: Range | None


class Tally:
    """What is seen, image by image in any order, gathered to a scan."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._rows: list[int] = []
        self._digests, self._marks = bytearray(), bytearray()
        self._sizes: list[tuple[int, int]] = []
        self._modes: list[int] = []
        self._names: dict[str, int] = {}
        self._broken: dict[int, Broken] = {}
        self._traits: dict[str, list[int]] = {}
        self._grey = True

    def add(self, row: int, seen: Seen | Broken) -> None:
        """Take in what was seen of the image in a row."""
        if isinstance(seen, Broken):
            self._broken[row] = seen
            return
        self._rows.append(row)
        self._digests += seen.digest
        self._sizes.append(seen.size)
        self._modes.append(self._names.setdefault(seen.mode, len(self._names)))
        self._marks += seen.signature
        self._grey = self._grey and seen.grey
        for trait in seen.traits:
            self._traits.setdefault(trait, []).append(row)

    def scan(self, ranges: tuple[Range, ...]) -> Scan:
        """Return all of it in the order of the rows."""
        rows = np.array(self._rows, np.int64)
        order = np.argsort(rows)
        marks = np.frombuffer(bytes(self._marks), np.uint8).reshape(-1, twins.BYTES)
        traits = {
            trait: (len(of), [self._items[row].key for row in sorted(of)[:KEYS_SHOWN]])
            for trait, of in self._traits.items()
        }
        return Scan(
            rows[order],
            words(self._digests)[order],
            np.array(self._sizes, np.int32).reshape(-1, 2)[order],
            np.array(self._modes, np.int8)[order],
            tuple(self._names),
            marks[order],
            self._grey,
            [self._broken[row] for row in sorted(self._broken)],
            traits,
            ranges,
        )


def words(digests: bytearray) -> np.ndarray:
    """Turn digests of 16 bytes into uint64 (N, 2)."""
    return np.frombuffer(bytes(digests), ">u8").reshape(-1, 2).astype(np.uint64)
