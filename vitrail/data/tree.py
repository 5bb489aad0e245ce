"""The files below a folder, without what systems and vitrail itself put there.

Whatever cannot be looked at (a link to itself, a folder without permission, a name that is too
long) is noted like a broken file; it does not end the listing.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from vitrail.data.drawn import is_drawn, is_explanation
from vitrail.data.names import few
from vitrail.data.source import Finding
from vitrail.files import reason
from vitrail.units import counted, shortened

# Lower case. Synology, QNAP, macOS, Windows and Unix keep thumbnails, waste and notes in them.
_CLUTTER = frozenset(
    (
        "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "@tmp",
        "@recycle", "@recently-snapshot", "@sharebin", "@__thumb", "#recycle", "#snapshot",
        "$recycle.bin", "recycler", "system volume information", "lost+found",
        "network trash folder", "temporary items", "__pycache__",
    )
)  # fmt: skip

# A run folder has one of the first, and as a rule some of the others.
_MARKS = {"fit.json", "recipe.json", "asked.json"}
_BESIDE = {
    ".lock", "labels.json", "weights.safetensors", "metrics.jsonl", "result.json", "model.onnx",
    "report.html", "engine.json", "checkpoints", "study.sqlite",
}  # fmt: skip


# Files that are pictures by their names; what they hold is the gate's affair.
_PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pnm", ".avif", ".jp2", ".j2k", ".heic", ".heif", ".ico",
)  # fmt: skip


class Tree:
    """What is below `root`; `findings` tells what was passed over on the way."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.unreadable: list[tuple[str, str]] = []
        self._hidden = 0
        self._runs: list[str] = []
        self._drawn: list[str] = []
        self._unnamed: list[str] = []

    def listing(self, folder: str = "") -> tuple[list[str], list[str]]:
        """Return the names of the subfolders and of the files of a folder, each sorted.

        Raises OSError where it is the root that cannot be read.
        """
        folders, files = [], []
        try:
            with os.scandir(self.root / folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise
            self._note(folder, error)
            return [], []
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if _is_clutter(entry.name):
                self._hidden += 1
                continue
            try:
                is_folder = entry.is_dir()
                if not is_folder and not entry.is_symlink() and not entry.is_file():
                    self._hidden += 1  # a pipe, a socket, a device
                elif is_folder and is_run(self.root / key):
                    self._runs.append(key)
                elif (is_drawn if is_folder else is_explanation)(self.root / key):
                    self._drawn.append(key)
                elif not _is_text(entry.name):
                    self._unnamed.append(key)
                else:
                    (folders if is_folder else files).append(entry.name)
            except OSError as error:
                self._note(key, error)
        return folders, files

    def walk(self, folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield the keys of the files at any depth below a folder.

        Symbolic links are followed, except to a folder that the way down already passed.
        """
        here = os.path.realpath(self.root / folder)
        if folder and not above:
            above = frozenset((os.path.realpath(self.root),))
        if here in above:
            return
        folders, files = self.listing(folder)
        before = f"{folder}/" if folder else ""
        yield from (before + name for name in files)
        for name in folders:
            yield from self.walk(before + name, above | {here})

    def findings(self) -> list[Finding]:
        """Say what was passed over."""
        findings = []
        if self.unreadable:
            key, why = self.unreadable[0]
            text = f"{counted(len(self.unreadable), 'entry', 'entries')} that cannot be read left "
            text += f"out (first {shortened(key)!r}: {why})"
            keys = tuple(dict.fromkeys(key for key, _ in self.unreadable))
            findings.append(Finding("unreadable entry", "error", text, keys))
        if self._unnamed:
            shown = tuple(os.fsencode(key).decode("utf-8", "replace") for key in self._unnamed)
            text = f"{counted(len(shown), 'file')} with a name that is not UTF-8 left out: rename"
            findings.append(Finding("file name", "error", text, shown))
        if self._runs:
            text = f"{counted(len(self._runs), 'run folder')} of vitrail passed over "
            text += f"({few(self._runs)})"
            findings.append(Finding("run folder", "info", text, tuple(self._runs)))
        if self._drawn:
            what = counted(len(self._drawn), "answer")
            text = f"{what} of vitrail to look at passed over ({few(self._drawn)})"
            findings.append(Finding("answers", "info", text, tuple(self._drawn)))
        if self._hidden:
            text = f"{counted(self._hidden, 'hidden or system entry', 'hidden or system entries')} "
            text += "passed over (.*, Thumbs.db, desktop.ini, @eaDir, __MACOSX)"
            findings.append(Finding("hidden", "info", text))
        return findings

    def _note(self, key: str, error: OSError) -> None:
        if not _is_text(key):
            self._unnamed.append(key)
        elif all(key != known for known, _ in self.unreadable):
            why = "no read permission, allow it (chmod +rX)"
            denied = isinstance(error, PermissionError)
            self.unreadable.append((key, why if denied else reason(error)))


def walked(
    root: Path, closed: Callable[[OSError], None] = lambda error: None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder from `root` down, sorted, with the names of its files and of folders in it
    that are vitrail's own and not entered.

    Hidden names and those of systems are left out, links followed but to a folder that was there
    before; `closed` hears of what cannot be read.
    """
    seen: set[str] = set()
    for here, below, names in os.walk(root, followlinks=True, onerror=closed):
        real = os.path.realpath(here)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        shown = sorted(name for name in below if not _is_clutter(name))
        own = [name for name in shown if is_run(Path(here, name)) or is_drawn(Path(here, name))]
        below[:] = [name for name in shown if name not in own]
        yield Path(here), sorted(name for name in names if not _is_clutter(name)), own


def is_run(folder: Path) -> bool:
    """Return whether vitrail made a folder, told by the names in it: fit.json or recipe.json."""
    # Not pathlib's, which raises where a folder is closed.
    if not any(os.path.isfile(folder / mark) for mark in _MARKS):
        return False
    try:
        names = set(os.listdir(folder))
    except OSError:
        return False
    return bool(names & _BESIDE) or names <= _MARKS


def is_picture(name: str) -> bool:
    """Return whether a file is a picture by its name."""
    return name.lower().endswith(_PICTURES)


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
