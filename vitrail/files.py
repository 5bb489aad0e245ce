"""Files written whole or not at all: under a name of their own first, synced, then renamed.

Whoever reads a file of vitrail's sees the old one or the new one, also after a power cut. What a
killed process leaves behind has a name that `sweep` knows. A file of a fixed name that is written
in place (a lock, a journal) is opened by `opened`, which follows no link out of the folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

PART = ".part"
MOST_BYTES = 64 << 20
# What people bring may be larger: a table, a picture, a tokenizer.
LARGE_BYTES = 1 << 31
# File systems take 255; some are for endings, numbers and the names of parts.
_NAME_BYTES = 190

# Windows has none of the first three, and needs the last.
_PLAIN = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, synced to the disk. Raises OSError.

    Text is UTF-8; a file name that is not valid text becomes an escape, which JSON reads back.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    with replacing(path) as part:
        part.write_bytes(data)


def fitted(name: str) -> str:
    """Return a name as a file system takes it with an ending and a few words more: one that is too
    long is cut, and ends in a digest of the whole, so that two stay two.
    """
    data = os.fsencode(name)
    if len(data) <= _NAME_BYTES:
        return name
    digest = hashlib.blake2b(data, digest_size=4).hexdigest()
    return f"{data[: _NAME_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write a file to, which becomes `path` at the end, synced; gone after an
    error.

    A symbolic link at `path` is replaced, never followed. The file gets the permissions that the
    umask gives. Raises OSError.
    """
    path = Path(path)
    part = path.with_name(f".{fitted(path.name)}.{os.getpid()}.{secrets.token_hex(4)}{PART}")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    mode = stat.S_IMODE(part.stat().st_mode)
    try:
        yield part
        os.chmod(part, mode)  # a writer may have made a file of its own under this name
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def move(made: Path, path: Path) -> None:
    """Put a file that is complete in the place of `path`, synced. Raises OSError.

    Both are on one file system.
    """
    sync(made)
    os.replace(made, path)
    sync(path.parent)


def read(path: str | os.PathLike, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file. Raises OSError, also for a pipe, a device or a folder,
    which might never end, and for more than `most` bytes.
    """
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
        # As many as there are: Python sets aside whatever it is asked for.
        return file.read(size)


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[BufferedReader]:
    """Open a regular file to read its bytes. Raises OSError, also for a pipe, a device or a folder,
    without waiting for anybody to write to it.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _PLAIN)) as file:
        _check(os.fstat(file.fileno()), path)
        yield file


def check(path: str | os.PathLike) -> None:
    """Raise OSError for a path that is not a regular file, before a library opens it by its name
    and waits.
    """
    _check(os.stat(path), path)


def _check(facts: os.stat_result, path: str | os.PathLike) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def opened(path: Path, flags: int) -> int:
    """Open a file of a fixed name in place, by the flags of `os.open`, and return its descriptor.

    Raises OSError for a symbolic link, for a file with a second name elsewhere and for what is
    not a file: to write there would change something outside of the folder.
    """
    follow = getattr(os, "O_NOFOLLOW", None)
    if follow is None and path.is_symlink():
        raise _linked(path)
    try:
        handle = os.open(path, flags | _PLAIN | (follow or 0), 0o666)
    except OSError as error:
        raise (_linked(path) if path.is_symlink() else error) from error
    seen = os.fstat(handle)
    if stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1:
        return handle
    os.close(handle)
    raise _linked(path)


def _linked(path: Path) -> OSError:
    return OSError(errno.ELOOP, "it is a link or a device, not a file of its own", str(path))


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, outlast a power cut. Raises OSError of the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders, and needs no such sync
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder that nobody else writes to now."""
    for left in [*folder.glob(f".*{PART}"), *folder.glob(f"**/.*{PART}")]:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                left.unlink()


def reason(error: BaseException) -> str:
    """Return why a write failed, in the system's words: "No space left on device"."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    # safetensors has an error of its own for a full disk, and names it in the middle of a line.
    return "No space left on device" if "No space left" in text else text.splitlines()[0]
