"""Time series from a table in long form: a row for each step, a column for each number.

    case,time,x,y,class
    7,0,0.2,1.4,walk
    7,1,0.3,1.1,walk

A column names the series that a row belongs to, one its class; one may say when the step was, one
to which part the series belongs. All others hold numbers; an empty cell is a missing one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from vitrail.data.cells import TABLES, Cell, Cells, read_cells
from vitrail.data.names import few, normal, one_spelling, plain_label
from vitrail.data.source import Finding, Item, PartName, sorted_classes
from vitrail.data.table_parts import SPLITS, Parts, filled, part_columns, unused
from vitrail.data.table_parts import plain as letters
from vitrail.data.uea import Series, together
from vitrail.errors import DataError
from vitrail.units import counted, shortened

# Spellings without case, spaces and marks; the first that a table has counts.
CASES = ("case", "caseid", "series", "seriesid", "sequence", "sequenceid", "sample", "sampleid",
         "recording", "recordingid", "trial", "trialid", "id", "uid", "groupid")  # fmt: skip
TIMES = ("time", "timestamp", "t", "step", "timestep", "frame", "date", "datetime", "tick")
LABELS = ("class", "label", "classlabel", "target", "category", "activity", "y")
PATHS = ("path", "file", "filename", "image", "filepath")
_INDEX = ("", "index", "unnamed", "unnamed0", "rowid")


@dataclass(frozen=True)
class _Roles:
    """Indices of the columns."""

    case: int
    time: int | None
    label: int | None
    parts: Parts
    numbers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Long:
    """The series of a table, an item for each, and what there is to say of the columns."""

    series: Series
    items: tuple[Item, ...]
    findings: tuple[Finding, ...]


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
    found = _roles(path, cells)
    return 2 * len(series) <= len(cells.rows) and bool(found.numbers)


def read_long(path: Path, *, labelled: bool = True, features: Sequence[str] = ()) -> Long:
    """Read the series of a table, in the order of their first rows, and an item for each.

    Not `labelled`, a table may lack the classes; columns called as one of the `features` hold
    numbers, whatever else their names may mean. Raises DataError, which names the row.
    """
    cells = read_cells(path)
    roles = _roles(path, cells, features)
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
    told, spellings = _spelled([_told(path, some, roles) for some in rows.values()])
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
    features = tuple(normal(cells.names[at]) for at in roles.numbers)
    series = Series(path.stem, values, mask, labels, classes, features)
    return Long(series, items, (*spellings, *_columns(cells, roles)))


def _spelled(
    told: Sequence[tuple[str, PartName | None]],
) -> tuple[list[tuple[str, PartName | None]], list[Finding]]:
    """Return classes and parts with one spelling for each class, and which were written in several
    ways."""
    plain: list[tuple[PartName | None, str]] = [(part, plain_label(label)) for label, part in told]
    meant, findings = one_spelling(pair for pair in plain if pair[1])
    return [(meant.get(label, ""), part) for part, label in plain], findings


def _columns(cells: Cells, roles: _Roles) -> list[Finding]:
    """Say which columns are learned from, and which nobody reads."""
    used = {roles.case, roles.time, roles.label, *roles.parts.columns, *roles.numbers}
    names = [cells.names[at] for at in roles.numbers]
    text = f"learned from {counted(len(names), 'column')} of numbers: {few(names, 20)}"
    return [Finding("features", "info", text), *unused(cells, filled(cells, used))]


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _first(names: Sequence[str], wanted: Sequence[str], others: Collection[str] = ()) -> int | None:
    there = (name for name in wanted if name in names and name not in others)
    return next(map(names.index, there), None)


def _roles(path: Path, cells: Cells, features: Sequence[str] = ()) -> _Roles:
    names = [_plain(name) for name in cells.names]
    others = {_plain(name) for name in features}
    case, time, label = (_first(names, wanted, others) for wanted in (CASES, TIMES, LABELS))
    parts = part_columns(path, cells, (case, time, label))
    some = [row for _, row in cells.rows[:: max(1, len(cells.rows) // 50)]]
    taken = {case, time, label, *parts.columns}
    numbers = tuple(
        at for at, name in enumerate(names)
        # A fold is not a measurement.
        if at not in taken and name not in _INDEX and letters(name) not in SPLITS
        and _are_numbers([row[at] for row in some])
    )  # fmt: skip
    return _Roles(-1 if case is None else case, time, label, parts, numbers)


def _told(
    path: Path, rows: Sequence[tuple[int, tuple[Cell, ...]]], roles: _Roles
) -> tuple[str, PartName | None]:
    """Return the one class and the one part of a series."""
    label = roles.label
    said: list[tuple[int, str, PartName | None]] = [
        (line, "" if label is None else str(row[label]), roles.parts.of(row)) for line, row in rows
    ]
    _, first, part = said[0]
    for line, other, place in said:
        for mine, theirs in ((plain_label(first), plain_label(other)), (part, place)):
            if mine != theirs:
                name, here, before = (
                    shortened(repr(str(one)), 60) for one in (rows[0][1][roles.case], theirs, mine)
                )
                raise DataError(
                    f"{path}, row {line}: series {name} is {here} here and {before} before; a "
                    "series has one class and one part"
                )
    if label is not None and not first:
        raise DataError(f"{path}, row {rows[0][0]}: the class is empty; fill it or remove the rows")
    return first, part


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
    keys = _moments(path, rows, at)
    order = sorted(range(len(rows)), key=lambda place: keys[place])
    for before, after in pairwise(order):
        if keys[before] == keys[after]:
            raise DataError(
                f"{path}, row {rows[after][0]}: the time {rows[after][1][at]!r} of this series is "
                f"in row {rows[before][0]} already; give each step a time of its own "
                f"({counted(len(rows), 'row')} in this series)"
            )
    return [rows[place] for place in order]


def _moments(path: Path, rows: Sequence[tuple[int, tuple[Cell, ...]]], at: int) -> Sequence[float]:
    """Return the times of some rows as numbers. Raises DataError for what is neither a number nor a
    date: sorted as texts, such times would come in a wrong order."""
    numbers = [_number(row[at]) for _, row in rows]
    known = [one for one in numbers if one is not None and math.isfinite(one)]
    if len(known) == len(rows):
        return known
    dates: list[datetime] = []
    for line, row in rows:
        try:
            dates.append(datetime.fromisoformat(str(row[at])))
        except ValueError:
            raise DataError(
                f"{path}, row {line}: the time {shortened(str(row[at]), 40)!r} is neither a number "
                "nor a date such as 2024-01-31T12:00:00; write all times of a series in one way"
            ) from None
    zones = {one.tzinfo is None for one in dates}
    if len(zones) > 1:
        raise DataError(
            f"{path}, row {rows[0][0]}: some times of this series have a time zone and some have "
            "none; write all in one way"
        )
    first = datetime(1970, 1, 1, tzinfo=None if True in zones else UTC)
    return [(one - first).total_seconds() for one in dates]


def _are_numbers(cells: Sequence[Cell]) -> bool:
    """Return whether most cells that hold something hold a number."""
    told = [cell for cell in cells if cell not in ("", "?")]
    return bool(told) and sum(_number(cell) is not None for cell in told) > len(told) / 2


def _number(cell: Cell) -> float | None:
    try:
        return float(cell)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
