"""One class for every point of a lidar scan: range images in, mean intersection over union.

A training sees crops of range images; whole scans are answered in overlapping windows, and points
by the network's own refiner, or by a vote of pixels. Where the test part is judged and what an
exported file answers is one path (`data.lidar.reader`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data.labels import Labels
from vitrail.data.lidar.batches import Crop, Moves, ScanBatches
from vitrail.data.lidar.folder import ScanSource, open_scans
from vitrail.data.lidar.projection import ByScan, Spherical
from vitrail.data.lidar.reader import Network, Reader
from vitrail.data.lidar.scans import Scans
from vitrail.data.source import Kind, Source
from vitrail.engines.served import Agreement
from vitrail.errors import ConfigError, DataError
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.models.rangevit import RangeViT
from vitrail.report.lidar import ClassOfPoints, point_by_point
from vitrail.report.scores import Baseline, Score
from vitrail.tasks import maps
from vitrail.tasks.baselines import Features
from vitrail.tasks.by_height import by_height
from vitrail.tasks.scan_answers import (
    Asked,
    ScanMaps,
    counted,
    in_torch,
    points_of,
    scan_maps,
    shown_of,
)
from vitrail.tasks.task import Mistaken, Order, Outputs, Scores, worst_and_some
from vitrail.training.device import open_fabric

NAME = "mean intersection over union"
# Scans on the page: the worst, and some evenly from all.
WORST, EXAMPLES = 3, 3


@dataclass(frozen=True)
class FromData:
    """The projection that the data tell: their sensor's, or one that all scans fit on."""


_MOVES = Moves()


