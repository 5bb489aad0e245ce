"""What vitrail draws for people, known again, so that nothing learns from it later.

Whoever works in the folder of the images gets masks, boxes and explanations beside them.
"""

from __future__ import annotations

import os
from pathlib import Path

from vitrail import files

MARK = ".vitrail-answers"
_SAID = (
    "Answers of vitrail, and pictures of them: this folder is passed over where data are read.\n"
    "Remove this file, or call the folder masks, labels or annotations, to learn from it.\n"
)
# Called so on purpose: somebody wants answers to be learned from.
_MEANT = frozenset(("masks", "mask", "labels", "label", "annotations", "annotation"))

EXPLAINED = "-explained.png"
# What a picture of an explanation says of itself, near its beginning.
MADE_BY = "vitrail explain"
_LOOKED_AT = 4096


def make(folder: Path) -> None:
    """Make a folder for answers, or mark the one that is there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).is_file():
        files.write(folder / MARK, _SAID)


def is_drawn(folder: Path) -> bool:
    """Return whether a folder holds answers of vitrail that nobody meant to learn from."""
    return folder.name.casefold() not in _MEANT and os.path.isfile(folder / MARK)


def is_explanation(path: Path) -> bool:
    """Return whether a file is a picture that `vitrail explain` made under its own name."""
    if not path.name.endswith(EXPLAINED):
        return False
    try:
        if not path.is_file():
            return False
        with files.reading(path) as file:
            return MADE_BY.encode() in file.read(_LOOKED_AT)
    except OSError:
        return False
