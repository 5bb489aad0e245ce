"""A table of classes or labels, the hardest first; where there are many, most of it is folded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from vitrail.report.chapter import Fold, Paragraph, Part, Table
from vitrail.units import counted

# Up to here all stand in one table.
MOST = 24
SHOWN = 10

Row = TypeVar("Row")


def tables(
    rows: Sequence[Row], table: Callable[[Sequence[Row]], Table], noun: tuple[str, str]
) -> list[Part]:
    """Return tables of sorted rows, the hardest first; `noun` is for one and for several."""
    if len(rows) <= MOST:
        return [table(rows)]
    rest = rows[SHOWN:]
    return [
        Paragraph(f"The {SHOWN} hardest {noun[1]}:"),
        table(rows[:SHOWN]),
        Fold(f"the other {counted(len(rest), *noun)}", [table(rest)]),
    ]
