"""The split in three: stratified by what the images contain, the same on every machine.

Neither file names nor their order decide, only the digests of the files. Images that show the
same picture, and those of one group, stay on one side. The test part comes sealed: whoever
searches or trains can count it, not read it. How whole groups are drawn is in `draw.py`.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from vitrail.data.draw import absent, draw, require_parts
from vitrail.data.gate import Inspection
from vitrail.data.scan import KEYS_SHOWN
from vitrail.data.source import Finding, Item, Source, label_array, label_counts
from vitrail.data.twins import unite
from vitrail.errors import ConfigError, DataError
from vitrail.units import counted, shortened

Duplicates = Literal["keep", "group", "drop"]


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
        """Return class indices, int64 (N,); where images have several
        labels, 0 or 1 in int64 (N, C).
        """
        return label_array(self.source, self.rows)

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the number of images of each class."""
        return label_counts(self.source, self.labels)

    @cached_property
    def digest(self) -> str:
        """Return the digest by which the part is known: 32 hexadecimal digits over contents,
        labels, masks, boxes, sentences, sounds and order.
        """
        state = hashlib.blake2b(digest_size=16)
        state.update(self.digests.astype(">u8").tobytes())
        state.update(self.labels.astype(">i8").tobytes())
        if self.source.masks is not None:
            state.update(self.source.masks.digests(self.rows))
        if self.source.boxes is not None:
            state.update(self.source.boxes.digests(self.rows))
        if self.source.captions is not None:
            state.update(self.source.captions.digest(self.rows))
        if self.source.tracks is not None:
            state.update(self.source.tracks.digest(self.rows))
        return state.hexdigest()


class HeldBack:
    """The test part, sealed: it has a length and class counts, and no images.

    Only the judge of a finished model opens it (`unseal`).
    """

    __slots__ = ("_n", "_sealed", "classes", "counts", "digest")

    def __init__(self, part: Part) -> None:
        self._sealed, self._n = part, len(part)
        self.classes = part.classes
        self.counts = part.counts
        self.digest = part.digest

    def __len__(self) -> int:
        return self._n

    def __repr__(self) -> str:
        return f"HeldBack({len(self)} images)"


def unseal(held_back: HeldBack) -> Part:
    """Return the images of the test part, for the judge of a finished model alone."""
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
    val: float | None = None,
    test: float | None = None,
    seed: int = 0,
    duplicates: Duplicates = "group",
) -> Split:
    """Split the inspected images, class by class, into training, validation and test.

    Parts that the source gives are kept; a missing one is drawn from the training images, `val`
    and `test` being fractions of those: 0.15 unless given, and no more images than tell models
    apart, 5,000 or 20 of each class. `group_by` is a regular expression searched in each
    key: images with an equal first group (or whole match, where it has no group) stay together.
    `duplicates` says what becomes of images that are copies of each other: "group" keeps them on
    one side, "keep" lets them fall anywhere, "drop" leaves out all but one, and all of those
    that have different labels. Raises DataError for classes that would be missing from a part,
    all at once, and ConfigError for a wrong fraction, word or expression.
    """
    check_rules(group_by, val, test, duplicates)
    items = inspection.items
    names = np.array([item.part or "train" for item in items])
    given = {item.part for item in items} - {None}
    groups, findings = _copies(inspection, names, duplicates)
    subjects = None
    if group_by is not None:
        subjects = _subjects(items, group_by)
        findings += _crossing(items, names, subjects, group_by)
        groups = unite(groups, subjects)
    wanted = {part: own for part, own in (("test", test), ("val", val)) if part not in given}
    _draw(inspection, names, groups, wanted, seed)
    parts = {part: _part(inspection, np.flatnonzero(names == part)) for part in _PARTS}
    counts = {part: found.counts for part, found in parts.items()}
    source = inspection.source
    # Sentences are learned from, not the labels beside them.
    beside = source.masks, source.boxes, source.captions
    if any(one is not None for one in beside):
        findings += absent(counts, inspection)
    else:
        require_parts(
            counts, inspection, groups,
            given=given, grouped=subjects is not None, copies=duplicates == "group",
        )  # fmt: skip
    return Split(
        parts["train"], parts["val"], HeldBack(parts["test"]), inspection.classes,
        inspection.channels, tuple(findings),
    )  # fmt: skip


def _copies(
    inspection: Inspection, names: np.ndarray, duplicates: Duplicates
) -> tuple[np.ndarray, list[Finding]]:
    """Return which images stay together, and what is said of copies; drops some in `names`."""
    if duplicates == "drop":
        left_out, findings = _dropped(inspection, names)
        names[left_out] = ""
        return inspection.twins, findings
    if duplicates == "keep":
        return np.arange(len(inspection.twins)), _kept(inspection)
    return inspection.twins, []


