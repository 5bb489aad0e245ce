"""What a run of lidar scans shows: classes of points, range images, and scans from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.report.chapter import (
    Card,
    Chapter,
    Column,
    Gallery,
    Matrix,
    Paragraph,
    Table,
)
from vitrail.report.masks import VOID, as_png, colours, legend
from vitrail.report.text import plain
from vitrail.units import percent

RIGHT, WRONG = (70, 120, 80), (225, 60, 50)
# Half the side of the view from above in metres, and its pixels.
REACH_M, SIDE = 40.0, 480
HIGH = 4  # times that a row of a range image is drawn


@dataclass(frozen=True)
class ClassOfPoints:
    """One class on the test scans: scans that show it, and shares in [0, 1] of its points."""

    name: str
    scans: int
    share: float
    overlap: float
    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class ShownScan:
    """A scan with truth and answer: `xyz` (N, 3) in metres, `index` (H, W) the point that each
    pixel of the range image shows or -1, classes uint8 (N,), and its own mean overlap."""

    key: str
    xyz: np.ndarray
    index: np.ndarray
    truth: np.ndarray
    answer: np.ndarray
    overlap: float


def point_by_point(
    rows: Sequence[ClassOfPoints],
    confusion: Sequence[Sequence[int]],
    shown: Sequence[ShownScan],
    classes: Sequence[str],
) -> list[Chapter]:
    """Return the chapters: classes, what is taken for what, and scans with truth and answer."""
    return [
        Chapter("Class by class", [_table(rows)]),
        Chapter(
            "What is taken for what",
            [
                Paragraph("Points of the test scans, a row for each true class."),
                Matrix([row.name for row in rows], confusion),
            ],
        ),
        Chapter(
            "Scans",
            [
                Paragraph(
                    "Each scan as a range image, unrolled around the sensor, and from above, "
                    f"{REACH_M:g} metres to each side: truth on the left, the answer on the right, "
                    "and below where the answer is wrong, in red.",
                    soft=True,
                ),
                Paragraph(legend(classes)),
                Gallery([_card(one, classes) for one in shown]),
            ],
        ),
    ]


def _table(rows: Sequence[ClassOfPoints]) -> Table:
    columns = [
        Column("class", "name"), Column("scans", "number"), Column("share of points", "number"),
        Column("intersection over union", "number"), Column("", "bar"),
        Column("precision", "number"), Column("recall", "number"),
    ]  # fmt: skip
    cells = [
        (row.name, str(row.scans), percent(row.share), _said(row.overlap),
         0.0 if np.isnan(row.overlap) else row.overlap, _said(row.precision), _said(row.recall))
        for row in rows
    ]  # fmt: skip
    return Table(columns, cells)


def _said(share: float) -> str:
    return "none" if np.isnan(share) else percent(share)


def _card(one: ShownScan, classes: Sequence[str]) -> Card:
    pictures = [
        (from_above(one.xyz, one.truth, classes), "true classes from above"),
        (from_above(one.xyz, one.answer, classes), "answers from above"),
        (
            range_image(one.index, one.truth, classes),
            "true classes around the sensor",
        ),
        (range_image(one.index, one.answer, classes), "answers around the sensor"),
        (faults(one), "wrong answers around the sensor"),
    ]
    return Card(pictures, [f"overlap {percent(one.overlap)}"], plain(one.key))


def _coloured(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    table = np.full((256, 3), VOID, np.uint8)
    table[: len(classes)] = colours(classes)
    return table[labels]


def range_image(index: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> bytes:
    """Return the classes of points as a range image, a PNG; black where no point is."""
    return as_png(_unrolled(index, _coloured(labels, classes)))


def faults(one: ShownScan) -> bytes:
    """Return where an answer is wrong, a PNG: red, green where it is right, grey where nothing is
    known."""
    known = one.truth != 255
    shade = np.where((one.truth == one.answer)[:, None], RIGHT, WRONG)
    return as_png(_unrolled(one.index, np.where(known[:, None], shade, VOID).astype(np.uint8)))


def _unrolled(index: np.ndarray, shades: np.ndarray) -> np.ndarray:
    drawn = np.where((index >= 0)[..., None], shades[index], 0).astype(np.uint8)
    return np.repeat(drawn, HIGH, 0)


def from_above(xyz: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> bytes:
    """Return the classes of points from above, a PNG with the way ahead upwards: the highest point
    of a pixel is seen."""
    scale = SIDE / (2 * REACH_M)
    row = ((REACH_M - xyz[:, 0]) * scale).astype(np.int64)
    column = ((REACH_M - xyz[:, 1]) * scale).astype(np.int64)
    inside = (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
    inside &= (np.abs(xyz[:, :2]) < REACH_M).all(1)
    order = np.flatnonzero(inside)[np.argsort(xyz[inside, 2], kind="stable")]
    drawn = np.zeros((SIDE, SIDE, 3), np.uint8)
    shades = _coloured(labels, classes)
    for down in (0, 1):  # two by two pixels, so that far points are seen
        for right in (0, 1):
            at = (
                np.minimum(row[order] + down, SIDE - 1),
                np.minimum(column[order] + right, SIDE - 1),
            )
            drawn[at] = shades[order]
    return as_png(drawn)
