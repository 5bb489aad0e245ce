"""The signature of an image: what it looks like, coarse and fine, and a checksum of its pixels.

It holds the luma on a 24x24 grid in 1/256 levels, two chroma on 8x8 in levels, two checksums
and the shorter side, up to 255 pixels.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

FINE, CHROMA = 24, 8
LUMA_BYTES, CHROMA_BYTES, SUM_BYTES = 2 * FINE * FINE, 2 * CHROMA * CHROMA, 8
BYTES = LUMA_BYTES + CHROMA_BYTES + SUM_BYTES

_SIDE = 240  # means are taken from a picture of this side, which is finer than a level


def signature(image: Image.Image) -> np.ndarray:
    """Return uint8 (BYTES,) of an upright image in mode L or RGB."""
    luma, *chroma = _small_means(image) if max(image.size) <= _SIDE else _large_means(image)
    return _packed(
        luma[None],
        np.array(chroma)[None] if chroma else None,
        [_checksum(image.tobytes(), image.size)],
    )[0]


def grey_signatures(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 (N, BYTES) of uint8 (N, h, w): what `signature` gives, to half a level."""
    rows, columns = (_averaging(side, FINE) for side in pixels.shape[1:])
    luma = np.clip(rows @ pixels.astype(np.float32) @ columns.T, 0, 255)
    size = pixels.shape[:0:-1]
    return _packed(luma, None, [_checksum(np.ascontiguousarray(i).data, size) for i in pixels])


def luma(signatures: np.ndarray) -> np.ndarray:
    """Return the lumas of (N, BYTES) signatures, float32 (N, 576) in levels of 0 to 255."""
    return signatures[:, :LUMA_BYTES].view("<u2").astype(np.float32) / 256


def _large_means(image: Image.Image) -> list[np.ndarray]:
    """Return luma (24, 24), and of colours chroma (8, 8) twice."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    bands = [np.asarray(band) for band in _bands(small)]
    return [_means(band, CHROMA if i else FINE) for i, band in enumerate(bands)]


def _means(band: np.ndarray, side: int) -> np.ndarray:
    step = _SIDE // side
    return band.reshape(side, step, side, step).mean((1, 3), dtype=np.float32)


def _small_means(image: Image.Image) -> list[np.ndarray]:
    """Return the same of what would only be enlarged: two products of small matrices instead."""
    found = []
    for i, band in enumerate(_bands(image)):
        pixels, side = np.asarray(band, np.float32), CHROMA if i else FINE
        rows, columns = (_averaging(length, side) for length in pixels.shape)
        found.append(np.clip(rows @ pixels @ columns.T, 0, 255))
    return found


def _bands(image: Image.Image) -> Sequence[Image.Image]:
    return [image] if image.mode == "L" else image.convert("YCbCr").split()


@lru_cache(maxsize=64)
def _averaging(length: int, side: int) -> np.ndarray:
    """Return (side, length): how much each pixel of a row counts in
    each mean, as Pillow resizes.
    """
    unit = Image.fromarray(np.eye(length, dtype=np.float32))
    resized = np.asarray(unit.resize((length, _SIDE), Image.Resampling.BILINEAR))
    return resized.reshape(side, -1, length).mean(1)


def _packed(luma: np.ndarray, chroma: np.ndarray | None, sums: list[bytes]) -> np.ndarray:
    n = len(luma)
    out = np.full((n, BYTES), 128, np.uint8)
    words = np.rint(luma.reshape(n, -1) * 256).astype("<u2")
    out[:, :LUMA_BYTES] = words.view(np.uint8)
    if chroma is not None:
        out[:, LUMA_BYTES:-SUM_BYTES] = np.rint(chroma.reshape(n, -1))
    out[:, -SUM_BYTES:] = np.frombuffer(b"".join(sums), np.uint8).reshape(n, -1)
    return out


def _checksum(data: bytes | memoryview, size: tuple[int, ...]) -> bytes:
    """Return 8 bytes: checksums of all pixels, and last the shorter side, up to 255."""
    tail = (zlib.adler32(data) & 0xFFFFFF) << 8 | min(*size, 255)
    return zlib.crc32(data, zlib.crc32(f"{size}".encode())).to_bytes(4) + tail.to_bytes(4)


def chroma(signatures: np.ndarray) -> np.ndarray:
    """Return the chroma of (N, BYTES) signatures, float32 (N, 128) in levels of 0 to 255."""
    return signatures[:, LUMA_BYTES:-SUM_BYTES].astype(np.float32)


def short_side(signatures: np.ndarray) -> np.ndarray:
    """Return the shorter sides of (N, BYTES) signatures in pixels, 255 for all above."""
    return signatures[:, -1]