def _draw(
    inspection: Inspection, names: np.ndarray, groups: np.ndarray,
    wanted: Mapping[str, float | None], seed: int,
) -> None:  # fmt: skip
    """Draw the parts that are wanted from the training images, in `names`; None is the usual
    share."""
    pool = np.flatnonzero(names == "train")
    usual = _share(len(pool), len(inspection.classes))
    fractions = {part: usual if own is None else own for part, own in wanted.items()}
    labels = [inspection.items[row].labels for row in pool]
    drawn = draw(
        labels, inspection.digests[pool], groups[pool], fractions,
        classes=len(inspection.classes), seed=seed,
    )  # fmt: skip
    for part, at in drawn.items():
        names[pool[at]] = part


def undivided(inspection: Inspection) -> Split:
    """Return all images as the training part, for a training that needs no labels.

    The other parts are empty.
    """
    everyone, nobody = (_part(inspection, np.arange(n)) for n in (len(inspection), 0))
    return Split(everyone, nobody, HeldBack(nobody), inspection.classes, inspection.channels)


_PARTS = ("train", "val", "test")
# Of the images for validation, and for the test; and how many are enough, in all and of a class.
SHARE, ENOUGH, ENOUGH_EACH = 0.15, 5000, 20


def _share(images: int, classes: int) -> float:
    """Return the fraction that is held back for a part: what tells models apart, and learning the
    rest.

    Of 5,000 images nine tenths are known to a point.
    """
    return min(SHARE, max(ENOUGH, ENOUGH_EACH * classes) / max(1, images))


def _check(val: float | None, test: float | None, duplicates: str) -> None:
    val, test = (SHARE if part is None else part for part in (val, test))
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise ConfigError(
            f"val is {val} and test is {test}: both are fractions above 0, together below 1"
        )
    if duplicates not in get_args(Duplicates):
        raise ConfigError(f"duplicates is {duplicates!r}: expected keep, group or drop")


def _dropped(inspection: Inspection, names: np.ndarray) -> tuple[np.ndarray, list[Finding]]:
    """Return which images are left out as copies, bool (N,): the one that
    stays is held back where one is.
    """
    groups, items = inspection.twins, inspection.items
    high, low = inspection.digests.T
    held = np.select([names == "test", names == "val"], [0, 1], 2)
    order = np.lexsort((low, high, held, groups))
    first = np.ones(len(order), bool)
    first[1:] = groups[order][1:] != groups[order][:-1]
    out = np.ones(len(order), bool)
    out[order[first]] = False
    stays = order[first][np.searchsorted(groups[order[first]], groups)]
    torn = np.array(
        [items[i].labels != items[j].labels for i, j in enumerate(stays.tolist())], dtype=bool
    )
    torn = np.isin(groups, groups[torn])
    findings = []
    for which, why in ((out & ~torn, "one of each stays"), (torn, "their labels differ")):
        if which.any():
            text = f"{counted(int(which.sum()), 'copy', 'copies')} left out: {why}"
            keys = tuple(items[i].key for i in np.flatnonzero(which)[:KEYS_SHOWN])
            findings.append(Finding("dropped", "warning", text, keys))
    return out | torn, findings


def _kept(inspection: Inspection) -> list[Finding]:
    n = len(inspection) - len(np.unique(inspection.twins))
    if not n:
        return []
    text = f"{counted(n, 'copy', 'copies')} kept, on whichever side of the split they fall: "
    return [Finding("kept", "warning", text + "the test may look better than it is")]


def _part(inspection: Inspection, at: np.ndarray) -> Part:
    high, low = inspection.digests[at].T
    # Equal digests are equal pictures, but their labels may differ: these come last.
    first = np.fromiter((inspection.items[row].label for row in at), np.int64, len(at))
    order = at[np.lexsort((first, low, high))]
    return Part(inspection.source, inspection.rows[order], inspection.digests[order])


def check_rules(
    group_by: str | None, val: float | None, test: float | None, duplicates: str
) -> None:
    """Raise ConfigError for a wrong expression, fraction or word, before anything is read."""
    _check(val, test, duplicates)
    if group_by is not None:
        _pattern(group_by)


def require_groups(source: Source, group_by: str | None) -> None:
    """Raise DataError for an expression that no path has, before any file is opened."""
    if group_by is not None and source.items:
        pattern = _pattern(group_by)
        if not any(pattern.search(item.key) for item in source.items):
            _subjects(source.items, group_by)


def _pattern(group_by: str) -> re.Pattern[str]:
    try:
        return re.compile(group_by)
    except re.error as error:
        raise ConfigError(
            f"group-by is {group_by!r}, which is not a regular expression ({error}): correct it, "
            r"for example '(subject\d+)'"
        ) from None


def _subjects(items: tuple[Item, ...], group_by: str) -> np.ndarray:
    pattern = _pattern(group_by)
    found = [pattern.search(item.key) for item in items]
    missed = [item.key for item, match in zip(items, found, strict=True) if match is None]
    if missed:
        raise DataError(
            f"group-by {group_by!r} is not found in {len(missed):,} of {len(items):,} paths, "
            f"first {shortened(missed[0])!r}: each needs a group, widen the expression"
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
