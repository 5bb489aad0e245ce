"""One class for every time series: cross entropy, accuracy, calibrated probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from vitrail.data.cache import Pixels
from vitrail.data.labels import Labels
from vitrail.data.series import open_series
from vitrail.data.series_pixels import SeriesBatches, standardised
from vitrail.data.source import Kind, Source
from vitrail.engines.served import serve
from vitrail.errors import ConfigError, DataError
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.models.trunk.backbone import input_kind, input_words
from vitrail.report.curves import Curve, curves
from vitrail.report.scores import Baseline
from vitrail.tasks.baselines import Features
from vitrail.tasks.classification import Classification, baseline
from vitrail.tasks.series_baselines import nearest, usual
from vitrail.tasks.task import Mistaken, Order, Outputs, each_once, in_order
from vitrail.tasks.whole_images import WATCHED
from vitrail.tasks.worst import Judged, judged, worst_of


@dataclass(frozen=True)
class Series(Classification):
    """Tells one of several classes of time series.

    vitrail fit vowels/ --task series
    vitrail train --set task=series --set model=ea_dc --set data=vowels/
    """

    takes: ClassVar[Kind] = "series"

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """Read the series behind `spec` with their classes. Raises DataError."""
        return open_series(spec)

    def check(self, source: Source) -> None:
        """Raise DataError for what is not a series."""
        if source.series is None:
            raise DataError(f"{source.origin} has {source.nouns}, not series: leave out --task")

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which takes series. Raises ConfigError for others."""
        if input_kind(backbone.config) != "series":
            raise ConfigError(
                f"model takes {input_words(backbone.config)}, task series takes series: take "
                "model=ea_dc"
            )
        return backbone

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> SeriesBatches:
        """Return shuffled batches; series are shown as they are."""
        return SeriesBatches(
            pixels, batch=order.batch, seed=order.seed, mean=normal.mean, std=normal.std
        )

    def watching(self, pixels: Pixels, normal: Normal) -> SeriesBatches:
        """Return batches to judge by."""
        return in_order(SeriesBatches, WATCHED, normal, pixels)

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Return the model between raw numbers and probabilities."""
        return serve(model, labels)

    def judge(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Judged:
        """Ask a finished model about the test series, and keep its worst mistakes."""
        return judged(each_once(self, model, images, normal, device), images)

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return what a classification tells, and curves of the worst mistakes."""
        names = labels.classes
        drawn = [
            Curve(one.key, one.shown, names[one.truth], names[one.guess], one.share)
            for one in worst_of(outputs)
        ]
        return {**super().judged(outputs, labels), "chapters": curves(drawn)}

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how the usual class does, and the class of the nearest training series."""
        truth, ours = outputs.targets.numpy(), self.right(outputs)
        known, asked = (
            standardised(some.take(np.arange(len(some))), labels.mean, labels.std)
            for some in (train, test)
        )
        name = labels.classes[usual(train.labels)]
        told = [
            (f"always {name!r}", True, np.full(len(truth), usual(train.labels))),
            ("nearest training series", False, train.labels[nearest(known, asked)]),
        ]
        return [baseline(name, constant, said, truth, ours) for name, constant, said in told]

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return none: the worst answers are drawn as curves."""
        return []
