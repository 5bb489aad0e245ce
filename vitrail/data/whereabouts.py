"""Where the files are that a table names: as written, or under another spelling or folder.

Tables travel: paths come from Windows, from another machine, without a suffix, or relative to a
folder beside the table. A path that names no file as it is written is looked for among the files
below the table's folder, and taken only where one file alone fits all of it.
"""

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from vitrail.data.names import folded
from vitrail.data.source import Finding
from vitrail.data.tree import Tree, is_picture
from vitrail.errors import DataError
from vitrail.units import counted, shortened

_MOST = 1_000_000


class Whereabouts:
    """The files below `root`, looked up by the paths of a table."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._moved: list[tuple[str, str]] = []
        self._outside: list[str] = []

    def is_file(self, name: str) -> bool:
        """Return whether a cell names a file as it is written, with / or with \\."""
        return self._place(name) is not None

    def is_known(self, name: str) -> bool:
        """Return whether a cell names a file, in whatever spelling."""
        return self.key(name) is not None

    def key(self, name: str) -> str | None:
        """Return the key of the file that a cell names, in whatever spelling; None for none."""
        return self._place(name) or self._elsewhere(name)

    def found(self, table: Path, named: Sequence[tuple[int, str]]) -> list[str]:
        """Return the key of each (row, path).

        Raises DataError for paths that name no file, all in one sentence.
        """
        keys, missing = [], []
        for line, name in named:
            key = self.key(name)
            if key is None:
                missing.append((line, name))
                continue
            if key != posixpath.normpath(name):
                self._moved.append((name, key))
            if key.startswith(("../", "/")) or key == "..":
                self._outside.append(key)
            keys.append(key)
        if missing:
            line, name = missing[0]
            raise DataError(
                f"{len(missing)} of {len(named)} paths in {table} name no file, first "
                f"{shortened(name)!r} (row {line}): paths are relative to {self.root}, correct "
                "them or remove the rows"
            )
        return keys

    def findings(self) -> list[Finding]:
        """Say which paths were found elsewhere, and which lie outside of the table's folder."""
        findings = []
        if self._outside:
            keys = tuple(dict.fromkeys(self._outside))
            text = f"{counted(len(keys), 'image')} outside of the folder of the table, first "
            text += f"{shortened(keys[0])!r}: taken, but not moved with the folder"
            findings.append(Finding("outside of the folder", "warning", text, keys))
        if self._moved:
            name, key = self._moved[0]
            text = f"{counted(len(self._moved), 'path')} written in another way than the file is "
            text += f"called, first {shortened(name)!r} for {shortened(key)!r}"
            findings.append(Finding("path", "info", text, tuple(k for _, k in self._moved)))
        return findings

    def _place(self, name: str) -> str | None:
        """Return the key of the file that a cell names as it is written."""
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            if spelled and os.path.isfile(self.root / spelled):
                key, root = posixpath.normpath(spelled), os.path.abspath(self.root) + "/"
                return key.removeprefix(root)
        return None

    def _elsewhere(self, name: str) -> str | None:
        """Return the key of the one file below the root that can be meant."""
        name = name.replace("\\", "/")
        wanted = [folded(part) for part in name.split("/") if part not in ("", ".")]
        if not wanted or ".." in wanted:
            return None
        foreign = name.startswith("/") or bool(re.match(r"[A-Za-z]:|[a-z]+://", name))
        above = [folded(part) for part in os.path.abspath(self.root).split("/")]
        fits = []
        for key, parts in self._files.get(wanted[-1], ()):
            n = min(len(wanted), len(parts))
            rest = wanted[: len(wanted) - n]  # what the path has in front of the file's key
            if wanted[-n:] == parts[-n:] and (foreign or rest == above[len(above) - len(rest) :]):
                fits.append(key)
        return fits[0] if len(fits) == 1 else None

    @cached_property
    def _files(self) -> dict[str, list[tuple[str, list[str]]]]:
        """Index files by their last name, pictures by that without suffix too; folded."""
        files = defaultdict(list)
        for n, key in enumerate(Tree(self.root).walk("")):
            if n == _MOST:  # not a data set: what is found in a part of it may not be unique
                return {}
            *folders, last = (folded(part) for part in key.split("/"))
            files[last].append((key, [*folders, last]))
            if is_picture(last):
                stem = PurePosixPath(last).stem
                files[stem].append((key, [*folders, stem]))
        return files
