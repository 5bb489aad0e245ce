"""How well boxes are found: COCO's average precision, from answers matched with the truth.

Lin et al., ECCV 2014, arXiv 1405.0312; pycocotools, the authors' own, matches answers with objects
at overlaps from 0.5 to 0.95. All figures follow from its matches, image by image, so that a
bootstrap over images (Efron, Annals of Statistics 7, 1979) needs no matching again.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vitrail.data.boxes import Truth
from vitrail.data.cache import Pixels
from vitrail.errors import ConfigError, extra
from vitrail.report.ahead import Interval
from vitrail.tasks.task import Outputs

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
# Of objects by their area in pixels of the picture: all, below 32x32, up to 96x96, above.
SIZES = ("all", "small", "medium", "large")
RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class Shown:
    """An image of the test, uint8 (H, W, C), with its objects and what was found, both (n, 6) in
    its pixels; `key` is its file, `row` its place in the part. `there` and `masks` are the pixels
    of both, bool (n, H, W), where outlines are known."""

    key: str
    image: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    row: int
    there: np.ndarray | None = None
    masks: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Outlines:
    """The pixels of all objects and of all answers, image by image in their order, as run lengths
    of pycocotools."""

    there: Sequence[Sequence[Any]]
    found: Sequence[Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Finds(Outputs):
    """What is found in every image, and what is there.

    `values` are float32 (N, m, 6): a box in pixels of the picture, its score, and its class, -1 in
    empty rows. `targets` (N, m, 6) have whether it is a crowd in place of the score, behind the
    class. `loss` is the detector's own, mean over images; there are so many `classes`.
    """

    loss: float
    classes: int
    shown: Sequence[Shown] = ()
    outlines: Outlines | None = None


@dataclass(frozen=True, eq=False)
class Matches:
    """What pycocotools says of one class and size: of D answers in all images, the surest first,
    their `scores`, the `image` of each, whether it is a `hit` and whether it is `left` out, both
    (10, D) by overlap; and how many objects each of N images has."""

    scores: np.ndarray
    image: np.ndarray
    hit: np.ndarray
    left: np.ndarray
    objects: np.ndarray

    def precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return precision (10, 101) at rising recall, NaN without objects; `weights` (N,) say how
        often each image counts."""
        n = self.objects.sum() if weights is None else (weights * self.objects).sum()
        if not n:
            return np.full((len(OVERLAPS), len(RECALLS)), np.nan)
        each = np.ones(len(self.image)) if weights is None else weights[self.image]
        right = np.cumsum(self.hit * ~self.left * each, axis=1)
        wrong = np.cumsum(~self.hit * ~self.left * each, axis=1)
        precise = right / np.maximum(right + wrong, np.spacing(1))
        precise = np.maximum.accumulate(precise[:, ::-1], axis=1)[:, ::-1]
        found = np.zeros((len(OVERLAPS), len(RECALLS)))
        for row, reached, values in zip(found, right / n, precise, strict=True):
            at = np.searchsorted(reached, RECALLS, side="left")
            row[at < len(values)] = values[at[at < len(values)]]
        return found


def require() -> None:
    """Raise ConfigError where pycocotools is not installed."""
    try:
        import pycocotools  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"boxes are judged by pycocotools, which is not installed: {extra('boxes')}"
        ) from error


def matches(
    outputs: Outputs, classes: int, outlines: Outlines | None = None
) -> dict[tuple[int, str], Matches]:
    """Return the matches of answers (N, m, 6) with targets, by class and by size: by their boxes,
    or by their outlines where these are given."""
    from pycocotools.cocoeval import COCOeval  # pyright: ignore[reportMissingImports]

    with contextlib.redirect_stdout(io.StringIO()):
        there, answers = (outlines.there, outlines.found) if outlines else (None, None)
        truth = _coco(_listed(outputs.targets, there, crowds=True), len(outputs), classes)
        found = _coco(_listed(outputs.values, answers, crowds=False), len(outputs), classes)
        judged = COCOeval(truth, found, "segm" if outlines else "bbox")
        judged.evaluate()
    rows = iter(judged.evalImgs)
    told: dict[tuple[int, str], Matches] = {}
    for label in range(classes):
        for size in SIZES:
            told[label, size] = _gathered([next(rows) for _ in range(len(outputs))])
    return told


def _listed(
    values: Tensor, outlines: Sequence[Sequence[Any]] | None, *, crowds: bool
) -> list[dict[str, Any]]:
    """List boxes as COCO has them, or outlines: of answers with scores, of objects with crowds."""
    found = []
    for image, rows in enumerate(values.double().numpy()):
        for at, (x1, y1, x2, y2, one, other) in enumerate(rows):
            label = int(one if crowds else other)
            if label < 0:
                continue
            w, h = float(x2 - x1), float(y2 - y1)
            more: dict[str, Any] = (
                {"iscrowd": int(other)} if crowds else {"score": float(one), "iscrowd": 0}
            )
            box = [float(x1), float(y1), w, h]
            if outlines is not None:
                more |= {"segmentation": outlines[image][at]}
            number = len(found) + 1
            area = w * h if outlines is None else _area(outlines[image][at])
            found.append({"id": number, "image_id": image, "category_id": label, "bbox": box,
                          "area": area, **more})  # fmt: skip
    return found


