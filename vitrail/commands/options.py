"""Options that several commands share, and how commands read and print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail.errors import ConfigError
from vitrail.report.text import plain

Out = Annotated[Path | None, typer.Option("--out", help="Name of the run folder to create.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Device = Annotated[str, typer.Option(help="Device to train on: auto, cpu, cuda or mps.")]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads to use when measuring latency; all cores by default."),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="Regular expression on file names; images with the same match are never split "
        "between training and test."
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="Variants to measure; a family's name means its smallest variant, and no name the "
        "smallest of every family."
    ),
]


def console() -> Any:
    """Return a console as wide as the terminal, or 160 columns where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def work() -> None:
    """Prepare the process for a command that computes for long in torch."""
    from vitrail import heap

    heap.keep()


def size(text: str | None) -> tuple[int, int] | None:
    """Read 224x160 as (224, 160). Raises ConfigError."""
    if text is None:
        return None
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"--image is {text!r}: expected height x width, e.g. 224x224")
    return int(sides[0]), int(sides[1])


def whole(text: str, option: str) -> tuple[int, ...]:
    """Read 1,8 as (1, 8). Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{option} is {text!r}: expected whole numbers, e.g. 1,8")
    return tuple(map(int, parts))


def some(names: Sequence[str]) -> str:
    """Join the first three names and say how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def say(text: str) -> None:
    """Print an answer of one or more lines, control characters of names escaped."""
    print(plain(text, lines=True))


def show(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str], bold: Any = None
) -> None:
    """Print a table: the columns in `left` to the left, figures to the right.

    `bold` says of a row's number whether it stands out. Cells are shown as they are, without
    markup and with control characters escaped; on a narrow terminal they are folded, never cut.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in head:
        justify = "left" if title in left else "right"
        table.add_column(title, justify=justify, overflow="fold")
    for number, row in enumerate(rows):
        style = "bold" if bold is not None and bold(number) else ""
        table.add_row(*(Text(plain(cell)) for cell in row), style=style)
    console().print(table)
