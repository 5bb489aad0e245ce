"""What a scan means, in sentences: broken files, odd modes and sizes, imbalance, duplicates."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from vitrail.data.formats import remedy
from vitrail.data.magic import UNREAD
from vitrail.data.names import alike, few
from vitrail.data.scan import KEYS_SHOWN, Broken, Scan
from vitrail.data.source import Finding, Severity, Source
from vitrail.units import counted, shortened

_TRAITS = {
    "alpha": "{} transparency, laid over white",
    "palette": "{} a palette, converted to colour",
    "16-bit": "{} 16 bits per value",
    "32-bit": "{} 32 bits per value",
    "float": "{} floating-point values",
    "stretched": "{} values without a usual range: the least and the greatest of all were taken",
    "dim": "{} values in less than 1/8 of the range, and are nearly flat",
    "no data": "{} values that are not finite or mark missing data, and become black or white",
    "bands": "{} more bands than colours and alpha, which are dropped",
    "CMYK": "{} the four inks CMYK, converted to RGB",
    "animated": "{} several frames, of which the first is taken",
    "rotated": "{} an EXIF rotation, which is applied",
    "turned": "{} a rotation, which is applied",
    "uneven rate": "{} an uneven rate of frames: each moment shows the frame of its time",
    "short clip": "{} fewer frames than are shown: the last one is shown again",
    "still": "{} nothing that moves",
    "missing": "{} missing numbers, which count as the mean",
    "far off": "{} numbers far away from all others: a sensor's fault, or another unit",
    "extension": "{} an extension of another format, decoded by content",
}
# What is said of a file that is left out, by its kind.
MEANS = {
    "empty": "empty", "not an image": "not readable as an image", "truncated": "truncated",
    "bomb": "too large to be decoded safely", "broken": "damaged",
    "unreadable": "unreadable", "oversized": "too large a file",
    "unread": "of a kind that is not read", "no values": "without any value",
    "mask size": "of another size than the mask", "mask empty": "without a labelled pixel",
    "mask value": "with a mask of unknown values", "mask unreadable": "without a readable mask",
    "mask colour": "with a mask of unknown colours",
    "no video": "without a video stream", "no frames": "without a frame",
    "broken clip": "damaged, cut off, or not video",
    "long clip": "too long", "not a sound": "not readable as sound", "silent": "silent",
    "no sound": "of a video that has none",
    "no numbers": "without any number", "too short": "too short",
    "annotation": "with an annotation that cannot be used",
    "mask format": "with a mask that does not hold indices",
}  # fmt: skip


def meant(kind: str) -> str:
    """Say of what kind a file is that is left out; of a format that is not read, with a remedy."""
    return f"{kind}, which {remedy(kind)}" if kind in UNREAD else MEANS[kind]


_WARN = ("short clip", "still", "far off", "stretched", "dim", "no data", "bands", "extension")


def findings(
    source: Source, scan: Scan, counts: np.ndarray, groups: np.ndarray
) -> tuple[Finding, ...]:
    """Say all there is to say of a scan.

    `counts` int64 (C,) are the images of each class, `groups` int64 (N,) those of twins.
    """
    return (
        *_of_names(source),
        *_of_broken(source, scan.broken),
        *_of_traits(source, scan),
        *(() if source.masks or source.boxes else _of_classes(source, counts)),
        *(() if source.kind == "series" or source.wanted else _of_shapes(source, scan)),
        *_of_twins(source, scan, groups),
    )


def _of_names(source: Source) -> list[Finding]:
    if not (same := alike(source.classes)):
        return []
    text = f"classes whose names may mean the same ({few(same)}): give them one name if they do"
    return [Finding("similar names", "warning", text, tuple(same))]


def _of_broken(source: Source, broken: Sequence[Broken]) -> list[Finding]:
    groups: dict[str, list[str]] = {}
    for entry in broken:
        groups.setdefault(entry.kind, []).append(entry.key)
    return [
        Finding(kind, "error", f"{_are(source, len(keys))} {meant(kind)}, left out", tuple(keys))
        for kind, keys in groups.items()
    ]


def _of_traits(source: Source, scan: Scan) -> list[Finding]:
    scaled = {
        one.kind: f", of which {one.low:g} to {one.high:g} become 0 to 255 in all of them"
        for one in scan.ranges
    }
    return [
        Finding(
            trait,
            "warning" if trait in _WARN else "info",
            _TRAITS[trait].format(_having(source, n)) + scaled.get(trait, ""),
            tuple(keys),
        )
        for trait, (n, keys) in scan.traits.items()
    ]


def _of_classes(source: Source, counts: np.ndarray) -> list[Finding]:
    findings = []
    if not len(counts):  # pictures without classes
        return findings
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] >= 3 * counts[least]:
        text = (
            f"class {shortened(source.classes[most], 60)!r} has {counts[most]:,} {source.nouns}, "
            f"{shortened(source.classes[least], 60)!r} only {counts[least]:,}"
        )
        findings.append(Finding("imbalance", "warning", text))
    few = [name for name, n in zip(source.classes, counts, strict=True) if n < 20]
    if few:
        text = f"{len(few)} of {len(counts)} classes have fewer than 20 {source.nouns}"
        findings.append(Finding("small class", "warning", text, tuple(few)))
    return findings


def _of_shapes(source: Source, scan: Scan) -> list[Finding]:
    findings = []
    height, width = scan.sizes.T
    aspect = width / height
    long = np.flatnonzero((aspect >= 3) | (aspect <= 1 / 3))
    if len(long):
        text = f"{_images(len(long))} at least three times as long as wide, squeezed on the way in"
        findings.append(Finding("aspect", "warning", text, _keys(source, scan, long)))
    tiny = np.flatnonzero(np.minimum(height, width) < 8)
    if len(tiny):
        text = f"{_images(len(tiny))} smaller than 8 pixels on one side"
        findings.append(Finding("tiny", "warning", text, _keys(source, scan, tiny)))
    return findings


def _keys(source: Source, scan: Scan, at: np.ndarray) -> tuple[str, ...]:
    return tuple(source.items[scan.rows[i]].key for i in at[:KEYS_SHOWN])


# What copies mean, by where they are.
_COPIES: dict[str, tuple[Severity, str]] = {
    "inside a class": ("info", "kept on one side of the split"),
    "among the pictures": ("warning", "each of them is learned from"),
    "across classes": ("warning", "one of the labels is wrong"),
    "across the split": ("warning", "a leak, the test looks better than it is"),
}


def _of_twins(source: Source, scan: Scan, groups: np.ndarray) -> list[Finding]:
    """Find exact and near duplicates: inside a class, across classes, across the given parts."""
    sets: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    totals: Counter[tuple[str, str]] = Counter()
    order = np.argsort(groups, kind="stable")
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        members = order[start : start + count]
        items = [source.items[scan.rows[i]] for i in members]
        exact = (scan.digests[members] == scan.digests[members[0]]).all()
        where = "inside a class" if source.classes else "among the pictures"
        if len({item.part or "train" for item in items}) > 1:
            where = "across the split"
        elif len({item.labels for item in items}) > 1:
            where = "across classes"
        kind = ("exact" if exact else "near", where)
        totals[kind] += 1
        shown = sets.setdefault(kind, [])
        if len(shown) < KEYS_SHOWN:
            shown.append(tuple(item.key for item in items[:10]))
    findings = []
    for (sort, where), n in sorted(totals.items()):
        severity, consequence = _COPIES[where]
        what = "nearly identical " + source.nouns
        if sort == "exact":
            what = "identical " + ("series" if source.kind == "series" else "files")
        text = f"{counted(n, 'group')} of {what} {where}: {consequence}"
        shown = sets[sort, where]
        joined = tuple(map(" = ".join, shown))
        findings.append(Finding(f"{sort} duplicates", severity, text, joined, tuple(shown)))
    return findings


def _having(source: Source, n: int) -> str:
    return f"{counted(n, source.noun, source.nouns)} {'has' if n == 1 else 'have'}"


def _are(source: Source, n: int) -> str:
    one, many = ("series", "series") if source.kind == "series" else ("file", "files")
    return f"1 {one} is" if n == 1 else f"{n:,} {many} are"


def _images(n: int) -> str:
    return "1 image is" if n == 1 else f"{n:,} images are"
