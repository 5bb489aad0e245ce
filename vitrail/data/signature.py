"""The signature of an image: what it looks like, coarse and fine, and a checksum of its pixels.

It holds the luma on a 24x24 grid in 1/256 levels, two chroma on 8x8 in levels, two checksums
and the shorter side, up to 255 pixels.
"""

import zlib

import numpy as np
from PIL import Image

FINE, CHROMA = 24, 8
LUMA_BYTES, CHROMA_BYTES, SUM_BYTES = 2 * FINE * FINE, 2 * CHROMA * CHROMA, 8
BYTES = LUMA_BYTES + CHROMA_BYTES + SUM_BYTES

_SIDE = 240  # means are taken from a picture of this side, which is finer than a level


def signature(image: Image.Image) -> np.ndarray:
    """Return uint8 (BYTES,) of an upright image in mode L or RGB."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    bands = [small] if image.mode == "L" else small.convert("YCbCr").split()
    luma = _means(np.asarray(bands[0]), FINE)
    chroma = [_means(np.asarray(band), CHROMA) for band in bands[1:]]
    return _packed(
        luma[None],
        np.array(chroma)[None] if chroma else None,
        [_checksum(image.tobytes(), image.size)],
    )[0]


def grey_signatures(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 (N, BYTES) of uint8 (N, h, w): what `signature` gives, to half a level."""
    rows, columns = (_averaging(side) for side in pixels.shape[1:])
    luma = np.clip(rows @ pixels.astype(np.float32) @ columns.T, 0, 255)
    size = pixels.shape[:0:-1]
    return _packed(luma, None, [_checksum(np.ascontiguousarray(i).data, size) for i in pixels])


def luma(signatures: np.ndarray) -> np.ndarray:
    """Return the lumas of (N, BYTES) signatures, float32 (N, 576) in levels of 0 to 255."""
    return signatures[:, :LUMA_BYTES].view("<u2").astype(np.float32) / 256


def _means(band: np.ndarray, side: int) -> np.ndarray:
    step = _SIDE // side
    return band.reshape(side, step, side, step).mean((1, 3), dtype=np.float32)


def _averaging(side: int) -> np.ndarray:
    """(24, side): how much each pixel of a row counts in each mean, as Pillow resizes."""
    unit = Image.fromarray(np.eye(side, dtype=np.float32))
    resized = np.asarray(unit.resize((side, _SIDE), Image.Resampling.BILINEAR))
    return resized.reshape(FINE, -1, side).mean(1)


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
    """Of all pixels, and last the shorter side, up to 255."""
    tail = (zlib.adler32(data) & 0xFFFFFF) << 8 | min(*size, 255)
    return zlib.crc32(data, zlib.crc32(f"{size}".encode())).to_bytes(4) + tail.to_bytes(4)


def chroma(signatures: np.ndarray) -> np.ndarray:
    """Return the chroma of (N, BYTES) signatures, float32 (N, 128) in levels of 0 to 255."""
    return signatures[:, LUMA_BYTES:-SUM_BYTES].astype(np.float32)


def short_side(signatures: np.ndarray) -> np.ndarray:
    """Return the shorter sides of (N, BYTES) signatures in pixels, 255 for all above."""
    return signatures[:, -1]
