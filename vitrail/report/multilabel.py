"""The chapter of a run whose images have several labels: each with its figures and threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.report import hardest
from vitrail.report.chapter import Chapter, Column, Paragraph, Part, Table
from vitrail.report.scores import Score
from vitrail.units import percent


@dataclass(frozen=True)
class LabelRow:
    """One label on the test split: `n` images have it; shares in [0, 1].

    Precision, recall and F1 are at its `threshold`, a probability.
    """

    name: str
    n: int
    average_precision: float
    precision: float
    recall: float
    f1: float
    threshold: float


def label_by_label(rows: Sequence[LabelRow], test: Score) -> Chapter:
    """Return the figures of each label, the hardest first."""
    said = ", ".join(f"{name} {percent(value)}" for name, value in test.figures.items())
    parts: list[Part] = [
        Paragraph(f"With a threshold for each label: {said}."),
        Paragraph(
            "Average precision asks how well a label's images are ranked above all others, "
            "whatever the threshold; a ranking by chance reaches the share of images that have the "
            "label. Thresholds were chosen on the validation images, each where F1 was largest. "
            "The interval of the mean is that of resampled test images (bootstrap), too narrow "
            "where a label has only a few.",
            soft=True,
        ),
    ]
    rows = sorted(rows, key=lambda row: row.average_precision)
    parts += hardest.tables(rows, lambda some: _table(some, test.n), ("label", "labels"))
    return Chapter("Label by label", parts)


def _table(rows: Sequence[LabelRow], n: int) -> Table:
    columns = [
        Column("label"), Column("images", "number"), Column("of all", "number"),
        Column("average precision", "number"), Column("", "bar"), Column("threshold", "number"),
        Column("precision", "number"), Column("recall", "number"), Column("F1", "number"),
    ]  # fmt: skip
    return Table(
        columns,
        [
            (
                r.name, f"{r.n:,}", percent(r.n / n), percent(r.average_precision),
                r.average_precision, f"{r.threshold:.2f}", percent(r.precision), percent(r.recall),
                percent(r.f1),
            )
            for r in rows
        ],
    )  # fmt: skip
