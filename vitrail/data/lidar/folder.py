"""Folders of scans with labels, as a source.

    dataset/sequences/00/velodyne/*.bin      SemanticKITTI, with labels/*.label beside velodyne/
    samples/LIDAR_TOP/*.pcd.bin              nuScenes, with lidarseg/ and the tables of v1.0-*/
    scans/  labels/                          one file of labels for each scan, by name
    scans/train/  labels/train/              the same with parts, or drives, as folders
    *.ply  *.pcd  *.las  *.npy               scans whose points have a label inside
    classes.txt                              what the values mean, a name a line

Drives, which are folders (sequences of SemanticKITTI, logs of nuScenes), matter for the split:
scans that follow each other show the same street.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vitrail import files
from vitrail.data.class_names import named
from vitrail.data.lidar import meaning as meanings
from vitrail.data.lidar.meaning import Meaning
from vitrail.data.lidar.projection import ByScan, Projection, Spherical
from vitrail.data.lidar.reading import ENDINGS, LABEL_ENDINGS, BrokenScan, Scan, read_scan
from vitrail.data.masks import IGNORE
from vitrail.data.source import Finding, Item, Kind, PartName, Source, part_of, require_classes
from vitrail.data.tree import Tree
from vitrail.errors import DataError
from vitrail.units import counted

SCANS = ("scans", "velodyne", "points", "clouds", "pointclouds", "lidar", "lidar_top", "data")
LABELS = ("labels", "label", "annotations", "lidarseg", "gt")
MOST_BYTES = 1 << 30
# The sequence of SemanticKITTI that papers report on; here it is judged by.
REPORTED = "08"


@dataclass(frozen=True, eq=False)
class ScanSource(Source):
    """Scans below `root`: of each item the file of `labels` (None: inside), and its `drive`.

    `projection` is that of the sensor where the folder tells it, None where the gate has to.
    """

    labels: tuple[str | None, ...] = field(default=(), repr=False)
    drives: tuple[str, ...] = field(default=(), repr=False)
    meaning: Meaning = field(default=meanings.KITTI, repr=False)
    projection: Projection | None = None

    @property
    def kind(self) -> Kind:
        """Return what the items are: scans."""
        return "scans"

    def scan(self, row: int) -> Scan:
        """Return a scan with its classes, int64 (N,). Raises BrokenScan, OSError and DataError."""
        assert self.root is not None
        beside = self.labels[row]
        found = read_scan(
            self.root / self.items[row].key, None if beside is None else self.root / beside
        )
        if found.labels is None:
            raise BrokenScan("no labels", "has no labels beside it or in it")
        classes = self.meaning.of(found.labels).astype(np.int64)
        return Scan(found.xyz, found.intensity, classes, found.rows, found.points)


@dataclass(frozen=True)
class _Found:
    """A scan by its path, that of its labels, its part and its drive."""

    scan: str
    labels: str | None
    part: PartName | None
    drive: str


def open_scans(spec: str | Path) -> ScanSource:
    """List the scans of a folder with their labels. Raises DataError."""
    root = Path(spec).expanduser()
    if not root.is_dir():
        raise DataError(f"{spec} is not a folder: give one of scans, as {' '.join(ENDINGS)} files")
    try:
        tree = Tree(root)
        keys = [key for key in tree.walk("") if key.lower().endswith((*ENDINGS, ".label"))]
    except OSError as error:
        raise DataError(f"{root} cannot be read ({files.reason(error)}): allow it") from error
    findings = tuple(tree.findings())
    made = _nuscenes(root, keys) or _kitti(keys)
    if made is None:
        made = _plain(root, keys)
    found, meaning, projection, more = made
    if not found:
        raise DataError(
            f"{root} has no scan with labels: give {', '.join(ENDINGS)} files in scans/ and their "
            "labels in labels/, under the same names"
        )
    require_classes(meaning.classes, str(root))
    items = tuple(Item(one.scan, -1, one.part, ()) for one in found)
    return ScanSource(
        root.resolve().name, meaning.classes, items, str(root), (*findings, *more), root,
        several=True, labels=tuple(one.labels for one in found),
        drives=tuple(one.drive for one in found), meaning=meaning, projection=projection,
    )  # fmt: skip


Made = tuple[list[_Found], Meaning, Projection | None, list[Finding]]


def _kitti(keys: Sequence[str]) -> Made | None:
    """Find the scans of SemanticKITTI: in velodyne/ of a sequence, labels as .label beside it."""
    scans = [k for k in keys if PurePosixPath(k).parent.name == "velodyne" and k.endswith(".bin")]
    known = set(keys)
    found, without = [], []
    for key in scans:
        path = PurePosixPath(key)
        sequence = path.parents[1]
        beside = str(sequence / "labels" / f"{path.stem}.label")
        if beside not in known:
            without.append(key)
            continue
        found.append(_Found(key, beside, None, sequence.name))
    if not found:
        return None
    drives = {one.drive for one in found}
    if REPORTED in drives and len(drives) > 1:
        found = [
            _Found(one.scan, one.labels, "test" if one.drive == REPORTED else None, one.drive)
            for one in found
        ]
    return found, meanings.KITTI, ByScan(), _unlabelled(without)


def _nuscenes(root: Path, keys: Sequence[str]) -> Made | None:
    """Find the scans of nuScenes: lidarseg.json names the labels of each scan, which
    sample_data.json names.
    """
    scans = {k for k in keys if k.endswith(".pcd.bin")}
    tables = [one for one in sorted(root.glob("v1.0-*")) if (one / "lidarseg.json").is_file()]
    if not scans or not tables:
        return None
    tokens: dict[str, str] = {}
    categories: dict[int, str] = {}
    labels: dict[str, str] = {}
    for table in tables:
        for row in _rows(table / "sample_data.json"):
            tokens[str(row.get("token"))] = str(row.get("filename"))
        for row in _rows(table / "lidarseg.json"):
            labels[str(row.get("sample_data_token"))] = str(row.get("filename"))
        for row in _rows(table / "category.json"):
            if (index := row.get("index")) in range(256):  # a label is one byte
                categories[int(index)] = str(row.get("name"))
    known = set(keys)
    found = [
        _Found(tokens[token], file, None, PurePosixPath(tokens[token]).name.partition("__")[0])
        for token, file in labels.items()
        if tokens.get(token) in scans and file in known
    ]
    taken = {one.scan for one in found}
    if not categories:
        raise DataError(f"{tables[0]}/category.json names no index of lidarseg: restore the file")
    found.sort(key=lambda one: one.scan)
    return found, meanings.nuscenes(categories), Spherical(), _unlabelled(sorted(scans - taken))


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(files.read(path, MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): restore it") from error
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise DataError(f"{path} is not a table of nuScenes: restore it")
    return found


def _plain(root: Path, keys: Sequence[str]) -> Made:
    """Find scans and labels by their names, or with labels inside."""
    beside = {k for k in keys if _below(k, LABELS)}
    by_stem = {_stem(k, LABELS): k for k in sorted(beside) if k.lower().endswith(LABEL_ENDINGS)}
    scans = [k for k in keys if k not in beside and k.lower().endswith(ENDINGS)]
    found = [
        _Found(k, by_stem.get(_stem(k, SCANS)), _part(k), str(PurePosixPath(k).parent))
        for k in scans
    ]
    without = [
        one.scan for one in found if one.labels is None and (by_stem or one.scan.endswith(".bin"))
    ]
    found = [one for one in found if one.scan not in set(without)]
    told = named(root)
    if told is not None:
        classes, meaning, file = told
        values = dict(meaning.values or enumerate(range(len(classes))))
        values |= dict.fromkeys(meaning.ignored, IGNORE)
        note = Finding("classes", "info", f"classes are named by {file}")
        return found, Meaning(classes, values), None, [*_unlabelled(without), note]
    held = _values(root, found)
    note = Finding("unnamed classes", "info", "classes are called by their values: name them in "
                   "classes.txt, a line each")  # fmt: skip
    return found, meanings.numbered(held), None, [*_unlabelled(without), note]


def _values(root: Path, found: Sequence[_Found]) -> list[int]:
    """Return the values of all labels that can be read."""
    held: set[int] = set()
    for one in found:
        try:
            scan = read_scan(root / one.scan, None if one.labels is None else root / one.labels)
        except (BrokenScan, OSError):  # which the gate tells
            continue
        if scan.labels is not None:
            held |= set(np.unique(scan.labels).tolist())
    if len(held) > 64:
        raise DataError(
            f"labels of {root} hold {len(held)} different values: name the classes in classes.txt"
        )
    return sorted(held)


def _below(key: str, names: Sequence[str]) -> bool:
    return any(part.casefold() in names for part in PurePosixPath(key).parts[:-1])


def _stem(key: str, names: Sequence[str]) -> str:
    """Return a path without the folder that tells scans from labels, and without its endings."""
    path = PurePosixPath(key)
    parts = [part for part in path.parts[:-1] if part.casefold() not in names]
    stem = path.name.partition(".")[0]
    for ending in ("_lidarseg", "_labels", "_label"):
        stem = stem.removesuffix(ending)
    return "/".join([*parts, stem])


def _part(key: str) -> PartName | None:
    return next((p for part in PurePosixPath(key).parts[:-1] if (p := part_of(part))), None)


def _unlabelled(without: Sequence[str]) -> list[Finding]:
    if not without:
        return []
    text = f"{counted(len(without), 'scan')} without labels left out"
    return [Finding("scan without labels", "warning", text, tuple(without))]
