"""TIFF and PNG files of kinds that Pillow does not write, byte by byte."""

import struct
import zlib

import numpy as np

_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I"}


def tiff(
    pixels: np.ndarray,
    photometric: int,
    *,
    order: str = "<",
    bits: tuple[int, ...] | None = None,
    deflate: bool = False,
    rows: int | None = None,
    **more,
) -> bytes:
    """One page of pixels (h, w) or (h, w, bands) in the byte `order`.

    `more` are tags by the names in TAGS; `rows` the number of rows in a strip.
    """
    height, width = pixels.shape[:2]
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    rows = rows or height
    # Inside a compressed strip as well, values are in the byte order of the file.
    data = pixels.astype(pixels.dtype.newbyteorder(order))
    strips = [data[top : top + rows].tobytes() for top in range(0, height, rows)]
    strips = [zlib.compress(strip) if deflate else strip for strip in strips]
    starts = np.cumsum([8, *map(len, strips)]).tolist()
    tags = {
        256: (4, [width]), 257: (4, [height]),
        258: (3, bits or [8 * pixels.dtype.itemsize] * bands),
        259: (3, [8 if deflate else 1]), 262: (3, [photometric]), 273: (4, starts[:-1]),
        277: (3, [bands]), 278: (4, [rows]), 279: (4, [len(strip) for strip in strips]),
        339: (3, [kind] * bands),
    }  # fmt: skip
    for name, value in more.items():
        tags[TAGS[name]] = (2, value) if isinstance(value, bytes) else (3, list(value))
    return _file(strips, tags, order)


TAGS = {
    "extra": 338, "subfile": 254, "orientation": 274, "colours": 320, "nodata": 42113,
    "planes": 284, "dng": 50706,
}  # fmt: skip


def _file(strips: list[bytes], tags: dict, order: str) -> bytes:
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    at = 8 + len(body)
    after = at + 2 + 12 * len(tags) + 4
    directory, values = struct.pack(order + "H", len(tags)), b""
    for tag, (kind, value) in sorted(tags.items()):
        n = len(value)
        form = f"{n}s" if kind == 2 else f"{n}{_FORMATS[kind]}"
        packed = struct.pack(order + form, *([value] if kind == 2 else value))
        if len(packed) > 4:
            where = struct.pack(order + "I", after + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        else:
            where = packed.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, kind, n) + where
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    return head + body + directory + struct.pack(order + "I", 0) + values


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG with its checksum."""
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(rows: np.ndarray, colour: int, bits: int, width: int, *chunks: bytes) -> bytes:
    """A PNG of packed rows, uint8 (h, bytes a row), of a colour type; `chunks` before the data."""
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    data = chunk(b"IDAT", zlib.compress(raw))
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), *chunks, data, chunk(b"IEND", b""))
    )


def png16(pixels: np.ndarray, colour: int, *chunks: bytes) -> bytes:
    """A PNG of 16 bits per value: uint16 (h, w) or (h, w, bands)."""
    rows = pixels.astype(">u2").reshape(len(pixels), -1).view(np.uint8)
    return png(rows, colour, 16, pixels.shape[1], *chunks)
