"""Which column of a table is the path, which the label, which the part; and the labels."""

import ast
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.data.cells import Cells
from vitrail.data.names import few, normal, plain_label
from vitrail.data.source import Finding
from vitrail.data.table_parts import (
    SPLITS,
    TRUE,
    Parts,
    are_marks,
    filled,
    part_columns,
    plain,
    unused,
)
from vitrail.data.whereabouts import Whereabouts
from vitrail.errors import DataError
from vitrail.units import counted, shortened

# Spellings without case, spaces and marks; the first that a table has counts.
_PATHS = (
    "path", "filepath", "filename", "file", "imagepath", "imagefile", "imagefilename",
    "imagename", "image", "images", "imgpath", "imgname", "imgfile", "img", "picture", "photo",
    "fname", "relativepath", "relpath", "imageid", "imgid", "uri", "key", "name", "id",
)  # fmt: skip
_LABELS = (
    "label", "labels", "class", "classes", "classname", "classlabel", "labelname", "category",
    "categories", "categoryname", "target", "targets", "tag", "tags", "y", "groundtruth", "gt",
    "truth", "annotation", "annotations", "species", "breed", "diagnosis", "dx", "kind", "type",
)  # fmt: skip
_SAMPLE = 50


@dataclass(frozen=True)
class Roles:
    """Indices of the columns: `path`; `label`, or one column per label, `marks`; and `parts`."""

    path: int
    label: int | None
    marks: tuple[int, ...]
    parts: Parts
    findings: tuple[Finding, ...]


def roles(path: Path, cells: Cells, places: Whereabouts) -> Roles:
    """Find the columns by their names and by what is in them: paths are those of `places`.

    Raises DataError, with the columns that there are.
    """
    names = [plain(name) for name in cells.names]
    at = _path(cells, names, places)
    label = None if at is None else _first(names, _LABELS, {at})
    parts = part_columns(path, cells, {at, label})
    rest = filled(cells, {at, label, *parts.columns})
    marks: tuple[int, ...] = ()
    if at is not None and label is None:
        # A fold of 0 and 1 is not a label.
        marks = tuple(i for i in rest if are_marks(cells, i) and names[i] not in SPLITS)
        if len(marks) < 2:
            marks = ()
            label = rest[0] if len(rest) == 1 else None
    if at is None or (label is None and not marks):
        found = ", ".join(shortened(name, 40) for name in cells.names[:20] if name) or "none"
        raise DataError(
            f"{path} has the columns {found}: expected path and label (and split), or one column "
            "of 0 and 1 per label"
        )
    findings = [
        *_of_marks(path, cells, marks),
        *unused(cells, [i for i in rest if i not in (label, *marks)]),
    ]
    return Roles(at, label, marks, parts, tuple(findings))


def _of_marks(path: Path, cells: Cells, marks: tuple[int, ...]) -> list[Finding]:
    """Say which labels no image or every image has. Raises DataError for two of one name."""
    names = [normal(cells.names[i]) for i in marks]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(
            f"{path} has {counted(len(twice), 'label')} with more than one column ({few(twice)}): "
            "rename or remove the others"
        )
    given = [sum(str(row[i]).lower() in TRUE for _, row in cells.rows) for i in marks]
    found = []
    for n, text in ((0, "no image, left out"), (len(cells.rows), "every image: not to be learned")):
        if some := [name for name, own in zip(names, given, strict=True) if own == n]:
            said = f"{counted(len(some), 'label')} of {text} ({few(some)})"
            found.append(Finding("label of all or none", "warning", said, tuple(some)))
    return found


def _path(cells: Cells, names: list[str], places: Whereabouts) -> int | None:
    """Return the column whose values name files; else the first with a fitting name."""
    some = [row for _, row in cells.rows[:: max(1, len(cells.rows) // _SAMPLE)]]
    named = [names.index(name) for name in _PATHS if name in names]
    others = [i for i in range(len(names)) if i not in named]

    def files(columns: list[int], is_file: Callable[[str], bool], least: float) -> int | None:
        hits = {
            i: sum(is_file(cell) for row in some if isinstance(cell := row[i], str))
            for i in columns
        }
        best = max(columns, key=hits.__getitem__, default=None)
        return best if best is not None and hits[best] > least else None

    for columns, is_file, least in (
        (named, places.is_file, 0),
        (others, places.is_file, len(some) / 2),
        (named, places.is_known, 0),
    ):
        found = files(columns, is_file, least)
        if found is not None:
            return found
    return named[0] if named else None


def _first(names: list[str], wanted: Sequence[str], without: set[int | None]) -> int | None:
    at = (names.index(name) for name in wanted if name in names)
    return next((i for i in at if i not in without), None)


def labels_of(cells: Cells, chosen: Roles) -> tuple[list[tuple[str, ...]], bool]:
    """Return the labels of each row, in normal form, and whether rows have several."""
    if chosen.marks:
        names = [normal(cells.names[i]) for i in chosen.marks]
        rows = [
            tuple(
                n for n, i in zip(names, chosen.marks, strict=True) if str(row[i]).lower() in TRUE
            )
            for _, row in cells.rows
        ]
        return rows, any(len(row) > 1 for row in rows)
    assert chosen.label is not None
    values = [row[chosen.label] for _, row in cells.rows]
    texts = sorted({value for value in values if isinstance(value, str) and value})
    mark = _mark(texts)
    split = {text: _parted(text, mark) for text in texts} | {"": ()}
    rows = [
        tuple(map(plain_label, split[value] if isinstance(value, str) else value))
        for value in values
    ]
    several = any(len(row) > 1 for row in rows)
    return rows, several


def _mark(texts: list[str]) -> str | None:
    """Return what stands between labels in a cell: ; and | always, others where the parts recur.

    "ash dry", "ash wet", "oak dry" ... are made of fewer words than there are texts, each of
    which is in several, and none in all: labels, where "golden retriever" and "bull dog" are
    names.
    """
    for mark in ";|":
        if any(mark in text.strip(mark) for text in texts):
            return mark
    for mark in (",", "/", "+", "&", " "):
        parted = [_parted(text, mark) for text in texts if not _is_list(text)]
        words = Counter(word for parts in parted for word in set(parts))
        together = {word for parts in parted if len(parts) > 1 for word in parts}
        alone = {parts[0] for parts in parted if len(parts) == 1}
        if not together or len(texts) in words.values():
            continue
        recur = all(words[word] > 1 or word in alone for word in together)
        if len(words) < len(texts) and (recur or 2 * len(words) <= len(texts)):
            return mark
        if mark == "," and together <= alone:
            return mark
    return None


def _parted(text: str, mark: str | None) -> tuple[str, ...]:
    if _is_list(text):
        try:
            value = ast.literal_eval(text)
            items = [str(item) for item in value]
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            items = [item.strip(" '\"") for item in text[1:-1].split(",")]
        return tuple(dict.fromkeys(item for item in items if item.strip()))
    if mark is None or mark not in text:
        return (text,)
    return tuple(dict.fromkeys(part.strip() for part in text.split(mark) if part.strip()))


def _is_list(text: str) -> bool:
    return len(text) > 1 and text[0] + text[-1] == "[]"
