"""The pass over all images that the gate makes: each is decoded once, little of it is kept.

Images of more than 8 bits per value are looked at for the range that all of them share, and those
that it shows otherwise than their own are decoded once more.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from vitrail.data import twins
from vitrail.data.decode import BrokenImage, Picture, reading
from vitrail.data.depth import Range, Values, range_of, together
from vitrail.data.parallel import bar, in_order
from vitrail.data.source import Item, Source
from vitrail.data.tally import KEYS_SHOWN, Broken, Scan, Seen, Tally, words

__all__ = ["KEYS_SHOWN", "Broken", "Scan", "digest", "scan_array", "scan_files"]

# Modes that are worth telling, besides being counted.
MODES = ("palette", "16-bit", "32-bit", "float", "CMYK")

_ROWS_AT_ONCE = 16


def digest(data: bytes | memoryview) -> bytes:
    """Return the 16 bytes by which an image is known: BLAKE2b of its file."""
    return hashlib.blake2b(data, digest_size=16).digest()


def scan_files(source: Source, *, workers: int | None, progress: bool) -> Scan:
    """Decode every file of `source` on `workers` threads (default: all cores)."""
    tally = Tally(source.items)
    deep: dict[int, Seen] = {}
    with warnings.catch_warnings():
        # Pillow warns of damage without consequence, such as odd EXIF blocks, and of sizes that
        # the decoder refuses anyway.
        warnings.filterwarnings("ignore", module="PIL")
        rows = range(len(source))
        for row, seen in _pass(source, rows, (), workers, "reading images" if progress else ""):
            if isinstance(seen, Seen) and seen.values is not None:
                deep[row] = seen
            else:
                tally.add(row, seen)
        ranges, empty = _shared(deep)
        for row in empty:
            del deep[row]
            text = "holds nothing but a value that marks missing data"
            tally.add(row, Broken(source.items[row].key, "no values", text))
        other = [row for row, seen in deep.items() if seen.limits not in ranges]
        title = "reading images again" if progress else ""
        again = dict(_pass(source, other, ranges, workers, title))
    for row, seen in deep.items():
        tally.add(row, again.get(row, seen))
    return tally.scan(ranges)


def _pass(
    source: Source, rows: Sequence[int], ranges: Sequence[Range], workers: int | None, title: str
) -> Iterator[tuple[int, Seen | Broken]]:
    """Yield what is seen in each of some rows, in their order."""

    def examine(part: range) -> list[Seen | Broken]:
        return [_examine(source, source.items[rows[at]], ranges) for at in part]

    size, shown = _ROWS_AT_ONCE, bool(title)
    done = in_order(examine, len(rows), size=size, workers=workers, title=title, progress=shown)
    yield from zip(rows, (seen for batch in done for seen in batch), strict=True)


def _shared(deep: dict[int, Seen]) -> tuple[tuple[Range, ...], list[int]]:
    """Return one range for each kind of values, and the rows that hold
    marks of missing data only.
    """
    kinds: dict[str, dict[int, Values]] = {}
    for row, seen in deep.items():
        if seen.values is not None:
            kinds.setdefault(seen.values.kind, {})[row] = seen.values
    ranges, empty = [], []
    for _, values in sorted(kinds.items()):
        all_of_them = together([*values.values()])
        marks = {mark for mark, _ in all_of_them.markers}
        ranges.append(range_of(all_of_them))
        empty += [
            row for row, own in values.items() if not own.n and marks >= {m for m, _ in own.markers}
        ]
    return tuple(ranges), empty


def _examine(source: Source, item: Item, ranges: Sequence[Range]) -> Seen | Broken:
    try:
        source.check(item)
        data = source.read(item)
        with reading(data, ranges) as picture:
            return _seen(data, picture, item.key)
    except BrokenImage as error:
        return Broken(item.key, error.kind, error.reason)
    except OSError as error:
        return Broken(item.key, "unreadable", f"cannot be read ({error.strerror or error})")


def _seen(data: bytes, picture: Picture, key: str) -> Seen:
    image = picture.image
    return Seen(
        digest(data),
        (image.height, image.width),
        picture.mode + (" with alpha" if picture.alpha else ""),
        twins.signature(image).tobytes(),
        _is_grey(image),
        _traits(picture, key),
        picture.values,
        picture.limits,
    )


def _traits(picture: Picture, key: str) -> tuple[str, ...]:
    extension = os.path.splitext(key)[1].lower()
    # Phones write MPO, a JPEG with a preview, to .jpg.
    form = Image.registered_extensions().get(extension, "").replace("MPO", "JPEG")
    return tuple(
        name
        for name, holds in {
            "alpha": picture.alpha,
            "animated": picture.animated,
            "rotated": picture.orientation != 1,
            "stretched": picture.stretched,
            "dim": picture.dim,
            "bands": picture.spare,
            "no data": picture.values is not None and _marked(picture.values),
            "extension": form != picture.format.replace("MPO", "JPEG"),
            picture.mode: picture.mode in MODES,
        }.items()
        if holds
    )


def _marked(values: Values) -> bool:
    return bool(values.missing or together([values]).markers)


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


def scan_array(pixels: np.ndarray, *, progress: bool) -> Scan:
    """Scan uint8 (N, h, w) in memory, some thousands at a time."""
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
    return Scan(
        np.arange(n), words(digests), sizes, modes, ("grey",), np.concatenate(marks), True, [], {}
    )
