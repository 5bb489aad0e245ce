"""Files that say what the values of masks mean: classes.txt, classes.json, class_dict.csv."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from vitrail import files
from vitrail.data.masks import IGNORE, MOST_CLASSES, Colour, Meaning
from vitrail.errors import DataError
from vitrail.units import shortened

FILES = (
    "classes.txt", "labels.txt", "class_names.txt", "classes.json", "class_dict.csv", "classes.csv",
)  # fmt: skip
# A value of such a name marks pixels that count for nothing.
VOID = ("ignore", "ignored", "void", "unlabeled", "unlabelled")
MOST_BYTES = 1 << 20


def named(folder: Path) -> tuple[tuple[str, ...], Meaning, str] | None:
    """Return the classes that a file in `folder` names, what values mean, and the file's name.

    classes.txt has a name a line, the first for value 0; classes.json a list, or names by value;
    class_dict.csv a row name,r,g,b for each. None where there is no such file. Raises DataError.
    """
    for name in FILES:
        path = folder / name
        if path.is_file():
            try:
                text = files.read(path, MOST_BYTES).decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(
                    f"{path} cannot be read as text ({error}): write it again in UTF-8"
                ) from error
            rows, colours = _rows(path, text)
            return *_meaning(path, rows, colours), name
    return None


def _rows(path: Path, text: str) -> tuple[dict[int, str], dict[Colour, str]]:
    """Return names by value, and names by colour."""
    if path.suffix == ".json":
        return _of_json(path, text), {}
    if path.suffix == ".csv":
        return _of_csv(path, text)
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return dict(enumerate(lines)), {}


def _of_json(path: Path, text: str) -> dict[int, str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): correct it") from error
    if isinstance(found, list) and all(isinstance(one, str) for one in found):
        return dict(enumerate(found))
    if isinstance(found, dict) and all(
        key.isdecimal() and len(key) < 10 and isinstance(name, str) for key, name in found.items()
    ):
        return {int(key): name for key, name in found.items()}
    raise DataError(
        f'{path} is neither a list of names nor names by value: write ["background", "cat"], or '
        '{"0": "background", "7": "cat"}'
    )


def _of_csv(path: Path, text: str) -> tuple[dict[int, str], dict[Colour, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(text), skipinitialspace=True))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error}): correct it") from error
    heads = {head.strip().casefold(): head for head in (rows[0] if rows else {}) if head}
    if not {"name", "r", "g", "b"} <= set(heads):
        raise DataError(f"{path} has no columns name,r,g,b: write a row for each class")
    colours: dict[Colour, str] = {}
    for number, row in enumerate(rows, 2):
        try:
            r, g, b = (int(row[heads[band]]) for band in "rgb")
        except (TypeError, ValueError):
            raise DataError(f"{path} line {number} has no whole r, g and b: correct it") from None
        if not all(0 <= band <= 255 for band in (r, g, b)):
            raise DataError(f"{path} line {number} has a colour outside of 0 to 255: correct it")
        if (r, g, b) in colours:
            raise DataError(f"{path} line {number} repeats the colour ({r}, {g}, {b}): correct it")
        colours[r, g, b] = (row[heads["name"]] or "").strip()
    return {}, colours


def _meaning(
    path: Path, rows: dict[int, str], colours: dict[Colour, str]
) -> tuple[tuple[str, ...], Meaning]:
    every = [*rows.values(), *colours.values()]
    if not all(every):
        raise DataError(f"{path} has a class without a name: name every value")
    names = tuple(dict.fromkeys(name for name in every if name.casefold() not in VOID))
    if len(names) + sum(name.casefold() in VOID for name in every) < len(every):
        twice = next(name for name in every if every.count(name) > 1)
        raise DataError(f"{path} names {shortened(twice)!r} twice: give each value its own name")
    outside = bool(rows) and not 0 <= min(rows) <= max(rows) <= IGNORE
    if outside or len(names) > MOST_CLASSES:
        raise DataError(
            f"{path} has {len(every)} values up to {max(rows, default=0)}: masks of 8 bits hold "
            f"0 to {IGNORE}"
        )
    at = {name: label for label, name in enumerate(names)}
    void = {value for value, name in rows.items() if name.casefold() in VOID}
    values = {value: at[name] for value, name in rows.items() if value not in void}
    shades = {colour: at.get(name, IGNORE) for colour, name in colours.items()}
    # Colours without hue, black for example, come as grey values where a mask has no others.
    values |= {r: label for (r, g, b), label in shades.items() if r == g == b and label != IGNORE}
    void |= {r for (r, g, b), label in shades.items() if r == g == b and label == IGNORE}
    return names, Meaning(values, shades, frozenset(void | ({IGNORE} - set(values))))
