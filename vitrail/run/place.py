"""Where a run may be made: what a path is, whether it is free, whether it can be written."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Literal

from vitrail import files
from vitrail.errors import RunError
from vitrail.run.lock import LOCK
from vitrail.units import shortened


def kind(path: Path) -> Literal["folder", "file"] | None:
    """Return what a path is, links followed; a device is a "file", None is nothing.

    Raises RunError where the system does not tell.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        said = f"{shortened(str(path))} cannot be read ({files.reason(error)})"
        raise RunError(f"{said}: give another run folder") from error
    return "folder" if stat.S_ISDIR(mode) else "file"


def check_free(path: str | os.PathLike) -> None:
    """Raise RunError unless a new run can be made at `path`: it is missing, or an empty folder,
    and can be written.

    What a process that was killed before anything was decided left there does not count.
    """
    path = Path(path)
    found = kind(path)
    if found == "folder":
        if any(not _left_over(entry) for entry in _entries(path)):
            raise RunError(
                f"run folder {path} exists and is not empty: go on with it by --resume, or name "
                "another one with --out"
            )
    elif found is not None or path.is_symlink():
        raise RunError(f"run folder {path} is a file: name a folder with --out")
    check_writable(path)


def check_writable(path: str | os.PathLike, what: str = "run folder") -> None:
    """Raise RunError unless files can be made in `path`, or in the folder where it would be made.

    Tried with a file that has no name, or loses it at once. `what` is said to lie there.
    """
    path = Path(path)
    there = next(one for one in (path, *path.absolute().parents) if kind(one) is not None)
    try:
        with tempfile.TemporaryFile(dir=there, prefix=".", suffix=files.PART):
            pass
    except OSError as error:
        raise RunError(
            f"{what} {path} cannot be made ({error.strerror}): name another with --out"
        ) from error


def _left_over(entry: Path) -> bool:
    """Return whether a run that was killed before it decided anything left this."""
    return entry.name == LOCK or (entry.name.startswith(".") and entry.suffix == files.PART)


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise RunError(
            f"run folder {path} cannot be read ({error.strerror}): name another with --out"
        ) from error
