"""Which column of a table is the path, which the label, which the part; and the labels."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.data.cells import Cell, Cells
from vitrail.data.names import few, normal
from vitrail.data.source import Finding, PartName, part_of
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
_SPLITS = ("split", "set", "subset", "partition", "part", "fold", "phase", "usage", "dataset",
           "datasplit", "purpose", "splits")  # fmt: skip
_FLAGS: dict[str, tuple[PartName | None, PartName | None]] = {  # where true, where false
    "istest": ("test", "train"), "test": ("test", "train"), "istesting": ("test", "train"),
    "isval": ("val", None), "isvalid": ("val", None), "isvalidation": ("val", None),
    "istrain": ("train", "test"), "istraining": ("train", "test"),
    "istrainingimage": ("train", "test"), "istrainingimg": ("train", "test"),
}  # fmt: skip
_INDEX = ("", "index", "idx", "unnamed", "rowid", "levelzero")
_TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")
_SAMPLE = 50


@dataclass(frozen=True)
class Roles:
    """Indices of the columns: `path`; `label`, or one column per label, `marks`; `splits`."""

    path: int
    label: int | None
    marks: tuple[int, ...]
    splits: tuple[int, ...]
    findings: tuple[Finding, ...]


def roles(path: Path, cells: Cells, places: Whereabouts) -> Roles:
    """Find the columns by their names and by what is in them: paths are those of `places`.

    Raises DataError, with the columns that there are.
    """
    names = [_plain_name(name) for name in cells.names]
    at = _path(cells, names, places)
    label = None if at is None else _first(names, _LABELS, {at})
    splits = _splits(path, cells, names, {at, label})
    taken = {at, label, *splits}
    rest = [
        i for i, name in enumerate(names)
        if i not in taken and name not in _INDEX and any(row[i] for _, row in cells.rows)
    ]  # fmt: skip
    marks: tuple[int, ...] = ()
    if at is not None and label is None:
        marks = tuple(i for i in rest if _are_marks(cells, i))
        if len(marks) < 2:
            marks = ()
            label = rest[0] if len(rest) == 1 else None
    if at is None or (label is None and not marks):
        found = ", ".join(shortened(name, 40) for name in cells.names[:20] if name) or "none"
        raise DataError(
            f"{path} has the columns {found}: expected path and label (and split), or one column "
            "of 0 and 1 per label"
        )
    unused = [cells.names[i] for i in rest if i not in (label, *marks)]
    findings = _of_marks(path, cells, marks)
    if unused:
        text = f"{counted(len(unused), 'column')} of the table not used ({few(unused)})"
        suspects = [i for i in rest if names[i] in _SPLITS and cells.names[i] in unused]
        if suspects:
            text += ": to keep parts apart, write train, val or test there"
        kind = "warning" if suspects else "info"
        findings.append(Finding("unused column", kind, text, tuple(unused)))
    return Roles(at, label, marks, splits, tuple(findings))


def _of_marks(path: Path, cells: Cells, marks: tuple[int, ...]) -> list[Finding]:
    """Say which labels no image or every image has. Raises DataError for two of one name."""
    names = [normal(cells.names[i]) for i in marks]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(
            f"{path} has {counted(len(twice), 'label')} with more than one column ({few(twice)}): "
            "rename or remove the others"
        )
    given = [sum(str(row[i]).lower() in _TRUE for _, row in cells.rows) for i in marks]
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


def _are_marks(cells: Cells, column: int) -> bool:
    return all(str(row[column]).lower() in _TRUE + _FALSE for _, row in cells.rows)


def _splits(path: Path, cells: Cells, names: list[str], taken: set[int | None]) -> tuple[int, ...]:
    """Return the columns that give parts. Raises DataError for values that are half understood."""
    flags = [
        i for i, name in enumerate(names)
        if i not in taken and name in _FLAGS and _are_marks(cells, i)
    ]  # fmt: skip
    if flags:
        return tuple(flags)
    for wanted in _SPLITS:
        i = _first(names, (wanted,), taken)
        if i is None:
            continue
        values = Counter(str(row[i]) for _, row in cells.rows if row[i])
        strange = {value: n for value, n in values.items() if part_of(value) is None}
        if values and not strange:
            return (i,)
        if strange and (wanted in ("split", "splits") or len(strange) < len(values)):
            line = next(line for line, row in cells.rows if row[i] in strange)
            raise DataError(
                f"{path}: {shortened(cells.names[i])} is {few(list(strange))} in "
                f"{counted(sum(strange.values()), 'row')} (first row {line}), expected train, val "
                "or test: correct it, or rename the column"
            )
    return ()


def part_in(cells: Cells, chosen: Roles, row: Sequence[Cell]) -> PartName | None:
    """Return the part that a row is in, by one column of parts or several of yes and no."""
    found: set[PartName | None] = set()
    for i in chosen.splits:
        text, flag = str(row[i]).lower(), _FLAGS.get(_plain_name(cells.names[i]))
        if flag and text in _TRUE + _FALSE:
            found.add(flag[0] if text in _TRUE else flag[1])
        else:
            found.add(part_of(text))
    order: tuple[PartName, ...] = ("test", "val", "train")
    return next((part for part in order if part in found), None)


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z]", "", normal(name).casefold())


def labels_of(cells: Cells, chosen: Roles) -> tuple[list[tuple[str, ...]], bool]:
    """Return the labels of each row, in normal form, and whether rows have several."""
    if chosen.marks:
        names = [normal(cells.names[i]) for i in chosen.marks]
        rows = [
            tuple(
                n for n, i in zip(names, chosen.marks, strict=True) if str(row[i]).lower() in _TRUE
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
        tuple(map(_plain, split[value] if isinstance(value, str) else value)) for value in values
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


def _plain(label: str) -> str:
    """Return a label in normal form; whole numbers written with decimals are written without."""
    label = normal(label)
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", label)
