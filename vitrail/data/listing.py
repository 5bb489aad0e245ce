"""The image files below folders: by their suffix, or by their content where that says nothing; and
sound files, by their suffix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from vitrail.data.drawn import is_explanation
from vitrail.data.formats import looks_like_image, suffixes
from vitrail.data.names import few
from vitrail.data.sounds import SUFFIXES
from vitrail.data.tree import walked
from vitrail.errors import DataError
from vitrail.units import counted

_SHOWN = 3


def collect(
    arguments: Iterable[str | os.PathLike] | str | os.PathLike,
    told: Callable[[str], None] = lambda sentence: None,
    *,
    noun: str = "image",
) -> list[str]:
    """List the files named, and the image files in folders named at any depth, sorted.

    Read are all formats that the data gate reads; a file of another suffix, or of none, counts
    where its first bytes are those of an image. Hidden entries are left out, and what vitrail
    itself made there; of what is passed over `told` hears one sentence a folder. With the `noun`
    "sound" it is sound files that are listed. Raises DataError.
    """
    if isinstance(arguments, (str, os.PathLike)):
        arguments = [arguments]
    found: list[str] = []
    for argument in arguments:
        path = Path(argument)
        try:
            found += _below(path, told, noun) if path.is_dir() else [_named(path, noun)]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"{noun} {path} cannot be read ({reason}): give {noun} files or folders of them"
            ) from error
    return found


def _named(path: Path, noun: str) -> str:
    try:
        path.stat()  # raises for a name that the system refuses
    except FileNotFoundError:
        raise DataError(
            f"{noun} {path} does not exist: give {noun} files or folders of them"
        ) from None
    return str(path)


def _below(folder: Path, told: Callable[[str], None], noun: str) -> list[str]:
    found, passed, closed, own = [], [], [], []

    def note(error: OSError) -> None:
        closed.append(str(error.filename))

    for here, names, kept in walked(folder, note):
        own += [str(here / name) for name in kept]
        for path in (here / name for name in names):
            ending = SUFFIXES if noun == "sound" else suffixes()
            known = path.suffix.lower() in ending and path.is_file()
            known = known or (noun == "image" and looks_like_image(path))
            if known and is_explanation(path):
                own.append(str(path))
            else:
                (found if known else passed).append(str(path))
    if passed or closed or own:
        told(_sentence(folder, sorted(passed), closed, own, noun))
    if not found:
        others = f" among {counted(len(passed), 'file')}" if passed else ""
        raise DataError(
            f"folder {folder} has no {noun} files{others}: name files, or another folder"
        )
    return sorted(found)


def _sentence(folder: Path, passed: list[str], closed: list[str], own: list[str], noun: str) -> str:
    words = []
    if passed:
        some = ", ".join(os.path.relpath(path, folder) for path in passed[:_SHOWN])
        more = f" and {len(passed) - _SHOWN:,} more" if len(passed) > _SHOWN else ""
        words.append(f"{counted(len(passed), 'file')} passed over as not {noun}s ({some}{more})")
    if closed:
        words.append(f"{counted(len(closed), 'folder')} that cannot be read ({closed[0]})")
    if own:
        some = few([os.path.relpath(path, folder) for path in own])
        what = counted(len(own), "run or answer", "runs and answers")
        words.append(f"{what} of vitrail passed over ({some})")
    return f"{folder}: {'; '.join(words)}"
