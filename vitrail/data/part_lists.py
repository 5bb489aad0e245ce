"""Texts that list the images of a part: train.txt, val.txt, test.txt, a name or path in each line.

Pascal VOC has them in ImageSets/Main and ImageSets/Segmentation, darknet beside the images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vitrail import files
from vitrail.data.names import normal
from vitrail.data.source import Finding, PartName, part_of
from vitrail.data.table_parts import held
from vitrail.data.tree import is_picture
from vitrail.units import counted

MOST_BYTES = 1 << 24


@dataclass
class Lists:
    """The part of each image, by its key, that lists name; `torn` are in several of them, and
    `strange` lines name no image."""

    parts: Mapping[str, PartName | None] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        """Say what of the lists cannot be followed."""
        found = []
        if self.torn:
            text = f"{counted(len(self.torn), 'image')} listed in two parts, kept out of training"
            found.append(Finding("two parts", "error", text, (*self.torn,)))
        if self.strange:
            text = f"{counted(len(self.strange), 'line')} in lists of parts that no image is called"
            found.append(Finding("listed for a part", "warning", text, (*self.strange,)))
        return found


def part_lists(root: Path, texts: Iterable[str], pictures: Iterable[str]) -> Lists:
    """Read those of the `texts` below a folder that are called as a part, for some of its pictures.

    Texts of another name, as those of single classes, are passed over. Raises OSError.
    """
    named: dict[str, list[str]] = {}
    for key in pictures:
        named.setdefault(normal(PurePosixPath(key).stem), []).append(key)
    found: dict[str, set[PartName | None]] = {}
    strange: list[str] = []
    for text in texts:
        part = part_of(PurePosixPath(text).stem)
        if part is None or not text.lower().endswith(".txt"):
            continue
        lines = files.read(root / text, MOST_BYTES).decode("utf-8-sig", "replace").splitlines()
        for line in filter(None, map(normal, lines)):
            keys = _meant(line, named)
            if not keys:
                strange.append(line)
            for key in keys:
                found.setdefault(key, set()).add(part)
    torn = [key for key, parts in found.items() if len(parts) > 1]
    return Lists({key: held(parts) for key, parts in found.items()}, torn, strange)


def _meant(line: str, named: Mapping[str, list[str]]) -> list[str]:
    """Return the pictures that a line means: a name, a path, or a name and whether a class is in
    the image (1, 0 or -1)."""
    for text in (line, re.sub(r" +-?[01]$", "", line)):
        path = PurePosixPath(text.replace("\\", "/"))
        stem = path.stem if is_picture(path.name) else path.name
        keys = named.get(stem, [])
        if len(keys) > 1:  # the same name in several folders: the path has to say which
            wanted = [one for one in path.parts if one not in (".", "..", "/")]
            keys = [key for key in keys if _ends(key, wanted)]
        if keys:
            return keys
    return []


def _ends(key: str, wanted: list[str]) -> bool:
    """Return whether a key and a path end in the same folders, as far as both go."""
    own = [normal(one) for one in PurePosixPath(key).parts[:-1]]
    n = min(len(own), len(wanted) - 1)
    return n > 0 and own[-n:] == wanted[-n - 1 : -1]
