"""A table of path,label and, if wanted, split as a source: CSV or Parquet."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from vitrail.data.source import (
    PARTS,
    Finding,
    Item,
    PartName,
    Source,
    require_classes,
    sorted_classes,
)  # fmt: skip
from vitrail.errors import DataError, extra
from vitrail.units import counted


def read_table(path: Path) -> Source:
    """List the rows of a .csv, .tsv or .parquet file. Raises DataError."""
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
    require_classes(classes, str(path))
    findings = []
    if contradicted:
        text = f"{counted(len(contradicted), 'file')} listed with two different labels left out"
        findings.append(Finding("contradiction", "error", text, tuple(sorted(contradicted))))
    if repeated:
        text = f"{counted(len(repeated), 'row')} repeated for a file already listed, taken once"
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
        raise DataError(f"{path} needs pyarrow: {extra('parquet')}, or give a .csv") from None
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
