"""The cells of a table as text: CSV as spreadsheets and programs write it, and Parquet."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail import files
from vitrail.errors import DataError, extra
from vitrail.units import counted

TABLES = (".csv", ".tsv", ".parquet")

Cell = str | tuple[str, ...]

# What pandas and others write where there is nothing.
_NOTHING = ("", "nan", "<na>", "nat")


@dataclass(frozen=True)
class Cells:
    """`names` of the columns; `rows` of (row number in the file, cells), no row wholly empty.

    A cell is a text, stripped, or a tuple of texts where Parquet holds a list.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[int, tuple[Cell, ...]], ...]


def read_cells(path: Path) -> Cells:
    """Read a .csv, .tsv or .parquet file. Raises DataError, and OSError of the file."""
    return _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)


def _csv(path: Path) -> Cells:
    data = files.read(path, files.LARGE_BYTES)
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text: save the table as UTF-8") from None
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    mark, start = None, first
    if lines and lines[first].lower().startswith("sep="):  # a spreadsheet's own first line
        mark, start = lines[first].strip()[4:5] or None, first + 1
    head = lines[start] if start < len(lines) else ""
    mark = mark or max(",;\t|", key=head.count)
    reader = csv.reader(lines[start:], delimiter=mark, skipinitialspace=True)
    names: tuple[str, ...] | None = None
    rows: list[tuple[int, tuple[Cell, ...]]] = []
    long: list[int] = []
    try:
        for row in reader:
            cells, line = tuple(map(_text, row)), start + reader.line_num
            if names is None:
                names = tuple(cell.lstrip("# ") for cell in cells)
            elif any(cells):
                rows.append((line, cells + ("",) * (len(names) - len(cells))))
                if any(cells[len(names) :]):
                    long.append(line)
    except csv.Error as error:
        raise DataError(f"{path} is not a readable CSV ({error}): save it as path,label") from None
    if long:
        raise DataError(
            f"{path} has {counted(len(long), 'row')} with more cells than its head (first row "
            f"{long[0]}): put values with {mark!r} in quotes"
        )
    return Cells(names or (), tuple(rows))


def _parquet(path: Path) -> Cells:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow: {extra('parquet')}, or give a .csv") from None
    files.check(path)
    try:
        table = parquet.read_table(path)
        found = [table.column(i).to_pylist() for i in range(table.num_columns)]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not a readable Parquet file ({error}): write it again"
        ) from None
    columns = [[_value(cell) for cell in column] for column in found]
    rows = zip(*columns, strict=True)
    filled = tuple((line, row) for line, row in enumerate(rows, start=1) if any(row))
    return Cells(tuple(table.column_names), filled)


def _value(cell: Any) -> Cell:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "1" if cell else "0"
    if isinstance(cell, float):
        whole = math.isfinite(cell) and cell == int(cell)
        return str(int(cell)) if whole else _text(str(cell))
    if isinstance(cell, bytes):
        return _text(cell.decode("utf-8", "replace"))
    if isinstance(cell, Sequence) and not isinstance(cell, str):
        return tuple(text for one in cell if isinstance(text := _value(one), str) and text)
    return _text(str(cell))


def _text(cell: str) -> str:
    cell = cell.strip()
    return "" if cell.lower() in _NOTHING else cell
