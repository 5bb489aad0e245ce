"""A folder of classes as a source, with or without train/ val/ test/ above the classes."""

import os
from dataclasses import replace
from pathlib import Path

from vitrail.data.names import few, normal, one_spelling
from vitrail.data.source import (
    Finding,
    Item,
    PartName,
    Source,
    part_of,
    require_classes,
    sorted_classes,
)
from vitrail.data.table import TABLES, read_table
from vitrail.data.tree import Tree, is_picture
from vitrail.errors import DataError
from vitrail.units import counted, shortened

_DEEP = 8

# Folders that are not classes where they stand alone.
_CONTAINERS = (
    "images", "image", "imgs", "img", "pictures", "photos", "jpegimages", "annotations", "labels",
    "masks", "data",
)  # fmt: skip


def read_folder(root: Path, *, several: bool = False) -> Source:
    """List the files of each class folder.

    A folder that holds nothing but one folder of classes is entered; one whose images are
    listed in a table beside them is read by that table, where `several` allows several labels
    per image. Raises DataError, and OSError of the root.
    """
    tree = Tree(root)
    base, below, loose = _entered(tree)
    parts = _parts(tree, base, below)
    if not parts and not _are_classes(below):
        return _without_classes(tree, base, below, loose, several)
    strays = [_joined(base, name) for name in loose]
    listed: list[tuple[PartName | None, str, str]] = []
    unlabelled: list[str] = []
    if not parts:
        listed = [(None, name, _joined(base, name)) for name in below]
    else:
        strays += [_joined(base, name) + "/" for name in below if name not in parts]
        listed, unlabelled, more = _in_parts(tree, base, parts)
        strays += more
    files, empty = [], []
    for part, name, folder in listed:
        found = list(tree.walk(folder))
        files += [(key, name, part) for key in found]
        if not found:
            empty.append(folder)
    if not files:
        raise DataError(
            f"{root} has no files in its subfolders: put each class's images in its own"
        )
    meant, spellings = one_spelling((part, name) for _, name, part in files)
    classes = sorted_classes(set(meant.values()))
    index = {name: label for label, name in enumerate(classes)}
    items = tuple(
        Item(key, index[meant[name]], part) for key, name, part in sorted(files, key=_key)
    )
    require_classes(classes, str(root), _lost(tree))
    findings = [*_left_out(strays, unlabelled, empty), *spellings, *tree.findings()]
    if base:
        text = f"the classes are in {base}/, which is all that the folder holds"
        findings.append(Finding("one level down", "info", text))
    return Source(root.resolve().name, classes, items, str(root), tuple(findings), root)


def _key(file: tuple[str, str, PartName | None]) -> str:
    return file[0]


def _joined(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name


def _entered(tree: Tree) -> tuple[str, list[str], list[str]]:
    """Return the folder whose subfolders are classes or parts, and its subfolders and files.

    It is the root, or further down where each folder above holds one folder and no pictures.
    """
    base = ""
    below, loose = tree.listing()
    for _ in range(_DEEP):
        if len(below) != 1 or part_of(below[0]) == "train":
            break
        if any(is_picture(name) or _is_table(name) for name in loose):
            break
        inner = _joined(base, below[0])
        folders, files = Tree(tree.root).listing(inner)
        if not folders or any(map(is_picture, files)):
            break
        base, (below, loose) = inner, tree.listing(inner)
    return base, below, loose


def _parts(tree: Tree, base: str, below: list[str]) -> dict[str, PartName]:
    """Return the part of each folder that is one, where the one for training has classes."""
    parts: dict[str, PartName] = {name: part for name in below if (part := part_of(name))}
    training = [name for name, part in parts.items() if part == "train"]
    if not any(Tree(tree.root).listing(_joined(base, name))[0] for name in training):
        return {}
    if len(set(parts.values())) < len(parts):
        raise DataError(f"{tree.root} has {', '.join(parts)}: keep one folder per part")
    return parts


def _in_parts(
    tree: Tree, base: str, parts: dict[str, PartName]
) -> tuple[list[tuple[PartName | None, str, str]], list[str], list[str]]:
    """Return class folders with their parts, parts without any class of
    the training part, strays.
    """
    listed, unlabelled, strays = [], [], []
    known: set[str] = set()
    for folder, part in sorted(parts.items(), key=lambda entry: entry[1] != "train"):
        where = _joined(base, folder)
        names, loose = tree.listing(where)
        if part == "train":
            known = {normal(name).casefold() for name in names}
        if part != "train" and not known & {normal(name).casefold() for name in names}:
            unlabelled.append(where + "/")
            continue
        strays += [f"{where}/{name}" for name in loose]
        listed += [(part, name, f"{where}/{name}") for name in names]
    return listed, unlabelled, strays


def _are_classes(below: list[str]) -> bool:
    """Return whether subfolders are classes, judged by their number and their names."""
    named = [name for name in below if not part_of(name) and name.lower() not in _CONTAINERS]
    return len(below) > 1 and bool(named)


def _without_classes(
    tree: Tree, base: str, below: list[str], loose: list[str], several: bool
) -> Source:
    """Return the source of the one table beside the images; else raise
    DataError about what is missing.
    """
    root, where = tree.root, tree.root / base
    tables = [name for name in loose if _is_table(name)]
    inner = bool(tables) and len(below) == 1 and bool(Tree(where).listing(below[0])[0])
    if len(tables) == 1:
        try:
            source = read_table(where / tables[0], several=several)
        except DataError:
            if not inner:
                raise
        else:
            text = f"read by the table {tables[0]}, since the folders are not classes"
            found = (*source.findings, Finding("table", "info", text))
            return replace(source, name=root.resolve().name, findings=found)
    if inner:
        return read_folder(where / below[0], several=several)
    hint = _lost(tree)
    if tables:
        hint = f", or one of its tables ({few(sorted(str(where / t) for t in tables))}){hint}"
    expected = f"give one subfolder of images per class{hint}"
    if not below:
        what = f"holds {counted(len(loose), 'file')} but no subfolders" if loose else "is empty"
        raise DataError(f"{root} {what}: {expected}")
    if not any(True for name in below for _ in tree.walk(_joined(base, name))):
        raise DataError(f"{root} has no files in its subfolders: {expected}")
    if len(below) > 1:
        flat = " and ".join(f"{name}/" for name in below)
        raise DataError(f"{root} has {flat} without class folders in them: {expected}")
    raise DataError(
        f"{root} has only the class {shortened(below[0])!r}: learning to tell apart needs at least "
        f"two classes, {expected}"
    )


def _left_out(strays: list[str], unlabelled: list[str], empty: list[str]) -> list[Finding]:
    findings = []
    if unlabelled:
        text = f"{few(unlabelled)} left out: without the class folders of the training part, what "
        text += "is in there has no labels"
        findings.append(Finding("unlabelled", "warning", text, tuple(unlabelled)))
    if strays:
        text = f"{counted(len(strays), 'file')} outside of the class folders left out"
        findings.append(Finding("outside", "warning", text, tuple(strays)))
    if empty:
        text = f"{counted(len(empty), 'class folder')} without files left out"
        findings.append(Finding("empty class", "warning", text, tuple(empty)))
    return findings


def _lost(tree: Tree) -> str:
    """Return what could not be read, for an error about what is missing."""
    if not tree.unreadable:
        return ""
    key, why = tree.unreadable[0]
    return f" ({tree.root}/{shortened(key)} cannot be read: {why})"


def _is_table(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in TABLES
