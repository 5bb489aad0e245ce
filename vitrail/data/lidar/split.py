"""The parts of scans: whole drives where there are many, else stretches of each drive.

Scans that follow each other show the same street from a metre further on, so none is drawn by
itself. Parts that the folder gives are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vitrail.data.lidar.folder import ScanSource
from vitrail.data.lidar.gate import Inspected
from vitrail.data.lidar.projection import CHANNELS
from vitrail.data.source import Finding, PartName
from vitrail.data.split import SHARE, HeldBack, Part, Split
from vitrail.errors import ConfigError, DataError

# From so many drives on whole ones are drawn.
MANY = 10


def divide_scans(
    found: Inspected, *, val: float | None = None, test: float | None = None, seed: int = 0
) -> Split:
    """Divide the scans of a gate into training, validation and test parts.

    Of few drives the end of each is held back, `test` behind `val`; of ten or more whole drives
    are drawn by `seed`. Either share is 0.15 unless given. Raises DataError where a part has no
    scan, ConfigError for shares that leave nothing.
    """
    val, test = (SHARE if share is None else share for share in (val, test))
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise ConfigError(
            f"val is {val} and test is {test}: both are shares above 0, together below 1"
        )
    source = _labelled(found)
    given = {source.items[row].part for row in found.rows} - {None}
    shares: dict[PartName, float] = {"test": test, "val": val}
    wanted: dict[PartName, float] = {
        name: share for name, share in shares.items() if name not in given
    }
    drives: dict[str, list[int]] = {}
    parts: list[PartName] = ["train"] * len(found)
    for at, row in enumerate(found.rows.tolist()):
        own = source.items[row].part
        if own in ("val", "test"):
            parts[at] = own
        else:
            drives.setdefault(source.drives[row], []).append(at)
    whole = len(drives) >= MANY
    drawn = _drawn(drives, wanted, seed) if whole else _ends(drives, wanted)
    for name, some in drawn.items():
        for at in some:
            parts[at] = name
    findings = _together(found, parts)
    made = {name: _part(source, found, parts, name) for name in ("train", "val", "test")}
    for name, part in made.items():
        if not len(part):
            raise DataError(
                f"{source.origin} leaves no scan for the part {name!r} of its {len(found)}: give "
                "more scans, at least ten in a drive"
            )
    return Split(
        made["train"], made["val"], HeldBack(made["test"]), source.classes, CHANNELS,
        tuple(findings),
    )  # fmt: skip


def _ends(drives: dict[str, list[int]], wanted: dict[PartName, float]) -> dict[PartName, list[int]]:
    """Return the end of each drive: the test part last."""
    found: dict[PartName, list[int]] = {name: [] for name in wanted}
    for some in drives.values():
        rest = list(some)
        for name, share in wanted.items():
            n = round(share * len(some))
            found[name] += rest[len(rest) - n :]
            rest = rest[: len(rest) - n]
    return found


def _drawn(
    drives: dict[str, list[int]], wanted: dict[PartName, float], seed: int
) -> dict[PartName, list[int]]:
    """Choose whole drives, in an order that their names and the seed give."""

    def place(name: str) -> bytes:
        return hashlib.blake2b(f"{seed} {name}".encode()).digest()

    order, total = sorted(drives, key=place), sum(map(len, drives.values()))
    found: dict[PartName, list[int]] = {name: [] for name in wanted}
    for name, share in wanted.items():
        while order and (not found[name] or len(found[name]) < share * total):
            found[name] += drives[order.pop()]
    return found


def _together(found: Inspected, parts: list[PartName]) -> list[Finding]:
    """Put equal scans into one part, that which is held back the longest; tell of drives that are
    in several parts because the folder says so."""
    rank: tuple[PartName, ...] = ("train", "val", "test")
    last: dict[bytes, int] = {}
    for one, part in zip(found.seen, parts, strict=True):
        last[one.digest] = max(last.get(one.digest, 0), rank.index(part))
    held: dict[bytes, PartName] = {digest: rank[at] for digest, at in last.items()}
    moved = 0
    for at, one in enumerate(found.seen):
        moved += parts[at] != held[one.digest]
        parts[at] = held[one.digest]
    if not moved:
        return []
    text = f"{moved} scans moved to the part of their copy, so that none is on both sides"
    return [Finding("moved copies", "warning", text)]


def _labelled(found: Inspected) -> ScanSource:
    """Return the source, each kept scan with the classes in it."""
    items = list(found.source.items)
    for row, one in zip(found.rows.tolist(), found.seen, strict=True):
        several = tuple(one.counts.nonzero()[0].tolist())
        items[row] = replace(items[row], label=several[0], several=several)
    return replace(found.source, items=tuple(items))


def _part(source: ScanSource, found: Inspected, parts: Sequence[PartName], name: str) -> Part:
    at = np.array([at for at, part in enumerate(parts) if part == name], np.int64)
    return Part(source, found.rows[at], found.digests[at])
