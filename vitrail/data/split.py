"""The split in three: stratified by what the images contain, the same on every machine.

Neither file names nor their order decide, only the digests of the files. Images that show the
same picture, and those of one group, stay on one side. The test part comes sealed: whoever
searches or trains can count it, not read it.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vitrail.data.gate import Inspection
from vitrail.data.source import Finding, Item, Source
from vitrail.data.twins import unite
from vitrail.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a source, in the order of their digests.

    `rows` int64 (N,) into source.items; `digests` uint64 (N, 2).
    """

    source: Source
    rows: np.ndarray = field(repr=False)
    digests: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @cached_property
    def items(self) -> tuple[Item, ...]:
        return tuple(self.source.items[row] for row in self.rows)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(item.key for item in self.items)

    @cached_property
    def labels(self) -> np.ndarray:
        """Class indices, int64 (N,)."""
        return np.fromiter((item.label for item in self.items), np.int64, len(self))

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class."""
        return tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist())

    @cached_property
    def digest(self) -> str:
        """By which the part is known: 32 hexadecimal digits over contents, labels and order."""
        state = hashlib.blake2b(digest_size=16)
        state.update(self.digests.astype(">u8").tobytes())
        state.update(self.labels.astype(">i8").tobytes())
        return state.hexdigest()


class HeldBack:
    """The test part, sealed: it has a length and class counts, and no images.

    Only the judge of a finished model opens it (`unseal`).
    """

    __slots__ = ("_sealed", "classes", "counts", "digest")

    def __init__(self, part: Part) -> None:
        self._sealed = part
        self.classes = part.classes
        self.counts = part.counts
        self.digest = part.digest

    def __len__(self) -> int:
        return sum(self.counts)

    def __repr__(self) -> str:
        return f"HeldBack({len(self)} images)"


def unseal(held_back: HeldBack) -> Part:
    """The images of the test part, for the judge of a finished model alone."""
    return held_back._sealed


@dataclass(frozen=True, eq=False)
class Split:
    """Three parts of one data set; `channels` is 1 where every image is grey, else 3."""

    train: Part
    val: Part
    test: HeldBack
    classes: tuple[str, ...]
    channels: int
    findings: tuple[Finding, ...] = ()


def divide(
    inspection: Inspection,
    *,
    group_by: str | None = None,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
) -> Split:
    """Split the inspected images, class by class, into training, validation and test.

    Parts that the source gives are kept; a missing one is drawn from the training images, `val`
    and `test` being fractions of those. `group_by` is a regular expression searched in each
    key: images with an equal first group (or whole match, where it has no group) stay together.
    Every class keeps an image to train on; with two it has one to test on, with three one of
    each, as far as duplicates and groups allow. Raises DataError, and ConfigError for a wrong
    fraction or expression.
    """
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise ConfigError(
            f"val is {val} and test is {test}: both are fractions above 0, together below 1"
        )
    items = inspection.items
    names = np.array([item.part or "train" for item in items])
    groups = inspection.twins
    findings: list[Finding] = []
    if group_by is not None:
        subjects = _subjects(items, group_by)
        findings += _crossing(items, names, subjects, group_by)
        groups = unite(groups, subjects)
    pool = np.flatnonzero(names == "train")
    fractions = {part: f for part, f in (("test", test), ("val", val)) if part not in names}
    for part, rows in _draw(inspection, pool, groups, fractions, seed).items():
        names[rows] = part
    parts = {part: _part(inspection, np.flatnonzero(names == part)) for part in _PARTS}
    _require(parts)
    findings += _gaps(parts)
    return Split(
        parts["train"], parts["val"], HeldBack(parts["test"]), inspection.classes,
        1 if inspection.grey else 3, tuple(findings),
    )  # fmt: skip


_PARTS = ("train", "val", "test")


def _part(inspection: Inspection, at: np.ndarray) -> Part:
    high, low = inspection.digests[at].T
    # Equal digests are equal pictures, but their labels may differ: these come last.
    order = at[np.lexsort((inspection.labels[at], low, high))]
    return Part(inspection.source, inspection.rows[order], inspection.digests[order])


def _subjects(items: tuple[Item, ...], group_by: str) -> np.ndarray:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ConfigError(
            f"group-by is {group_by!r}, no regular expression ({error}): correct it, for "
            r"example '(subject\d+)'"
        ) from None
    found = [pattern.search(item.key) for item in items]
    missed = [item.key for item, match in zip(items, found, strict=True) if match is None]
    if missed:
        raise DataError(
            f"group-by {group_by!r} is not found in {len(missed):,} of {len(items):,} paths, "
            f"first {missed[0]!r}: every image needs a group, widen the expression"
        )
    at = 1 if pattern.groups else 0
    return np.array([match.group(at) or "" for match in found if match])


def _crossing(
    items: tuple[Item, ...], names: np.ndarray, subjects: np.ndarray, group_by: str
) -> list[Finding]:
    if all(item.part is None for item in items):
        return []
    sides: dict[str, set[str]] = {}
    for subject, part in zip(subjects.tolist(), names.tolist(), strict=True):
        sides.setdefault(subject, set()).add(part)
    crossing = tuple(sorted(subject for subject, parts in sides.items() if len(parts) > 1))
    if not crossing:
        return []
    text = (
        f"{len(crossing)} of {len(sides)} groups of {group_by!r} are in more than one of the "
        "given parts: a leak, the test looks better than it is"
    )
    return [Finding("group leak", "warning", text, crossing)]


def _draw(
    inspection: Inspection,
    pool: np.ndarray,
    groups: np.ndarray,
    fractions: dict[str, float],
    seed: int,
) -> dict[str, np.ndarray]:
    """Rows of each part drawn from `pool`; whole groups, which never take a class's last one."""
    units = _units(inspection, pool, groups[pool], seed)
    total = np.bincount(inspection.labels[pool], minlength=len(inspection.classes)).tolist()
    left = Counter(label for unit in units for label in unit.counts)
    several = {label for label, n in left.items() if n > len(fractions)}
    drawn = {}
    for done, (part, fraction) in enumerate(fractions.items(), start=1):
        later = len(fractions) - done
        wanted = [max(1, int(n * fraction + 0.5)) for n in total]
        # One unit of each class stays for training, and one for a part that is drawn later.
        kept = [1 + later * (label in several) for label in range(len(total))]
        chosen = _choose(units, left, kept, wanted)
        drawn[part] = np.concatenate([unit.rows for unit in chosen] or [np.empty(0, np.int64)])
    return drawn


