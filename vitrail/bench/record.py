"""Figures in a folder, written whole or not at all, and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vitrail.errors import BenchError, ConfigError

T = TypeVar("T")


def write(out: Path, texts: dict[str, str]) -> None:
    """Write files of these names and texts. Raises BenchError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            part = out / f".{name}.{os.getpid()}"
            part.write_text(text)
            part.replace(out / name)
    except OSError as error:
        raise BenchError(
            f"{out} cannot be written ({error.strerror}): choose another --out"
        ) from error


def read(file: Path, made: Callable[[Any], T]) -> T:
    """Read a file's JSON and return what `made` makes of it. Raises BenchError."""
    try:
        return made(json.loads(file.read_text()))
    except OSError as error:
        raise BenchError(
            f"{file} cannot be read ({error.strerror}): choose another --out"
        ) from error
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise BenchError(
            f"{file} does not hold figures of vitrail ({error}): choose another --out"
        ) from error
