"""Figures in a folder: written whole or not at all, and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vitrail.errors import BenchError, ConfigError

T = TypeVar("T")


def write(out: Path, texts: dict[str, str]) -> None:
    """Files of these names and texts. Raises BenchError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            part = out / f".{name}.{os.getpid()}"
            part.write_text(text)
            part.replace(out / name)
    except OSError as error:
        raise BenchError(f"{out} cannot be written ({error.strerror})") from error


def read(file: Path, made: Callable[[Any], T]) -> T:
    """What `made` makes of the file's JSON. Raises BenchError."""
    try:
        return made(json.loads(file.read_text()))
    except OSError as error:
        raise BenchError(f"{file} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise BenchError(f"{file} holds no figures of vitrail's: {error}") from error
