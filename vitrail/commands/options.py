"""Options that several commands share, and how they read and print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail.errors import ConfigError

Out = Annotated[Path | None, typer.Option("--out", help="Run folder to make.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]


def console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def work() -> None:
    """Before a command that computes for long in torch."""
    from vitrail import heap

    heap.keep()


def size(text: str | None) -> tuple[int, int] | None:
    """224x160 as (224, 160). Raises ConfigError."""
    if text is None:
        return None
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"--image is {text!r}: expected height x width, as 224x224")
    return int(sides[0]), int(sides[1])


def whole(text: str, option: str) -> tuple[int, ...]:
    """1,8 as (1, 8). Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{option} is {text!r}: expected whole numbers, as 1,8")
    return tuple(map(int, parts))


def some(names: Sequence[str]) -> str:
    """The first three and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
