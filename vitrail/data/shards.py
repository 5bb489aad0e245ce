"""Images in tar files, as WebDataset packs them: a few large files instead of many small ones.

    shards/train-000000.tar   00001.jpg 00001.cls  00002.jpg 00002.json ...
    shards/test-000000.tar    cat/001.jpg  dog/002.jpg ...

Files of one name belong together: an image, and its class in `.cls` (a number or a name) or in
`.json` (under "label", "class" or "cls"). Where no image has one, the folders inside the tar files
are the classes. Names of shards tell parts (train, val, test), or folders inside them;
`classes.txt` beside them, a line each, names the classes that are numbers. An image is read from
its place in the tar file, so nothing is unpacked.

The layout: https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitrail import files
from vitrail.data.formats import OVERSIZED_BYTES, BrokenImage
from vitrail.data.names import few, one_spelling
from vitrail.data.source import (
    Finding,
    Item,
    PartName,
    Source,
    part_of,
    require_classes,
    sorted_classes,
)
from vitrail.data.tree import Tree, is_picture
from vitrail.errors import DataError
from vitrail.units import counted, shortened

SUFFIX = ".tar"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# In which files of a sample its class is looked for.
LABELS = (".cls", ".json")
FIELDS = ("label", "class", "cls", "class_name")
NAMES = "classes.txt"
# The text of a class, or the facts of an image, have no more.
MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file lies in a shard: its first byte and how many there are."""

    shard: str
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class ShardSource(Source):
    """Images in the tar files below `root`, of which `places` tells where each lies, by its key."""

    places: Mapping[str, Place] = field(default_factory=dict, repr=False)

    def path(self, item: Item) -> Path:
        """Return the tar file in which an image lies."""
        assert self.root is not None
        return self.root / self.places[item.key].shard

    def check(self, item: Item) -> None:
        """Raise BrokenImage for an image that should not be read, being too large."""
        size = self.places[item.key].size
        if size > OVERSIZED_BYTES:
            raise BrokenImage("oversized", f"has {size:,} bytes, at most {OVERSIZED_BYTES:,}")

    def read(self, item: Item) -> bytes:
        """Return the encoded file of an image. Raises OSError, and BrokenImage where it is cut."""
        place = self.places[item.key]
        with files.reading(self.path(item)) as file:
            file.seek(place.start)
            found = file.read(place.size)
        if len(found) < place.size:
            raise BrokenImage("truncated", "ends with its tar file, before it is whole")
        return found


def shards_in(path: Path) -> list[str]:
    """Return the tar files that `path` holds, or is, by their names; none where it holds images or
    folders as well, which come first. Raises DataError for compressed ones."""
    folders, files = ([], [path.name]) if path.is_file() else Tree(path).listing()
    if folders or any(map(is_picture, files)):
        return []
    if packed := [name for name in files if name.lower().endswith(PACKED)]:
        raise DataError(
            f"compressed tar files cannot be read in place ({few(packed)}): decompress them, or "
            "unpack them into a folder"
        )
    return [name for name in files if name.lower().endswith(SUFFIX)]


def read_shards(path: Path) -> Source:
    """List the images in a folder of tar files, or in one. Raises DataError, and OSError."""
    root = path if path.is_dir() else path.parent
    listing = _Listing(root)
    for name in shards_in(path):
        listing.add(name)
    return listing.source(path)


@dataclass
class _Sample:
    """Files of one name: the image, and what is said of its class."""

    part: PartName | None
    image: str = ""
    label: str = ""


