"""What the report tells of boxes: figures by class, size and score, and pictures to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vitrail.data.labels import Labels
from vitrail.report.ahead import Interval
from vitrail.report.chapter import Chapter
from vitrail.report.detection import (
    BoxRow,
    Found,
    OutlineRow,
    PictureOfBoxes,
    SizeRow,
    Sure,
    box_by_box,
    outline_by_outline,
)
from vitrail.report.scores import Score
from vitrail.tasks import finding
from vitrail.tasks.finding import SIZES, Finds, Matches, Shown
from vitrail.tasks.task import apart

# Answers are counted by their scores between these.
BINS = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0001)


def chapters(
    told: Finds, found: Mapping[tuple[int, str], Matches], labels: Labels, test: Score,
    worst: int, examples: int,
) -> list[Chapter]:  # fmt: skip
    """Return the chapters on what was found, with at most so many pictures of each kind."""
    score = labels.threshold if labels.threshold is not None else finding.best_score(found)
    own = finding.right_shares(found, len(told), score)
    facts = Found(
        _classes(found, labels, score),
        [_size(found, size) for size in SIZES[1:]],
        _sure(found),
        _curves(found, labels),
        score,
    )
    drawn = [_drawn(one, score, float(own[one.row])) for one in told.shown]
    bad, usual = apart(drawn, lambda one: one.right, worst, examples)
    return box_by_box(facts, test, usual, bad)


def _classes(
    found: Mapping[tuple[int, str], Matches], labels: Labels, score: float
) -> list[BoxRow]:
    rows = []
    for label, name in enumerate(labels.classes):
        one = found[label, "all"]
        precision, at = one.precision(), finding.at_score(one, score)
        images, objects = int((one.objects > 0).sum()), int(one.objects.sum())
        figures = float(precision.mean()), float(precision[0].mean())
        rows.append(BoxRow(name, images, objects, *figures, at.precision, at.recall))
    return rows


def _size(found: Mapping[tuple[int, str], Matches], size: str) -> SizeRow:
    objects = sum(int(one.objects.sum()) for (_, own), one in found.items() if own == size)
    return SizeRow(size, objects, finding.mean_precision(found, size))


def _curves(
    found: Mapping[tuple[int, str], Matches], labels: Labels
) -> list[tuple[str, Sequence[float]]]:
    return [
        (name, found[label, "all"].precision()[0].tolist())
        for label, name in enumerate(labels.classes)
    ]


def _sure(found: Mapping[tuple[int, str], Matches]) -> list[Sure]:
    """Return how often answers are right, by their scores."""
    some = [one for (_, size), one in found.items() if size == "all"]
    scores = np.concatenate([one.scores[~one.left[0]] for one in some])
    hits = np.concatenate([one.hit[0][~one.left[0]] for one in some])
    which = np.digitize(scores, BINS) - 1
    return [
        Sure(float(scores[which == at].mean()), int((which == at).sum()), hits[which == at].mean())
        for at in range(len(BINS) - 1)
        if (which == at).any()
    ]


def of_outlines(
    found: Mapping[tuple[int, str], Matches], labels: Labels, mean: Interval
) -> Chapter:
    """Return the chapter on outlines: their mean average precision, and that of each class."""
    rows = [
        OutlineRow(name, float(precision.mean()), float(precision[0].mean()))
        for label, name in enumerate(labels.classes)
        for precision in [found[label, "all"].precision()]
    ]
    sizes = [_size(found, size) for size in SIZES[1:]]
    return outline_by_outline(rows, sizes, mean)


def _drawn(one: Shown, score: float, right: float) -> PictureOfBoxes:
    shown = np.flatnonzero(one.found[:, 4] >= score)
    shown = shown[np.argsort(one.found[shown, 4], kind="stable")]  # the surest lies on top
    sure = one.found[shown]
    masks = None if one.masks is None else one.masks[shown]
    return PictureOfBoxes(
        one.image, one.truth[:, :4], one.truth[:, 4].astype(int), sure[:, :4],
        sure[:, 5].astype(int), sure[:, 4], right, one.key, one.there, masks,
    )  # fmt: skip
