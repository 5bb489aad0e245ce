"""Figures in a folder, written whole or not at all, and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vitrail import files
from vitrail.config import read_json
from vitrail.errors import BenchError, ConfigError
from vitrail.units import shortened

T = TypeVar("T")


def write(out: Path, texts: dict[str, str]) -> None:
    """Write files of these names and texts. Raises BenchError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            files.write(out / name, text)
    except OSError as error:
        raise BenchError(
            f"{out} cannot be written ({files.reason(error)}): name another with --out"
        ) from error


def read(file: Path, made: Callable[[Any], T]) -> T:
    """Read a file's JSON and return what `made` makes of it. Raises BenchError."""
    remedy = "measure again into another folder"
    value = read_json(file, dict, remedy=remedy, error=BenchError)
    try:
        return made(value)
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        said = shortened(str(error))
        raise BenchError(f"{file} does not hold figures of vitrail ({said}): {remedy}") from error
