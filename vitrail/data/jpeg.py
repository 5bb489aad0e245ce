"""Whether all pixels of a JPEG are there, which its decoder does not tell.

libjpeg paints grey what is missing and goes on; and a file that lacks nothing but its end mark
counts as cut off. Here the end mark is set where it is missing, and an image is whole when other
bytes behind its last ones change none of its pixels.
"""

import re
from dataclasses import dataclass, field

START, END = b"\xff\xd8", b"\xff\xd9"

# In the compressed data of a scan 0xFF is followed by a zero or by the mark of a restart.
_MARK = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)
# Decoded in the place of missing data, these bytes give anything but an even grey; the marks are
# for images with restarts, one of which the decoder may be waiting for.
_NOISE = bytes((181 + 73 * i) % 251 for i in range(64))
OTHER = _NOISE + b"".join(bytes((0xFF, 0xD0 + i)) + _NOISE for i in range(8))


@dataclass(frozen=True)
class Scans:
    """The course of a JPEG file: `end` is where the data of its last scan ends, `closed` whether
    the end mark follows, `progressive` whether the image is refined scan by scan, and
    `missing` whether a component of the image, or a part of its precision, has no scan."""

    end: int
    closed: bool
    progressive: bool
    missing: bool


@dataclass
class _Frame:
    """Per component and coefficient, the lowest bit that a scan has given so far."""

    components: tuple[int, ...] = ()
    progressive: bool = False
    given: dict[int, dict[int, int]] = field(default_factory=dict)

    def missing(self, closed: bool) -> bool:
        # An encoder may leave out scans that hold zeros only, but never the mean of each block.
        wanted = range(1) if closed or not self.progressive else range(64)
        return any(
            self.given.get(component, {}).get(at, 1) > 0
            for component in self.components
            for at in wanted
        )


def scans(data: bytes) -> Scans | None:
    """Walk through the marks of a JPEG; None where they do not lead to a scan."""
    at, frame, end = 2, _Frame(), 0
    closed = False
    while at + 4 <= len(data) or data[at : at + 2] == END:
        if data[at] != 0xFF:
            break
        mark = data[at + 1]
        if mark == 0xFF:
            at += 1
            continue
        if mark == 0xD9:
            closed = True
            break
        if mark == 0x01 or 0xD0 <= mark <= 0xD7:
            at += 2
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + size]
        at += 2 + size
        if 0xC0 <= mark <= 0xCF and mark not in _NOT_FRAMES and len(body) > 5:
            parts = tuple(body[6 + 3 * i] for i in range(body[5]) if 6 + 3 * i < len(body))
            frame = _Frame(parts, mark in (0xC2, 0xC6, 0xCA, 0xCE))
        elif mark == 0xDA:
            _note(frame, body)
            found = _MARK.search(data, at)
            at = end = found.start() if found else len(data.rstrip(b"\xff"))
    if not end or not frame.components:
        return None
    return Scans(end, closed, frame.progressive, frame.missing(closed))


def _note(frame: _Frame, head: bytes) -> None:
    """Note what the scan with this header gives."""
    n = head[0] if head else 0
    if len(head) < 4 + 2 * n:
        return
    first, last, bits = head[1 + 2 * n : 4 + 2 * n]
    if not frame.progressive:
        first, last, bits = 0, 63, 0
    for i in range(n):
        given = frame.given.setdefault(head[1 + 2 * i], {})
        given.update(dict.fromkeys(range(first, min(last, 63) + 1), bits & 15))


def closed(data: bytes, course: Scans) -> bytes:
    """Return the file with an end mark behind its last scan where it has none."""
    return data if course.closed else data[: course.end] + END


def continued(data: bytes, course: Scans) -> bytes:
    """Return the file with other bytes behind its last scan, the same image if it is whole."""
    return data[: course.end] + OTHER + (data[course.end :] if course.closed else END)
