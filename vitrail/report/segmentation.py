"""The chapters of a segmentation: masks beside the truth, the worst of them, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.report import hardest
from vitrail.report.chapter import (
    Card,
    Chapter,
    Column,
    Gallery,
    Matrix,
    Paragraph,
    Part,
    Table,
)
from vitrail.report.masks import as_png, legend, over
from vitrail.report.scores import Score
from vitrail.units import percent

# Up to here confusions stand in a matrix.
MATRIX_CLASSES = 24
# Small images are enlarged, so that their pixels are seen.
SIDE = 160


@dataclass(frozen=True)
class MapRow:
    """One class on the test split: `n` images show it, and of all labelled pixels the share
    `pixels` is true of it; `overlap`, precision and recall are in [0, 1], or NaN."""

    name: str
    n: int
    pixels: float
    overlap: float
    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class PictureOfMask:
    """An image uint8 (H, W, C), its true mask, the answer, and their own mean overlap."""

    image: np.ndarray
    truth: np.ndarray
    answer: np.ndarray
    overlap: float
    key: str = ""


def pixel_by_pixel(
    rows: Sequence[MapRow],
    test: Score,
    confusion: Sequence[Sequence[int]],
    examples: Sequence[PictureOfMask],
    worst: Sequence[PictureOfMask],
) -> list[Chapter]:
    """Return the chapters: examples and worst cases with their truth, and figures of classes."""
    names = [row.name for row in rows]
    return [
        Chapter(
            "Masks beside the truth",
            [
                Paragraph("Test images, evenly from all: the truth on the left, the answer on "
                          "the right."),
                Paragraph(legend(names)),
                _gallery(examples, names),
            ],
        ),
        Chapter(
            "The worst masks",
            [
                Paragraph(
                    "Those whose own mean intersection over union, over the classes that are in "
                    "truth or answer, is least; again the truth is on the left."
                ),
                _gallery(worst, names),
            ],
        ),
        _classes(rows, test),
        *_confusions(names, confusion),
    ]  # fmt: skip


def _gallery(some: Sequence[PictureOfMask], names: Sequence[str]) -> Gallery:
    cards = []
    for one in some:
        pictures = [
            (as_png(over(one.image, mask, names), least=SIDE), words)
            for mask, words in ((one.truth, "the truth"), (one.answer, "the answer"))
        ]
        cards.append(Card(pictures, [percent(one.overlap)], one.key))
    return Gallery(cards)


def _classes(rows: Sequence[MapRow], test: Score) -> Chapter:
    parts: list[Part] = [
        Paragraph(
            f"{percent(test.figures['pixel accuracy'])} of all labelled pixels are right. The mean "
            "is over classes, each as important as any other, however few its pixels."
        ),
        Paragraph(
            "Intersection over union is the share of pixels that are right among those that truth "
            "or answer call so, over all test images together. The interval of the mean is that "
            "of resampled test images (bootstrap).",
            soft=True,
        ),
    ]
    known = [row for row in rows if row.overlap == row.overlap]
    known.sort(key=lambda row: row.overlap)
    parts += hardest.tables(known, _table, ("class", "classes"))
    missing = [row.name for row in rows if row.overlap != row.overlap]
    if missing:
        parts.append(Paragraph(f"In no test image and no answer: {', '.join(missing)}.", soft=True))
    return Chapter("Class by class", parts)


def _table(rows: Sequence[MapRow]) -> Table:
    columns = [
        Column("class"), Column("images", "number"), Column("of all pixels", "number"),
        Column("overlap", "number"), Column("", "bar"), Column("precision", "number"),
        Column("recall", "number"),
    ]  # fmt: skip
    return Table(
        columns,
        [
            (
                r.name, f"{r.n:,}", percent(r.pixels), percent(r.overlap), r.overlap,
                _share(r.precision), _share(r.recall),
            )
            for r in rows
        ],
    )  # fmt: skip


def _share(value: float) -> str:
    return percent(None if value != value else value)


def _confusions(names: Sequence[str], counts: Sequence[Sequence[int]]) -> list[Chapter]:
    """Show what pixels are taken for, in per mille of each true class; only of few classes."""
    if len(names) > MATRIX_CLASSES:
        return []
    shares = [[round(1000 * n / max(1, sum(row))) for n in row] for row in counts]
    text = "Of a thousand pixels of each class, down the side, so many are called as above."
    return [Chapter("What pixels are taken for", [Paragraph(text), Matrix(names, shares)])]
