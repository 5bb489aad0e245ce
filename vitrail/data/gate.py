"""The data gate: every image decoded once before any training, and what is wrong with it told.

Broken files are left out, each with its reason; nothing is replaced, moved or written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from vitrail.data import scan, twins
from vitrail.data.box_gate import with_boxes
from vitrail.data.clip_gate import scan_clips
from vitrail.data.findings import findings
from vitrail.data.lidar.reading import ENDINGS as SCANS
from vitrail.data.mask_gate import mask_findings, without_faults
from vitrail.data.scan import Broken, Scan
from vitrail.data.series_gate import scan_series, series_findings
from vitrail.data.sound_gate import scan_sounds
from vitrail.data.sounds import SUFFIXES as SOUNDS
from vitrail.data.source import Finding, Item, Source, label_array, label_counts
from vitrail.data.track_gate import with_tracks
from vitrail.data.videos import SUFFIXES as VIDEOS
from vitrail.errors import ConfigError, DataError
from vitrail.units import shortened


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the gate found. The kept images, row by row:

    `rows` int64 (N,) into source.items; `digests` uint64 (N, 2), BLAKE2b of the file's bytes;
    `sizes` int32 (N, 2) height and width upright; `modes` int8 (N,) into `mode_names`;
    `twins` int64 (N,), equal for images that show the same picture. `grey` says that no image
    has any colour; `size` is the median (height, width).
    """

    source: Source
    rows: np.ndarray = field(repr=False)
    digests: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    modes: np.ndarray = field(repr=False)
    mode_names: tuple[str, ...]
    twins: np.ndarray = field(repr=False)
    broken: tuple[Broken, ...]
    findings: tuple[Finding, ...]
    grey: bool

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Return the kept images."""
        return tuple(self.source.items[row] for row in self.rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """Return class indices of the kept images, int64 (N,); of several
        labels 0 or 1 in (N, C).
        """
        return label_array(self.source, self.rows)

    @property
    def size(self) -> tuple[int, int]:
        """Return the median (height, width); of series the most steps that one has, and 1."""
        if self.source.series is not None:
            return int(self.sizes[:, 0].max()), 1
        height, width = np.median(self.sizes, axis=0)
        return int(height), int(width)

    @property
    def channels(self) -> int:
        """Return the number of channels that show all there is: 1 for grey images, else 3; for
        series the features.
        """
        if self.source.series is not None:
            return self.source.series.values.shape[2]
        return 1 if self.grey and self.source.clips is None else 3

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the number of kept images of each class."""
        return label_counts(self.source, self.labels)

    def to_json(self) -> dict[str, Any]:
        """Return the whole finding as plain data, without the list of kept images."""
        height, width = self.sizes.T
        aspect = width / height
        return {
            "name": self.source.name,
            "origin": self.source.origin,
            "images": len(self),
            "classes": dict(zip(self.classes, self.counts, strict=True)),
            "grey": self.grey,
            "height": _spread(height),
            "width": _spread(width),
            "aspect": _spread(aspect),
            "modes": {
                name: int(n)
                for name, n in zip(self.mode_names, np.bincount(self.modes), strict=False)
                if n
            },
            "broken": [entry._asdict() for entry in self.broken],
            "findings": [
                {
                    "kind": f.kind,
                    "severity": f.severity,
                    "message": f.message,
                    "keys": list(f.keys),
                    "groups": [list(keys) for keys in f.groups],
                }
                for f in self.findings
            ],
        }


def inspect(
    source: Source,
    *,
    workers: int | None = None,
    progress: bool = True,
    threshold: float = twins.LEVELS,
    least: int = 2,
) -> Inspection:
    """Decode every image of `source` once, on `workers` threads (default: all cores).

    `threshold` says how far two copies of a picture may differ, in levels of 255 (see `twins`);
    at 0 only equal pixels are copies. Raises DataError when no image is readable, or a class has
    fewer than `least`, with all such classes, unless there are
    masks or boxes; ConfigError for a negative threshold.
    """
    if not 0 <= threshold <= 255:
        raise ConfigError(f"threshold is {threshold}: expected levels from 0 to 255, such as 2.5")
    source, found, more = _scanned(source, workers=workers, progress=progress)
    if source.masks is not None:
        found, least = without_faults(source, source.masks, found), 0
    if source.boxes is not None:
        source, found, more = with_boxes(source, source.boxes, found)
        least = 0
    counts = np.array(label_counts(source, label_array(source, found.rows)))
    _require(source, found, counts, least)
    if source.masks is not None:
        more = mask_findings(source, source.masks, found)
    if source.series is not None:
        more = series_findings(source.series, found)
    first = np.fromiter((source.items[row].label for row in found.rows), np.int64)
    groups = found.groups
    if groups is None:
        groups = twins.twins(found.digests, found.signatures, first + 1, threshold=threshold)
    return Inspection(
        source, found.rows, found.digests, found.sizes, found.modes, found.mode_names, groups,
        tuple(found.broken),
        (*source.findings, *findings(source, found, counts, groups), *more),
        found.grey,
    )  # fmt: skip


