"""Files written whole or not at all: under a name of their own first, synced, then renamed.

Whoever reads a file of vitrail's sees the old one or the new one, also after a power cut. What a
killed process leaves behind has a name that `sweep` knows.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, synced to the disk. Raises OSError.

    Text is UTF-8; a file name that is not valid text becomes an escape, which JSON reads back.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file to, which becomes `path` at the end, synced; gone after an error.

    A symbolic link at `path` is replaced, never followed. The file gets the permissions that the
    umask gives. Raises OSError.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{PART}")
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
    """Why a write failed, in the system's words: "No space left on device"."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    # safetensors has an error of its own for a full disk, and names it in the middle of a line.
    return "No space left on device" if "No space left" in text else text.splitlines()[0]
