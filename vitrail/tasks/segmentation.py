"""One class for every pixel: cross entropy without ignored pixels, mean intersection over union.

A run is chosen by masks at the model's size, and judged, once, at the size of each test image: the
scores are enlarged to it, as the exported file does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.cache import Pixels
from vitrail.data.labels import Labels
from vitrail.data.mask_batches import MaskBatches
from vitrail.data.mask_pixels import mask_pixels, whole
from vitrail.data.masks import IGNORE, resized
from vitrail.data.opening import open_masks
from vitrail.data.source import Kind, Source
from vitrail.engines.masks import likeliest
from vitrail.engines.served import Agreement, same_answers, serve
from vitrail.errors import ConfigError, DataError
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.models.trunk.dense import Dense
from vitrail.report.scores import Baseline, Score
from vitrail.report.segmentation import MapRow, PictureOfMask, pixel_by_pixel
from vitrail.tasks import maps
from vitrail.tasks.baselines import Features
from vitrail.tasks.maps import Maps, Shown
from vitrail.tasks.task import (
    Mistaken,
    Order,
    Outputs,
    Scores,
    apart,
    in_order,
    shuffled,
    worst_and_some,
)
from vitrail.training.device import open_fabric

NAME = "mean intersection over union"
# Scores of so many pixels and classes are held at once.
HELD = 1 << 25
MOST_WATCHED = 64
# Test images on the page: the worst, and some evenly from all.
WORST, EXAMPLES = 12, 12


@dataclass(frozen=True)
class Segmentation:
    """Tells the class of every pixel.

    vitrail fit photos/ --task segmentation
    vitrail train --set task=segmentation --set model=seg_t_mask_16 --set data=photos/
    """

    several: ClassVar[bool] = False
    maps: ClassVar[bool] = True
    boxes: ClassVar[bool] = False
    takes: ClassVar[Kind] = "images"

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the images behind `spec` with their masks. Raises DataError."""
        return open_masks(spec, progress=progress)

    def check(self, source: Source) -> None:
        """Raise DataError where images have no masks."""
        if source.masks is None:
            raise DataError(
                f"images of {source.origin} have no masks: give images/ and masks/ with one PNG of "
                "indices for each image, or leave out --task segmentation"
            )

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which has a head of maps. Raises ConfigError for others."""
        if not isinstance(backbone, Dense):
            raise ConfigError(
                f"{type(backbone).__name__} gives one answer an image: take a network of maps, as "
                "`vitrail list --dense` shows them"
            )
        return backbone

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> MaskBatches:
        """Return shuffled batches, augmented with their masks: targets int64 (b, H, W)."""
        return shuffled(MaskBatches, order, normal, pixels, mask_pixels(pixels.part, pixels.image))

    def watching(self, pixels: Pixels, normal: Normal) -> MaskBatches:
        """Return batches to judge by, as large as their scores allow."""
        held = len(pixels.classes) * pixels.image[0] * pixels.image[1]
        return in_order(
            MaskBatches,
            max(1, min(MOST_WATCHED, HELD // held)),
            normal,
            pixels,
            mask_pixels(pixels.part, pixels.image),
        )

    def answers(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Maps:
        """Ask the model about all images and count the pixels of each class."""
        return _asked(model, self.watching(images, normal), device)

    def judge(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Maps:
        """Ask a finished model about the test images at their own size, and keep some to show."""
        batches = self.watching(images, normal)
        told = _asked(model, batches, device, images)
        own = maps.mean_overlap(told.values)
        chosen = worst_and_some(own.numpy(), WORST, EXAMPLES)
        shown = _shown(model, batches, device, {row: float(own[row]) for row in chosen})
        return Maps(told.values, told.targets, told.loss, told.confusion, shown)

    def scores(self, outputs: Outputs) -> Scores:
        """Return mean intersection over union, with pixel accuracy beside it."""
        told = _maps(outputs)
        main = float(maps.mean_overlap(told.values.sum(0)))
        figures = {NAME: main, "pixel accuracy": maps.pixel_accuracy(told.values)}
        return Scores(main, told.loss, len(told), NAME, figures)

    def settled(self, labels: Labels, outputs: Outputs) -> Labels:
        """Return the labels as they are: the likeliest class is the answer."""
        return labels

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Return the model between pixels and scores, which the file turns into a mask."""
        return serve(model, labels)

    def agreement(self, ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
        """Compare scores (B, K, H, W): the largest difference."""
        return same_answers(ours, theirs, labels)

    def right(self, outputs: Outputs) -> list[bool]:
        """Tell for each image whether nine of ten of its pixels are right."""
        return maps.mostly_right(outputs.values)

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return the mean with its interval over resampled images, and figures of each class."""
        told = _maps(outputs)
        total = told.values.sum(0)
        test = maps.overlap_score(told, name=NAME, figure="pixel accuracy")
        images = (told.targets > 0).sum(0).tolist()
        rows = [
            MapRow(name, n, *figures)
            for name, n, figures in zip(labels.classes, images, maps.per_class(total), strict=True)
        ]
        drawn = [_drawn(one) for one in told.shown]
        worst, examples = apart(drawn, lambda one: one.overlap, WORST, EXAMPLES)
        chapters = pixel_by_pixel(rows, test, told.confusion.tolist(), examples, worst)
        return {"test": test, "chapters": chapters}

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how the most frequent class does, everywhere and at each position."""
        told, resampled = _maps(outputs), maps.Resampled(len(outputs))
        spread, ours = resampled.means(told.values), float(maps.mean_overlap(told.values.sum(0)))
        frequent, places = _frequencies(train, len(labels.classes))
        usual = maps.of_constant(told.values, frequent)
        found = []
        for name, constant, counts in (
            (f"always {labels.classes[frequent]!r}", True, usual),
            ("most frequent class at each position", False, _placed(places, test, labels)),
        ):
            value = float(maps.mean_overlap(counts.sum(0)))
            ahead = maps.interval(ours - value, spread - resampled.means(counts))
            found.append(Baseline(name, value, None, len(told), constant, ahead))
        return found

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return none: the worst masks are shown in a chapter of their own."""
        return []

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return the mean with its interval, and pixel accuracy."""
        test: Score = judged["test"]
        return (
            f"{NAME} {test.accuracy:.1%} on {test.n} test images (95 % interval {test.low:.1%} "
            f"to {test.high:.1%}), {test.figures['pixel accuracy']:.1%} of pixels right"
        )


def _maps(outputs: Outputs) -> Maps:
    assert isinstance(outputs, Maps)
    return outputs


@torch.no_grad()
def _asked(model: nn.Module, batches: MaskBatches, device: Any, own: Pixels | None = None) -> Maps:
    """Count the pixels of all images; at the images' own sizes where these are given by `own`."""
    fabric, classes = open_fabric(device), batches.classes
    fabric.to_device(model.eval())
    values, table = [], torch.zeros(classes, classes, dtype=torch.int64)
    loss, labelled = 0.0, 0
    for batch in batches.iterate(0, stop=batches.steps_per_epoch):
        with fabric.autocast():
            scores = model(batch.to(fabric.device).images).float().cpu()
        total = F.cross_entropy(scores, batch.targets, ignore_index=IGNORE, reduction="sum")
        loss, labelled = loss + float(total), labelled + int((batch.targets != IGNORE).sum())
        pairs = [(scores.argmax(1), batch.targets)]
        if own is not None:
            truths = [
                torch.from_numpy(whole(own.part, row))[None] for row in batch.indices.tolist()
            ]
            pairs = [
                (likeliest(one[None], (truth.shape[1], truth.shape[2])), truth)
                for one, truth in zip(scores, truths, strict=True)
            ]
        for answers, truth in pairs:
            counts, confusion = maps.counted(answers, truth, classes)
            values.append(counts)
            table += confusion
    found = torch.cat(values)
    return Maps(found, found[:, maps.TRUE], loss / max(1, labelled), table)


@torch.no_grad()
def _shown(
    model: nn.Module, batches: MaskBatches, device: Any, chosen: Mapping[int, float]
) -> list[Shown]:
    """Return the chosen rows with truth and answer, at the model's size."""
    fabric, pixels, found = open_fabric(device), batches.pixels, []
    images = pixels.take(np.array([*chosen]))
    for (row, overlap), image in zip(chosen.items(), images, strict=True):
        x = torch.from_numpy(batches.normalised(image[None])).permute(0, 3, 1, 2)
        with fabric.autocast():
            answer = model(x.to(fabric.device)).argmax(1)[0].cpu().numpy().astype(np.uint8)
        truth = resized(whole(pixels.part, row), pixels.image)
        found.append(Shown(pixels.keys[row], image, truth, answer, overlap))
    return found


def _drawn(one: Shown) -> PictureOfMask:
    return PictureOfMask(one.image, one.truth, one.answer, one.overlap, one.key)


def _frequencies(train: Pixels, classes: int) -> tuple[int, np.ndarray]:
    """Return the most frequent class of the training masks, and that of each position (H, W)."""
    masks = mask_pixels(train.part, train.image)
    counts = np.zeros((classes, *train.image), np.int64)
    for start in range(0, len(masks), 256):
        block = masks.take(np.arange(start, min(start + 256, len(masks))))
        for label in range(classes):
            counts[label] += (block == label).sum(0)
    return int(counts.sum((1, 2)).argmax()), counts.argmax(0).astype(np.uint8)


def _placed(places: np.ndarray, test: Pixels, labels: Labels) -> Tensor:
    """Return the counts of one mask for all test images, each at its own size."""
    found = []
    for row in range(len(test)):
        truth = whole(test.part, row)
        said = torch.from_numpy(resized(places, truth.shape))[None]
        found.append(maps.counted(said, torch.from_numpy(truth)[None], len(labels.classes))[0])
    return torch.cat(found)
