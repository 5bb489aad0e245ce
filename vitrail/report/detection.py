"""The chapters of a detection: boxes beside the truth, the worst of them, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from vitrail.report import hardest
from vitrail.report.ahead import Interval
from vitrail.report.box_pictures import Drawn, for_page
from vitrail.report.canvas import HALF, SERIES, legend, svg
from vitrail.report.chapter import (
    Card,
    Chapter,
    Column,
    Figure,
    Gallery,
    Paragraph,
    Part,
    Table,
)
from vitrail.report.masks import colours
from vitrail.report.scores import Score
from vitrail.report.text import plain
from vitrail.units import percent

# So many curves stand in one plot.
CURVES = 6


@dataclass(frozen=True)
class BoxRow:
    """One class on the test split: how many images show it and how many objects there are; average
    precision over all overlaps and at 0.5; precision and recall from the score that is reported
    on. Shares are in [0, 1], or NaN."""

    name: str
    images: int
    objects: int
    average: float
    at_half: float
    precision: float
    recall: float


@dataclass(frozen=True)
class SizeRow:
    """Objects of one size, their number, and the mean average precision on them."""

    name: str
    objects: int
    average: float


@dataclass(frozen=True)
class Sure:
    """Answers of about one score: the mean of it, how many there are, and which share is right."""

    score: float
    n: int
    right: float


@dataclass(frozen=True, eq=False)
class PictureOfBoxes:
    """An image uint8 (H, W, C) with its objects and what was found, boxes (n, 4) in its pixels and
    classes (n,), the scores of the latter, and how right that is, in [0, 1]; the pixels of both,
    bool (n, H, W), where outlines are known."""

    image: np.ndarray
    there: np.ndarray
    there_labels: np.ndarray
    found: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    right: float
    key: str = ""
    there_masks: np.ndarray | None = None
    masks: np.ndarray | None = None


@dataclass(frozen=True)
class Found:
    """All figures of a detection: rows by class, size and score, and the curves of classes, each
    (101,) precision at rising recall. `score` is that from which on answers are shown."""

    classes: Sequence[BoxRow]
    sizes: Sequence[SizeRow]
    sure: Sequence[Sure]
    curves: Sequence[tuple[str, Sequence[float]]]
    score: float


def box_by_box(
    told: Found, test: Score, examples: Sequence[PictureOfBoxes], worst: Sequence[PictureOfBoxes]
) -> list[Chapter]:
    """Return the chapters: examples and worst cases with their truth, and figures."""
    names = [row.name for row in told.classes]
    return [
        Chapter(
            "Boxes beside the truth",
            [
                Paragraph("Test images, evenly from all: the truth on the left, on the right the "
                          f"answers with a score of {told.score:.2f} or more, each with its "
                          "score."),
                Paragraph(_legend(names)),
                _gallery(examples, names),
            ],
        ),
        Chapter(
            "The worst pictures",
            [
                Paragraph("Those in which least of what is there and what is said agrees; again "
                          "the truth is on the left."),
                _gallery(worst, names),
            ],
        ),
        _by_class(told, test),
        _by_size(told.sizes),
        *_curves(told),
        *_sure(told.sure),
    ]  # fmt: skip


@dataclass(frozen=True)
class OutlineRow:
    """The average precision of the outlines of one class, over all overlaps and at 0.5, or NaN."""

    name: str
    average: float
    at_half: float


def outline_by_outline(
    rows: Sequence[OutlineRow], sizes: Sequence[SizeRow], mean: Interval
) -> Chapter:
    """Return the chapter on how well the pixels of objects are found."""
    text = (
        f"Mean average precision of outlines {percent(mean.middle)} (95 % interval "
        f"{percent(mean.low)} to {percent(mean.high)}): as of boxes, but two outlines overlap by "
        "the pixels that they share. The run was chosen by its boxes."
    )
    known = sorted((r for r in rows if r.average == r.average), key=lambda r: r.average)
    columns = [Column("class"), Column("average precision", "number"), Column("", "bar"),
               Column("at 0.5", "number")]  # fmt: skip
    cells = [(r.name, percent(r.average), r.average, _share(r.at_half)) for r in known]
    by_size = [(r.name, f"{r.objects:,}", _share(r.average), _bar(r.average)) for r in sizes]
    heads = [Column("objects"), Column("number", "number"), Column("average precision", "number"),
             Column("", "bar")]  # fmt: skip
    return Chapter("Outlines", [Paragraph(text), Table(columns, cells), Table(heads, by_size)])


def _legend(names: Sequence[str]) -> Markup:
    shown = [
        Markup('<span class="swatch" style="background: rgb({}, {}, {})"></span>&nbsp;{}').format(
            *colour, plain(name)
        )
        for name, colour in zip(names, colours(names), strict=True)
    ]
    return Markup(", ").join(shown)


def _gallery(some: Sequence[PictureOfBoxes], names: Sequence[str]) -> Gallery:
    cards = []
    for one in some:
        pictures = [
            (for_page(Drawn(one.image, one.there, one.there_labels, None, one.there_masks), names),
             "the truth"),
            (for_page(Drawn(one.image, one.found, one.labels, one.scores, one.masks), names),
             "the answers"),
        ]  # fmt: skip
        cards.append(Card(pictures, [f"agreement {percent(one.right)}"], one.key))
    return Gallery(cards, wide=True)


def _by_class(told: Found, test: Score) -> Chapter:
    parts: list[Part] = [
        Paragraph(
            "Average precision is the mean over recalls, over overlaps of box and truth from 0.5 "
            "to 0.95, and over classes, as COCO has it. Precision and recall are of answers with "
            f"a score of {told.score:.2f} or more, the best on the validation images, at an "
            "overlap of 0.5."
        ),
        Paragraph(
            "The interval of the mean is that of resampled test images (bootstrap).", soft=True
        ),
    ]
    known = [row for row in told.classes if row.average == row.average]
    known.sort(key=lambda row: row.average)
    parts += hardest.tables(known, _table, ("class", "classes"))
    missing = [row.name for row in told.classes if row.average != row.average]
    if missing:
        parts.append(Paragraph(f"In no test image: {', '.join(missing)}.", soft=True))
    return Chapter("Class by class", parts)


def _table(rows: Sequence[BoxRow]) -> Table:
    columns = [
        Column("class"), Column("images", "number"), Column("objects", "number"),
        Column("average precision", "number"), Column("", "bar"), Column("at 0.5", "number"),
        Column("precision", "number"), Column("recall", "number"),
    ]  # fmt: skip
    return Table(
        columns,
        [
            (
                r.name, f"{r.images:,}", f"{r.objects:,}", percent(r.average), r.average,
                _share(r.at_half), _share(r.precision), _share(r.recall),
            )
            for r in rows
        ],
    )  # fmt: skip


def _by_size(rows: Sequence[SizeRow]) -> Chapter:
    text = (
        "Small objects have less than 32x32 pixels of their picture, large ones more than 96x96, "
        "as COCO has it."
    )
    columns = [Column("objects"), Column("number", "number"), Column("average precision", "number"),
               Column("", "bar")]  # fmt: skip
    known = [(r.name, f"{r.objects:,}", _share(r.average), _bar(r.average)) for r in rows]
    return Chapter("Size by size", [Paragraph(text), Table(columns, known)])


def _curves(told: Found) -> list[Chapter]:
    """Draw precision over recall at an overlap of 0.5, of the hardest
    classes where there are many.
    """
    order = {row.name: row.average for row in told.classes if row.average == row.average}
    some = sorted((c for c in told.curves if c[0] in order), key=lambda c: order[c[0]])[:CURVES]
    if not some:
        return []

    def draw(axes: Any) -> None:
        for (name, values), colour in zip(some, SERIES, strict=False):
            recall = np.linspace(0, 100, len(values))
            axes.plot(recall, 100 * np.asarray(values), color=colour, linewidth=1.8, label=name)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        axes.set_xlabel("objects found (recall), %")
        axes.set_ylabel("answers right (precision), %")
        legend(axes, columns=2)

    words = "Precision over recall at an overlap of 0.5"
    more = "" if len(some) == len(order) else f", of the {len(some)} hardest classes"
    return [
        Chapter(
            "What a higher score buys",
            [Paragraph(f"{words}{more}: a higher score means fewer answers, more of them right."),
             Figure(svg(draw, "precision-recall", HALF), words)],
        )
    ]  # fmt: skip


def _sure(rows: Sequence[Sure]) -> list[Chapter]:
    if not rows:
        return []
    columns = [Column("mean score", "number"), Column("answers", "number"),
               Column("of them right", "number"), Column("", "bar")]  # fmt: skip
    text = (
        "How often answers of a score are right, at an overlap of 0.5; scores are not probabilities"
    )
    cells = [(f"{r.score:.2f}", f"{r.n:,}", percent(r.right), r.right) for r in rows]
    return [Chapter("What scores mean", [Paragraph(f"{text}."), Table(columns, cells)])]


def _share(value: float) -> str:
    return percent(None if value != value else value)


def _bar(value: float) -> float:
    return 0.0 if value != value else value
