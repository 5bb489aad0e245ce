"""The gate of scans: each read once before any training, and what is wrong with it told.

Broken scans are left out, each with its reason; nothing is replaced, moved or written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vitrail.data.lidar.folder import ScanSource
from vitrail.data.lidar.projection import Projection, Spherical
from vitrail.data.lidar.reading import BrokenScan, Scan
from vitrail.data.masks import IGNORE
from vitrail.data.names import few
from vitrail.data.parallel import in_order
from vitrail.data.source import Finding
from vitrail.data.tally import Broken
from vitrail.errors import DataError
from vitrail.files import reason
from vitrail.units import counted, percent

# A class with less than this share of all points is told, and so is this much that is ignored.
RARE, MUCH = 0.001, 0.5
# A scan with less than this share of the median number of points is told.
THIN = 0.25
FAR_M = 500.0
HEIGHTS, WIDTHS = (8, 16, 32, 64), (64, 128, 256, 512, 1024, 2048)


class Seen(NamedTuple):
    """What is kept of one scan: a digest, points, those of each class, ignored ones, whether
    some were left out, the farthest, the least and the greatest elevation in degrees, and how many
    beams."""

    digest: bytes
    points: int
    counts: np.ndarray
    ignored: int
    left_out: bool
    far: float
    angles: tuple[float, float]
    beams: int


@dataclass(frozen=True, eq=False)
class Inspected:
    """What the gate found: `rows` int64 (N,) of the scans that are kept, what was seen of each,
    the broken ones with reasons, and the projection that fits the sensor."""

    source: ScanSource
    rows: np.ndarray = field(repr=False)
    seen: tuple[Seen, ...] = field(repr=False)
    broken: tuple[Broken, ...]
    findings: tuple[Finding, ...]
    projection: Projection

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> np.ndarray:
        """Return the number of points of each class: int64 (N, K)."""
        return np.array([one.counts for one in self.seen])

    @property
    def digests(self) -> np.ndarray:
        """Return the BLAKE2b digests of points and classes: uint64 (N, 2)."""
        return np.frombuffer(b"".join(one.digest for one in self.seen), ">u8").reshape(-1, 2)


def inspect_scans(source: ScanSource, *, progress: bool = True) -> Inspected:
    """Read every scan of a source once, with a bar where `progress` is shown.

    Raises DataError where none can be used.
    """

    def work(rows: range) -> list[Seen | Broken]:
        return [_look(source, row) for row in rows]

    looked = in_order(
        work, len(source), size=4, workers=None, title="reading scans", progress=progress
    )
    all_seen = [one for some in looked for one in some]
    broken = tuple(one for one in all_seen if isinstance(one, Broken))
    rows = np.array([at for at, one in enumerate(all_seen) if isinstance(one, Seen)], np.int64)
    seen = tuple(one for one in all_seen if isinstance(one, Seen))
    if not seen:
        raise DataError(
            f"none of the {counted(len(source), 'scan')} of {source.origin} can be used (first: "
            f"{broken[0].key} {broken[0].reason}): give whole scans with a label for each point"
        )
    projection = source.projection or _fitting(seen)
    findings = (*source.findings, *_of_broken(broken), *_of_scans(source, rows, seen),
                *_of_classes(source, seen))  # fmt: skip
    return Inspected(source, rows, seen, broken, findings, projection)


def _look(source: ScanSource, row: int) -> Seen | Broken:
    key = source.items[row].key
    try:
        scan = source.scan(row)
    except BrokenScan as error:
        return Broken(key, error.kind, error.reason)
    except OSError as error:
        return Broken(key, "unreadable", f"cannot be read ({reason(error)})")
    assert scan.labels is not None
    counts = np.bincount(scan.labels, minlength=IGNORE + 1)
    if not counts[: len(source.classes)].any():
        return Broken(key, "no labels", "has no point of any class")
    state = hashlib.blake2b(digest_size=16)
    for part in (scan.xyz, scan.intensity, scan.labels):
        state.update(np.ascontiguousarray(part).tobytes())
    far = np.sqrt((scan.xyz.astype(np.float64) ** 2).sum(1))
    return Seen(
        state.digest(), len(scan), counts[: len(source.classes)], int(counts[IGNORE]),
        scan.rows is not None, float(far.max()), *_angles(scan, far),
    )  # fmt: skip


def _angles(scan: Scan, far: np.ndarray) -> tuple[tuple[float, float], int]:
    """Return between which elevations nearly all points lie, in degrees,
    and how many beams there are.
    """
    away = far > 1e-3
    sine = np.clip(scan.xyz[away, 2] / far[away], -1, 1)
    elevation = np.degrees(np.arcsin(sine))
    low, high = np.percentile(elevation, [0.1, 99.9])
    filled = np.bincount(((elevation - low) / max(1e-6, high - low) * 255).clip(0, 255).astype(int))
    beams = int((filled > 0.2 * filled.max()).sum())
    return (float(low), float(high)), beams


def _fitting(seen: Sequence[Seen]) -> Spherical:
    """Return a projection that all scans fit on: their elevations, and a pixel for most points."""
    low = min(one.angles[0] for one in seen)
    high = max(one.angles[1] for one in seen)
    beams = int(np.median([one.beams for one in seen]))
    height = next((h for h in HEIGHTS if beams <= 1.25 * h), HEIGHTS[-1])
    points = float(np.median([one.points for one in seen])) / height
    width = next((w for w in WIDTHS if points <= w), WIDTHS[-1])
    margin = 0.5 * (high - low) / height
    up, down = min(90.0, high + margin), max(-90.0, low - margin)
    return Spherical(height, width, round(max(up, down + 1), 2), round(down, 2))


def _of_broken(broken: Sequence[Broken]) -> list[Finding]:
    kinds: dict[str, list[str]] = {}
    for one in broken:
        kinds.setdefault(one.kind, []).append(one.key)
    return [
        Finding(kind, "error", f"{counted(len(keys), 'scan')} left out: {kind}", tuple(keys))
        for kind, keys in kinds.items()
    ]


def _of_scans(source: ScanSource, rows: np.ndarray, seen: Sequence[Seen]) -> list[Finding]:
    keys = [source.items[row].key for row in rows]
    middle = float(np.median([one.points for one in seen]))

    def those(*marks: bool) -> tuple[str, ...]:
        return tuple(key for key, marked in zip(keys, marks, strict=True) if marked)

    findings = []
    for kind, chosen, text in (
        ("points left out", those(*(one.left_out for one in seen)),
         "{} with points that are not finite, which are left out"),
        ("thin scan", those(*(one.points < THIN * middle for one in seen)),
         f"{{}} with less than {percent(THIN)} of the usual number of points"),
        ("far points", those(*(one.far > FAR_M for one in seen)),
         f"{{}} with points beyond {FAR_M:g} m: are these metres?"),
    ):  # fmt: skip
        if chosen:
            said = text.format(counted(len(chosen), "scan"))
            findings.append(Finding(kind, "warning", said, chosen))
    groups: dict[bytes, list[str]] = {}
    for key, one in zip(keys, seen, strict=True):
        groups.setdefault(one.digest, []).append(key)
    copies = tuple(tuple(some) for some in groups.values() if len(some) > 1)
    if copies:
        text = f"{counted(len(copies), 'group')} of equal scans, kept in one part"
        findings.append(
            Finding("duplicates", "warning", text, tuple(map(" = ".join, copies)), copies)
        )
    return findings


def _of_classes(source: ScanSource, seen: Sequence[Seen]) -> list[Finding]:
    points = np.sum([one.counts for one in seen], 0)
    ignored, total = sum(one.ignored for one in seen), max(1, int(points.sum()))
    findings = []
    pairs = list(zip(source.classes, points.tolist(), strict=True))
    for kind, names, text in (
        ("absent class", [name for name, n in pairs if not n], "{} in no scan: {}"),
        ("thin class", [name for name, n in pairs if 0 < n < RARE * total],
         f"{{}} with less than {percent(RARE)} of all points: {{}}"),
    ):  # fmt: skip
        if names:
            said = text.format(counted(len(names), "class", "classes"), few(names))
            findings.append(Finding(kind, "warning", said, tuple(names)))
    most = int(points.argmax())
    text = f"{percent(points[most] / total)} of all labelled points are {source.classes[most]!r}"
    findings.append(Finding("shares", "info", text))
    if ignored:
        share = ignored / (ignored + total)
        text = f"{percent(share)} of all points count for nothing"
        severity = "warning" if share > MUCH else "info"
        findings.append(Finding("ignored points", severity, text))
    return findings
