"""Images with their sentences as a source: a table of both, or text files beside the images.

    captions.csv             image,caption and, if wanted, label and split; a row a sentence
    photos/cat.jpg  cat.txt  a sentence a line; folders named train, val, test are parts
    photos/metadata.jsonl    {"file_name": "cat.jpg", "text": "a cat"}, a line each

Labels are never learned from: they tell how often a class that is asked for in words is right.
Without a label column they are the names of the folders, where pictures lie in several.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vitrail import files
from vitrail.data.captions import Captions
from vitrail.data.cells import TABLES, Cell, Cells, read_cells
from vitrail.data.names import normal
from vitrail.data.source import Finding, Item, PartName, Severity, Source, part_of, sorted_classes
from vitrail.data.table_parts import filled, held, part_columns, unused
from vitrail.data.tree import Tree, is_picture
from vitrail.data.whereabouts import Whereabouts
from vitrail.errors import DataError
from vitrail.units import counted, shortened

PATHS = ("image", "path", "filename", "file", "filepath", "imagepath", "imagefile", "img", "photo")
TEXTS = ("caption", "captions", "text", "sentence", "sentences", "title", "description", "comment")
LABELS = ("label", "class", "category", "classname")
LINES = ".jsonl"
MOST_BYTES = 1 << 30
# The class of all images where nothing tells any.
ALL = "all"


@dataclass
class _Listed:
    """What is known of each image by its key, and what is wrong, by kind."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    parts: dict[str, set[PartName | None]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    lonely: list[str] = field(default_factory=list)
    more: list[Finding] = field(default_factory=list)

    @property
    def torn(self) -> list[str]:
        """Return the images that are listed in several parts."""
        return [key for key, parts in self.parts.items() if len(parts - {None}) > 1]

    def add(self, key: str, sentences: Iterable[str]) -> None:
        own = [" ".join(one.split()) for one in sentences]
        if any(not one for one in own) or not own:
            self.empty.append(key)
        if kept := [one for one in own if one]:
            self.texts.setdefault(key, []).extend(kept)


def open_captions(spec: str | Path) -> Source:
    """List the images behind `spec` with their sentences.

    `spec` is a table (.csv, .tsv, .parquet or .jsonl) with a column of paths and one of sentences,
    a folder that holds one, or a folder of images with a text file beside each. Raises DataError.
    """
    path = Path(spec).expanduser()
    try:
        if path.is_dir():
            table = _table_in(path)
            found = _of_folder(path) if table is None else _of_table(table)
            root = path if table is None else table.parent
        elif path.is_file():
            found, root = _of_table(path), path.parent
        else:
            raise DataError(
                f"{path} does not exist: give a table of image and caption, or a folder of images "
                "with a text file beside each"
            )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    return _source(path, root, found)


def _source(path: Path, root: Path, found: _Listed) -> Source:
    keys = sorted(found.texts)
    if not keys:
        raise DataError(
            f"{path} holds no image with a sentence ({_lacking(found)}): give a table with the "
            "columns image and caption, or a text file beside each image"
        )
    named = sum(key in found.labels for key in keys) == len(keys)
    classes = sorted_classes(set(found.labels.values())) if named else ()
    classes = classes if len(classes) > 1 else (ALL,)
    index = {name: at for at, name in enumerate(classes)}
    items = tuple(
        Item(key, index.get(found.labels.get(key, ALL), 0), held(found.parts.get(key, ())))
        for key in keys
    )
    texts = [tuple(dict.fromkeys(found.texts[key])) for key in keys]
    if len(set().union(*texts)) < 2:
        raise DataError(
            f"{path} has the same sentence for all images ({shortened(texts[0][0], 60)!r}): "
            "nothing tells them apart, give each what it shows"
        )
    findings = (*_findings(found), *_shared(keys, texts), *found.more)
    return Source(
        path.resolve().stem, classes, items, str(path), findings, root, captions=Captions(texts)
    )


def _lacking(found: _Listed) -> str:
    told = [
        (found.missing, "image that is not there", "images that are not there"),
        (found.empty, "empty sentence", "empty sentences"),
        (found.without, "image without a text file", "images without a text file"),
    ]
    said = [counted(len(some), one, many) for some, one, many in told if some]
    return ", ".join(said) or "nothing was found"


def _findings(found: _Listed) -> list[Finding]:
    kinds: Sequence[tuple[str, Severity, list[str], str]] = (
        ("empty caption", "error", found.empty, "{} with an empty sentence, which is left out"),
        ("image missing", "error", found.missing, "{} with a sentence and no file left out"),
        ("image without caption", "error", found.without, "{} without a sentence left out"),
        ("caption without image", "warning", found.lonely, "{} without an image left out"),
        ("two parts", "error", found.torn, "{} listed in two parts, kept out of training"),
    )
    return [
        Finding(
            kind, severity,
            said.format(counted(len(keys), "text file" if keys is found.lonely else "image")),
            tuple(dict.fromkeys(keys)),
        )
        for kind, severity, keys, said in kinds
        if keys
    ]  # fmt: skip


