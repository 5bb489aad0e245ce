"""COCO's JSON of polygons and run lengths beside images, as a source of masks.

    photos/annotations.json  photos/images/          also annotations/*.json, or images beside it
    photos/annotations/instances_train.json          a file for each part, told by its name

Lin et al., ECCV 2014, arXiv 1405.0312. Class 0 is the background; categories follow by their ids.
Larger objects are drawn first, so that smaller ones lie over them; crowds count for nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail import files
from vitrail.data.masked import IMAGES, with_classes
from vitrail.data.masks import MOST_CLASSES, look
from vitrail.data.outlines import Drawing, Outlines
from vitrail.data.source import Finding, Item, PartName, Severity, Source, part_of, require_classes
from vitrail.data.tree import Tree, is_picture
from vitrail.data.whereabouts import Whereabouts
from vitrail.errors import DataError
from vitrail.units import counted, shortened

BACKGROUND = "background"
MOST_BYTES = 1 << 30
NEEDED = ("images", "annotations", "categories")


@dataclass
class _Gathered:
    """What the files of a folder say together, and what is odd about it."""

    items: list[Item] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, key: str) -> None:
        self.odd.setdefault(kind, []).append(key)


# What is told of each oddity: how grave it is, and what becomes of it.
_TOLD: dict[str, tuple[Severity, str, str]] = {
    "missing image": ("error", "image", "listed, but not there, left out"),
    "listed twice": ("error", "image", "listed twice, the first is taken"),
    "two parts": ("error", "image", "listed in two parts, kept out of training"),
    "same id": ("error", "image", "whose id others have as well left out"),
    "no image of it": ("warning", "annotation", "of no listed image left out"),
    "same annotation": ("warning", "annotation", "there twice, drawn once"),
    "crowd": ("info", "crowd region", "that count for nothing"),
    "negative": ("info", "image", "without any annotation, all background"),
    "unlisted image": ("warning", "image", "that no annotation file lists left out"),
}


def coco_files(root: Path) -> list[Path]:
    """Return the annotation files of a folder, or the file itself, told by their beginnings."""
    if root.is_file():
        return [root] if root.suffix == ".json" else []
    found = [*root.glob("*.json"), *root.glob("annotations/*.json")]
    # Others write a file into the folder of each part.
    found += [path for path in root.glob("*/*.json") if part_of(path.parent.name)]
    return [path for path in sorted(found) if _begins_like_coco(path)]


def parts_of_files(paths: Sequence[Path], folder: Path) -> dict[Path, PartName | None]:
    """Return the part of each annotation file, told by its name or its folder, those that are held
    back first: an image that several list belongs to these. A file alone gives no part."""
    parts: dict[Path, PartName | None] = {
        path: part_of(path.stem.rpartition("_")[2])
        or (part_of(path.parent.name) if path.parent != folder else None)
        for path in paths
    }
    if len(paths) < 2:
        return dict.fromkeys(paths)
    order = ("test", "val", "train", None)
    return {path: parts[path] for path in sorted(parts, key=lambda path: order.index(parts[path]))}


def _begins_like_coco(path: Path) -> bool:
    """Return whether a file has the keys that only one of COCO's has."""
    try:
        data = files.read(path, MOST_BYTES)
    except OSError:
        return False
    return all(f'"{name}"'.encode() in data for name in (*NEEDED, "file_name"))


def read_coco(root: Path, *, progress: bool = False) -> Source:
    """List the images of COCO's files with a mask for each, drawn once to be looked at.

    Raises DataError.
    """
    paths = coco_files(root)
    folder = root.parent if root.is_file() else root
    if not paths:
        raise DataError(f"{root} has no JSON with images, annotations and categories: give one")
    parts, places = parts_of_files(paths, folder), Places(folder)
    read = {path: loaded(path) for path in parts}
    names, ids = _classes(read)
    gathered = _Gathered()
    for path, content in read.items():
        _gather(gathered, Told(path, content, parts[path]), places, ids)
    require_classes(names, str(root), ": background is one, each category another")
    if not gathered.items:
        raise DataError(f"no image that {paths[0]} lists is there: put them into images/ beside it")
    reader = Outlines(tuple(gathered.drawings), tuple(item.key for item in gathered.items))
    masks = look(reader, progress=progress)
    known = {item.key for item in gathered.items} | {
        key for kind in ("listed twice", "two parts") for key in gathered.odd.get(kind, [])
    }
    for key in Tree(folder).walk(""):
        if is_picture(key) and key not in known:
            gathered.note("unlisted image", key)
    findings = [_finding(kind, keys) for kind, keys in gathered.odd.items()]
    return Source(
        folder.resolve().name, names, with_classes(gathered.items, masks), str(root),
        tuple(findings), folder, several=True, masks=masks,
    )  # fmt: skip


def _finding(kind: str, keys: Sequence[str]) -> Finding:
    severity, noun, said = _TOLD[kind]
    return Finding(kind, severity, f"{counted(len(keys), noun)} {said}", tuple(keys))