def _choose(
    units: list["_Unit"], left: Counter[int], kept: list[int], wanted: list[int]
) -> list["_Unit"]:
    """Units with about `wanted` images of each class, taken from `left` down to `kept`."""
    taken = [0] * len(wanted)
    chosen = []

    def take(unit: _Unit) -> None:
        unit.free = False
        chosen.append(unit)
        for label, n in unit.counts.items():
            left[label] -= 1
            taken[label] += n

    def spare(unit: _Unit) -> bool:
        return unit.free and all(left[label] > kept[label] for label in unit.counts)

    for unit in units:
        if spare(unit) and all(taken[k] + n <= wanted[k] for k, n in unit.counts.items()):
            take(unit)
    # A class whose units are all larger than its share gives its smallest one.
    for label in range(len(wanted)):
        if not taken[label]:
            able = [unit for unit in units if label in unit.counts and spare(unit)]
            if able:
                take(min(able, key=lambda unit: len(unit.rows)))
    return chosen


class _Unit:
    """Images that stay together: their rows and how many each class has among them."""

    __slots__ = ("counts", "free", "rows")

    def __init__(self, rows: np.ndarray, labels: list[int]) -> None:
        self.rows = rows
        self.counts = Counter(labels)
        self.free = True


def _units(inspection: Inspection, pool: np.ndarray, groups: np.ndarray, seed: int) -> list[_Unit]:
    """The groups of the pool, in an order drawn from the seed and their smallest digests."""
    high, low = inspection.digests[pool].T
    order = np.lexsort((low, high, groups))
    _, starts = np.unique(groups[order], return_index=True)
    members = np.split(order, starts[1:]) if len(order) else []
    salt = str(seed).encode()
    words = inspection.digests[pool].astype(">u8")
    ranks = [
        hashlib.blake2b(words[unit[0]].tobytes(), digest_size=16, key=salt[:64]).digest()
        for unit in members
    ]
    labels = inspection.labels[pool]
    return [
        _Unit(pool[members[i]], labels[members[i]].tolist())
        for i in sorted(range(len(members)), key=ranks.__getitem__)
    ]


def _require(parts: dict[str, Part]) -> None:
    train = parts["train"]
    for name, n in zip(train.classes, train.counts, strict=True):
        if not n:
            raise DataError(
                f"class {name!r} has no image in the training part: add some, or remove the class"
            )
    for part, what in (("val", "validation"), ("test", "test")):
        if not len(parts[part]):
            raise DataError(
                f"no image is left for the {what} part: give at least three images of a class "
                "that are no duplicates and not all of one group"
            )


def _gaps(parts: dict[str, Part]) -> list[Finding]:
    findings = []
    for part, what in (("val", "validation"), ("test", "test")):
        counts = zip(parts[part].classes, parts[part].counts, strict=True)
        empty = tuple(name for name, n in counts if not n)
        if empty:
            text = f"{len(empty)} of {len(parts[part].classes)} classes have no {what} image"
            findings.append(Finding(f"no {what}", "warning", text, empty))
    return findings
