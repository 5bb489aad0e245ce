"""The parts of a PNG that decide about its pixels, without the texts that may stop a decoder."""

import zlib

START = b"\x89PNG\r\n\x1a\n"
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND")


def pixels_only(data: bytes) -> bytes | None:
    """Leave texts, profiles and the like out of a PNG; None where there are none, or no PNG.

    Pillow refuses texts that unpack to more than it allows, and any chunk with a wrong checksum.
    """
    if not data.startswith(START):
        return None
    kept, at = [START], len(START)
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        end = at + 12 + size
        if name in _NEEDED and (name != b"eXIf" or _sound(data[at + 4 : end])):
            kept.append(data[at:end])
        at = end
        if name == b"IEND":
            break
    plain = b"".join(kept)
    return plain if len(plain) < len(data) else None


def _sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:], "big")
