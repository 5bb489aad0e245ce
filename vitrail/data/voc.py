"""Pascal VOC's XML files, one beside each image, as a source of boxes.

    photos/Annotations/7.xml  photos/JPEGImages/7.jpg  photos/ImageSets/Main/train.txt

Everingham et al., IJCV 88, 2010. Pixels count from 1 there and their last one belongs to the box;
where any box of a folder begins at 0, its files count from 0. Parts are those of ImageSets/Main,
or folders of that name. Boxes marked as difficult count for nothing, as in the authors' evaluation.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import files
from vitrail.data.boxed import Gathered, listing, part_in
from vitrail.data.boxes import BrokenBoxes, Truth, broken, truth
from vitrail.data.part_lists import part_lists
from vitrail.data.source import Source, sorted_classes
from vitrail.units import shortened

MOST_BYTES = 1 << 24
SETS = "ImageSets/Main/"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Written:
    """What one file says: names and corners of its objects, which are difficult, the size."""

    names: tuple[str, ...]
    corners: tuple[tuple[float, ...], ...]
    difficult: tuple[bool, ...]
    size: tuple[int, int] | None


def voc_files(root: Path) -> bool:
    """Return whether a folder has XML files that look like annotations of boxes."""
    if not root.is_dir():
        return False
    found = listing(root, ".xml")
    first = next((keys[0] for keys in found.annotations.values()), None)
    if first is None or not found.pictures:
        return False
    try:
        return b"<annotation" in files.read(found.root / first, MOST_BYTES)
    except OSError:
        return False


def read_voc(root: Path) -> Source:
    """List the images of a folder with what their XML files say. Raises DataError."""
    listed, gathered = listing(root, ".xml"), Gathered()
    pairs = listed.pairs(gathered)
    said = {key: _read(listed.root / xml) if xml else None for key, xml in pairs}
    read = [one for one in said.values() if isinstance(one, Written)]
    names = sorted_classes({name for one in read for name in one.names})
    first = min((min(c[:2]) for one in read for c in one.corners), default=1.0)
    offset = 1.0 if first >= 1 else 0.0
    texts = [key for key in listed.others if key.startswith(SETS)]
    sets = part_lists(listed.root, texts, [key for key, _ in pairs])
    if offset and any(one.names for one in read):
        gathered.note("from one", [xml for _, xml in pairs if xml])
    for key, written in said.items():
        part = sets.parts.get(key) if sets.parts else part_in(key)
        gathered.add(key, part, _truth(written, names, offset))
        if isinstance(written, Written) and any(written.difficult):
            gathered.note("difficult", [key])
    more = [*listed.tree.findings(), *sets.findings()]
    return gathered.source(listed.root, root, names, more)


def _truth(written: Written | str | None, names: tuple[str, ...], offset: float) -> Truth:
    if isinstance(written, str):
        return broken(written)
    if written is None:
        return truth([], [])
    boxes = np.array(written.corners, np.float64).reshape(-1, 4) - [offset, offset, 0, 0]
    labels = [names.index(name) for name in written.names]
    return truth(boxes.tolist(), labels, written.difficult, size=written.size)


def _read(path: Path) -> Written | str:
    """Return what a file says, or why it cannot be used."""
    try:
        return _written(_parsed(files.read(path, MOST_BYTES)))
    except OSError as error:
        return f"cannot be read ({files.reason(error)})"
    except BrokenBoxes as error:
        return str(error)


def _parsed(data: bytes) -> Any:
    if b"<!ENTITY" in data or b"<!DOCTYPE" in data:
        raise BrokenBoxes("declare entities, which annotations have no use for")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise BrokenBoxes(f"end early or are not XML ({error})") from error


def _written(tree: Any) -> Written:
    if tree.tag != "annotation":
        raise BrokenBoxes(f"begin with <{tree.tag}>, not with <annotation>")
    names, corners, difficult = [], [], []
    for one in tree.iter("object"):
        name, box = (one.findtext("name") or "").strip(), one.find("bndbox")
        if not name:
            raise BrokenBoxes("have an object without a name")
        if box is None:
            raise BrokenBoxes(f"have no bndbox for an object {name!r}")
        names.append(name)
        corners.append(tuple(_number(box, corner) for corner in _CORNERS))
        difficult.append((one.findtext("difficult") or "0").strip() == "1")
    return Written(tuple(names), tuple(corners), tuple(difficult), _size(tree.find("size")))


def _number(parent: Any, name: str) -> float:
    text = (parent.findtext(name) or "").strip()
    try:
        return float(text)
    except ValueError:
        raise BrokenBoxes(f"have {shortened(repr(text), 40)} for {name}: give a number") from None


def _size(size: Any) -> tuple[int, int] | None:
    """Return (height, width), or None where a file leaves them out or at 0."""
    if size is None:
        return None
    sides = [_number(size, name) for name in ("height", "width")]
    if not all(map(math.isfinite, sides)):
        raise BrokenBoxes("have a height or width that is not finite: give pixels")
    height, width = map(int, sides)
    return (height, width) if height > 0 and width > 0 else None