def _shared(keys: Sequence[str], texts: Sequence[tuple[str, ...]]) -> list[Finding]:
    """Say how many images have a sentence that others have as well."""
    times = Counter(text for some in texts for text in some)
    own = [key for key, some in zip(keys, texts, strict=True) if any(times[t] > 1 for t in some)]
    if not own:
        return []
    most, n = times.most_common(1)[0]
    said = (
        f"{counted(len(own), 'image')} of {len(keys):,} share a sentence with others ({n:,} have "
        f"{shortened(most, 60)!r}): a search by it is right with any of them"
    )
    return [Finding("same caption", "info", said)]


# ---- tables ------------------------------------------------------------------------------


def _table_in(folder: Path) -> Path | None:
    """Return the table that lies in a folder, None where there is none, or more than one."""
    kinds = (*TABLES, LINES)
    found = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in kinds and p.is_file()]
    return found[0] if len(found) == 1 else None


def _of_table(path: Path) -> _Listed:
    if path.suffix.lower() not in (*TABLES, LINES):
        raise DataError(
            f"{path} is a file of another kind: give a .csv, .tsv, .parquet or .jsonl with image "
            "and caption"
        )
    cells = lines_of(path) if path.suffix.lower() == LINES else read_cells(path)
    names = ["".join(c for c in name.casefold() if c.isalnum()) for name in cells.names]
    at = {
        kind: next((names.index(name) for name in wanted if name in names), None)
        for kind, wanted in (("path", PATHS), ("text", TEXTS), ("label", LABELS))
    }
    if at["path"] is None or at["text"] is None:
        shown = ", ".join(shortened(name, 40) for name in cells.names[:20]) or "none"
        raise DataError(
            f"{path} has the columns {shown}: expected image and caption, and if wanted label and "
            "split"
        )
    places, found = Whereabouts(path.parent), _Listed()
    parts = part_columns(path, cells, at.values())
    for _, row in cells.rows:
        name, text = str(row[at["path"]]), row[at["text"]]
        key = places.key(name)
        if key is None:
            found.missing.append(name)
            continue
        found.add(key, (text,) if isinstance(text, str) else text)
        if at["label"] is not None and (label := text_of(row[at["label"]])):
            found.labels[key] = label
        found.parts.setdefault(key, set()).add(parts.of(row))
    found.more += unused(cells, filled(cells, {*at.values(), *parts.columns}))
    return found


def text_of(cell: Cell) -> str:
    """Return a cell of one text, or of several, as one."""
    return cell if isinstance(cell, str) else " ".join(cell)


def lines_of(path: Path) -> Cells:
    """Return the cells of a file with a JSON object in each line. Raises DataError."""
    rows: list[tuple[int, dict[str, str | tuple[str, ...]]]] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number} is not a JSON object: write one in each line")
        cells = {
            str(k): tuple(map(str, v)) if isinstance(v, list) else "" if v is None else str(v)
            for k, v in value.items()
        }
        rows.append((number, cells))
    names = tuple(dict.fromkeys(name for _, row in rows for name in row))
    return Cells(names, tuple((n, tuple(row.get(name, "") for name in names)) for n, row in rows))


def _text(path: Path) -> str:
    return files.read(path, MOST_BYTES).decode("utf-8", "replace")


# ---- folders -----------------------------------------------------------------------------


def _of_folder(root: Path) -> _Listed:
    tree, found = Tree(root), _Listed()
    keys = list(tree.walk(""))
    texts = {_stem(key): key for key in keys if key.lower().endswith(".txt")}
    for key in filter(is_picture, keys):
        stem = _stem(key)
        if stem not in texts:
            found.without.append(key)
            continue
        try:
            lines = files.read(root / texts[stem]).decode("utf-8", "replace").splitlines()
        except OSError:
            found.without.append(key)
            texts[stem] = ""
            continue
        found.add(key, [line for line in lines if line.strip()])
        texts[stem] = ""
        folders = PurePosixPath(key).parts[:-1]
        found.parts[key] = {next((part for name in folders if (part := part_of(name))), None)}
        if named := [name for name in folders if part_of(name) is None]:
            found.labels[key] = named[-1]
    pictures = {_stem(key) for key in keys if is_picture(key)}
    found.lonely = [key for stem, key in texts.items() if key and stem not in pictures]
    found.more = tree.findings()
    return found


def _stem(key: str) -> str:
    """Return by which name an image and its text are known."""
    return normal(str(PurePosixPath(key).with_suffix("")))
