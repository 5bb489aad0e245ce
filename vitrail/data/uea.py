"""Time series in the `.ts` format of the UEA, UCR and Monash archives.

A header of lines `@name value`, `@data`, then a line a case: dimensions separated by colons, of
numbers separated by commas, and last its class or its target. `?` is a missing number. With time
stamps a number is `(stamp,number)`; steps are taken in the order of the file and stamps dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitrail import files
from vitrail.errors import DataError
from vitrail.units import shortened

_STAMPED = re.compile(r"\(([^()]*),([^(),]*)\)")
_OUTSIDE = re.compile(r":(?![^(]*\))")  # colons of stamps are not separators


MOST_BYTES = 1 << 32


@dataclass(frozen=True, eq=False)
class Series:
    """Cases of one data set, padded at the end.

    `values` are float32 (N, T, F), NaN where a number is missing and 0 in the padding; `mask`
    (N, T) is true for steps that are there. `labels` (N,) are int64, places in `classes`, or
    float32 targets where there are no classes; None where the file has neither. `features` are the
    names of the features, where the file has any.
    """

    name: str
    values: np.ndarray
    mask: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def taken(self, rows: np.ndarray) -> Series:
        """Return the cases at `rows`."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, values=self.values[rows], mask=self.mask[rows], labels=labels)

    def ordered(self, features: Sequence[str]) -> Series:
        """Return the series with these features in this order; others are left out.

        Where either side has no names, the order stays. Raises DataError for features that are not
        there.
        """
        if not features or not self.features or self.features == (*features,):
            return self
        if missing := [name for name in features if name not in self.features]:
            raise DataError(
                f"{self.name} has no column {shortened(missing[0], 40)!r}: give the columns "
                f"{shortened(', '.join(features), 200)}, in any order"
            )
        at = [self.features.index(name) for name in features]
        return replace(self, values=self.values[..., at], features=(*features,))

    def padded(self, length: int) -> Series:
        """Return the same cases with `length` steps. DataError where some are longer."""
        longest = self.mask.shape[1]
        if longest > length:
            raise DataError(
                f"{self.name} has series of {longest} steps, more than {length}: pad all parts "
                "to the longest"
            )
        more = (0, length - longest)
        values = np.pad(self.values, ((0, 0), more, (0, 0)))
        return replace(self, values=values, mask=np.pad(self.mask, ((0, 0), more)))