def _area(outline: Any) -> float:
    from pycocotools import mask  # pyright: ignore[reportMissingImports]

    return float(mask.area(outline))


def _coco(boxes: list[dict[str, Any]], images: int, classes: int) -> Any:
    from pycocotools.coco import COCO  # pyright: ignore[reportMissingImports]

    made: Any = COCO()
    made.dataset = {
        # It asks for sizes before it sees that outlines are run lengths, which have their own.
        "images": [{"id": i, "height": 1, "width": 1} for i in range(images)],
        "categories": [{"id": i} for i in range(classes)],
        "annotations": boxes,
    }
    made.createIndex()
    return made


def _gathered(rows: Sequence[Mapping[str, Any] | None]) -> Matches:
    """Gather all images of one class and size, the surest answer first."""
    scores, image, hit, left = [], [], [], []
    objects = np.zeros(len(rows))
    for at, row in enumerate(rows):
        if row is None:  # neither an object nor an answer
            continue
        scores.append(np.asarray(row["dtScores"], np.float64))
        image.append(np.full(len(scores[-1]), at))
        hit.append(np.asarray(row["dtMatches"]).reshape(len(OVERLAPS), -1) > 0)
        left.append(np.asarray(row["dtIgnore"]).reshape(len(OVERLAPS), -1) > 0)
        objects[at] = (np.asarray(row["gtIgnore"]) == 0).sum()
    if not scores:
        none = np.zeros((len(OVERLAPS), 0), bool)
        return Matches(np.zeros(0), np.zeros(0, np.int64), none, none, objects)
    whole = np.concatenate(scores)
    order = np.argsort(-whole, kind="mergesort")
    return Matches(
        whole[order], np.concatenate(image)[order], np.concatenate(hit, 1)[:, order],
        np.concatenate(left, 1)[:, order], objects,
    )  # fmt: skip


def mean_precision(
    told: Mapping[tuple[int, str], Matches], size: str = "all", overlap: int | None = None,
    weights: np.ndarray | None = None,
) -> float:  # fmt: skip
    """Return COCO's mean over the classes that are there, in [0, 1]; NaN where none is.

    `overlap` is an index into `OVERLAPS`, None for the mean over all.
    """
    found = [one.precision(weights) for (_, own), one in told.items() if own == size]
    chosen = np.stack([one if overlap is None else one[overlap] for one in found])
    known = ~np.isnan(chosen.reshape(len(found), -1)[:, 0])
    return float(chosen[known].mean()) if known.any() else float("nan")


def resampled(told: Mapping[tuple[int, str], Matches], images: int) -> np.ndarray:
    """Return the mean of images that are drawn with replacement: float64
    (200,), the same draws for everyone.
    """
    random, found = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        weights = np.bincount(random.integers(0, images, images), minlength=images)
        found.append(mean_precision(told, weights=weights))
    return np.array(found)


def interval(middle: float, spread: np.ndarray) -> Interval:
    """Return a figure with the 95 % interval of its resamples."""
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return Interval(middle, float(min(low, middle)), float(max(high, middle)))


@dataclass(frozen=True)
class At:
    """What holds from a score on, at an overlap of 0.5: how many answers are right, and how many
    objects are found, in [0, 1] or NaN."""

    precision: float
    recall: float


def at_score(one: Matches, score: float) -> At:
    """Return what holds of the answers of a class that are that sure."""
    sure = (one.scores >= score) & ~one.left[0]
    right, n = int(one.hit[0][sure].sum()), int(one.objects.sum())
    said = int(sure.sum())
    return At(right / said if said else float("nan"), right / n if n else float("nan"))


def best_score(told: Mapping[tuple[int, str], Matches]) -> float:
    """Return from which score on answers are best, by the F1 score of all classes together at an
    overlap of 0.5."""
    some = [one for (_, size), one in told.items() if size == "all"]
    scores = np.concatenate([one.scores[~one.left[0]] for one in some])
    hits = np.concatenate([one.hit[0][~one.left[0]] for one in some])
    objects = sum(one.objects.sum() for one in some)
    if not len(scores) or not hits.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(hits[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + objects)
    # Down to three digits, so that rounding takes nobody's answer.
    return float(np.floor(1e3 * scores[order][int(f1.argmax())]) / 1e3)


def right_shares(told: Mapping[tuple[int, str], Matches], images: int, score: float) -> np.ndarray:
    """Return of each image twice its right answers as a share of answers and objects, (N,): its
    own F1 score, 1 where there is nothing and nothing is said."""
    right, said, there = np.zeros((3, images))
    for (_, size), one in told.items():
        if size == "all":
            sure = (one.scores >= score) & ~one.left[0]
            right += np.bincount(one.image[sure & one.hit[0]], minlength=images)
            said += np.bincount(one.image[sure], minlength=images)
            there += one.objects
    return np.where(said + there > 0, 2 * right / np.maximum(said + there, 1), 1.0)


def known(value: float) -> float:
    """Return a mean over classes, 0 where the images show none of them."""
    return 0.0 if value != value else value


def truths(pixels: Pixels) -> list[Truth]:
    """Return what is in each image."""
    boxes = pixels.part.source.boxes
    assert boxes is not None
    return [boxes.truths[int(row)] for row in pixels.part.rows]
