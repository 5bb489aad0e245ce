"""A folder of images beside a folder of masks, as a source.

    photos/images/  photos/masks/            one mask for each image, by name
    photos/images/train/  photos/masks/train/  the same with parts, also the other way round
    photos/classes.txt                       what the values mean, a name a line

A mask has the name of its image, with an ending such as _mask where all have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from vitrail.data.class_names import FILES, named
from vitrail.data.masks import Facts, Fault, MaskFiles, Masks, Meaning, look
from vitrail.data.names import few, normal
from vitrail.data.part_lists import part_lists
from vitrail.data.source import (
    Finding,
    Item,
    PartName,
    Severity,
    Source,
    part_of,
    require_classes,
)
from vitrail.data.tree import Tree, is_picture
from vitrail.errors import DataError
from vitrail.units import counted, shortened

IMAGES = (
    "images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "input", "inputs",
)  # fmt: skip
MASKS = (
    "masks", "mask", "annotations", "annotation", "labels", "label", "segmentation",
    "segmentations", "segmentationclass", "gt", "targets", "target",
)  # fmt: skip
ENDINGS = (
    "", "_mask", "-mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt", "_target",
    "_annotation", "_L", "_m",
)  # fmt: skip
# Where nothing names the classes, more values than this come from smoothed or lossy masks.
MOST_UNNAMED = 64
BINARY = ("background", "foreground")


@dataclass(frozen=True)
class Pair:
    """A folder of images and that of their masks, relative to the root, of one part."""

    images: str
    masks: str
    part: PartName | None = None


def is_masked(root: Path) -> bool:
    """Return whether a folder holds images and masks beside each other, by the names in it."""
    try:
        tree = Tree(root)
        return root.is_dir() and any(_has_pictures(tree, pair) for pair in _pairs(tree))
    except OSError:
        return False


def read_masked(root: Path, *, progress: bool = False) -> Source:
    """List the images of a folder with their masks, each of which is read once.

    An item's `several` are the classes in its mask. Images whose masks are missing are left out
    and told. Raises DataError, and OSError of the root.
    """
    tree = Tree(root)
    pairs = _pairs(tree)
    if not pairs:
        raise DataError(
            f"{root} has no folder of masks beside one of images: give images/ and masks/ with "
            "one PNG of indices for each image, or COCO's JSON beside the images"
        )
    listed: list[tuple[str, str, PartName | None]] = []
    found: list[Finding] = []
    for pair in pairs:
        some, more = _matched(tree, pair)
        listed.extend((image, mask, pair.part) for image, mask in some)
        found += more
    if all(pair.part is None for pair in pairs):
        lists = part_lists(root, _texts(tree), [image for image, _, _ in listed])
        listed = [(image, mask, lists.parts.get(image)) for image, mask, _ in listed]
        found += lists.findings()
    if not listed:
        raise DataError(
            f"no image of {root / pairs[0].images} has a mask of its name in "
            f"{root / pairs[0].masks}: name masks as their images"
        )
    told = named(root) or named(root / PurePosixPath(pairs[0].masks).parts[0])
    meaning = told[1] if told else Meaning()
    reader = MaskFiles(root, tuple(mask for _, mask, _ in listed), meaning)
    masks, classes = look(reader, progress=progress), told[0] if told else ()
    if not told:
        masks, classes, more = _unnamed(root, masks)
        found += more
    elif told[2]:
        found.append(Finding("classes", "info", f"classes are named by {told[2]}"))
    require_classes(classes, str(root), ": count the background as one")
    items = [Item(image, -1, part) for image, _, part in listed]
    return Source(
        root.resolve().name, classes, with_classes(items, masks), str(root),
        (*tree.findings(), *found), root, several=True, masks=masks,
    )  # fmt: skip


def with_classes(items: Sequence[Item], masks: Masks) -> tuple[Item, ...]:
    """Return the items, each with the classes that its mask holds."""
    told = []
    for item, facts in zip(items, masks.seen, strict=True):
        some = tuple(facts.counts.nonzero()[0].tolist()) if isinstance(facts, Facts) else ()
        told.append(replace(item, label=some[0] if some else -1, several=some))
    return tuple(told)


def _pairs(tree: Tree) -> list[Pair]:
    """Find the folders of images and masks: beside each other, with parts below or above them."""
    base, folders = "", tree.listing()[0]
    if len(folders) == 1:  # an archive unpacks into a folder of its own
        base, folders = folders[0], tree.listing(folders[0])[0]
    above = _beside(base, folders)
    if above is not None:
        return _with_parts(tree, above)
    parts = [(name, part) for name in folders if (part := part_of(name))]
    found = [
        replace(pair, part=part)
        for name, part in parts
        if (pair := _beside(_joined(base, name), tree.listing(_joined(base, name))[0]))
    ]
    return found if len({pair.part for pair in found}) == len(found) else []


def _texts(tree: Tree) -> list[str]:
    """Return the texts that may list the images of parts, as Pascal VOC has them."""
    base, folders = "", tree.listing()[0]
    if len(folders) == 1:
        base, folders = folders[0], tree.listing(folders[0])[0]
    inside = [_joined(base, "ImageSets/Segmentation")] if "ImageSets" in folders else []
    return [_joined(here, name) for here in (base, *inside) for name in tree.listing(here)[1]]


def _has_pictures(tree: Tree, pair: Pair) -> bool:
    """Return whether masks are files, and not in COCO's JSON for example."""
    return any(is_picture(key) for key in tree.walk(pair.masks))


