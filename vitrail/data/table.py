"""A table of paths and labels as a source: CSV or Parquet, from whatever program wrote it."""

from collections.abc import Iterable
from pathlib import Path

from vitrail.data.cells import TABLES, Cells, read_cells
from vitrail.data.columns import labels_of, roles
from vitrail.data.names import few, one_spelling
from vitrail.data.source import (
    Finding,
    Item,
    PartName,
    Source,
    require_classes,
    sorted_classes,
)
from vitrail.data.table_parts import held
from vitrail.data.whereabouts import Whereabouts
from vitrail.errors import DataError
from vitrail.units import counted, shortened

__all__ = ["TABLES", "read_table"]

Row = tuple[int, str, tuple[str, ...], PartName | None]


def read_table(path: Path, *, several: bool = False) -> Source:
    """List the rows of a .csv, .tsv or .parquet file.

    Rows that give an image several labels, in one cell, in columns of 0 and 1, or in a row each,
    make a source with `several`; where that is False they are refused. Raises DataError.
    """
    if path.suffix.lower() not in TABLES:
        raise DataError(
            f"{path} is a file of another kind: give a folder with one subfolder per class, or a "
            ".csv or .parquet of path,label"
        )
    places = Whereabouts(path.parent)
    cells = read_cells(path)
    if any(map(places.is_file, cells.names)):  # no head: the first row is an image already
        names = tuple(f"column {i + 1}" for i in range(len(cells.names)))
        cells = Cells(names, ((1, cells.names), *cells.rows))
    chosen = roles(path, cells, places)
    labels, many = labels_of(cells, chosen)
    rows: list[Row] = [
        (line, str(row[chosen.path]), given, chosen.parts.of(row))
        for (line, row), given in zip(cells.rows, labels, strict=True)
    ]
    if not rows:
        raise DataError(f"{path} has no rows: expected one row of path,label per image")
    _require_filled(path, rows, many=bool(chosen.marks or many), several=several)
    keys = places.found(path, [(line, key) for line, key, _, _ in rows])
    meant, spellings = one_spelling((part, name) for *_, given, part in rows for name in given)
    seen: dict[str, _Image] = {}
    for (_, _, given, part), key in zip(rows, keys, strict=True):
        seen.setdefault(key, _Image()).add(tuple(meant[name] for name in given), part)
    torn = [key for key, image in seen.items() if len(image.labels) > 1]
    # Half of the images with two labels are not slips: a row is one of an image's labels.
    many = many or (len(torn) > 1 and 2 * len(torn) >= len(seen))
    if many and not several:
        _refuse(path, seen)
    if all(len(image.parts) > 1 for image in seen.values()):
        raise DataError(
            f"{path} lists every image in two parts (first {shortened(next(iter(seen)))!r}): list "
            "each in the one that it belongs to"
        )
    source = _Made(path, seen, several, () if several else torn)
    findings = (*chosen.findings, *source.findings(), *spellings, *places.findings())
    require_classes(source.classes, str(path))
    return Source(
        path.stem, source.classes, source.items, str(path), findings, path.parent, several=several
    )


class _Image:
    """What the rows of one image say: sets of labels and parts, and how often."""

    def __init__(self) -> None:
        self.labels: dict[tuple[str, ...], None] = {}
        self.parts: dict[PartName | None, None] = {}
        self.rows = 0

    def add(self, labels: tuple[str, ...], part: PartName | None) -> None:
        self.labels[labels] = None
        self.parts[part] = None
        self.rows += 1

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for given in self.labels for name in given))


def _require_filled(path: Path, rows: list[Row], *, many: bool, several: bool) -> None:
    """Raise DataError for rows without a path or a label; of `many` labels there may be none."""
    empty = [row for row in rows if not row[1] or not (row[2] or (several and many))]
    if empty:
        line, key, given, _ = empty[0]
        lines = ", ".join(str(row[0]) for row in empty[1:6])
        also = f"; then row {lines}" + (" ..." if len(empty) > 6 else "") if lines else ""
        other = ", or add --task multilabel, where an image may have no label" if many else ""
        raise DataError(
            f"{path}, row {line}{also}: path is {shortened(key)!r} and label is "
            f"{', '.join(given)!r}, fill both or remove the row{other} "
            f"({counted(len(empty), 'row')})"
        )


def _refuse(path: Path, seen: dict[str, _Image]) -> None:
    several = {key: image.all for key, image in seen.items() if len(image.all) > 1}
    key, names = next(iter(several.items()))
    raise DataError(
        f"{path} gives {counted(len(several), 'image')} several labels (first {shortened(key)!r}: "
        f"{few(names)}), and classification takes one each: learn them all by --task multilabel "
        "(task=multilabel), or write a class of several words as one, such as "
        f"{'_'.join(names[:2])!r}"
    )


class _Made:
    """Items and classes of the images of a table."""

    def __init__(
        self, path: Path, seen: dict[str, _Image], several: bool, torn: Iterable[str]
    ) -> None:
        self._torn = sorted(torn)
        left = set(self._torn)
        self._kept = {key: seen[key] for key in sorted(seen) if key not in left}
        self._several = several
        self.classes = sorted_classes({name for i in self._kept.values() for name in i.all})
        index = {name: label for label, name in enumerate(self.classes)}
        self._split = sorted(key for key, image in self._kept.items() if len(image.parts) > 1)
        self.items = tuple(
            self._item(key, tuple(sorted(index[name] for name in image.all)), image)
            for key, image in self._kept.items()
        )

    def _item(self, key: str, labels: tuple[int, ...], image: _Image) -> Item:
        first = labels[0] if labels else -1
        return Item(key, first, held(image.parts), labels if self._several else None)

    def findings(self) -> list[Finding]:
        findings = []
        if self._torn:
            text = f"{counted(len(self._torn), 'file')} listed with two different labels left out"
            findings.append(Finding("contradiction", "error", text, tuple(self._torn)))
        if self._split:
            text = f"{counted(len(self._split), 'file')} listed in two parts, kept out of training"
            findings.append(Finding("two parts", "error", text, tuple(self._split)))
        again = [
            key for key, image in self._kept.items()
            if image.rows > len(image.labels) and len(image.parts) == 1
        ]  # fmt: skip
        if again:
            n = sum(self._kept[key].rows - len(self._kept[key].labels) for key in again)
            text = f"{counted(n, 'row')} repeated for a file already listed, taken once"
            findings.append(Finding("repeated row", "warning", text, tuple(again)))
        return findings
