"""Time series that a run is asked about: files of them, or arrays, at the run's own length."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.labels import Labels
from vitrail.data.series import GIVE, of_file
from vitrail.data.uea import Series, padded
from vitrail.errors import ConfigError, DataError
from vitrail.units import counted

# The name of a series, and what the run takes of it, float32 (T, F), or why there is nothing.
Case = tuple[str, "np.ndarray | str"]


def cases(given: Any, labels: Labels) -> list[Case]:
    """Return the series that are asked about, each with its name.

    `given` is a path of a .ts file or a table in long form, an array (T, F) or (N, T, F) with NaN
    where a number is missing, or several of these. Raises ConfigError for what is none of them.
    """
    several = isinstance(given, Iterable) and not isinstance(given, (str, os.PathLike, np.ndarray))
    found: list[Case] = []
    for number, one in enumerate(given if several else [given], 1):
        if isinstance(one, (str, os.PathLike)):
            found += _of_file(Path(one), labels)
        elif isinstance(one, np.ndarray) and one.ndim in (2, 3) and one.dtype.kind in "fiu":
            rows = one[None] if one.ndim == 2 else one
            first = len(found) + 1 if one.ndim == 3 else number
            found += [(f"series {first + at}", _held(row, labels)) for at, row in enumerate(rows)]
        else:
            raise ConfigError(
                f"series {number} is of type {type(one).__name__}: give paths of .ts files or "
                "tables, or arrays of numbers (steps, features)"
            )
    return found


def _of_file(path: Path, labels: Labels) -> list[Case]:
    try:
        if path.is_dir():
            return [(str(path), f"is a folder: {GIVE}")]
        series, names = of_file(path, labels.features)
    except DataError as error:
        return [(str(path), f"cannot be read ({error})")]
    except OSError as error:
        return [(str(path), f"cannot be read ({error.strerror or error})")]
    rows = (series.values[at, series.mask[at]] for at in range(len(series)))
    return [
        (name if name.startswith(path.name) else f"{path.name}:{name}", _held(row, labels))
        for name, row in zip(names, rows, strict=True)
    ]


def _held(row: np.ndarray, labels: Labels) -> np.ndarray | str:
    """Return a series at the length of the run, or why it cannot be."""
    steps, features = row.shape
    if features != labels.channels:
        return f"has {counted(features, 'feature')}, and the run takes {labels.channels}"
    if steps > labels.image[0]:
        return f"has {counted(steps, 'step')}, and the run takes {labels.image[0]} at most"
    whole = np.ones((1, steps), bool)
    values = row[None].astype(np.float32)
    if not np.isfinite(values).any():
        return "holds no number"
    return padded(Series("", values, whole, None), labels.image[0])[0]