@dataclass(frozen=True, eq=False)
class Standard:
    """Mean and deviation of each feature, (F,), of numbers that are there."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, series: Series) -> Standard:
        """Return the standard of a training part. Features that never change, or never are there,
        stay as small as they are.
        """
        there = series.mask[..., None] & ~np.isnan(series.values)
        count = np.maximum(there.sum((0, 1)), 1)
        mean = np.where(there, series.values, 0).sum((0, 1), dtype=np.float64) / count
        deviations = np.where(there, series.values - mean, 0)
        std = np.sqrt(np.square(deviations).sum((0, 1)) / count)
        return cls(mean, np.where(std > 0, std, 1.0))

    def apply(self, series: Series) -> Series:
        """Return the series with mean 0 and deviation 1 per feature; 0
        where a number is missing.
        """
        values = (series.values - self.mean) / self.std
        there = series.mask[..., None] & ~np.isnan(values)
        return replace(series, values=np.where(there, values, 0).astype(np.float32))


@dataclass
class _Header:
    """What the lines before @data say."""

    name: str = ""
    stamps: bool = False
    univariate: bool = False
    dimensions: int | None = None
    equal: bool = False
    labelled: bool = False
    targets: bool = False
    classes: tuple[str, ...] = ()


def read(path: Path | str) -> Series:
    """Read the cases of a file, padded to its longest. Raises DataError, which names the line.

    Steps at the end that have no number in any dimension are padding too; what one dimension of
    a case has less than the others is missing.
    """
    path = Path(path)
    try:
        text = files.read(path, MOST_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({files.reason(error)}): give the path of a .ts file"
        ) from None
    lines = iter(enumerate(text.splitlines(), 1))
    header = _header(path, lines)
    cases, labels = [], []
    for number, line in lines:
        if line.strip() and line[0] not in "#%":
            try:
                case, label = _case(header, line.strip())
                if cases and len(case) != len(cases[0]):
                    raise ValueError(
                        f"{len(case)} dimensions where cases before have {len(cases[0])}; check "
                        "its colons"
                    )
                if cases and header.equal and case.shape != cases[0].shape:
                    raise ValueError(
                        f"{case.shape[1]} steps where cases before have {cases[0].shape[1]}; say "
                        "@equalLength false"
                    )
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
            cases.append(case)
            labels.append(label)
    if not cases:
        raise DataError(f"{path} has no case behind @data: the file is cut off, fetch it again")
    values, mask = together(cases)
    kind = np.float32 if header.targets else np.int64
    known = np.array(labels, kind) if header.labelled else None
    return Series(header.name or path.stem, values, mask, known, header.classes)


def read_parts(*paths: Path | str) -> tuple[Series, ...]:
    """Read the parts of one data set, training first, padded to the
    longest of all. Raises DataError.
    """
    parts = [read(path) for path in paths]
    first = parts[0]
    for path, part in zip(paths, parts, strict=True):
        same = part.values.shape[2] == first.values.shape[2] and part.classes == first.classes
        if not same:
            raise DataError(
                f"{path} has {part.values.shape[2]} dimensions and classes "
                f"{', '.join(part.classes) or 'none'}, unlike {paths[0]}: give parts of one set"
            )
    return tuple(part.padded(max(p.mask.shape[1] for p in parts)) for part in parts)


def _header(path: Path, lines: Iterator[tuple[int, str]]) -> _Header:
    """Read the header, with `lines` left behind @data. Words that are not known are passed over."""
    found = _Header()
    for number, line in lines:
        words = line.split()
        if not words or words[0][0] in "#%":
            continue
        if words[0][0] != "@":
            raise DataError(
                f"{path}, line {number}: a case before @data; the header must end in a line @data"
            )
        word, given = words[0][1:].lower(), words[1:]
        if word == "data":
            return found
        try:
            _told(found, word, given)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
    raise DataError(f"{path} has no line @data: it is not a .ts file, or cut off")


def _told(header: _Header, word: str, given: list[str]) -> None:
    """Take in one line of a header. Raises ValueError."""
    if word == "problemname":
        header.name = " ".join(given)
    elif word == "timestamps":
        header.stamps = _flag(word, given)
    elif word == "univariate":
        header.univariate = _flag(word, given)
    elif word == "equallength":
        header.equal = _flag(word, given)
    elif word in ("dimension", "dimensions"):
        if not given or not given[0].isdecimal() or len(given[0]) > 9 or int(given[0]) < 1:
            raise ValueError(f"@{word} is {_said(given)}; expected a whole number")
        header.dimensions = int(given[0])
    elif word == "targetlabel":
        header.labelled = header.targets = _flag(word, given)
    elif word == "classlabel":
        header.labelled, header.classes = _flag(word, given), tuple(given[1:])
        if header.labelled and not header.classes:
            raise ValueError("@classLabel true names no classes; list them behind it")


def _flag(word: str, given: list[str]) -> bool:
    if not given or given[0].lower() not in ("true", "false"):
        raise ValueError(f"@{word} is {_said(given)}; expected true or false")
    return given[0].lower() == "true"


def _said(given: list[str]) -> str:
    return shortened(" ".join(given)) or "empty"


def _case(header: _Header, line: str) -> tuple[np.ndarray, float]:
    """Return the numbers (F, T) of one line, and its target or the place of
    its class. Raises ValueError.
    """
    parts = _OUTSIDE.split(line) if header.stamps else line.split(":")
    label = 0.0
    if header.labelled:
        *parts, last = parts
        label = _label(header, last.strip())
    expected = 1 if header.univariate else header.dimensions
    if not parts or (expected and len(parts) != expected):
        raise ValueError(
            f"{len(parts)} dimensions where the header tells {expected or 'some'}; check its colons"
        )
    rows = [_numbers(header, part) for part in parts]
    length = max(map(len, rows))
    if header.equal and any(len(row) != length for row in rows):
        raise ValueError("dimensions of several lengths; say @equalLength false")
    case = np.full((len(rows), length), np.nan, np.float32)
    for place, row in enumerate(rows):
        case[place, : len(row)] = row
    return case, label


def _label(header: _Header, text: str) -> float:
    if header.classes:
        if text not in header.classes:
            raise ValueError(
                f"class {shortened(text)!r} is not among those of @classLabel; add it there"
            )
        return header.classes.index(text)
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"target {shortened(text)!r} is not a number; expected one behind the last colon"
        ) from None


def _numbers(header: _Header, text: str) -> np.ndarray:
    """Return the numbers of one dimension."""
    words = text.split(",") if text.strip() else []
    if header.stamps:
        words = [number for _, number in _STAMPED.findall(text)]
        if _STAMPED.sub("", text).strip(", \t"):
            raise ValueError(f"{text.strip()[:40]!r} is not of the form (stamp,number),...")
    try:
        row = np.array([np.nan if word.strip() == "?" else float(word) for word in words])
    except ValueError:
        wrong = next(word for word in words if word.strip() != "?" and not _is_number(word))
        raise ValueError(
            f"{shortened(wrong.strip())!r} is not a number; write ? for one that is missing"
        ) from None
    if np.isinf(row).any():
        raise ValueError("a number is infinite; write ? for one that is missing")
    return row


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def together(cases: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return cases (F, T) as one array (N, T, F), with the mask (N, T) of their steps."""
    lengths = []
    for case in cases:
        steps = np.flatnonzero(~np.isnan(case).all(0))
        lengths.append(int(steps[-1]) + 1 if len(steps) else 0)
    mask = np.arange(max([*lengths, 1])) < np.array(lengths)[:, None]
    values = np.zeros((*mask.shape, len(cases[0])), np.float32)
    for place, (case, length) in enumerate(zip(cases, lengths, strict=True)):
        values[place, :length] = case[:, :length].T
    return values, mask


def padded(series: Series, length: int) -> np.ndarray:
    """Return float32 (N, length, F) with NaN behind the last step of each series.

    Raises DataError for series of more steps than that.
    """
    steps = series.mask.sum(1)
    if len(steps) and steps.max() > length:
        raise DataError(
            f"{series.name} has a series of {steps.max()} steps, and the network takes {length} at "
            "most: cut it"
        )
    held = min(length, series.mask.shape[1])
    values = np.full((len(series), length, series.values.shape[2]), np.nan, np.float32)
    values[:, :held] = np.where(series.mask[:, :held, None], series.values[:, :held], np.nan)
    return values
