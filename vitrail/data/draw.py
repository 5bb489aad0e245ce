"""Drawing whole groups of images into parts, so that every class is in each of them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from vitrail.data.gate import Inspection
from vitrail.data.source import Finding, Source
from vitrail.errors import DataError
from vitrail.units import counted, shortened

_SAID = {"train": "training", "val": "validation", "test": "test"}
_SHOWN = 5


def draw(
    labels: Sequence[tuple[int, ...]],
    digests: np.ndarray,
    groups: np.ndarray,
    fractions: Mapping[str, float],
    *,
    classes: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return the rows of each part in `fractions`, drawn from N images without tearing groups.

    `labels` are the classes of each image, `digests` uint64 (N, 2), `groups` int64 (N,). A part
    gets about its fraction of every class, at least one, and never a class's last group; images
    without any label are divided as if they had one of their own. Where images have several, those
    with a rare one are drawn first (Sechidis et al., ECML PKDD 2011), so that what is common does
    not fill a part before.
    """
    single = all(len(many) == 1 for many in labels)
    labels, classes = [many or (classes,) for many in labels], classes + 1
    units = _units(labels, digests, groups, seed)
    total = [0] * classes
    for label, n in Counter(one for many in labels for one in many).items():
        total[label] = n
    if not single:
        units.sort(key=lambda unit: min(total[label] for label in unit.counts))
    left = Counter(label for unit in units for label in unit.counts)
    several = {label for label, n in left.items() if n > len(fractions)}
    drawn = {}
    for done, (part, fraction) in enumerate(fractions.items(), start=1):
        later = len(fractions) - done
        wanted = [max(1, int(n * fraction + 0.5)) for n in total]
        # One unit of each class stays for training, and one for a part that is drawn later.
        kept = [1 + later * (label in several) for label in range(classes)]
        chosen = _choose(units, left, kept, wanted)
        drawn[part] = np.concatenate([unit.rows for unit in chosen] or [np.empty(0, np.int64)])
    return drawn


def _choose(
    units: list["_Unit"], left: Counter[int], kept: list[int], wanted: list[int]
) -> list["_Unit"]:
    """Choose units with about `wanted` images of each class, taken from `left` down to `kept`."""
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


def _units(
    labels: Sequence[tuple[int, ...]], digests: np.ndarray, groups: np.ndarray, seed: int
) -> list[_Unit]:
    """Return the groups, in an order drawn from the seed and their smallest digests."""
    high, low = digests.T
    order = np.lexsort((low, high, groups))
    _, starts = np.unique(groups[order], return_index=True)
    members = np.split(order, starts[1:]) if len(order) else []
    salt = str(seed).encode()
    words = digests.astype(">u8")
    ranks = [
        hashlib.blake2b(words[unit[0]].tobytes(), digest_size=16, key=salt[:64]).digest()
        for unit in members
    ]
    return [
        _Unit(members[i], [label for row in members[i].tolist() for label in labels[row]])
        for i in sorted(range(len(members)), key=ranks.__getitem__)
    ]


def require_parts(
    counts: Mapping[str, Sequence[int]],
    inspection: Inspection,
    groups: np.ndarray,
    *,
    given: set,
    grouped: bool,
    copies: bool,
) -> None:
    """Raise DataError where a class is missing from a part, with all such classes and why.

    `counts` has the images of each class in each part; `groups` int64 (N,) stay together, as
    `copies` of one picture or as they are `grouped` by their names; `given` parts are the
    source's own.
    """
    classes = inspection.classes
    lacking = {
        name: [part for part in counts if not counts[part][label]]
        for label, name in enumerate(classes)
        if not all(found[label] for found in counts.values())
    }
    if not lacking:
        return
    apart, source = _apart(inspection, groups), inspection.source
    told = []
    for name, parts in list(lacking.items())[:_SHOWN]:
        images, units = apart[classes.index(name)]
        why = counted(images, source.noun, source.nouns)
        if units < images:
            why += f", {units} apart from those that stay together"
        where = " and ".join(_SAID[part] for part in parts)
        told.append(f"{shortened(name, 60)!r} from {where} ({why})")
    rest = f" and {len(lacking) - len(told):,} more" if len(lacking) > len(told) else ""
    n = f"{len(lacking):,} of {len(classes):,} classes"
    said = f"{n} {'is' if len(lacking) == 1 else 'are'} missing from a part"
    alike = _apart(inspection, inspection.twins)
    at = [classes.index(name) for name in lacking]
    copied = copies and any(units < images for images, units in (alike[i] for i in at))
    held = grouped and any(apart[i][1] < alike[i][1] for i in at)
    own = [_SAID[part] for part in counts if part in given]
    parts = ", ".join(own[:-1]) + " and " * bool(own[:-1]) + "".join(own[-1:])
    if given & {part for parts in lacking.values() for part in parts}:
        remedy = (
            f"the data gives the parts {parts}, so add {source.nouns} of each there, "
            "or remove the class from the data"
        )
    else:
        remedy = _remedy(source, copied, held)
    raise DataError(f"{said}, {'; '.join(told)}{rest}: {remedy}")


def absent(counts: Mapping[str, Sequence[int]], inspection: Inspection) -> list[Finding]:
    """Return a finding for each part that lacks classes which another part shows.

    Raises DataError for a part without any image.
    """
    findings, classes, source = [], inspection.classes, inspection.source
    for part, found in counts.items():
        if not any(found):
            raise DataError(
                f"no {source.noun} is left for {_SAID[part]}: give at least three {source.nouns}, "
                "apart from copies and groups"
            )
        there = [any(other[at] for other in counts.values()) for at in range(len(classes))]
        missing = [
            name for name, n, known in zip(classes, found, there, strict=True) if known and not n
        ]
        if missing:
            names = ", ".join(repr(shortened(name, 60)) for name in missing[:_SHOWN])
            few = counted(len(missing), "class", "classes")
            text = f"no {_SAID[part]} {source.noun} shows {few}: {names}"
            findings.append(Finding("class not in part", "warning", text, tuple(missing)))
    return findings


def _remedy(source: Source, copies: bool, grouped: bool) -> str:
    picture = "picture" if source.noun == "image" else source.noun
    kinds = [*[f"copies of one {picture}"] * copies, *["of one group"] * grouped]
    apart = f" that are not all {' or '.join(kinds)}" if kinds else ""
    keep = ", let copies fall anywhere (--duplicates keep)" if copies else ""
    return f"give each at least three {source.nouns}{apart}{keep}, or remove the class"


def _apart(inspection: Inspection, groups: np.ndarray) -> list[tuple[int, int]]:
    """Count the images of each class, and the groups that they are in."""
    pairs = {
        (label, group)
        for item, group in zip(inspection.items, groups.tolist(), strict=True)
        for label in item.labels
    }
    units = Counter(label for label, _ in pairs)
    return [(n, units[label]) for label, n in enumerate(inspection.counts)]
