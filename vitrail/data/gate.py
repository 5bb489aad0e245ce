"""The data gate: every image decoded once before any training, and what is wrong with it told.

Broken files are left out, each with its reason; nothing is replaced, moved or written.
"""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vitrail.data import twins
from vitrail.data.decode import BrokenImage, Picture, read_picture
from vitrail.data.parallel import bar, in_order
from vitrail.data.source import Finding, Item, Source
from vitrail.errors import DataError

# A file that is larger is no photograph; it would only fill the memory.
OVERSIZED_BYTES = 1 << 30

_KEYS_SHOWN = 1000  # of a finding that leaves nothing out
_ROWS_AT_ONCE = 16
_TRAITS = {
    "alpha": "{} transparency, laid over white",
    "palette": "{} a palette, converted to colour",
    "16-bit": "{} 16 bits per value, scaled by 255/65535",
    "32-bit": "{} 32-bit values, each scaled from its own minimum and maximum",
    "float": "{} floating-point values",
    "stretched": "{} values of unknown range, each scaled from its own minimum and maximum",
    "dim": "{} 16 bits per value but less than 1/8 of the range, and become very dark",
    "CMYK": "{} the four inks CMYK, converted to RGB",
    "animated": "{} several frames, of which the first is taken",
    "rotated": "{} an EXIF rotation, which is applied",
    "extension": "{} an extension of another format, decoded by content",
}
_WARN = ("stretched", "32-bit", "dim", "extension")


class Broken(NamedTuple):
    """A file left out: its key, kind and the reason, which follows on "key ..."."""

    key: str
    kind: str
    reason: str


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
        """The kept images."""
        return tuple(self.source.items[row] for row in self.rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """Class indices of the kept images, int64 (N,)."""
        return _labels(self.source, self.rows)

    @property
    def size(self) -> tuple[int, int]:
        height, width = np.median(self.sizes, axis=0)
        return int(height), int(width)

    @property
    def counts(self) -> tuple[int, ...]:
        """Kept images of each class."""
        return tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist())

    def to_json(self) -> dict[str, Any]:
        """The whole finding as plain data, without the list of kept images."""
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
                {"kind": f.kind, "severity": f.severity, "message": f.message, "keys": list(f.keys)}
                for f in self.findings
            ],
        }


