"""Boxes around objects: a detector's own loss, COCO's mean average precision.

A run is chosen and judged by boxes in pixels of each picture, however large the picture is that the
detector sees; answers are those that the exported file gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data.box_batches import BoxBatches
from vitrail.data.boxes import Boxes
from vitrail.data.cache import Pixels
from vitrail.data.labels import Labels
from vitrail.data.opening import open_boxes
from vitrail.data.source import Kind, Source
from vitrail.engines.served import Agreement, serve
from vitrail.errors import ConfigError, DataError
from vitrail.layers import boxes as layer
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.models.trunk.detector import Detector
from vitrail.report.scores import Baseline, Score
from vitrail.tasks import finding
from vitrail.tasks.baselines import Features
from vitrail.tasks.finding import Finds, Shown
from vitrail.tasks.found import chapters
from vitrail.tasks.task import Mistaken, Order, Outputs, Scores, in_order, shuffled, worst_and_some
from vitrail.training.device import open_fabric

NAME = "mean average precision"
MOST_WATCHED = 32
# Images of which so much of truth and answers agrees are right.
RIGHT = 0.9
# Test images on the page: the worst, and some evenly from all.
WORST, EXAMPLES = 12, 12
Each = Callable[[int, np.ndarray, layer.Boxes], None]


@dataclass(frozen=True)
class Detection:
    """Finds objects and draws a box around each.

    vitrail fit photos/ --task detection
    vitrail train --set task=detection --set model=resnet_18 --set data=photos/
    """

    several: ClassVar[bool] = False
    maps: ClassVar[bool] = False
    boxes: ClassVar[bool] = True
    outlines: ClassVar[bool] = False
    takes: ClassVar[Kind] = "images"

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the images behind `spec` with their boxes. Raises DataError, and ConfigError where
        what judges boxes is not installed."""
        finding.require()
        return open_boxes(spec)

    def check(self, source: Source) -> None:
        """Raise DataError where images have no boxes."""
        if source.boxes is None:
            raise DataError(
                f"images of {source.origin} have no boxes: give COCO's JSON, Pascal VOC's XML or "
                "YOLO's texts beside them, or leave out --task detection"
            )

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which is a detector. Raises ConfigError for others."""
        if not isinstance(backbone, Detector):
            raise ConfigError(
                f"{type(backbone).__name__} gives one answer an image: take a detector, "
                "model.family=retinanet, fcos, faster_rcnn or mask_rcnn"
            )
        return backbone

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> BoxBatches:
        """Return shuffled batches, augmented with their boxes: targets float32 (b, m, 5)."""
        return shuffled(BoxBatches, order, normal, pixels)

    def watching(self, pixels: Pixels, normal: Normal) -> BoxBatches:
        """Return batches to judge by."""
        return in_order(BoxBatches, MOST_WATCHED, normal, pixels)

    def answers(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Finds:
        """Ask the model about all images: boxes in pixels of each picture."""
        return asked(model, self.watching(images, normal), device)

    def judge(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Finds:
        """Ask a finished model about the test images, and keep some to show."""
        return self.with_shown(self.answers(model, images, normal, device), images)

    def with_shown(self, told: Finds, images: Pixels) -> Finds:
        """Return answers with some images to show: the worst, and others evenly from all."""
        found = finding.matches(told, len(images.classes))
        own = finding.right_shares(found, len(told), finding.best_score(found))
        chosen = worst_and_some(own, WORST, EXAMPLES)
        return replace(told, shown=[_shown(told, images, row) for row in chosen])

    def scores(self, outputs: Outputs) -> Scores:
        """Return COCO's mean average precision, with that at an overlap of 0.5 beside it."""
        told = _finds(outputs)
        found = finding.matches(told, told.classes)
        main = finding.known(finding.mean_precision(found))
        return Scores(main, told.loss, len(told), NAME, {NAME: main, **figures_of(found)})

    def settled(self, labels: Labels, outputs: Outputs) -> Labels:
        """Return the labels with the score from which on answers are shown."""
        told = _finds(outputs)
        return replace(labels, threshold=finding.best_score(finding.matches(told, told.classes)))

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Return the model between pixels and answers, the best of which the file keeps."""
        return serve(model, labels)

    def agreement(self, ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
        """Compare what a detector says at all places: the largest difference."""
        return Agreement(float(np.abs(theirs - ours.float().numpy()).max()), 0)

    def right(self, outputs: Outputs) -> list[bool]:
        """Tell for each image whether nine tenths of its objects and answers agree."""
        told = _finds(outputs)
        found = finding.matches(told, told.classes)
        own = finding.right_shares(found, len(told), finding.best_score(found))
        return (own >= RIGHT).tolist()

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return the mean with its interval over resampled images, and figures of each class."""
        told = _finds(outputs)
        found = finding.matches(told, told.classes)
        main = finding.known(finding.mean_precision(found))
        spread = finding.interval(main, finding.resampled(found, len(told)))
        test = Score(
            accuracy=main, low=spread.low, high=spread.high, n=len(told), name=NAME, loss=told.loss,
            figures=figures_of(found),
        )  # fmt: skip
        return {"test": test, "chapters": chapters(told, found, labels, test, WORST, EXAMPLES)}

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how the same boxes do in every image: of each class its median box."""
        told = _finds(outputs)
        always = replace(told, values=_same_boxes(train, test))
        ours, theirs = (finding.matches(one, told.classes) for one in (told, always))
        value = finding.known(finding.mean_precision(theirs))
        gap = finding.resampled(ours, len(told)) - finding.resampled(theirs, len(told))
        ahead = finding.interval(finding.known(finding.mean_precision(ours)) - value, gap)
        name = "the median box of each class everywhere"
        return [Baseline(name, value, None, len(told), True, ahead)]

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return none: the worst pictures are shown in a chapter of their own."""
        return []

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return the mean with its interval, and that at an overlap of 0.5."""
        test: Score = judged["test"]
        return (
            f"{NAME} {test.accuracy:.1%} on {test.n} test images (95 % interval {test.low:.1%} "
            f"to {test.high:.1%}), {test.figures['at overlap 0.5']:.1%} at an overlap of 0.5"
        )


def _finds(outputs: Outputs) -> Finds:
    assert isinstance(outputs, Finds)
    return outputs


def figures_of(found: Mapping[Any, finding.Matches]) -> dict[str, float]:
    """Return the mean average precision at single overlaps."""
    return {
        "at overlap 0.5": finding.known(finding.mean_precision(found, overlap=0)),
        "at overlap 0.75": finding.known(finding.mean_precision(found, overlap=5)),
    }


def sizes_of(pixels: Pixels) -> np.ndarray:
    """Return (width, height, width, height) of each picture, float64 (N, 4)."""
    sizes = [one.size or (1, 1) for one in finding.truths(pixels)]
    return np.array([(w, h, w, h) for h, w in sizes], np.float64).reshape(-1, 4)


@torch.no_grad()
def asked(
    model: nn.Module, batches: BoxBatches, device: Any, each: Each = lambda row, boxes, found: None
) -> Finds:
    """Return what the model finds in all images; `each` is told of every image by its row: boxes
    (n, 4) in pixels of the picture, and what was found."""
    fabric, pixels = open_fabric(device), batches.pixels
    detector = fabric.to_device(model.eval())
    assert isinstance(detector, Detector)
    found, loss, sizes = [], 0.0, sizes_of(pixels)
    for batch in batches.iterate(0, stop=batches.steps_per_epoch):
        here = batch.to(fabric.device)
        with fabric.autocast():
            raw = detector(here.images)
        terms = detector.losses(raw, here.targets, pixels.image)
        loss += float(terms["loss"]) * len(batch.indices)
        for row, one in zip(batch.indices.tolist(), detector.found(raw), strict=True):
            boxes = one.boxes.cpu().double().numpy() * sizes[row]
            each(row, boxes, one)
            found.append(np.column_stack([boxes, one.scores.cpu(), one.labels.cpu()]))
    truths = Boxes(tuple(finding.truths(pixels)))
    truth = torch.from_numpy(truths.padded(range(len(truths.truths))))
    classes = len(pixels.classes)
    return Finds(padded(found), truth.float(), loss / max(1, len(found)), classes)


def padded(found: Sequence[np.ndarray]) -> Tensor:
    """Pad the answers of images, (n, 6) each, to one tensor whose empty rows have the class -1."""
    out = torch.full((len(found), max(map(len, found), default=0), 6), -1.0)
    for row, own in zip(out, found, strict=True):
        row[: len(own)] = torch.from_numpy(own)
    return out


def _shown(told: Finds, images: Pixels, row: int) -> Shown:
    """Return a test image at the model's size, with its objects and
    what was found in its pixels.
    """
    height, width = images.image
    factor = np.array([width, height, width, height]) / sizes_of(images)[row]
    truth, found = told.targets[row].numpy(), told.values[row].numpy()
    truth, found = truth[truth[:, 4] >= 0], found[found[:, 5] >= 0]
    truth, found = (np.column_stack([one[:, :4] * factor, one[:, 4:]]) for one in (truth, found))
    return Shown(images.keys[row], images.take(np.array([row]))[0], truth, found, row)


def _same_boxes(train: Pixels, test: Pixels) -> Tensor:
    """Answer every test image with the median box of each class in the training images."""
    truths = finding.truths(train)
    shares = np.concatenate([one.as_shares() for one in truths])
    labels = np.concatenate([one.labels for one in truths])
    rows = [
        [*np.median(shares[labels == label], axis=0), (labels == label).mean(), label]
        for label in range(len(train.classes))
        if (labels == label).any()
    ]
    usual = np.array(rows, np.float64).reshape(-1, 6)
    sizes = sizes_of(test)
    return padded([np.column_stack([usual[:, :4] * own, usual[:, 4:]]) for own in sizes])