@dataclass(frozen=True)
class Lidar:
    """Tells the class of every point of a scan.

    A network that refines points sees the `neighbours` of each, itself among them; 0 where it
    answers for pixels, of which then `voters` of the `window` x `window` around a point decide.
    `stride` is from one window to the next in pixels, 0 for two thirds of a window.

        vitrail train --set task=lidar --set model=rangevit_s_nuscenes --set data=scans/
    """

    several: ClassVar[bool] = False
    maps: ClassVar[bool] = False
    boxes: ClassVar[bool] = False
    takes: ClassVar[Kind] = "scans"

    projection: FromData | Spherical | ByScan = FromData()
    moves: Moves = _MOVES
    neighbours: int = 7
    stride: int = 0
    voters: int = 5
    window: int = 13

    def __post_init__(self) -> None:
        if self.stride < 0 or self.neighbours < 0 or self.voters < 1:
            raise ConfigError(
                f"stride is {self.stride}, neighbours {self.neighbours} and voters {self.voters}: "
                "expected 0 or more, and at least 1 voter"
            )
        if self.window < 1 or self.window % 2 == 0:
            raise ConfigError(f"window is {self.window}: expected an odd number of pixels")

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the scans behind `spec` with their labels. Raises DataError."""
        return open_scans(spec)

    def check(self, source: Source) -> None:
        """Raise DataError where there are no scans."""
        if not isinstance(source, ScanSource):
            raise DataError(f"{source.origin} has no lidar scans: leave out task=lidar")

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which answers for points or pixels. Raises ConfigError."""
        if not isinstance(backbone, RangeViT):
            raise ConfigError(
                f"{type(backbone).__name__} reads no range images: take a network of scans, as "
                "model=rangevit_s_nuscenes"
            )
        return backbone

    def reader(self, width: int, normal: Normal) -> Reader:
        """Return how whole scans are read, with windows of `width` pixels. Raises ConfigError."""
        if isinstance(self.projection, FromData):
            raise ConfigError("task.projection is not decided: name one, or train on data first")
        stride = min(width, self.stride or max(1, 2 * width // 3))
        return Reader(
            self.projection, width, stride, normal.mean, normal.std, self.voters, self.window
        )

    def training(self, pixels: Any, normal: Normal, order: Order) -> ScanBatches:
        """Return shuffled batches of crops, scans moved before they are projected."""
        crop = Crop(self.neighbours, normal.mean, normal.std, self.moves)
        return ScanBatches(pixels, crop, batch=order.batch, seed=order.seed)

    def watching(self, pixels: Any, normal: Normal) -> ScanBatches:
        """Return batches of one crop a scan, as it is."""
        return ScanBatches(pixels, Crop(self.neighbours, normal.mean, normal.std), batch=1)

    def answers(self, model: nn.Module, images: Any, normal: Normal, device: Any) -> ScanMaps:
        """Ask the model about all scans, whole, and count the points of each class."""
        return self._asked(model, images, normal, device).maps

    def judge(self, model: nn.Module, images: Any, normal: Normal, device: Any) -> ScanMaps:
        """Ask a finished model about the test scans, and keep some to show."""
        return self.shown(self._asked(model, images, normal, device), images)

    def answered(self, network: Network, scans: Scans, normal: Normal) -> ScanMaps:
        """Do as `judge`, asking a network as functions of arrays, such as an exported one."""
        reader = self.reader(scans.image[1], normal)
        asked = counted(scans, lambda at: reader.answer(*points_of(scans, at), network))
        return self.shown(asked, scans)

    def shown(self, asked: Asked, images: Scans) -> ScanMaps:
        """Return what was answered, with the worst scans and some evenly to show."""
        own = maps.mean_overlap(asked.maps.values)
        chosen = worst_and_some(own.numpy(), WORST, EXAMPLES)
        shown = [shown_of(images, at, asked.labels[at], float(own[at])) for at in chosen]
        return replace(asked.maps, scans=shown)

    def _asked(self, model: nn.Module, scans: Scans, normal: Normal, device: Any) -> Asked:
        fabric = open_fabric(device)
        fabric.to_device(model.eval())
        network = in_torch(model, fabric.device, self.neighbours)
        reader = self.reader(scans.image[1], normal)
        return counted(scans, lambda at: reader.answer(*points_of(scans, at), network))

    def scores(self, outputs: Outputs) -> Scores:
        """Return mean intersection over union, with the share of right points beside it."""
        told = scan_maps(outputs)
        main = float(maps.mean_overlap(told.values.sum(0)))
        figures = {NAME: main, "point accuracy": maps.pixel_accuracy(told.values)}
        return Scores(main, told.loss, len(told), NAME, figures)

    def settled(self, labels: Labels, outputs: Outputs) -> Labels:
        """Return the labels as they are: the likeliest class is the answer."""
        return labels

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Return the network between projection and points, which is what is exported."""
        return model.network  # pyright: ignore[reportReturnType]

    def agreement(self, ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
        """Compare scores of points (N, K): the largest difference, and how many classes differ."""
        other = torch.from_numpy(theirs)
        changed = int((ours.argmax(1) != other.argmax(1)).sum())
        return Agreement(float((ours - other).abs().max()), changed)

    def right(self, outputs: Outputs) -> list[bool]:
        """Tell for each scan whether nine of ten of its points are right."""
        return maps.mostly_right(outputs.values)

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return the mean with its interval over resampled scans, and figures of each class."""
        told = scan_maps(outputs)
        total = told.values.sum(0)
        test = maps.overlap_score(told, name=NAME, figure="point accuracy")
        scans = (told.targets > 0).sum(0).tolist()
        rows = [
            ClassOfPoints(name, n, *figures)
            for name, n, figures in zip(labels.classes, scans, maps.per_class(total), strict=True)
        ]
        chapters = point_by_point(rows, told.confusion.tolist(), told.scans, labels.classes)
        return {"test": test, "chapters": chapters}

    def against(
        self,
        train: Any,
        test: Any,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how a constant and the usual class at each height and range do."""
        told = scan_maps(outputs)
        resampled = maps.Resampled(len(told))
        spread, ours = resampled.means(told.values), float(maps.mean_overlap(told.values.sum(0)))
        frequent, placed = by_height(train)
        counts = counted(test, lambda at: placed(test.scan(at))).maps.values
        found = []
        for name, constant, values in (
            (f"always {labels.classes[frequent]!r}", True,
             maps.of_constant(told.values, frequent)),
            ("most frequent class at each height and range", False, counts),
        ):  # fmt: skip
            value = float(maps.mean_overlap(values.sum(0)))
            ahead = maps.interval(ours - value, spread - resampled.means(values))
            found.append(Baseline(name, value, None, len(told), constant, ahead))
        return found

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return none: the worst scans are shown in a chapter of their own."""
        return []

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return the mean with its interval, and the share of right points."""
        test: Score = judged["test"]
        return (
            f"{NAME} {test.accuracy:.1%} on {test.n} test scans (95 % interval {test.low:.1%} to "
            f"{test.high:.1%}), {test.figures['point accuracy']:.1%} of points right"
        )
