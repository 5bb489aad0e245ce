"""Files of the cache: arrays with checksums, locked while mapped, the oldest removed first.

A file is a .npy with a footer: the CRC-32 of each chunk of it, and one of the footer itself, which
begins with the file's name, so that a file of another name is not taken for this one. Whoever maps
an array holds a shared lock on its file for as long as the array lives.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vitrail import files
from vitrail.data.parallel import in_order

try:
    import fcntl
except ImportError:  # Windows, which lets nobody remove a file that is mapped
    fcntl = None

CHUNK = 4 << 20
_MARK = b"vitrail1"
# A check of less than this is over before a progress bar would be read.
_LONG_BYTES = 4 << 30
# How old a part must be before its writer is taken for dead: with locks to ask, and without.
_STARTED_S, _STALE_S = 60, 24 * 3600


@dataclass(frozen=True)
class Entry:
    """A file of the cache: its room ("pixels", "latency" ...), size, and last use in seconds
    since 1970."""

    room: str
    path: Path
    size: int
    used: float


def open_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map a uint8 array read-only; None where there is no file.

    Raises ValueError, with the reason, for a file that is not whole or not of this shape. Each
    file is checked once in a process.
    """
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        _lock(file, exclusive=False)
        facts = os.fstat(file.fileno())
        reason = _fault(path, facts.st_ino, facts.st_mtime_ns, facts.st_size)
        if reason is not None:
            raise ValueError(reason)
        version = np.lib.format.read_magic(file)
        found, _, kind = np.lib.format.read_array_header_1_0(file)
        if version != (1, 0) or found != shape or kind != np.uint8:
            raise ValueError(f"holds {kind} of shape {found} instead of {shape}")
        # The map has a handle of its own, and with it the lock, until the array is gone.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = int(np.prod(shape, dtype=np.int64))
        with suppress(OSError):  # a cache that can only be read
            os.utime(path, ns=(time.time_ns(), facts.st_mtime_ns))
        return np.frombuffer(mapped, np.uint8, size, file.tell()).reshape(shape)


def write_array(path: Path, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write the rows of a uint8 array, given in blocks, whole or not at all. Raises OSError."""
    with ExitStack() as held, files.replacing(path) as part:
        # Locked until it has its name, so that nobody takes it for a dead process's.
        file = held.enter_context(part.open("wb"))
        _lock(file, exclusive=True)
        sums = _Sums(file)
        np.lib.format.write_array_header_1_0(
            sums, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        # Written, not mapped: a full disk is then an error and not a fault of memory.
        for block in blocks:
            sums.write(np.ascontiguousarray(block).data.cast("B"))
        file.write(_footer(path.name, sums.sums))
        file.flush()
        if fcntl is None:
            file.close()


class _Sums:
    """A file that keeps the checksum of each chunk that goes through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sums, self._left = file, [0], CHUNK

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        rest = memoryview(data)
        while len(rest):
            if not self._left:
                self.sums.append(0)
                self._left = CHUNK
            piece, rest = rest[: self._left], rest[self._left :]
            self.sums[-1] = zlib.crc32(piece, self.sums[-1])
            self._left -= len(piece)


def _footer(name: str, sums: list[int]) -> bytes:
    body = struct.pack(f"<{len(sums)}I", *sums)
    return body + struct.pack("<I", zlib.crc32(name.encode() + body)) + _MARK


@cache
def _fault(path: Path, inode: int, changed_ns: int, size: int) -> str | None:
    """Return what is wrong with a file that has this identity, if anything is."""
    with open(path, "rb") as file:
        facts = os.fstat(file.fileno())
        if (facts.st_ino, facts.st_mtime_ns, facts.st_size) != (inode, changed_ns, size):
            return "was replaced while it was read"
        # Each chunk of the array has four bytes in the footer.
        n = -(-(size - len(_footer("", []))) // (CHUNK + 4))
        content = size - len(_footer("", [0] * max(n, 0)))
        if n < 1 or content < 1 or -(-content // CHUNK) != n:
            return "is cut"
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def sums(part: range) -> list[int]:
        return [zlib.crc32(data[at * CHUNK : min((at + 1) * CHUNK, content)]) for at in part]

    done = in_order(
        sums, n, size=4, workers=None, title="checking the cache", progress=size > _LONG_BYTES
    )
    whole = data[content:] == _footer(path.name, [one for part in done for one in part])
    return None if whole else "does not have the checksums that it was written with"


def entries(folder: Path) -> list[Entry]:
    """List the files below the cache folder, those unused for longest first."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # removed by another process meanwhile
            if path.is_file() and not path.is_symlink():
                facts = path.stat()
                used = max(facts.st_atime, facts.st_mtime)
                room = path.relative_to(folder).parts[0]
                found.append(Entry(room, path, facts.st_size, used))
    return sorted(found, key=lambda entry: entry.used)


def remove(entry: Entry) -> bool:
    """Remove a file unless a running process uses it, and tell whether it is gone.

    Raises OSError.
    """
    try:
        with open(entry.path, "rb") as file:
            if not _lock(file, exclusive=True):
                return False
            if fcntl is not None:
                entry.path.unlink()
    except FileNotFoundError:
        return True
    if fcntl is None:
        try:
            entry.path.unlink(missing_ok=True)
        except PermissionError:  # mapped
            return False
    return True


def in_use(entry: Entry) -> bool:
    """Tell whether a running process maps the file or writes it."""
    try:
        with open(entry.path, "rb") as file:
            return not _lock(file, exclusive=True)
    except OSError:
        return False


def trim(found: Iterable[Entry], excess: int) -> Iterator[Entry]:
    """Remove files in their order until so many bytes are gone, passing over those in use."""
    for entry in found:
        if excess <= 0:
            return
        if remove(entry):
            excess -= entry.size
            yield entry


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written. Raises OSError."""
    for left in folder.glob(f"*{files.PART}"):
        with suppress(FileNotFoundError):
            facts = left.stat()
            age = time.time() - facts.st_mtime
            if age > (_STALE_S if fcntl is None else _STARTED_S):
                remove(Entry(folder.name, left, facts.st_size, facts.st_mtime))


def _lock(file: BinaryIO, *, exclusive: bool) -> bool:
    """Lock a file; whether it could be. Readers wait for the moment in which one is removed."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except OSError:
        # In use; or on a file system without locks, where nothing is removed.
        return False
    return True
