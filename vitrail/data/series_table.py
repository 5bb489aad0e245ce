"""Time series from a table in long form: a row for each step, a column for each number.

    case,time,x,y,class
    7,0,0.2,1.4,walk
    7,1,0.3,1.1,walk

A column names the series that a row belongs to, one its class; one may say when the step was, one
to which part the series belongs. All others hold numbers; an empty cell is a missing one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from vitrail.data.cells import TABLES, Cell, Cells, read_cells
from vitrail.data.source import Item, PartName, part_of, sorted_classes
from vitrail.data.uea import Series, together
from vitrail.errors import DataError
from vitrail.units import counted, shortened

# Spellings without case, spaces and marks; the first that a table has counts.
CASES = ("case", "caseid", "series", "seriesid", "sequence", "sequenceid", "sample", "sampleid",
         "recording", "recordingid", "trial", "trialid", "id", "uid", "groupid")  # fmt: skip
TIMES = ("time", "timestamp", "t", "step", "timestep", "frame", "date", "datetime", "tick")
LABELS = ("class", "label", "classlabel", "target", "category", "activity", "y")
SPLITS = ("split", "part", "partition", "subset", "set")
PATHS = ("path", "file", "filename", "image", "filepath")
_INDEX = ("", "index", "unnamed", "unnamed0", "rowid")


@dataclass(frozen=True)
class _Roles:
    """Indices of the columns."""

    case: int
    time: int | None
    label: int | None
    split: int | None
    numbers: tuple[int, ...]


def is_long(path: Path) -> bool:
    """Return whether a table is certainly one of series: its columns are named so, it has a class
    and numbers, and most series have several rows. Raises what reading a table raises."""
    if path.suffix.lower() not in TABLES:
        return False
    cells = read_cells(path)
    names = [_plain(name) for name in cells.names]
    if any(name in PATHS for name in names) or len(cells.rows) < 4:
        return False
    case, label = _first(names, CASES), _first(names, LABELS)
    if case is None or label is None or case == label:
        return False
    series = {row[case] for _, row in cells.rows}
    found = _roles(cells)
    return 2 * len(series) <= len(cells.rows) and bool(found.numbers)


def read_long(path: Path, *, labelled: bool = True) -> tuple[Series, tuple[Item, ...]]:
    """Read the series of a table, in the order of their first rows, and an item for each.

    Not `labelled`, a table may lack the classes. Raises DataError, which names the row.
    """
    cells = read_cells(path)
    roles = _roles(cells)
    known = ", ".join(shortened(name, 40) for name in cells.names[:20] if name) or "none"
    if not cells.rows:
        raise DataError(f"{path} has no rows: give one for each step of each series")
    if roles.case < 0 or not roles.numbers or (labelled and roles.label is None):
        raise DataError(
            f"{path} has the columns {known}: expected a table in long form, with a column case "
            "that tells which series a row is of, a column class, and columns of numbers"
        )
    rows: dict[str, list[tuple[int, tuple[Cell, ...]]]] = {}
    for line, row in cells.rows:
        if not (name := str(row[roles.case])):
            raise DataError(f"{path}, row {line}: the case is empty; name the series of the row")
        rows.setdefault(name, []).append((line, row))
    told = [_told(path, some, roles) for some in rows.values()]
    names = {label for label, _ in told if label}
    classes = sorted_classes(names) if roles.label is not None else ()
    cases = [_case(path, some, roles, cells) for some in rows.values()]
    values, mask = together(cases)
    labels = None
    if classes:
        index = {name: at for at, name in enumerate(classes)}
        labels = np.array([index.get(label, -1) for label, _ in told], np.int64)
    items = tuple(
        Item(name, -1 if labels is None else int(labels[at]), told[at][1])
        for at, name in enumerate(rows)
    )
    return Series(path.stem, values, mask, labels, classes), items


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _first(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _roles(cells: Cells) -> _Roles:
    names = [_plain(name) for name in cells.names]
    case, time, label, split = (_first(names, w) for w in (CASES, TIMES, LABELS, SPLITS))
    some = [row for _, row in cells.rows[:: max(1, len(cells.rows) // 50)]]
    taken = {case, time, label, split}
    numbers = tuple(
        at for at, name in enumerate(names)
        if at not in taken and name not in _INDEX and some
        and sum(_number(row[at]) is not None for row in some) > len(some) / 2
    )  # fmt: skip
    return _Roles(-1 if case is None else case, time, label, split, numbers)


def _told(
    path: Path, rows: Sequence[tuple[int, tuple[Cell, ...]]], roles: _Roles
) -> tuple[str, PartName | None]:
    """Return the one class and the one part of a series."""
    found: list[str] = []
    for at in (roles.label, roles.split):
        given = {} if at is None else {str(row[at]): line for line, row in reversed(rows)}
        if len(given) > 1:
            (first, _), (other, line) = sorted(given.items(), key=lambda pair: pair[1])[:2]
            name = rows[0][1][roles.case]
            raise DataError(
                f"{path}, row {line}: series {shortened(str(name), 40)!r} is {other!r} here and "
                f"{first!r} before; a series has one class and one part"
            )
        found.append(next(iter(given), ""))
    label, split = found
    if roles.label is not None and not label:
        raise DataError(f"{path}, row {rows[0][0]}: the class is empty; fill it or remove the rows")
    return label, part_of(split) if split else None


def _case(
    path: Path, rows: Sequence[tuple[int, tuple[Cell, ...]]], roles: _Roles, cells: Cells
) -> np.ndarray:
    """Return the numbers (F, T) of one series, in the order of time."""
    if roles.time is not None:
        rows = _timely(path, rows, roles.time)
    case = np.full((len(roles.numbers), len(rows)), np.nan, np.float32)
    for step, (line, row) in enumerate(rows):
        for place, at in enumerate(roles.numbers):
            text = row[at]
            if text in ("", "?"):
                continue
            number = _number(text)
            if number is None or not np.isfinite(number):
                raise DataError(
                    f"{path}, row {line}: {shortened(str(text), 40)!r} in column "
                    f"{cells.names[at]!r} is not a number; leave the cell empty if it is missing"
                )
            case[place, step] = number
    return case


def _timely(
    path: Path, rows: Sequence[tuple[int, tuple[Cell, ...]]], at: int
) -> Sequence[tuple[int, tuple[Cell, ...]]]:
    """Return the rows sorted by time, where times are numbers or dates as ISO 8601 writes them."""
    times = [_number(row[at]) for _, row in rows]
    keys = [str(row[at]) for _, row in rows] if None in times else times
    order = sorted(range(len(rows)), key=lambda place: keys[place])  # pyright: ignore
    for before, after in pairwise(order):
        if keys[before] == keys[after]:
            raise DataError(
                f"{path}, row {rows[after][0]}: the time {rows[after][1][at]!r} of this series is "
                f"in row {rows[before][0]} already; give each step a time of its own "
                f"({counted(len(rows), 'row')} in this series)"
            )
    return [rows[place] for place in order]


def _number(cell: Cell) -> float | None:
    try:
        return float(cell)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