def inspect(source: Source, *, workers: int | None = None, progress: bool = True) -> Inspection:
    """Decode every image of `source` once, on `workers` threads (default: all cores).

    Raises DataError when no image is readable, or a class has none or only one.
    """
    scan = _scan_array if source.pixels is not None else _scan_files
    found = scan(source, workers, progress)
    _require(source, found)
    groups = twins.twins(found.digests, found.signatures)
    findings = (
        *source.findings,
        *_broken_findings(found.broken),
        *_trait_findings(found.traits),
        *_shape_findings(source, found),
        *_twin_findings(source, found, groups),
    )
    return Inspection(
        source, found.rows, found.digests, found.sizes, found.modes, found.mode_names, groups,
        tuple(found.broken), findings, found.grey,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Scan:
    rows: np.ndarray
    digests: np.ndarray
    sizes: np.ndarray
    modes: np.ndarray
    mode_names: tuple[str, ...]
    signatures: np.ndarray
    grey: bool
    broken: list[Broken]
    traits: dict[str, tuple[int, list[str]]]


class _Seen(NamedTuple):
    digest: bytes
    size: tuple[int, int]
    mode: str
    signature: bytes
    grey: bool
    traits: tuple[str, ...]


def digest(data: bytes | memoryview) -> bytes:
    """The 16 bytes by which an image is known: BLAKE2b of its file."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _scan_files(source: Source, workers: int | None, progress: bool) -> _Scan:
    items = source.items

    def examine(part: range) -> list[_Seen | Broken]:
        return [_examine(source, items[row]) for row in part]

    rows, digests, sizes, modes, marks = [], bytearray(), [], [], bytearray()
    broken, names, traits, grey = [], {}, {}, True
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Pillow warns of damage that is of no consequence here, such as odd EXIF blocks.
        warnings.filterwarnings("ignore", module="PIL")
        size = _ROWS_AT_ONCE
        title = "reading images"
        done = in_order(
            examine, len(items), size=size, workers=workers, title=title, progress=progress
        )
        for row, seen in enumerate(seen for batch in done for seen in batch):
            if isinstance(seen, Broken):
                broken.append(seen)
                continue
            rows.append(row)
            digests += seen.digest
            sizes.append(seen.size)
            modes.append(names.setdefault(seen.mode, len(names)))
            marks += seen.signature
            grey = grey and seen.grey
            for trait in seen.traits:
                n, keys = traits.get(trait, (0, []))
                if n < _KEYS_SHOWN:
                    keys.append(items[row].key)
                traits[trait] = (n + 1, keys)
    return _Scan(
        np.array(rows, np.int64), _words(digests), np.array(sizes, np.int32).reshape(-1, 2),
        np.array(modes, np.int8), tuple(names),
        np.frombuffer(bytes(marks), np.uint8).reshape(-1, twins.BYTES), grey, broken, traits,
    )  # fmt: skip


def _examine(source: Source, item: Item) -> _Seen | Broken:
    try:
        n = os.path.getsize(source.path(item))
        if n > OVERSIZED_BYTES:
            return Broken(item.key, "oversized", f"has {n:,} bytes, at most {OVERSIZED_BYTES:,}")
        data = source.read(item)
        picture = read_picture(data)
    except BrokenImage as error:
        return Broken(item.key, error.kind, error.reason)
    except OSError as error:
        return Broken(item.key, "unreadable", f"cannot be read ({error.strerror or error})")
    image = picture.image
    return _Seen(
        digest(data),
        (image.height, image.width),
        picture.mode + (" with alpha" if picture.alpha else ""),
        twins.signature(image).tobytes(),
        _is_grey(image),
        _traits(picture, item.key),
    )


def _traits(picture: Picture, key: str) -> tuple[str, ...]:
    extension = os.path.splitext(key)[1].lower()
    form = Image.registered_extensions().get(extension)
    same = {"MPO": "JPEG"}
    return tuple(
        name
        for name, holds in {
            "alpha": picture.alpha,
            "animated": picture.animated,
            "rotated": picture.orientation != 1,
            "stretched": picture.stretched and picture.mode == "float",
            "dim": picture.dim,
            "extension": same.get(form, form) != same.get(picture.format, picture.format),
            picture.mode: picture.mode in _TRAITS,
        }.items()
        if holds
    )


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "L":
        return True
    # A corner of the picture settles it for nearly all that have colour.
    corner = np.asarray(image.crop((0, 0, min(64, image.width), min(64, image.height))))
    return _bands_agree(corner) and _bands_agree(np.asarray(image))


def _bands_agree(pixels: np.ndarray) -> bool:
    signed = pixels.astype(np.int16)
    return bool(
        (abs(signed[..., 0] - signed[..., 1]) <= 2).all()
        and (abs(signed[..., 1] - signed[..., 2]) <= 2).all()
    )


def _scan_array(source: Source, workers: int | None, progress: bool) -> _Scan:
    pixels = source.pixels
    n, height, width = pixels.shape
    digests, marks = bytearray(), []
    with bar("reading images", n, shown=progress) as advance:
        for start in range(0, n, 10_000):
            block = np.ascontiguousarray(pixels[start : start + 10_000])
            digests += b"".join(digest(picture.data) for picture in block)
            marks.append(twins.grey_signatures(block))
            advance(len(block))
    sizes = np.broadcast_to(np.array([height, width], np.int32), (n, 2))
    modes = np.zeros(n, np.int8)
    return _Scan(
        np.arange(n), _words(digests), sizes, modes, ("grey",), np.concatenate(marks), True, [], {}
    )


def _words(digests: bytearray) -> np.ndarray:
    return np.frombuffer(bytes(digests), ">u8").reshape(-1, 2).astype(np.uint64)


def _labels(source: Source, rows: np.ndarray) -> np.ndarray:
    return np.fromiter((source.items[row].label for row in rows), np.int64, len(rows))


def _require(source: Source, found: _Scan) -> None:
    first = f" ({found.broken[0].key} {found.broken[0].reason})" if found.broken else ""
    if not len(found.rows):
        raise DataError(
            f"none of the {len(source):,} files of {source.origin} can be read as an image, "
            f"first{first}: give whole JPEG, PNG, WebP, GIF, BMP or TIFF files"
        )
    counts = np.bincount(_labels(source, found.rows), minlength=len(source.classes))
    for name, n in zip(source.classes, counts, strict=True):
        if n < 2:
            has = "only one readable image" if n else "no readable image"
            left = f", {len(found.broken)} broken files were left out" if found.broken else ""
            raise DataError(
                f"class {name!r} of {source.origin} has {has}{left}: give it at least two, one "
                "to learn from and one to be judged by, or remove the class"
            )


def _broken_findings(broken: Sequence[Broken]) -> list[Finding]:
    means = {
        "empty": "empty", "not an image": "no image", "truncated": "truncated",
        "bomb": "too large to be decoded safely", "broken": "damaged",
        "unreadable": "unreadable", "oversized": "too large a file",
    }  # fmt: skip
    groups: dict[str, list[str]] = {}
    for entry in broken:
        groups.setdefault(entry.kind, []).append(entry.key)
    return [
        Finding(kind, "error", f"{_files_are(len(keys))} {means[kind]}, left out", tuple(keys))
        for kind, keys in groups.items()
    ]


def _trait_findings(traits: dict[str, tuple[int, list[str]]]) -> list[Finding]:
    return [
        Finding(
            trait,
            "warning" if trait in _WARN else "info",
            _TRAITS[trait].format(f"{n:,} image" + (" has" if n == 1 else "s have")),
            tuple(keys),
        )
        for trait, (n, keys) in traits.items()
    ]


def _shape_findings(source: Source, found: _Scan) -> list[Finding]:
    findings = []
    counts = np.bincount(_labels(source, found.rows), minlength=len(source.classes))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] >= 3 * counts[least]:
        text = (
            f"class {source.classes[most]!r} has {counts[most]:,} images, "
            f"{source.classes[least]!r} only {counts[least]:,}"
        )
        findings.append(Finding("imbalance", "warning", text))
    few = [name for name, n in zip(source.classes, counts, strict=True) if n < 20]
    if few:
        text = f"{len(few)} of {len(counts)} classes have fewer than 20 images"
        findings.append(Finding("small class", "warning", text, tuple(few)))
    height, width = found.sizes.T
    aspect = width / height
    long = np.flatnonzero((aspect >= 3) | (aspect <= 1 / 3))
    if len(long):
        text = f"{_images(len(long))} at least three times as long as wide, squeezed on the way in"
        findings.append(Finding("aspect", "warning", text, _keys(source, found, long)))
    tiny = np.flatnonzero(np.minimum(height, width) < 8)
    if len(tiny):
        text = f"{_images(len(tiny))} smaller than 8 pixels on one side"
        findings.append(Finding("tiny", "warning", text, _keys(source, found, tiny)))
    return findings


def _keys(source: Source, found: _Scan, at: np.ndarray) -> tuple[str, ...]:
    return tuple(source.items[found.rows[i]].key for i in at[:_KEYS_SHOWN])


def _twin_findings(source: Source, found: _Scan, groups: np.ndarray) -> list[Finding]:
    """Exact and near duplicates: inside a class, across classes, across the given parts."""
    sets: dict[tuple[str, str], list[str]] = {}
    totals: Counter[tuple[str, str]] = Counter()
    order = np.argsort(groups, kind="stable")
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        members = order[start : start + count]
        items = [source.items[found.rows[i]] for i in members]
        exact = (found.digests[members] == found.digests[members[0]]).all()
        where = "inside a class"
        if len({item.part or "train" for item in items}) > 1:
            where = "across the split"
        elif len({item.label for item in items}) > 1:
            where = "across classes"
        kind = ("exact" if exact else "near", where)
        totals[kind] += 1
        shown = sets.setdefault(kind, [])
        if len(shown) < _KEYS_SHOWN:
            shown.append(" = ".join(item.key for item in items[:10]))
    meaning = {
        "inside a class": ("info", "kept on one side of the split"),
        "across classes": ("warning", "one of the labels is wrong"),
        "across the split": ("warning", "a leak, the test looks better than it is"),
    }
    findings = []
    for (sort, where), n in sorted(totals.items()):
        severity, consequence = meaning[where]
        what = "identical files" if sort == "exact" else "nearly identical images"
        groups_of = "group" if n == 1 else "groups"
        text = f"{n:,} {groups_of} of {what} {where}: {consequence}"
        findings.append(Finding(f"{sort} duplicates", severity, text, tuple(sets[sort, where])))
    return findings


def _spread(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, [0, 50, 100])
    return {"min": float(low), "median": float(middle), "max": float(high)}


def _files_are(n: int) -> str:
    return "1 file is" if n == 1 else f"{n:,} files are"


def _images(n: int) -> str:
    return "1 image is" if n == 1 else f"{n:,} images are"
