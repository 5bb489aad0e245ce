"""The pictures that a model is given: their size, and what it costs to make them fit the model.

A model looks at a small square, a camera gives millions of pixels. `model.onnx` resizes what it is
given in its own graph; files of other engines take images of the model's size, so
`data.decode.resize` comes before them. Which of the two it is decides what a picture costs: the
graph takes 7 to 17 times as long.
"""

from __future__ import annotations

import io
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail import files
from vitrail.data.decode import decode_full, read_picture, resize
from vitrail.data.gate import Inspection
from vitrail.data.labels import Labels
from vitrail.engines.front import save_front
from vitrail.errors import ConfigError, DataError
from vitrail.measure.latency import (
    Latency,
    alternate,
    onnx_latency,
    remembered,
    summary,
    threads_set,
    turns,
)
from vitrail.units import counted, shortened

# What Pillow decodes of a picture that nobody vouches for; no smaller side makes a model.
MOST_PIXELS, LEAST_SIDE = 89_478_485, 8
# A resize is measured for so long, and for five runs at least.
RESIZE_S = 0.1
# So many pictures are decoded, each so often.
DECODED, DECODINGS = 3, 3
# Formats in which a picture is written again at another size; others as PNG.
WRITTEN = {"JPEG": "JPEG", "MPO": "JPEG", "WEBP": "WEBP"}


@dataclass(frozen=True)
class Pictures:
    """Pictures of `size` (height, width), and who resizes them with how many threads.

    `inside` says that the exported file does it, else `data.decode.resize` before it. `called` is
    what a reader calls them.
    """

    size: tuple[int, int]
    threads: int = 1
    inside: bool = True
    called: str = "picture"

    def resize_s(self, image: tuple[int, int], channels: int) -> float:
        """Return the seconds that resizing one picture to `image` takes; none at that size already.

        It is the quickest of several runs, remembered on this machine, beyond what the file takes
        for a picture of its own size.
        """
        if self.size == tuple(image):
            return 0.0
        own, whole = (
            _resizing(size, tuple(image), channels, self.threads, self.inside)
            for size in (tuple(image), self.size)
        )
        return max(0.0, whole - own)

    def spoken(self) -> str:
        """Say the size, width first."""
        return spoken(self.size)


@dataclass(frozen=True)
class Decoding:
    """Seconds from the bytes of a file to its pixels, and the format of these bytes."""

    seconds: float
    format: str


def spoken(size: tuple[int, int]) -> str:
    """Say a size (height, width) as cameras do, width first: "1920x1080"."""
    return f"{size[1]}x{size[0]}"


def read_size(text: object) -> tuple[int, int]:
    """Read `1920x1080`, width first, as (height, width). Raises ConfigError."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*[x×]\s*(\d{1,9})\s*", str(text).lower(), re.ASCII)
    if found is None:
        raise ConfigError(
            f"input {shortened(str(text), 60)!r} is not a size: write width and height in pixels, "
            "like 1920x1080"
        )
    size = int(found[2]), int(found[1])
    check_size(size)
    return size


def check_size(size: tuple[int, int]) -> None:
    """Raise ConfigError for a size (height, width) that no picture which can be read has."""
    if min(size) < LEAST_SIDE:
        raise ConfigError(
            f"input {spoken(size)} is too small: give sides of {LEAST_SIDE} pixels or more"
        )
    pixels = size[0] * size[1]
    if pixels > MOST_PIXELS:
        raise ConfigError(
            f"input {spoken(size)} has {counted(pixels, 'pixel')}, and pictures of more than "
            f"{MOST_PIXELS:,} are not read: give the size of those that you have"
        )


def decoding(inspection: Inspection, size: tuple[int, int], channels: int) -> Decoding | None:
    """Measure how long a file with a picture of `size` takes to decode; None of arrays in
    memory and of sounds.

    Of the pictures that are nearest to it in size, each is decoded a few times, and the quickest
    counts; returned is the median over pictures. Those of another size are resized and written
    again in their own format. Raises DataError for a file that is gone.
    """
    source = inspection.source
    if source.pixels is not None or source.hearing is not None:
        return None
    away = np.abs(np.log(inspection.sizes / np.array(size))).sum(1)
    found = []
    for row in np.argsort(away, kind="stable")[:DECODED]:
        item = inspection.items[row]
        try:
            data = source.read(item)
        except OSError as error:
            raise DataError(
                f"{shortened(item.key)} cannot be read any more ({files.reason(error)}): restore it"
            ) from error
        data, form = _at(data, size)
        calls = [lambda data=data: decode_full(data, channels, source.ranges)]
        times = turns(calls, seconds=0, least=DECODINGS)[0]
        found.append((summary(times).quickest_s, form))
    return Decoding(*sorted(found)[len(found) // 2])


def _at(data: bytes, size: tuple[int, int]) -> tuple[bytes, str]:
    """Return the bytes of a picture at a size, and their format."""
    picture = read_picture(data)
    if (picture.image.height, picture.image.width) == size:
        return data, picture.format.replace("MPO", "JPEG")
    form, buffer = WRITTEN.get(picture.format, "PNG"), io.BytesIO()
    picture.image.resize((size[1], size[0]), Image.Resampling.BILINEAR).save(buffer, form)
    return buffer.getvalue(), form


@cache
def _resizing(
    size: tuple[int, int], image: tuple[int, int], channels: int, threads: int, inside: bool
) -> float:
    measure = _graph if inside else _before
    key = {"resize": size, "to": image, "channels": channels, "threads": threads, "inside": inside}
    return remembered(key, lambda: measure(size, image, channels, threads)).quickest_s


def _graph(size: tuple[int, int], image: tuple[int, int], channels: int, threads: int) -> Latency:
    """Time the resize of an exported file, alone in a file."""
    told = Labels(("a", "b"), image, channels, (0.5,) * channels, (0.25,) * channels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resize.onnx"
        save_front(told, path)
        return onnx_latency(path, threads=threads, seconds=RESIZE_S, image=size)


def _before(size: tuple[int, int], image: tuple[int, int], channels: int, threads: int) -> Latency:
    """Time the resize that comes before a file of the model's size."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, channels), dtype=np.uint8)
    with threads_set(threads):
        return alternate([lambda: resize(pixels, image)], seconds=RESIZE_S)[0]