class _Listing:
    """What is found in shards, one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.samples: dict[str, _Sample] = {}
        self.places: dict[str, Place] = {}
        self.broken: list[str] = []
        self.unread: list[str] = []
        self.passed: list[str] = []

    def add(self, shard: str) -> None:
        """List one tar file; a broken one is listed up to where it breaks."""
        part, end = part_of(shard.partition("-")[0].partition("_")[0].partition(".")[0]), 0
        try:
            with (
                files.reading(self.root / shard) as file,
                tarfile.open(fileobj=file, mode="r:") as tar,
            ):
                for member in _members(tar):
                    self._add(tar, shard, member, part)
                    end = member.offset_data + member.size
            whole = end <= (self.root / shard).stat().st_size
        except (tarfile.TarError, OSError):
            whole = False
        if not whole:
            self.broken.append(shard)

    def _add(
        self, tar: tarfile.TarFile, shard: str, member: tarfile.TarInfo, part: PartName | None
    ) -> None:
        # Some programs write "./cat/1.jpg", and whoever means harm "../cat/1.jpg".
        named = posixpath.normpath(f"/{member.name}").lstrip("/")
        stem, ending = posixpath.splitext(named)
        if member.isdir() or not ending:
            return
        key = f"{shard}/{named}"
        part = part or part_of(named.partition("/")[0])
        sample = self.samples.setdefault(f"{shard}/{stem}", _Sample(part))
        # The bytes of a sparse file are not as they lie in the tar file.
        if not member.isfile() or member.issparse() or (is_picture(named) and sample.image):
            self.passed.append(key)
        elif is_picture(named):
            sample.image = key
            self.places[key] = Place(shard, member.offset_data, member.size)
        elif ending.lower() in LABELS:
            text = _text(tar, member)
            label = None if text is None else _label(text, ending.lower())
            if label is None:
                self.unread.append(key)
            sample.label = sample.label or label or ""
        else:
            self.passed.append(key)

    def _told(self) -> dict[str, str]:
        """Return the class that is told of each image, "" where none is.

        That of `1.cls` is of `1.input.jpg` as well, where there is no `1.jpg`.
        """
        told = {}
        for stem, one in self.samples.items():
            folder, name = posixpath.split(stem)
            wider = self.samples.get(posixpath.join(folder, name.partition(".")[0]))
            above = "" if wider is None or wider.image else wider.label
            if one.image:
                told[one.image] = one.label or above
        return told

    def source(self, path: Path) -> Source:
        """Return all that was listed as a source. Raises DataError."""
        found = [one for one in self.samples.values() if one.image]
        if not found:
            raise DataError(
                f"{path} has no images in its tar files{self._lost()}: pack an image and its class "
                "under one name, 0001.jpg and 0001.cls, or images in folders of classes"
            )
        written = self._told()
        if not any(written.values()):
            # The last folder of an image, but not the tar file itself.
            above = {key: key.split("/")[1:-1] for key in written}
            written = {key: folders[-1] if folders else "" for key, folders in above.items()}
        without = [key for key, name in written.items() if not name]
        kept = [one for one in found if written[one.image]]
        named = self._names({written[one.image] for one in kept})
        meant, spellings = one_spelling((one.part, named[written[one.image]]) for one in kept)
        classes = sorted_classes(set(meant.values()))
        require_classes(classes, str(path), self._lost())
        index = {name: label for label, name in enumerate(classes)}
        items = tuple(
            Item(one.image, index[meant[named[written[one.image]]]], one.part)
            for one in sorted(kept, key=lambda one: one.image)
        )
        name = path.resolve().name.removesuffix(SUFFIX)
        findings = (*self._findings(without), *spellings)
        return ShardSource(name, classes, items, str(path), findings, self.root, places=self.places)

    def _lost(self) -> str:
        """Return what could not be read, for an error about what is missing."""
        return f" ({few(self.broken)} cut off, damaged or closed)" if self.broken else ""

    def _names(self, written: set[str]) -> dict[str, str]:
        """Return the name of each class as it is written: numbers by `classes.txt`, if there is
        one."""
        same = {name: name for name in written}
        try:
            lines = files.read(self.root / NAMES).decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return same
        listed = [line.strip() for line in lines if line.strip()]
        numbers = all(name.isascii() and name.isdigit() for name in written)
        if not numbers or max(map(int, written)) >= len(listed):
            return same
        return {name: listed[int(name)] for name in written}

    def _findings(self, without: list[str]) -> Iterator[Finding]:
        if self.broken:
            text = f"{counted(len(self.broken), 'tar file')} cut off, damaged or closed: read up "
            text += "to there"
            yield Finding("broken shard", "warning", text, tuple(self.broken))
        if self.unread:
            text = f"{counted(len(self.unread), 'file')} with a class in them cannot be read"
            yield Finding("class", "warning", text, tuple(self.unread))
        if without:
            text = f"{counted(len(without), 'image')} without a class left out"
            yield Finding("unlabelled", "warning", text, tuple(without))
        if self.passed:
            text = f"{counted(len(self.passed), 'file')} in the tar files passed over"
            yield Finding("outside", "info", text, tuple(self.passed))


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file, and raise TarError where it breaks off."""
    while (member := tar.next()) is not None:
        yield member
        # Else all headers stay in memory.
        tar.members = []  # pyright: ignore[reportAttributeAccessIssue]


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    """Return a small file as text, None where it is none."""
    if member.size > MOST_BYTES:
        return None
    file = tar.extractfile(member)
    try:
        return None if file is None else file.read().decode("utf-8").strip()
    except UnicodeDecodeError:
        return None


def _label(text: str, ending: str) -> str | None:
    """Return the class that a file tells, None for one that tells none."""
    if ending == ".json":
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError):
            return None
        named = (
            {str(key).lower(): value for key, value in facts.items()}
            if isinstance(facts, dict)
            else {}
        )
        told = next((named[one] for one in FIELDS if one in named), None)
        return str(told) if isinstance(told, str | int) and not isinstance(told, bool) else None
    return shortened(text, 200) if text and "\n" not in text else None
