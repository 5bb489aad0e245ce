"""The pass over all images that the gate makes: each is decoded once, little of it is kept."""

import hashlib
import os
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitrail.data import twins
from vitrail.data.decode import BrokenImage, Picture, read_picture
from vitrail.data.parallel import bar, in_order
from vitrail.data.source import Item, Source

# A file that is larger is no photograph; it would only fill the memory.
OVERSIZED_BYTES = 1 << 30

# Keys that are kept of each trait: a broken file is always named, a grey one need not be.
KEYS_SHOWN = 1000

# Modes that are worth telling, besides being counted.
MODES = ("palette", "16-bit", "32-bit", "float", "CMYK")

_ROWS_AT_ONCE = 16


class Broken(NamedTuple):
    """A file left out: its key, kind and the reason, which follows on "key ..."."""

    key: str
    kind: str
    reason: str


@dataclass(frozen=True, eq=False)
class Scan:
    """Of the images that were read, row by row, what `gate.Inspection` says and the signatures
    of `twins`; of the broken ones, the reasons; of each trait, how many have it and some keys."""

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


def scan_files(source: Source, *, workers: int | None, progress: bool) -> Scan:
    """Decode every file of `source` on `workers` threads (default: all cores)."""
    items = source.items

    def examine(part: range) -> list[_Seen | Broken]:
        return [_examine(source, items[row]) for row in part]

    rows, digests, sizes, modes, marks = [], bytearray(), [], [], bytearray()
    broken, names, traits, grey = [], {}, {}, True
    with warnings.catch_warnings():
        # Pillow warns of damage without consequence, such as odd EXIF blocks, and of sizes that
        # the decoder refuses anyway.
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
                if n < KEYS_SHOWN:
                    keys.append(items[row].key)
                traits[trait] = (n + 1, keys)
    return Scan(
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
    # Phones write MPO, a JPEG with a preview, to .jpg.
    form = Image.registered_extensions().get(extension, "").replace("MPO", "JPEG")
    return tuple(
        name
        for name, holds in {
            "alpha": picture.alpha,
            "animated": picture.animated,
            "rotated": picture.orientation != 1,
            "stretched": picture.stretched and picture.mode == "float",
            "dim": picture.dim,
            "extension": form != picture.format.replace("MPO", "JPEG"),
            picture.mode: picture.mode in MODES,
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


def scan_array(pixels: np.ndarray, *, progress: bool) -> Scan:
    """The same of uint8 (N, h, w) in memory, some thousands at a time."""
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
        np.arange(n), _words(digests), sizes, modes, ("grey",), np.concatenate(marks), True, [], {}
    )


def _words(digests: bytearray) -> np.ndarray:
    return np.frombuffer(bytes(digests), ">u8").reshape(-1, 2).astype(np.uint64)
