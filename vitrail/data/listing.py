"""The image files below folders: by their suffix, or by their content where that says nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from vitrail.data.formats import looks_like_image, suffixes
from vitrail.errors import DataError
from vitrail.units import counted

_SHOWN = 3


def collect(
    arguments: Iterable[str | os.PathLike] | str | os.PathLike,
    told: Callable[[str], None] = lambda sentence: None,
) -> list[str]:
    """List the files named, and the image files in folders named at any depth, sorted.

    Read are all formats that the data gate reads; a file of another suffix, or of none, counts
    where its first bytes are those of an image. Hidden entries are left out; of what else is
    passed over `told` hears one sentence a folder. Raises DataError.
    """
    if isinstance(arguments, (str, os.PathLike)):
        arguments = [arguments]
    found: list[str] = []
    for argument in arguments:
        path = Path(argument)
        try:
            found += _below(path, told) if path.is_dir() else [_named(path)]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"image {path} cannot be read ({reason}): give image files or folders of them"
            ) from error
    return found


def _named(path: Path) -> str:
    try:
        path.stat()  # raises for a name that the system refuses
    except FileNotFoundError:
        raise DataError(
            f"image {path} does not exist: give image files or folders of them"
        ) from None
    return str(path)


def _below(folder: Path, told: Callable[[str], None]) -> list[str]:
    found, passed, closed = [], [], []
    seen: set[str] = set()
    for here, below, names in os.walk(
        folder, followlinks=True, onerror=lambda error: closed.append(str(error.filename))
    ):
        # A link to a folder above leads back for ever.
        real = os.path.realpath(here)
        below[:] = [] if real in seen else [name for name in below if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        for name in (name for name in names if not name.startswith(".")):
            path = Path(here, name)
            known = path.suffix.lower() in suffixes() and path.is_file()
            (found if known or looks_like_image(path) else passed).append(str(path))
    if passed or closed:
        told(_sentence(folder, sorted(passed), closed))
    if not found:
        others = f" among {counted(len(passed), 'file')}" if passed else ""
        raise DataError(
            f"folder {folder} has no image files{others}: name files, or another folder"
        )
    return sorted(found)


def _sentence(folder: Path, passed: list[str], closed: list[str]) -> str:
    words = []
    if passed:
        some = ", ".join(os.path.relpath(path, folder) for path in passed[:_SHOWN])
        more = f" and {len(passed) - _SHOWN:,} more" if len(passed) > _SHOWN else ""
        words.append(f"{counted(len(passed), 'file')} passed over as not images ({some}{more})")
    if closed:
        words.append(f"{counted(len(closed), 'folder')} that cannot be read ({closed[0]})")
    return f"{folder}: {'; '.join(words)}"
