"""Where images come from: a folder of classes, a table of path,label, or a built-in name.

Opening a source lists its images and reads none of them; nothing is ever written to it.
"""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from vitrail.errors import DataError

PartName = Literal["train", "val", "test"]
Severity = Literal["info", "warning", "error"]

# Spellings of the three parts, as folder names and in the `split` column of a table.
PARTS: dict[str, PartName] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

_CLUTTER = ("thumbs.db", "desktop.ini", "__macosx")


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its `key` (path relative to the source), class index, and part where given."""

    key: str
    label: int
    part: PartName | None = None


@dataclass(frozen=True)
class Finding:
    """Something to know about the data, in one sentence.

    `keys` names the images concerned; the members of a group are joined by " = ".
    """

    kind: str
    severity: Severity
    message: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """A list of labelled images and how to read them.

    `pixels`, for sources that are arrays in memory, is uint8 (N, h, w), row i being items[i];
    else the images are files below `root`.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...] = field(repr=False)
    origin: str
    findings: tuple[Finding, ...] = ()
    root: Path | None = None
    pixels: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def read(self, item: Item) -> bytes:
        """The encoded file of an image (PNG for array sources). Raises OSError of the file."""
        if self.pixels is None:
            return self.path(item).read_bytes()
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.pixels[self._rows[item.key]]).save(buffer, "PNG")
        return buffer.getvalue()

    def path(self, item: Item) -> Path:
        """The file of an image; array sources have none and raise DataError."""
        if self.root is None:
            raise DataError(f"{item.key} of {self.name} is no file: read it with Source.read")
        return self.root / item.key

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item.key: row for row, item in enumerate(self.items)}


def open_source(spec: str | Path, *, download: bool | None = None) -> Source:
    """List the images behind `spec`.

    `spec` is a folder with one subfolder per class, with or without train/ val/ test/ above
    them; a .csv or .parquet file with the columns path,label and, if wanted, split; or one of
    "fashion-sample", "fashion-mnist", "digits" (a folder of such a name is "./digits").
    `download` allows fashion-mnist to be fetched; by default VITRAIL_DOWNLOAD=1 does.
    Raises DataError.
    """
    from vitrail.data.builtin import BUILTIN

    if isinstance(spec, str) and spec in BUILTIN:
        return BUILTIN[spec](download)
    path = Path(spec).expanduser()
    try:
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _table(path)
        path.lstat()
    except PermissionError as error:
        where = error.filename or path
        raise DataError(
            f"{where} cannot be read: no read permission, allow it (chmod +rX)"
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path} does not exist: give a folder with one subfolder per class, a .csv or "
            f".parquet of path,label, or one of {', '.join(BUILTIN)}"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    raise DataError(f"{path} is neither a folder nor a file: give a folder of class subfolders")


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Class names in order: as numbers where all are whole numbers, else as text."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _folder(root: Path) -> Source:
    below, loose, ignored = _listing(root)
    if not below:
        what = f"holds {len(loose)} files but no subfolders" if loose else "is empty"
        raise DataError(f"{root} {what}: expected one subfolder of images per class")
    parts = {name: PARTS[name.lower()] for name in below if name.lower() in PARTS}
    given = "train" in parts.values() and all(_listing(root / name)[0] for name in parts)
    strays = list(loose)
    if not given:
        listed = [(None, name, name) for name in below]
    else:
        if len(set(parts.values())) < len(parts):
            raise DataError(f"{root} has {', '.join(parts)}: keep one folder per part")
        strays += [f"{name}/" for name in below if name not in parts]
        listed = []
        for folder, part in parts.items():
            names, loose, hidden = _listing(root / folder)
            strays += [f"{folder}/{name}" for name in loose]
            ignored += hidden
            listed += [(part, name, f"{folder}/{name}") for name in names]
    files, empty, unnamed = [], [], []
    for part, name, folder in listed:
        found = []
        for key in _walk(root, folder, {os.path.realpath(root)}):
            if key is None:
                ignored += 1
            elif not _is_text(key):
                unnamed.append(key)
            else:
                found.append(key)
        files += [(key, name, part) for key in found]
        if not found:
            empty.append(folder)
    classes = sorted_classes({name for _, name, _ in files})
    index = {name: label for label, name in enumerate(classes)}
    items = tuple(
        Item(key, index[name], part) for key, name, part in sorted(files, key=lambda f: f[0])
    )
    if not items:
        raise DataError(
            f"{root} has no files in its subfolders: put each class's images in its own"
        )
    _require_classes(classes, str(root))
    findings = []
    if strays:
        text = f"{_files(len(strays))} outside of the class folders left out"
        findings.append(Finding("outside", "warning", text, tuple(strays)))
    if empty:
        text = f"{_count(len(empty), 'class folder')} without files left out"
        findings.append(Finding("empty class", "warning", text, tuple(empty)))
    if unnamed:
        shown = tuple(os.fsencode(key).decode("utf-8", "replace") for key in unnamed)
        text = f"{_files(len(unnamed))} with a name that is not UTF-8 left out: rename"
        findings.append(Finding("file name", "error", text, shown))
    if ignored:
        text = f"{ignored} hidden or system entries passed over (.*, Thumbs.db, desktop.ini)"
        findings.append(Finding("hidden", "info", text))
    return Source(root.resolve().name, classes, items, str(root), tuple(findings), root)