def _beside(base: str, folders: Sequence[str]) -> Pair | None:
    images = [name for name in folders if name.casefold() in IMAGES]
    masks = [name for name in folders if name.casefold() in MASKS]
    if len(images) != 1 or len(masks) != 1:
        return None
    return Pair(_joined(base, images[0]), _joined(base, masks[0]))


def _with_parts(tree: Tree, pair: Pair) -> list[Pair]:
    """Return the pair, or one for each part that both have as a folder."""
    below: dict[PartName | None, str] = {
        part_of(name): name for name in tree.listing(pair.images)[0]
    }
    other: dict[PartName | None, str] = {
        part_of(name): name for name in tree.listing(pair.masks)[0]
    }
    found = [
        Pair(_joined(pair.images, name), _joined(pair.masks, other[part]), part)
        for part, name in below.items()
        if part and part in other
    ]
    return found or [pair]


def _matched(tree: Tree, pair: Pair) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Pair images with the mask of their name, and tell what has no other half."""
    images = _by_stem(tree, pair.images)
    masks = _by_stem(tree, pair.masks)
    ending = max(ENDINGS, key=lambda end: (sum(stem + end in masks for stem in images), end == ""))
    listed, without, twice = [], [], []
    for stem, keys in images.items():
        own = masks.pop(stem + ending, [])
        if len(keys) > 1 or len(own) > 1:
            twice += [*keys, *own]
        elif not own:
            without += keys
        else:
            listed.append((keys[0], own[0]))
    lonely = [key for keys in masks.values() for key in keys]
    findings = []
    kinds: Sequence[tuple[str, Severity, list[str], str]] = (
        ("image without mask", "error", without, "{} without a mask left out"),
        ("mask without image", "warning", lonely, "{} without an image left out"),
        ("same name", "error", twice, "{} whose name is there twice left out"),
    )
    for kind, severity, keys, said in kinds:
        if keys:
            noun = "mask" if kind.startswith("mask") else "file" if kind == "same name" else "image"
            text = said.format(counted(len(keys), noun))
            findings.append(Finding(kind, severity, text, tuple(keys)))
    return listed, findings


def _by_stem(tree: Tree, folder: str) -> dict[str, list[str]]:
    """Return the pictures below a folder by their paths in it, in normal form and without what
    tells the format."""
    found: dict[str, list[str]] = {}
    for key in tree.walk(folder):
        if is_picture(key):
            inner = PurePosixPath(key).relative_to(folder)
            found.setdefault(normal(str(inner.with_suffix(""))), []).append(key)
    return found


def _unnamed(root: Path, masks: Masks) -> tuple[Masks, tuple[str, ...], list[Finding]]:
    """Return the masks with their values as classes, each called by its value."""
    held: Counter[int] = Counter()
    for facts in masks.seen:
        if isinstance(facts, Facts):
            held.update(facts.counts.nonzero()[0].tolist())
    values = sorted(held)
    reader = masks.reader
    assert isinstance(reader, MaskFiles)
    faults = [(k, one) for k, one in zip(reader.keys(), masks.seen, strict=True)
              if isinstance(one, Fault)]  # fmt: skip
    if faults and not values:
        key, fault = faults[0]
        raise DataError(
            f"no mask of {root} can be used (first: {shortened(key)} {fault.reason}): correct them"
        )
    void = any(isinstance(facts, Facts) and facts.ignored for facts in masks.seen)
    if len(values) > MOST_UNNAMED:
        raise DataError(
            f"masks of {root} hold {len(values)} different values: they were smoothed or saved "
            f"with loss; save the indices as PNG, or name the classes in {FILES[0]}"
        )
    if void and values == [0]:
        text = "masks hold 0 and 255 alone: 255 is taken for the class 'foreground'"
        meaning = Meaning({0: 0, 255: 1}, ignored=frozenset())
        again = look(replace(reader, meaning=meaning))
        return again, BINARY, [Finding("binary masks", "info", text)]
    names = tuple(map(str, values))
    text = (
        f"classes are called by their values ({few(list(names))}): name them in "
        f"{FILES[0]}, a line each"
    )
    findings = [Finding("unnamed classes", "info", text)]
    if values != list(range(len(values))):
        meaning = Meaning({value: label for label, value in enumerate(values)})
        masks = look(replace(reader, meaning=meaning))
    return masks, names, findings


def _joined(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name
