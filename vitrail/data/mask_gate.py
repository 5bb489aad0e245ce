"""What the data gate knows of masks: which cannot be used, and what is odd about the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vitrail.data.class_gate import class_findings
from vitrail.data.masks import Facts, Fault, Masks
from vitrail.data.names import few
from vitrail.data.source import Finding, Source
from vitrail.data.tally import KEYS_SHOWN, Broken, Scan
from vitrail.errors import DataError
from vitrail.units import counted, percent

# A class with less than this share of all pixels is told, and so is this much that is ignored.
RARE, MUCH = 0.001, 0.5


def without_faults(source: Source, masks: Masks, scan: Scan) -> Scan:
    """Return the scan without the images whose masks cannot be used, each with its reason.

    Raises DataError where none is left.
    """
    broken, kept = list(scan.broken), []
    for at, (row, size) in enumerate(zip(scan.rows.tolist(), scan.sizes.tolist(), strict=True)):
        fault = _fault(masks.seen[row], size)
        if fault is None:
            kept.append(at)
        else:
            said = f"has a mask, {masks.reader.keys()[row]}, that {fault.reason}"
            broken.append(Broken(source.items[row].key, fault.kind, said))
    if scan.rows.size and not kept:
        first = broken[-len(scan.rows)]
        raise DataError(
            f"no image of {source.origin} has a mask that can be used (first: {first.key} "
            f"{first.reason}): correct the masks"
        )
    at = np.array(kept, np.int64)
    per_row = ("rows", "digests", "sizes", "modes", "signatures")
    return replace(scan, broken=broken, **{name: getattr(scan, name)[at] for name in per_row})


def _fault(facts: Facts | Fault, size: Sequence[int]) -> Fault | None:
    """Return what is wrong with a mask of an image of a (height, width), None if nothing is."""
    if isinstance(facts, Fault):
        return facts
    if facts.size != tuple(size):
        (height, width), (h, w) = facts.size, size
        return Fault("mask size", f"is {width}x{height} where the image is {w}x{h}")
    if not facts.counts.any():
        return Fault("mask empty", "marks no pixel of any class")
    return None


def mask_findings(source: Source, masks: Masks, scan: Scan) -> tuple[Finding, ...]:
    """Return what there is to say of the masks of the images in a scan."""
    facts = [one for row in scan.rows if isinstance(one := masks.seen[int(row)], Facts)]
    pixels = np.sum([one.counts for one in facts], axis=0)[: len(source.classes)]
    ignored = sum(one.ignored for one in facts)
    images = np.array([(one.counts > 0) for one in facts])[:, : len(source.classes)].sum(0)
    return (
        *_of_classes(source.classes, pixels, images),
        *_of_void(pixels, ignored),
        *_of_plain(source, scan, facts),
        *_of_copies(source, scan, facts),
    )


def _of_classes(classes: Sequence[str], pixels: np.ndarray, images: np.ndarray) -> list[Finding]:
    findings = class_findings(classes, pixels, images, "in no mask")
    total = max(1, int(pixels.sum()))
    thin = [name for name, n in zip(classes, pixels, strict=True) if 0 < n < RARE * total]
    if thin:
        text = f"{counted(len(thin), 'class', 'classes')} with less than {percent(RARE)} of all "
        findings.append(Finding("thin class", "warning", f"{text}pixels: {few(thin)}", tuple(thin)))
    most = int(pixels.argmax())
    text = f"{percent(pixels[most] / total)} of all labelled pixels are {classes[most]!r}"
    findings.append(Finding("shares", "info", text))
    return findings


def _of_void(pixels: np.ndarray, ignored: int) -> list[Finding]:
    if not ignored:
        return []
    share = ignored / (int(pixels.sum()) + ignored)
    text = f"{percent(share)} of all pixels count for nothing (ignored in the masks)"
    return [Finding("ignored pixels", "warning" if share > MUCH else "info", text)]


def _of_plain(source: Source, scan: Scan, facts: Sequence[Facts]) -> list[Finding]:
    plain = [at for at, one in enumerate(facts) if (one.counts > 0).sum() == 1]
    if not plain:
        return []
    keys = tuple(source.items[scan.rows[at]].key for at in plain[:KEYS_SHOWN])
    text = f"{counted(len(plain), 'mask')} of one class alone, taken as they are"
    return [Finding("plain masks", "info", text, keys)]


def _of_copies(source: Source, scan: Scan, facts: Sequence[Facts]) -> list[Finding]:
    """Find identical files whose masks differ: one of them must be wrong."""
    seen: dict[bytes, list[int]] = {}
    for at, digest in enumerate(scan.digests):
        seen.setdefault(digest.tobytes(), []).append(at)
    torn = [ats for ats in seen.values() if len({facts[at].digest for at in ats}) > 1]
    if not torn:
        return []
    groups = tuple(
        tuple(source.items[scan.rows[at]].key for at in ats[:10]) for ats in torn[:KEYS_SHOWN]
    )
    text = (
        f"{counted(len(torn), 'group')} of identical files with different masks: one of them is "
        "wrong"
    )
    return [Finding("mask conflict", "warning", text, tuple(map(" = ".join, groups)), groups)]
