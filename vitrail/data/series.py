"""Time series as a source: `.ts` files of the UEA archive, or a table in long form.

Vowels_TRAIN.ts  Vowels_TEST.ts   a folder of the two files that the archive has
walks.ts                          one file, of which parts are drawn
walks.csv                         a row for each step; see `series_table`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vitrail import files
from vitrail.data import uea
from vitrail.data.cells import TABLES
from vitrail.data.series_table import Long, is_long, read_long
from vitrail.data.source import Item, PartName, Source, part_of, require_classes
from vitrail.data.uea import Series
from vitrail.errors import DataError
from vitrail.units import counted

GIVE = (
    "give a .ts file, a folder of NAME_TRAIN.ts and NAME_TEST.ts, or a CSV with a row for each step"
)
# So many bytes tell a text of series from a video, whose files may end in .ts as well.
_HEAD = 4096


def is_series(path: Path) -> bool:
    """Return whether a file or a folder is certainly one of time series."""
    try:
        if path.is_dir():
            return any(_is_ts(file) for file in path.glob("*.ts"))
        return _is_ts(path) or (path.is_file() and is_long(path))
    except (OSError, DataError):
        return False


def open_series(spec: str | Path) -> Source:
    """Read the series behind `spec`, which have a class each. Raises DataError."""
    path = Path(spec).expanduser()
    try:
        if path.is_dir():
            found = _of_files(_files(path))
        elif path.suffix.lower() in TABLES:
            found = read_long(path)
        else:
            found = _of_files([(None, path)])
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): {GIVE}") from None
    series = found.series
    if series.labels is None:
        raise DataError(f"{path} has no classes: say @classLabel true and name them, or {GIVE}")
    if not series.classes:
        raise DataError(
            f"{path} has numbers as targets, where classes are told apart: give series with "
            "@classLabel"
        )
    require_classes(series.classes, str(path))
    return Source(
        path.resolve().stem, series.classes, found.items, str(path), found.findings, series=series
    )  # fmt: skip


def of_file(path: Path, features: Sequence[str] = ()) -> tuple[Series, tuple[str, ...]]:
    """Read the series of one file, whether or not it says their classes, and their names.

    Where both name features, the series have these `features` alone, in this order. Raises
    DataError.
    """
    if path.suffix.lower() in TABLES:
        found = read_long(path, labelled=False, features=features)
    else:
        found = _of_files([(None, path)])
    return found.series.ordered(features), tuple(item.key for item in found.items)


def _is_ts(path: Path) -> bool:
    if path.suffix.lower() != ".ts" or not path.is_file():
        return False
    with files.reading(path) as file:
        head = file.read(_HEAD)
    lines = [line for line in head.split(b"\n") if line.strip() and line[:1] not in b"#%"]
    return bool(lines) and lines[0].startswith(b"@") and b"\0" not in head


def _files(folder: Path) -> Sequence[tuple[PartName | None, Path]]:
    """Return the .ts files of a folder with the part that the end of each name tells."""
    files = sorted(path for path in folder.glob("*.ts") if _is_ts(path))
    if len(files) == 1:
        return [(None, files[0])]
    parts: list[tuple[PartName | None, Path]] = [
        (part_of(path.stem.rpartition("_")[2]), path) for path in files
    ]
    given = [part for part, _ in parts]
    if not files or None in given or len(set(given)) < len(given):
        raise DataError(
            f"{folder} has {counted(len(files), 'file')} of series: give one, or one for each part "
            "whose names end in _TRAIN.ts and _TEST.ts"
        )
    return sorted(parts, key=lambda pair: pair[0] != "train")


def _of_files(
    parts: Sequence[tuple[PartName | None, Path]],
) -> Long:
    """Return the series of all files one after the other, as long as the longest."""
    read = uea.read_parts(*(path for _, path in parts))
    items = [
        Item(f"{path.name}:{at + 1}", _label(series, at), part)
        for (part, path), series in zip(parts, read, strict=True)
        for at in range(len(series))
    ]
    labels = [series.labels for series in read if series.labels is not None]
    whole = replace(
        read[0],
        values=np.concatenate([series.values for series in read]),
        mask=np.concatenate([series.mask for series in read]),
        labels=np.concatenate(labels) if len(labels) == len(read) else None,
    )
    return Long(whole, tuple(items), ())


def _label(series: Series, at: int) -> int:
    return -1 if series.labels is None or not series.classes else int(series.labels[at])
