"""A folder of classes as a source, with or without train/ val/ test/ above the classes."""

import os
from collections.abc import Iterator
from pathlib import Path

from vitrail.data.source import (
    PARTS,
    Finding,
    Item,
    Source,
    require_classes,
    sorted_classes,
)  # fmt: skip
from vitrail.errors import DataError
from vitrail.units import counted

_CLUTTER = ("thumbs.db", "desktop.ini", "__macosx")


def read_folder(root: Path) -> Source:
    """List the files of each class folder. Raises DataError, and OSError of the folders."""
    below, loose, ignored = _listing(root)
    if not below:
        what = f"holds {len(loose)} files but no subfolders" if loose else "is empty"
        raise DataError(f"{root} {what}: expected one subfolder of images per class")
    parts = {name: PARTS[name.lower()] for name in below if name.lower() in PARTS}
    given = "train" in parts.values() and all(_listing(root / name)[0] for name in parts)
    strays = list(loose)
    if not given:
        listed = [(None, name, name) for name in below]
    else:
        if len(set(parts.values())) < len(parts):
            raise DataError(f"{root} has {', '.join(parts)}: keep one folder per part")
        strays += [f"{name}/" for name in below if name not in parts]
        listed = []
        for folder, part in parts.items():
            names, loose, hidden = _listing(root / folder)
            strays += [f"{folder}/{name}" for name in loose]
            ignored += hidden
            listed += [(part, name, f"{folder}/{name}") for name in names]
    files, empty, unnamed = [], [], []
    for part, name, folder in listed:
        found = []
        for key in _walk(root, folder, {os.path.realpath(root)}):
            if key is None:
                ignored += 1
            elif not _is_text(key):
                unnamed.append(key)
            else:
                found.append(key)
        files += [(key, name, part) for key in found]
        if not found:
            empty.append(folder)
    classes = sorted_classes({name for _, name, _ in files})
    index = {name: label for label, name in enumerate(classes)}
    items = tuple(
        Item(key, index[name], part) for key, name, part in sorted(files, key=lambda f: f[0])
    )
    if not items:
        raise DataError(
            f"{root} has no files in its subfolders: put each class's images in its own"
        )
    require_classes(classes, str(root))
    findings = []
    if strays:
        text = f"{counted(len(strays), 'file')} outside of the class folders left out"
        findings.append(Finding("outside", "warning", text, tuple(strays)))
    if empty:
        text = f"{counted(len(empty), 'class folder')} without files left out"
        findings.append(Finding("empty class", "warning", text, tuple(empty)))
    if unnamed:
        shown = tuple(os.fsencode(key).decode("utf-8", "replace") for key in unnamed)
        text = f"{counted(len(unnamed), 'file')} with a name that is not UTF-8 left out: rename"
        findings.append(Finding("file name", "error", text, shown))
    if ignored:
        text = f"{ignored} hidden or system entries passed over (.*, Thumbs.db, desktop.ini)"
        findings.append(Finding("hidden", "info", text))
    return Source(root.resolve().name, classes, items, str(root), tuple(findings), root)


def _listing(folder: Path) -> tuple[list[str], list[str], int]:
    """Subfolders and files by name, and how many hidden entries were passed over."""
    folders, files, ignored = [], [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_clutter(entry.name):
                ignored += 1
            elif entry.is_dir():
                folders.append(entry.name)
            else:
                files.append(entry.name)
    return sorted(folders), sorted(files), ignored


def _walk(root: Path, folder: str, above: set[str]) -> Iterator[str | None]:
    """Keys of the files at any depth below a folder; None for an entry passed over.

    Symbolic links are followed, except to a folder that the way down already passed.
    """
    here = os.path.realpath(root / folder)
    if here in above:
        return
    with os.scandir(root / folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if _is_clutter(entry.name):
            yield None
        elif entry.is_dir():
            yield from _walk(root, f"{folder}/{entry.name}", above | {here})
        elif entry.is_file() or entry.is_symlink():
            yield f"{folder}/{entry.name}"
        else:
            yield None


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
