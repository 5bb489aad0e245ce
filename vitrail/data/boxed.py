"""Images with boxes as a source: which files say where what is, and what they have in common.

    photos/annotations.json          COCO's lists beside the images (`box_coco`)
    photos/Annotations/*.xml         Pascal VOC's, beside JPEGImages/ and ImageSets/ (`voc`)
    photos/labels/*.txt              YOLO's, beside images/ and a file of names (`yolo`)
    photos/boxes.csv                 a row for each box (`box_table`)

An image and its annotation are known by a common name, wherever the folders of parts and of kinds
stand: images/train/7.jpg belongs to labels/train/7.txt, to train/labels/7.txt and to train/7.xml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vitrail.data.boxes import Boxes, Truth
from vitrail.data.masked import IMAGES
from vitrail.data.names import normal
from vitrail.data.source import Finding, Item, PartName, Severity, Source, part_of
from vitrail.data.tree import Tree, is_picture
from vitrail.errors import DataError
from vitrail.units import counted

ANNOTATIONS = (
    "annotations", "annotation", "labels", "label", "boxes", "xml", "xmls", "txt", "bboxes",
)  # fmt: skip

# What is told of each oddity: how grave it is, of what, and what becomes of it.
_TOLD: dict[str, tuple[Severity, str, str]] = {
    "image without annotation": ("warning", "image", "without an annotation, taken as showing "
                                 "nothing"),
    "annotation without image": ("warning", "annotation", "without an image left out"),
    "missing image": ("error", "image", "listed, but not there, left out"),
    "listed twice": ("error", "image", "listed twice, the first is taken"),
    "same name": ("error", "file", "whose name is there twice left out"),
    "two parts": ("error", "image", "listed in two parts, kept out of training"),
    "same id": ("error", "image", "whose id others have as well left out"),
    "no image of it": ("warning", "annotation", "of no listed image left out"),
    "unlisted image": ("warning", "image", "that nothing lists left out"),
    "from one": ("info", "annotation file", "in pixels that count from 1, as Pascal VOC does"),
    "difficult": ("info", "image", "with boxes marked as difficult, which count for nothing"),
}  # fmt: skip


@dataclass
class Gathered:
    """Images with what is in them, and what is odd about the files that say so."""

    items: list[Item] = field(default_factory=list)
    truths: list[Truth] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, part: PartName | None, truth: Truth) -> None:
        """Take in an image."""
        self.items.append(Item(key, -1, part, ()))
        self.truths.append(truth)

    def note(self, kind: str, keys: Iterable[str]) -> None:
        """Remember an oddity of some files."""
        if keys := list(keys):
            self.odd.setdefault(kind, []).extend(keys)

    def source(
        self, root: Path, origin: Path, classes: tuple[str, ...], more: Sequence[Finding] = ()
    ) -> Source:
        """Return the source. Raises DataError where it has no image or no class."""
        if not self.items:
            raise DataError(f"no image of {origin} has a file that says what is in it: give both")
        if not classes:
            raise DataError(f"{origin} has no box in any image: there is nothing to be found")
        findings = []
        for kind, keys in self.odd.items():
            severity, noun, said = _TOLD[kind]
            findings.append(Finding(kind, severity, f"{counted(len(keys), noun)} {said}", (*keys,)))
        return Source(
            root.resolve().name, classes, tuple(self.items), str(origin), (*more, *findings), root,
            several=True, boxes=Boxes(tuple(self.truths)),
        )  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """The files of a folder by their common names: pictures, and annotations of one kind."""

    root: Path
    pictures: Mapping[str, list[str]]
    annotations: Mapping[str, list[str]]
    others: tuple[str, ...]
    tree: Tree

    def pairs(self, gathered: Gathered) -> list[tuple[str, str | None]]:
        """Return each picture with its annotation, or None; notes what has no other half."""
        found, annotations = [], dict(self.annotations)
        for name, keys in self.pictures.items():
            own = annotations.pop(name, [])
            if len(keys) > 1 or len(own) > 1:
                gathered.note("same name", [*keys, *own])
            else:
                found.append((keys[0], own[0] if own else None))
                gathered.note("image without annotation", [] if own else keys)
        for keys in annotations.values():
            gathered.note("annotation without image", keys)
        return found


def listing(root: Path, ending: str, left_out: Sequence[str] = ()) -> Listing:
    """List a folder, or the one that is alone in it; files `left_out` by name are not annotations.

    Raises OSError of the root.
    """
    tree = Tree(root)
    folders, files = tree.listing()
    inner = tree.listing(folders[0]) if len(folders) == 1 else ([], [])
    if len(folders) == 1 and not any(map(is_picture, files)) and inner[0]:
        root = root / folders[0]  # an archive unpacks into a folder of its own
        tree = Tree(root)
    pictures: dict[str, list[str]] = {}
    annotations: dict[str, list[str]] = {}
    others = []
    for key in tree.walk(""):
        name = PurePosixPath(key).name
        if is_picture(key):
            pictures.setdefault(common(key), []).append(key)
        elif name.lower().endswith(ending) and name.casefold() not in left_out:
            annotations.setdefault(common(key), []).append(key)
        else:
            others.append(key)
    return Listing(root, pictures, annotations, tuple(others), tree)


def common(key: str) -> str:
    """Return by which name an image and its annotation are known: parts and a name without what
    tells the kind of file, in normal form."""
    path = PurePosixPath(key)
    kinds = {*IMAGES, *ANNOTATIONS}
    folders = [one for one in path.parts[:-1] if one.casefold() not in kinds]
    return normal("/".join([*folders, path.stem]))


def part_in(key: str) -> PartName | None:
    """Return the part that a folder on the way to a file names."""
    return next((p for one in PurePosixPath(key).parts[:-1] if (p := part_of(one))), None)
