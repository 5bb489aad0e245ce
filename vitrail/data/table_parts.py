"""Which columns of a table say to which part a row belongs, and which nobody reads.

Tables of all kinds (images, boxes, sentences, clips, series) are divided by the same rules: a
column called split, set, fold ... whose cells are train, val or test, or columns of yes and no
such as is_test.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.data.cells import Cell, Cells
from vitrail.data.names import few, normal
from vitrail.data.source import Finding, PartName, part_of
from vitrail.errors import DataError
from vitrail.units import counted, shortened

# Spellings without case, spaces and marks; the first that a table has counts.
SPLITS = ("split", "set", "subset", "partition", "part", "fold", "phase", "usage", "dataset",
          "datasplit", "purpose", "splits")  # fmt: skip
_FLAGS: dict[str, tuple[PartName | None, PartName | None]] = {  # where true, where false
    "istest": ("test", "train"), "test": ("test", "train"), "istesting": ("test", "train"),
    "isval": ("val", None), "isvalid": ("val", None), "isvalidation": ("val", None),
    "istrain": ("train", "test"), "istraining": ("train", "test"),
    "istrainingimage": ("train", "test"), "istrainingimg": ("train", "test"),
}  # fmt: skip
_INDEX = ("", "index", "idx", "unnamed", "rowid", "levelzero")
TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")
_HELD: tuple[PartName, ...] = ("test", "val", "train")


@dataclass(frozen=True)
class Parts:
    """The columns of a table that say to which part a row belongs, with what each is called."""

    columns: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def of(self, row: Sequence[Cell]) -> PartName | None:
        """Return the part that a row is in, by one column of parts or several of yes and no."""
        found: set[PartName | None] = set()
        for i, name in zip(self.columns, self.names, strict=True):
            text, flag = str(row[i]).lower(), _FLAGS.get(name)
            if flag and text in TRUE + _FALSE:
                found.add(flag[0] if text in TRUE else flag[1])
            else:
                found.add(part_of(text))
        return held(found)


def held(found: Iterable[PartName | None]) -> PartName | None:
    """Return the one of several parts to which what is in all of them belongs: that which is held
    back."""
    some = set(found)
    return next((part for part in _HELD if part in some), None)


def part_columns(path: Path, cells: Cells, taken: Iterable[int | None]) -> Parts:
    """Return the columns that give parts, of those that are not `taken` for something else.

    Raises DataError for values that are half understood.
    """
    names, others = [plain(name) for name in cells.names], {*taken}
    flags = [
        i for i, name in enumerate(names)
        if i not in others and name in _FLAGS and are_marks(cells, i)
    ]  # fmt: skip
    if flags:
        return Parts(tuple(flags), tuple(names[i] for i in flags))
    for wanted in SPLITS:
        i = next((i for i, name in enumerate(names) if name == wanted and i not in others), None)
        if i is None:
            continue
        values = Counter(str(row[i]) for _, row in cells.rows if row[i])
        strange = {value: n for value, n in values.items() if part_of(value) is None}
        if values and not strange:
            return Parts((i,), (wanted,))
        if strange and (wanted in ("split", "splits") or len(strange) < len(values)):
            line = next(line for line, row in cells.rows if row[i] in strange)
            raise DataError(
                f"{path}: {shortened(cells.names[i])} is {few(list(strange))} in "
                f"{counted(sum(strange.values()), 'row')} (first row {line}), expected train, val "
                "or test: correct it, or rename the column"
            )
    return Parts()


def filled(cells: Cells, taken: Iterable[int | None]) -> list[int]:
    """Return the columns that are not `taken`, number no rows, and hold something."""
    others = {*taken}
    return [
        i for i, name in enumerate(cells.names)
        if i not in others and plain(name) not in _INDEX and any(row[i] for _, row in cells.rows)
    ]  # fmt: skip


def unused(cells: Cells, columns: Sequence[int]) -> list[Finding]:
    """Say which columns nobody reads, and warn of those that may have been meant for parts."""
    if not columns:
        return []
    names = [cells.names[i] for i in columns]
    text = f"{counted(len(names), 'column')} of the table not used ({few(names)})"
    suspects = any(plain(name) in SPLITS for name in names)
    if suspects:
        text += ": to keep parts apart, write train, val or test there"
    return [Finding("unused column", "warning" if suspects else "info", text, tuple(names))]


def are_marks(cells: Cells, column: int) -> bool:
    """Return whether a column holds nothing but yes and no, as 0 and 1 or in words."""
    return all(str(row[column]).lower() in TRUE + _FALSE for _, row in cells.rows)


def plain(name: str) -> str:
    """Return the name of a column in small letters, without what stands between them."""
    return re.sub(r"[^a-z]", "", normal(name).casefold())