def _listing(folder: Path) -> tuple[list[str], list[str], int]:
    """Subfolders and files by name, and how many hidden entries were passed over."""
    folders, files, ignored = [], [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_clutter(entry.name):
                ignored += 1
            elif entry.is_dir():
                folders.append(entry.name)
            else:
                files.append(entry.name)
    return sorted(folders), sorted(files), ignored


def _walk(root: Path, folder: str, above: set[str]) -> Iterator[str | None]:
    """Keys of the files at any depth below a folder; None for an entry passed over.

    Symbolic links are followed, except to a folder that the way down already passed.
    """
    here = os.path.realpath(root / folder)
    if here in above:
        return
    with os.scandir(root / folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if _is_clutter(entry.name):
            yield None
        elif entry.is_dir():
            yield from _walk(root, f"{folder}/{entry.name}", above | {here})
        elif entry.is_file() or entry.is_symlink():
            yield f"{folder}/{entry.name}"
        else:
            yield None


def _table(path: Path) -> Source:
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".parquet"):
        raise DataError(
            f"{path} is a file of another kind: give a folder with one subfolder per class, or a "
            ".csv or .parquet of path,label"
        )
    rows = _parquet_rows(path) if kind == ".parquet" else _csv_rows(path)
    seen: dict[str, tuple[str, PartName | None]] = {}
    repeated, contradicted, missing = [], set(), []
    for line, key, label, part in rows:
        if not key or not label:
            raise DataError(
                f"{path}, row {line}: path is {key!r} and label is {label!r}, fill both"
            )
        if part and part.lower() not in PARTS:
            raise DataError(f"{path}, row {line}: split is {part!r}, expected train, val or test")
        entry = (label, PARTS[part.lower()] if part else None)
        if seen.setdefault(key, entry)[0] != label:
            contradicted.add(key)
        elif seen[key] is not entry:
            repeated.append(key)
        elif not os.path.isfile(path.parent / key):
            missing.append((line, key))
    if not seen:
        raise DataError(f"{path} has no rows: expected one row of path,label per image")
    if missing:
        line, key = missing[0]
        raise DataError(
            f"{len(missing)} of {len(seen)} paths in {path} name no file, first {key!r} (row "
            f"{line}): paths are relative to {path.parent}, correct them or remove the rows"
        )
    kept = {key: entry for key, entry in seen.items() if key not in contradicted}
    classes = sorted_classes({label for label, _ in kept.values()})
    index = {name: label for label, name in enumerate(classes)}
    items = tuple(Item(key, index[kept[key][0]], kept[key][1]) for key in sorted(kept))
    _require_classes(classes, str(path))
    findings = []
    if contradicted:
        text = f"{_files(len(contradicted))} listed with two different labels left out"
        findings.append(Finding("contradiction", "error", text, tuple(sorted(contradicted))))
    if repeated:
        text = f"{_count(len(repeated), 'row')} repeated for a file already listed, taken once"
        findings.append(Finding("repeated row", "warning", text, tuple(repeated)))
    return Source(path.stem, classes, items, str(path), tuple(findings), path.parent)


def _csv_rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            mark = max(",;\t", key=head.count)
            columns = _columns(
                path, [name.strip() for name in next(csv.reader([head], delimiter=mark), [])]
            )
            for line, row in enumerate(csv.reader(file, delimiter=mark), start=2):
                if row:
                    fields = [
                        row[at].strip() if at is not None and at < len(row) else ""
                        for at in columns
                    ]
                    yield line, fields[0], fields[1], fields[2]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text: save the table as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path} is not a readable CSV ({error}): save it as path,label") from None


def _parquet_rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{path} needs pyarrow: pip install 'vitrail[parquet]', or give a .csv"
        ) from None
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file ({error}): write it again"
        ) from None
    wanted = _columns(path, table.column_names)
    columns = [None if at is None else table.column(at).to_pylist() for at in wanted]
    for row in range(table.num_rows):
        fields = ["" if c is None or c[row] is None else str(c[row]).strip() for c in columns]
        yield row + 1, fields[0], fields[1], fields[2]


def _columns(path: Path, names: list[str]) -> tuple[int, int, int | None]:
    lower = [name.lower() for name in names]
    if "path" not in lower or "label" not in lower:
        found = ", ".join(names) or "none"
        raise DataError(f"{path} has the columns {found}: expected path and label (and split)")
    return (
        lower.index("path"),
        lower.index("label"),
        lower.index("split") if "split" in lower else None,
    )


def _require_classes(classes: tuple[str, ...], origin: str) -> None:
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no class"
        raise DataError(f"{origin} has {found}: learning to tell apart needs at least two classes")


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _files(n: int) -> str:
    return _count(n, "file")
