"""COCO's JSON of boxes beside images, as a source.

Lin et al., ECCV 2014, arXiv 1405.0312. A box is (x, y, width, height); crowds count for nothing.
Files and images are found as those of masks are (`data.coco`). LVIS (Gupta, Dollar, Girshick, CVPR
2019, arXiv 1908.03195) lists of each image the categories that were looked for in vain.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.data.boxed import Gathered
from vitrail.data.boxes import BrokenBoxes, Truth, broken, truth
from vitrail.data.coco import (
    Places,
    Told,
    again,
    by_image,
    categories,
    coco_files,
    id_of,
    loaded,
    parts_of_files,
    repeated_ids,
)
from vitrail.data.source import PartName, Source
from vitrail.data.tree import Tree, is_picture
from vitrail.errors import DataError
from vitrail.units import shortened

# Where LVIS lists the categories that an image is known not to show.
ABSENT = "neg_category_ids"


def boxes_alone(paths: list[Path]) -> bool:
    """Return whether some of COCO's files have boxes and no outlines, so that they are for finding
    objects."""
    every = [one for path in paths for one in loaded(path)["annotations"]]
    return bool(every) and all(o.get("bbox") and not o.get("segmentation") for o in every)


def read_box_coco(root: Path) -> Source:
    """List the images of COCO's files with their boxes. Raises DataError."""
    paths = coco_files(root)
    folder = root.parent if root.is_file() else root
    if not paths:
        raise DataError(f"{root} has no JSON with images, annotations and categories: give one")
    parts, places = parts_of_files(paths, folder), Places(folder)
    read = {path: loaded(path) for path in parts}
    named, gathered = categories(read), Gathered()
    names, ids = tuple(named.values()), {number: at for at, number in enumerate(named)}
    for path, content in read.items():
        _gather(gathered, Told(path, content, parts[path]), places, ids)
    known = {item.key for item in gathered.items}
    tree = Tree(folder)
    gathered.note("unlisted image", [k for k in tree.walk("") if is_picture(k) and k not in known])
    return gathered.source(folder, root, names, tree.findings())


def _gather(into: Gathered, told: Told, places: Places, ids: Mapping[Any, int]) -> None:
    """Take in one file: its images that are there, each with its boxes."""
    of_image, twice = by_image(told.content), repeated_ids(told.content)
    seen: dict[str, PartName | None] = {item.key: item.part for item in into.items}
    for one in told.content["images"]:
        own = of_image.pop(id_of(one.get("id")), [])
        if id_of(one.get("id")) in twice:
            into.note("same id", [str(one.get("file_name"))])
            continue
        key = places.key(told.path, one.get("file_name"))
        if key is None:
            into.note("missing image", [str(one.get("file_name"))])
        elif key in seen:
            into.note(again(seen[key], told.part), [key])
        else:
            seen[key] = told.part
            into.add(key, told.part, _truth(own, ids, one))
    into.note("no image of it", [f"image_id {number}" for number in of_image])


def _truth(own: list[dict[str, Any]], ids: Mapping[Any, int], image: Mapping[str, Any]) -> Truth:
    size = image.get("height"), image.get("width")
    try:
        boxes = [_corners(one.get("bbox")) for one in own]
        labels = [_label(one.get("category_id"), ids) for one in own]
        absent = _absent(image.get(ABSENT), ids)
    except BrokenBoxes as error:
        return broken(str(error))
    whole = all(isinstance(side, int) and side > 0 for side in size)
    crowds = [bool(one.get("iscrowd")) for one in own]
    outlines = tuple(one.get("segmentation") for one in own)
    known = outlines if all(outlines) else ()
    return truth(boxes, labels, crowds, size=size if whole else None, outlines=known, absent=absent)


def _corners(box: Any) -> list[float]:
    numbers = isinstance(box, list) and len(box) == 4
    if not numbers or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in box):
        raise BrokenBoxes(f"have {shortened(repr(box), 40)} for a bbox, which are not four numbers")
    try:
        x, y, w, h = map(float, box)
    except OverflowError:
        raise BrokenBoxes("have a bbox with a number of hundreds of digits") from None
    return [x, y, x + w, y + h]


def _absent(numbers: Any, ids: Mapping[Any, int]) -> frozenset[int] | None:
    """Return the classes that an image is said not to show, None where that is not told."""
    if numbers is None:
        return None
    if not isinstance(numbers, list):
        raise BrokenBoxes(f"have {shortened(repr(numbers), 40)} for {ABSENT}, which is not a list")
    return frozenset(_label(number, ids) for number in numbers)


def _label(number: Any, ids: Mapping[Any, int]) -> int:
    if not isinstance(number, int) or number not in ids:
        raise BrokenBoxes(f"have category {shortened(repr(number), 40)}, which has no name")
    return ids[number]
