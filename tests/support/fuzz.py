"""Damaged images by the thousand, the same for a seed, and what the decoder makes of them."""

import io
import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from support.pictures import photo
from vitrail.data.decode import BrokenImage, read_picture
from vitrail.data.formats import known

# How each format is written, so that all of its decoders get something to do.
WAYS = {
    "JPEG": ({}, {"progressive": True}, {"restart_marker_blocks": 2}),
    "PNG": ({}, {"compress_level": 0}),
    "TIFF": tuple(
        {"compression": name}
        for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4")
    ),
    "WEBP": ({}, {"lossless": True}),
    "GIF": ({}, {"save_all": True, "append_images": [photo(8, 20, 26)]}),
}
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F")


@dataclass
class Outcome:
    """What became of the files: counts of "read" and of reasons, and what went wrong."""

    kinds: Counter[str] = field(default_factory=Counter)
    escaped: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    grown_mib: float = 0.0


def whole_images() -> list[tuple[str, bytes]]:
    """One small file of each format, way and mode that Pillow writes."""
    found = []
    for form in known():
        for way in WAYS.get(form, ({},)):
            for mode in MODES:
                buffer = io.BytesIO()
                try:
                    _picture(mode).save(buffer, form, **way)
                except (OSError, ValueError, KeyError, RuntimeError, TypeError):
                    continue  # no such mode in this format
                found.append((f"{form} {mode} {way}", buffer.getvalue()))
    return found


def _picture(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(photo(5, 20, 26).convert("L")).astype(np.uint16) * 200)
    image = photo(5, 20, 26)
    return Image.new("LAB", image.size, (120, 90, 140)) if mode == "LAB" else image.convert(mode)


def damaged(n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged files with a name each."""
    random = np.random.default_rng(seed)
    whole = whole_images()
    for number in range(n):
        name, data = whole[number % len(whole)]
        changed = bytearray(data)
        for _ in range(int(random.integers(1, 3))):
            _damage(changed, random)
        yield f"{name} #{number}", bytes(changed)


def _damage(data: bytearray, random: np.random.Generator) -> None:
    # The beginning, where sizes and counts stand, is hit more often than its share.
    reach = len(data) if random.random() < 0.5 else min(len(data), 64)
    at = int(random.integers(0, max(1, reach)))
    length = int(random.integers(1, 40))
    match random.integers(0, 7):
        case 0:
            data[at : at + 1] = bytes([int(random.integers(256))])
        case 1:
            data[at : at + length] = random.bytes(min(length, 4))
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[at : at + length]
        case 4:
            del data[int(random.integers(0, max(1, len(data)))) :]
        case 5:
            data[at : at + 4] = (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff")[random.integers(3)]
        case _:
            data[at : at + 1] = bytes([data[at] ^ (1 << int(random.integers(8)))] if data else b"")


def fuzz(n: int, seed: int) -> Outcome:
    """Decode so many damaged files; only BrokenImage may come out of them."""
    outcome = Outcome()
    for _, data in whole_images():
        read_picture(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in damaged(n, seed):
        began = time.process_time()
        try:
            picture = read_picture(data)
            assert picture.image.mode in ("L", "RGB"), picture.image.mode
            outcome.kinds["read"] += 1
        except BrokenImage as error:
            assert error.reason and "\n" not in error.reason, error.reason
            outcome.kinds[error.kind] += 1
        except Exception as error:
            outcome.escaped.append(f"{name}: {type(error).__name__}: {error}")
        outcome.slowest_s = max(outcome.slowest_s, time.process_time() - began)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome.grown_mib = (after - before) / 1024
    return outcome
