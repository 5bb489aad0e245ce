"""A table with a row for each box, as a source: image,xmin,ymin,xmax,ymax,class and perhaps split.

Columns are known by their names, in pixels: corners, or x,y,width,height. A row whose box is empty
says that its image shows nothing. A folder may hold the table, if it is the only one there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitrail.data.boxed import Gathered
from vitrail.data.boxes import BrokenBoxes, Truth, broken, truth
from vitrail.data.cells import TABLES, read_cells
from vitrail.data.source import PartName, Source, sorted_classes
from vitrail.data.table_parts import filled, held, part_columns, unused
from vitrail.data.tree import Tree, is_picture
from vitrail.data.whereabouts import Whereabouts
from vitrail.errors import DataError
from vitrail.units import shortened

_NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "path", "filename", "file", "file_name", "image_path", "image_id", "img"),
    "class": ("class", "label", "class_name", "category", "name", "cell_type", "object"),
    "x1": ("xmin", "x1", "x_min", "left"),
    "y1": ("ymin", "y1", "y_min", "top"),
    "x2": ("xmax", "x2", "x_max", "right"),
    "y2": ("ymax", "y2", "y_max", "bottom"),
    "x": ("x", "bbox_x"),
    "y": ("y", "bbox_y"),
    "w": ("w", "box_width", "bbox_width", "width"),
    "h": ("h", "box_height", "bbox_height", "height"),
}
_CORNERS, _SIZES = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h")


@dataclass
class _Image:
    """Hold what the rows of one image say."""

    names: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    parts: set[PartName | None] = field(default_factory=set)
    fault: str = ""


def box_table(root: Path) -> Path | None:
    """Return the table of boxes that a path is, or that is the only one in a folder, else None."""
    if root.is_dir():
        tables = [one for one in sorted(root.iterdir()) if one.suffix.lower() in TABLES]
        return box_table(tables[0]) if len(tables) == 1 else None
    if root.suffix.lower() not in TABLES or not root.is_file():
        return None
    try:
        columns = _columns(read_cells(root).names)
    except DataError:
        return None
    return root if columns is not None else None


def read_box_table(root: Path) -> Source:
    """List the images of a table with their boxes. Raises DataError."""
    path = box_table(root)
    if path is None:
        raise DataError(
            f"{root} has no columns image,xmin,ymin,xmax,ymax,class: name them so in its first row"
        )
    cells, places, gathered = read_cells(path), Whereabouts(path.parent), Gathered()
    columns = _columns(cells.names)
    assert columns is not None
    parts = part_columns(path, cells, columns.values())
    rows = [(line, [str(cell) for cell in row]) for line, row in cells.rows]
    keys = places.found(path, [(line, row[columns["image"]]) for line, row in rows])
    images: dict[str, _Image] = {}
    for (line, row), key in zip(rows, keys, strict=True):
        image = images.setdefault(key, _Image())
        image.parts.add(parts.of(row))
        _add(image, row, columns, line)
    names = sorted_classes({name for one in images.values() for name in one.names})
    torn = []
    for key in sorted(images):
        one = images[key]
        gathered.add(key, held(one.parts), _truth(one, names))
        torn += [key] if len(one.parts) > 1 else []
    gathered.note("two parts", torn)
    known = {*images}
    unlisted = [k for k in Tree(path.parent).walk("") if is_picture(k) and k not in known]
    gathered.note("unlisted image", unlisted)
    rest = unused(cells, filled(cells, {*columns.values(), *parts.columns}))
    return gathered.source(path.parent, path, names, [*places.findings(), *rest])


def _columns(names: Sequence[str]) -> Mapping[str, int] | None:
    """Find the column of each meaning; None where there are none of boxes."""
    heads = {name.strip().casefold().replace(" ", "_"): i for i, name in enumerate(names)}
    found = {
        role: next(heads[one] for one in some if one in heads)
        for role, some in _NAMES.items()
        if any(one in heads for one in some)
    }
    whole = all(c in found for c in _CORNERS) or all(c in found for c in _SIZES)
    return found if whole and "image" in found and "class" in found else None


def _add(image: _Image, row: list[str], columns: Mapping[str, int], line: int) -> None:
    corners = all(c in columns for c in _CORNERS)
    cells = [row[columns[c]] for c in (_CORNERS if corners else _SIZES)]
    name = row[columns["class"]]
    if not any(cells):
        return
    try:
        values = [_number(cell, line) for cell in cells]
        if not name:
            raise BrokenBoxes(f"have a box without a class in row {line}")
    except BrokenBoxes as error:
        image.fault = image.fault or str(error)
        return
    if not corners:
        x, y, w, h = values
        values = [x, y, x + w, y + h]
    image.names.append(name)
    image.boxes.append(values)


def _number(cell: str, line: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BrokenBoxes(f"have {shortened(cell)!r} in row {line}: give a number")
    return value


def _truth(image: _Image, names: Sequence[str]) -> Truth:
    if image.fault:
        return broken(image.fault)
    return truth(image.boxes, [names.index(name) for name in image.names])
