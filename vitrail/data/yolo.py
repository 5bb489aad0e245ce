"""YOLO's text files, one beside each image, as a source of boxes.

    photos/labels/train/7.txt  photos/images/train/7.jpg  photos/data.yaml

A line is a class and a box: "0 0.51 0.42 0.2 0.3", the centre and the size in shares of the sides.
What more a line holds are the corners of an outline, whose box is taken. Classes are named by
data.yaml, classes.txt or obj.names.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from pathlib import Path

from vitrail import files
from vitrail.data.boxed import Gathered, listing, part_in
from vitrail.data.boxes import BrokenBoxes, Truth, broken, truth
from vitrail.data.part_lists import part_lists
from vitrail.data.source import Finding, PartName, Source, part_of
from vitrail.data.table_parts import held
from vitrail.errors import DataError
from vitrail.units import shortened

NAMED = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml", "data.yml", "labels.txt")
# Other texts that lie beside such data.
TEXTS = (*NAMED, "train.txt", "val.txt", "test.txt", "readme.txt", "license.txt",
         "requirements.txt", "readme.roboflow.txt", "readme.dataset.txt")  # fmt: skip
MOST_BYTES = 1 << 24
MOST_CLASSES = 10_000


def yolo_files(root: Path) -> bool:
    """Return whether a folder has texts beside images of which at least half begin with a class and
    a box; one that is damaged does not hide the others."""
    if not root.is_dir():
        return False
    found = listing(root, ".txt", TEXTS)
    shared = [keys[0] for name, keys in found.annotations.items() if name in found.pictures]
    begun = [words for key in shared[:20] if (words := _first_words(found.root / key))]
    boxed = [
        len(words) >= 5 and words[0].isdecimal() and all(map(_is_number, words[1:]))
        for words in begun
    ]
    return any(boxed) and 2 * sum(boxed) >= len(boxed)


def _first_words(path: Path) -> list[str]:
    """Return the words of a text's first line, none where it cannot be read."""
    try:
        text = files.read(path, MOST_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return []
    return text.partition("\n")[0].split()


def read_yolo(root: Path) -> Source:
    """List the images of a folder with what their text files say. Raises DataError."""
    listed, gathered = listing(root, ".txt", TEXTS), Gathered()
    names, more = _names(listed.root, root), list(listed.tree.findings())
    most, pairs = -1, listed.pairs(gathered)
    texts = [text for text in listed.others if "/" not in text]
    lists = part_lists(listed.root, texts, [key for key, _ in pairs])
    folders = _folders(listed.root, root)
    more += lists.findings()
    for key, text in pairs:
        found = truth([], []) if text is None else _read(listed.root / text, len(names))
        most = max(most, *found.labels.tolist(), -1)
        gathered.add(key, lists.parts.get(key) or part_in(key) or _within(key, folders), found)
    if not names:
        names = tuple(map(str, range(most + 1)))
        said = f"classes are called by their numbers: name them in {NAMED[0]}, a line each"
        more.append(Finding("unnamed classes", "info", said))
    return gathered.source(listed.root, root, names, more)


def _folders(root: Path, origin: Path) -> list[tuple[str, PartName]]:
    """Return the folders that data.yaml names for parts, whatever they are called."""
    found: list[tuple[str, PartName]] = []
    for path in (place / name for place in (root, origin) for name in NAMED if ".y" in name):
        if not path.is_file():
            continue
        text = files.read(path, MOST_BYTES).decode("utf-8-sig", "replace")
        for word, value in re.findall(r"^(\w+)[ \t]*:[ \t]*(\S.*?)[ \t]*$", text, re.MULTILINE):
            steps = [one for one in re.split(r"[\\/]", _bare(value)) if one not in ("", ".", "..")]
            part = part_of(word)
            if part and steps and (root / "/".join(steps)).is_dir():
                found.append(("/".join(steps), part))
    return found


def _within(key: str, folders: Sequence[tuple[str, PartName]]) -> PartName | None:
    return held(part for folder, part in folders if key.startswith(folder + "/"))


def _read(path: Path, classes: int) -> Truth:
    boxes, labels = [], []
    try:
        text = files.read(path, MOST_BYTES).decode("utf-8-sig")
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                label, box = _line(line.split(), number, classes)
                labels.append(label)
                boxes.append(box)
    except (OSError, UnicodeDecodeError) as error:
        return broken(f"cannot be read ({getattr(error, 'strerror', None) or 'no text'})")
    except BrokenBoxes as error:
        return broken(str(error))
    return truth(boxes, labels, shares=True)


def _line(words: list[str], number: int, classes: int) -> tuple[int, list[float]]:
    """Return a class and the corners of its box."""
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise BrokenBoxes(f"have {len(words)} values in line {number}, where a box has 5")
    if not words[0].isdecimal():
        raise BrokenBoxes(f"have {shortened(words[0])!r} for a class in line {number}")
    label = int(words[0])
    if label >= (classes or MOST_CLASSES):
        raise BrokenBoxes(f"have class {label} in line {number}, which has no name")
    if not all(map(_is_number, words[1:])):
        raise BrokenBoxes(f"have something else than numbers in line {number}")
    values = [float(word) for word in words[1:]]
    if len(values) == 4:
        x, y, w, h = values
        return label, [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    across, down = values[::2], values[1::2]
    return label, [min(across), min(down), max(across), max(down)]


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _names(root: Path, origin: Path) -> tuple[str, ...]:
    """Return the names of the classes; none where no file has them."""
    places = (root, origin, root / "labels")
    for path in (place / name for place in places for name in NAMED):
        if path.is_file():
            try:
                text = files.read(path, MOST_BYTES).decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path} cannot be read as text ({error}): correct it") from error
            yaml = path.suffix in (".yaml", ".yml")
            names = _of_yaml(path, text) if yaml else [line.strip() for line in text.splitlines()]
            while names and not names[-1]:
                names.pop()
            if not names or not all(names):
                raise DataError(f"{path} names no classes, or leaves one out: name each")
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DataError(f"{path} names {shortened(twice)!r} twice: give each its own name")
            return tuple(names)
    return ()


def _of_yaml(path: Path, text: str) -> list[str]:
    """Return the list or the mapping of numbers below "names:", as such files have it.

    Raises DataError for numbers that no list of classes reaches.
    """
    found = re.search(r"^names\s*:[ \t]*(.*(?:\n(?:[ \t]+.*|-.*|\s*$))*)", text, re.MULTILINE)
    inner = found.group(1).strip() if found else ""
    if inner.startswith("["):
        body = inner[1 : inner.find("]")]
        return [_bare(one) for one in body.split(",") if one.strip()]
    if inner.startswith("{"):
        body = inner[1 : inner.find("}")]
        rows = [one for one in body.split(",") if one.strip()]
    else:
        rows = [line.split(" #")[0] for line in inner.splitlines() if line.strip()]
    if all(row.strip().startswith("-") for row in rows):
        return [_bare(row.strip()[1:]) for row in rows]
    named = {}
    for row in rows:
        number, colon, name = row.partition(":")
        if colon and (digits := number.strip()).isdecimal():
            # Bounded first: there is a name for every number up to the largest.
            if len(digits) > 9 or int(digits) >= MOST_CLASSES:
                raise DataError(
                    f"{path} gives {shortened(_bare(name))!r} the number {shortened(digits, 40)}, "
                    f"where there are at most {MOST_CLASSES:,} classes: count them from 0"
                )
            named[int(digits)] = _bare(name)
    return [named.get(i, "") for i in range(max(named, default=-1) + 1)]


def _bare(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        try:
            return str(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            return text[1:-1]
    return text
