"""The lock of a run folder: one process writes, others learn which, and it is gone with it."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import lock_descriptor

from vitrail import files
from vitrail.errors import RunError

LOCK = ".lock"
# The first byte is what is locked, and on Windows nobody else can read it then.
_AT = 1
_WIDTH = 20


def hold(folder: Path) -> int:
    """Take the lock of a folder that exists, and return what `release` needs.

    Raises RunError when another process holds it, which is named, when the file system has no
    locks, and when the lock's file cannot be written or is a link to something else.
    """
    try:
        handle = files.opened(folder / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise RunError(
            f"{folder / LOCK} cannot be opened ({error.strerror}): remove it, or name another run "
            "folder with --out"
        ) from error
    try:
        if not lock_descriptor(handle, blocking=False):
            raise RunError(
                f"run folder {folder} is in use by another run (process {_writer(handle)}): wait "
                "for it or stop it, or name another folder with --out"
            )
        os.lseek(handle, _AT, os.SEEK_SET)
        os.write(handle, f"{os.getpid():<{_WIDTH}}\n".encode())
    except OSError as error:
        os.close(handle)
        raise RunError(
            f"run folder {folder} cannot be locked ({error.strerror}): name one on a file system "
            "with locks and some space by --out"
        ) from error
    except BaseException:
        os.close(handle)
        raise
    return handle


def release(handle: int) -> None:
    """Give up a lock; whoever dies gives it up too."""
    os.close(handle)


def _writer(handle: int) -> str:
    os.lseek(handle, _AT, os.SEEK_SET)
    said = os.read(handle, _WIDTH).decode(errors="replace").strip()
    return said if said.isdigit() else "unknown"