def loaded(path: Path) -> dict[str, Any]:
    """Return the content of one of COCO's files. Raises DataError."""
    try:
        found = json.loads(files.read(path, MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): write it again") from error
    lists = isinstance(found, dict) and all(isinstance(found.get(n), list) for n in NEEDED)
    if not lists or not all(isinstance(one, dict) for n in NEEDED for one in found[n]):
        raise DataError(f"{path} has no lists of {', '.join(NEEDED)}: it is none of COCO's files")
    return found


def categories(read: Mapping[Path, Mapping[str, Any]]) -> dict[int, str]:
    """Return the names of categories by their ids, in order, as all files call them.

    Raises DataError for ids or names that are none, and for one name of two categories.
    """
    known: dict[int, str] = {}
    for path, content in read.items():
        for one in content["categories"]:
            number, name = one.get("id"), one.get("name")
            if not isinstance(number, int) or not isinstance(name, str) or not name.strip():
                raise DataError(f"{path} has a category without a whole id and a name: correct it")
            if known.setdefault(number, name) != name:
                raise DataError(f"{path} calls category {number} {name!r}, not {known[number]!r}")
    own = list(known.values())
    if len(set(own)) < len(own):
        twice = next(name for name in own if own.count(name) > 1)
        raise DataError(f"two categories are called {shortened(twice)!r}: give each its own name")
    return dict(sorted(known.items()))


def by_image(content: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the annotations of each image, by its `id_of`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in content["annotations"]:
        found.setdefault(id_of(one.get("image_id")), []).append(one)
    return found


def id_of(value: Any) -> str:
    """Return how an id is compared: programs write 7, 7.0 and "7" of one image."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def repeated_ids(content: Mapping[str, Any]) -> set[str]:
    """Return the ids that several images have, of which nobody knows whose annotations are."""
    files = {(id_of(one.get("id")), str(one.get("file_name"))) for one in content["images"]}
    times = Counter(number for number, _ in files)
    return {number for number, n in times.items() if n > 1}


def _classes(read: Mapping[Path, Mapping[str, Any]]) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the classes, background first, and the class of each category's id."""
    known = categories(read)
    own = list(known.values())
    plain = own[0].casefold() == BACKGROUND if own else False
    names = own if plain else [BACKGROUND, *own]
    if len(names) > MOST_CLASSES:
        raise DataError(f"there are {len(names)} classes: masks of 8 bits hold {MOST_CLASSES}")
    return tuple(names), {number: names.index(known[number]) for number in known}


def _gather(into: _Gathered, told: Told, places: Places, ids: Mapping[Any, int]) -> None:
    """Take in one file: its images that are there, each with what is drawn on it."""
    of_image, twice = by_image(told.content), repeated_ids(told.content)
    seen: dict[str, PartName | None] = {item.key: item.part for item in into.items}
    for one in told.content["images"]:
        own = of_image.pop(id_of(one.get("id")), [])
        if id_of(one.get("id")) in twice:
            into.note("same id", str(one.get("file_name")))
            continue
        key = places.key(told.path, one.get("file_name"))
        if key is None:
            into.note("missing image", str(one.get("file_name")))
            continue
        if key in seen:
            into.note(again(seen[key], told.part), key)
            continue
        seen[key] = told.part
        distinct = {json.dumps([o.get("category_id"), o.get("segmentation")]): o for o in own}
        if len(distinct) < len(own):
            into.note("same annotation", key)
        for drawn in distinct.values():
            if drawn.get("iscrowd"):
                into.note("crowd", key)
        if not own:
            into.note("negative", key)
        into.items.append(Item(key, -1, told.part))
        size = one.get("height"), one.get("width")
        into.drawings.append(Drawing(size, tuple(distinct.values()), ids))
    for number in of_image:
        into.note("no image of it", f"image_id {number}")


@dataclass(frozen=True)
class Told:
    """What one annotation file says, and of which part."""

    path: Path
    content: Mapping[str, Any]
    part: PartName | None


def again(before: PartName | None, now: PartName | None) -> str:
    """Return what it is that an image is listed again: in two parts, or twice."""
    return "two parts" if before and now and before != now else "listed twice"


class Places:
    """Where images lie that annotation files of a folder name: beside the file, in the usual
    folders, or under another spelling below the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._others = Whereabouts(folder)

    def key(self, path: Path, name: Any) -> str | None:
        """Return where an image lies, relative to the folder; None where it is not there."""
        if not isinstance(name, str) or not name or ".." in re.split(r"[\\/]", name):
            return None
        part, folder = path.stem.rpartition("_")[2], self.folder
        beside = [path.parent, folder, *(folder / one for one in IMAGES)]
        beside += [folder / part, *(folder / one / part for one in IMAGES)]
        for place in beside:
            there = place / name
            if os.path.isfile(there) and there.is_relative_to(folder):
                return there.relative_to(folder).as_posix()
        return self._others.key(name) if not os.path.isfile(name) else None
