"""Pictures without classes: whatever lies in a folder, at any depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitrail.data.builtin import BUILTIN
from vitrail.data.opening import open_source
from vitrail.data.source import Finding, Item, Source
from vitrail.data.tree import Tree, is_picture
from vitrail.errors import DataError
from vitrail.units import counted


def open_pictures(spec: str | Path, *, labels: bool = True) -> Source:
    """List the pictures behind `spec`, with their classes where there are any.

    `spec` is a folder, in which class folders are known as `open_source` knows them, a table, or a
    built-in name. A folder without classes, and any with `labels` false, is a list of pictures
    whose source has no classes. Raises DataError where there is no picture.

    Examples:
        >>> open_pictures("photos").classes
        ('cat', 'dog')
        >>> open_pictures("photos/cat").classes
        ()
    """
    path = Path(spec).expanduser()
    is_folder = not (isinstance(spec, str) and spec in BUILTIN) and path.is_dir()
    try:
        source = open_source(spec)
    except DataError:
        if not is_folder:
            raise
        return _listed(path)
    if labels:
        return source
    return _listed(path) if is_folder else unlabelled(source)


def unlabelled(source: Source) -> Source:
    """Return a source without its classes."""
    items = tuple(replace(item, label=-1, several=()) for item in source.items)
    return replace(source, classes=(), items=items, several=True)


def _listed(root: Path) -> Source:
    tree = Tree(root)
    keys = list(tree.walk(""))
    pictures = [key for key in keys if is_picture(key)]
    if not pictures:
        held = counted(len(keys), "file") if keys else "nothing"
        raise DataError(
            f"{root} holds {held} and no picture: give a folder of JPEG, PNG, WebP, GIF, BMP or "
            "TIFF files"
        )
    findings = tree.findings()
    if strays := [key for key in keys if not is_picture(key)]:
        text = f"{counted(len(strays), 'file')} of other kinds left out"
        findings.append(Finding("outside", "info", text, tuple(strays)))
    items = tuple(Item(key, -1, None, ()) for key in sorted(pictures))
    return Source(root.resolve().name, (), items, str(root), tuple(findings), root, several=True)