def _scanned(
    source: Source, *, workers: int | None, progress: bool
) -> tuple[Source, Scan, Sequence[Finding]]:
    """Read everything once; returns the source with what only reading tells, and what was found."""
    more: Sequence[Finding] = ()
    if source.series is not None:
        found = scan_series(source, source.series)
    elif source.clips is not None:
        found, lengths = scan_clips(source, source.clips, workers=workers, progress=progress)
        source = replace(source, clips=replace(source.clips, lengths=lengths))
        if source.tracks is not None and len(found.rows):
            source, more = with_tracks(
                source, source.tracks, found, workers=workers, progress=progress
            )
    elif source.wanted is not None:
        found, hearing, more = scan_sounds(
            source, source.wanted, workers=workers, progress=progress
        )
        source = replace(source, hearing=hearing)
    elif source.pixels is None:
        found = scan.scan_files(source, workers=workers, progress=progress)
    else:
        found = scan.scan_array(source.pixels, progress=progress)
    return replace(source, ranges=found.ranges), found, more


_UNITS = {"images": "files", "series": "series", "clips": "files", "waves": "files"}
_READ = {
    "images": "read as an image", "series": "used", "clips": "read as a video",
    "waves": "read as a sound",
}  # fmt: skip
_WHOLE = {
    "images": "give whole JPEG, PNG, WebP, GIF, BMP or TIFF files",
    "series": "give series with numbers",
    "clips": "give whole MP4, MKV, WebM, MOV or AVI files",
    "waves": "give whole WAV, FLAC, OGG, MP3 or AIFF files",
}


def _meant(source: Source, found: Scan) -> str:
    """Return the option that is missing where most of what is not an image is something else."""
    endings = [key.lower() for key, *_ in found.broken] if source.kind == "images" else []
    for task, some in (("audio", SOUNDS), ("video", VIDEOS), ("lidar", (*SCANS, ".label"))):
        if source.wanted is None and 2 * sum(key.endswith(some) for key in endings) > len(source):
            return f"say --task {task}"
    return ""


def _require(source: Source, found: Scan, counts: np.ndarray, least: int) -> None:
    if not len(found.rows):
        key, _, reason = found.broken[0]
        remedy = _meant(source, found) or _WHOLE[source.kind]
        raise DataError(
            f"none of the {len(source):,} {_UNITS[source.kind]} of {source.origin} can be "
            f"{_READ[source.kind]} (first: {shortened(key)} {reason}): {remedy}"
        )
    if least < 2 or not len(counts) or counts.min() >= least:
        return
    left = f" (broken files left out: {len(found.broken)})" if found.broken else ""
    if other := _meant(source, found):
        raise DataError(f"most files of {source.origin} are not images: {other}")
    remedy = "give it at least three, one to learn from, one to choose by and one to be judged by"
    scarce = [(name, n) for name, n in zip(source.classes, counts, strict=True) if n < 3]
    if len(scarce) == 1:
        name, n = scarce[0]
        has = f"only one readable {source.noun}" if n else f"no readable {source.noun}"
        raise DataError(
            f"class {shortened(name)!r} of {source.origin} has {has}{left}: {remedy}, or remove "
            "the class"
        )
    shown = ", ".join(f"{shortened(name, 60)!r} {n}" for name, n in scarce[:10])
    more = f" and {len(scarce) - 10:,} more" if len(scarce) > 10 else ""
    raise DataError(
        f"{len(scarce):,} of {len(counts):,} classes of {source.origin} have fewer than three "
        f"readable {source.nouns} ({shown}{more}){left}: {remedy.replace('give it', 'give each')}, "
        "or remove the class"
    )


def _spread(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, [0, 50, 100])
    return {"min": float(low), "median": float(middle), "max": float(high)}
