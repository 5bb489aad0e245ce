"""What the data gate knows of boxes: which cannot be used, which are mended, and what is odd.

A box is brought to pixels of its image; corners that are the wrong way round are put right, what
lies outside of the image is cut off, and boxes without area are left out, as are repeated ones.
All of it is told, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vitrail.data.boxes import Boxes, Truth
from vitrail.data.class_gate import class_findings
from vitrail.data.source import Finding, Item, Severity, Source
from vitrail.data.tally import KEYS_SHOWN, Broken, Scan
from vitrail.errors import DataError
from vitrail.units import counted, percent

# Less than this share of a pixel is rounding, not a box that leaves the image.
ROUNDING = 0.51
# A box of less than so many pixels on a side is hardly to be seen.
TINY = 4

_TOLD: dict[str, tuple[Severity, str]] = {
    "box outside": ("error", "wholly outside of their image left out"),
    "box cut": ("warning", "that leave their image cut at its border"),
    "box empty": ("error", "without area left out"),
    "box flipped": ("warning", "with corners the wrong way round put right"),
    "box number": ("error", "with a corner that is not finite left out"),
    "box repeated": ("warning", "there twice, taken once"),
    "box conflict": ("warning", "given to two classes at once, taken as both"),
    "tiny box": ("info", f"of less than {TINY} pixels on a side"),
    "crowd": ("info", "that are crowds or difficult, which count for nothing"),
}


@dataclass
class Notes:
    """How many boxes have each fault, and in which images."""

    counts: dict[str, int] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, key: str, n: int) -> None:
        """Remember `n` boxes of an image."""
        if n:
            self.counts[kind] = self.counts.get(kind, 0) + int(n)
            self.keys.setdefault(kind, []).append(key)

    def findings(self) -> list[Finding]:
        """Say all of it."""
        found = []
        for kind, (severity, said) in _TOLD.items():
            if kind in self.counts:
                keys = self.keys[kind]
                text = f"{counted(self.counts[kind], 'box', 'boxes')} {said}"
                found.append(Finding(kind, severity, text, tuple(keys[:KEYS_SHOWN])))
        return found


def with_boxes(source: Source, boxes: Boxes, scan: Scan) -> tuple[Source, Scan, list[Finding]]:
    """Return the source with its boxes in pixels, the scan without images whose boxes cannot be
    used, and what there is to say. Raises DataError where none is left."""
    _require_pixels(source, boxes)
    notes, broken, kept = Notes(), list(scan.broken), []
    items, truths = list(source.items), list(boxes.truths)
    for at, (row, size) in enumerate(zip(scan.rows.tolist(), scan.sizes.tolist(), strict=True)):
        key, truth = items[row].key, boxes.truths[row]
        fault = _fault(truth, (size[0], size[1]))
        if fault:
            broken.append(Broken(key, "annotation", f"has annotations that {fault}"))
            continue
        kept.append(at)
        truths[row] = usable(truth, (size[0], size[1]), key, notes)
        items[row] = _labelled(items[row], truths[row])
    if scan.rows.size and not kept:
        first = broken[-len(scan.rows)]
        raise DataError(
            f"no image of {source.origin} has boxes that can be used (first: {first.key} "
            f"{first.reason}): correct the annotations"
        )
    at = np.array(kept, np.int64)
    per_row = ("rows", "digests", "sizes", "modes", "signatures")
    scan = replace(scan, broken=broken, **{name: getattr(scan, name)[at] for name in per_row})
    source = replace(source, items=tuple(items), boxes=Boxes(tuple(truths)))
    if not any(len(truths[row]) for row in scan.rows):
        raise DataError(f"{source.origin} has no box that can be used: there is nothing to learn")
    return source, scan, [*notes.findings(), *_of_all(source, scan, truths)]


def _require_pixels(source: Source, boxes: Boxes) -> None:
    """Refuse boxes that all lie within one pixel: they are shares of the sides."""
    some = [one for one in boxes.truths if len(one) and not one.fault]
    if some and all(not one.shares and (abs(one.boxes) <= 1).all() for one in some):
        raise DataError(
            f"all boxes of {source.origin} lie between 0 and 1, as if in shares of the sides: "
            "write them in pixels, or as YOLO's texts, which are in shares"
        )


def _fault(truth: Truth, size: tuple[int, int]) -> str:
    """Return why an image of a (height, width) cannot be used, or ""."""
    if truth.fault:
        return truth.fault
    if truth.size is not None and truth.size != size:
        (height, width), (h, w) = truth.size, size
        return f"are of {width}x{height} pixels where the image has {w}x{h}"
    return ""


def _labelled(item: Item, truth: Truth) -> Item:
    several = truth.classes
    return replace(item, label=several[0] if several else -1, several=several)


def usable(truth: Truth, size: tuple[int, int], key: str, notes: Notes) -> Truth:
    """Return what can be used of the truth of an image of (height, width), in pixels."""
    sides = np.array([size[1], size[0], size[1], size[0]], np.float64)
    boxes = truth.boxes * sides if truth.shares else truth.boxes
    truth = replace(truth, boxes=boxes, size=size, shares=False)
    finite = np.isfinite(boxes).all(1)
    notes.add("box number", key, (~finite).sum())
    truth = truth.kept(finite)
    low = np.minimum(truth.boxes[:, :2], truth.boxes[:, 2:])
    high = np.maximum(truth.boxes[:, :2], truth.boxes[:, 2:])
    upright = np.concatenate([low, high], 1)
    notes.add("box flipped", key, (upright != truth.boxes).any(1).sum())
    area = ((high - low) > 0).all(1)
    notes.add("box empty", key, (~area).sum())
    truth, upright = replace(truth, boxes=upright).kept(area), upright[area]
    inside = np.clip(upright, 0, sides)
    there = ((inside[:, 2:] - inside[:, :2]) > 0).all(1)
    notes.add("box outside", key, (~there).sum())
    notes.add("box cut", key, (np.abs(inside - upright).max(1, initial=0) > ROUNDING)[there].sum())
    truth = replace(truth, boxes=inside).kept(there)
    truth = _once(truth, key, notes)
    sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
    notes.add("tiny box", key, (sides < TINY).any(1).sum())
    notes.add("crowd", key, truth.crowd.sum())
    return truth


def _once(truth: Truth, key: str, notes: Notes) -> Truth:
    """Return the truth without boxes of a class that are there again;
    those of two classes are told.
    """
    rows = np.column_stack([truth.boxes, truth.labels])
    _, first = np.unique(rows, axis=0, return_index=True)
    notes.add("box repeated", key, len(rows) - len(first))
    truth = truth.kept(np.sort(first))
    notes.add("box conflict", key, len(truth) - len(np.unique(truth.boxes, axis=0)))
    return truth


def _of_all(source: Source, scan: Scan, truths: Sequence[Truth]) -> list[Finding]:
    some = [truths[row] for row in scan.rows]
    labels = np.concatenate([one.labels[~one.crowd] for one in some])
    boxes = np.bincount(labels, minlength=len(source.classes))
    images = np.zeros(len(source.classes), np.int64)
    for one in some:
        images[list(one.classes)] += 1
    return [
        *_of_classes(source.classes, boxes, images),
        *_of_nothing(source, scan, some),
        *_of_copies(source, scan, some),
    ]


def _of_classes(classes: Sequence[str], boxes: np.ndarray, images: np.ndarray) -> list[Finding]:
    findings = class_findings(classes, boxes, images, "of no box")
    most, total = int(boxes.argmax()), max(1, int(boxes.sum()))
    text = f"{counted(total, 'box', 'boxes')}, {percent(boxes[most] / total)} of them "
    findings.append(Finding("shares", "info", f"{text}{classes[most]!r}"))
    return findings


def _of_nothing(source: Source, scan: Scan, some: Sequence[Truth]) -> list[Finding]:
    keys = [source.items[row].key for row, one in zip(scan.rows, some, strict=True) if not len(one)]
    if not keys:
        return []
    text = f"{counted(len(keys), 'image')} without a box, taken as showing nothing to be found"
    return [Finding("negative", "info", text, tuple(keys[:KEYS_SHOWN]))]


def _of_copies(source: Source, scan: Scan, some: Sequence[Truth]) -> list[Finding]:
    """Find identical files whose boxes differ: one of them must be wrong."""
    seen: dict[bytes, list[int]] = {}
    for at, digest in enumerate(scan.digests):
        seen.setdefault(digest.tobytes(), []).append(at)
    torn = [ats for ats in seen.values() if len({some[at].digest for at in ats}) > 1]
    if not torn:
        return []
    groups = tuple(
        tuple(source.items[scan.rows[at]].key for at in ats[:10]) for ats in torn[:KEYS_SHOWN]
    )
    text = f"{counted(len(torn), 'group')} of identical files with different boxes: one is wrong"
    return [Finding("box contradiction", "warning", text, tuple(map(" = ".join, groups)), groups)]
