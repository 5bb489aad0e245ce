"""One class for every clip of a video: cross entropy, accuracy, calibrated probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from vitrail.data.cache import Pixels
from vitrail.data.clip_pixels import ClipBatches, ClipPixels, MiddleFrames
from vitrail.data.clips import open_clips
from vitrail.data.labels import Labels
from vitrail.data.source import Kind, Sampling, Source
from vitrail.engines.served import serve
from vitrail.errors import ConfigError, DataError
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.models.trunk.backbone import input_kind, input_words
from vitrail.report.filmstrips import Strip, filmstrips
from vitrail.report.scores import Baseline
from vitrail.tasks.baselines import Features
from vitrail.tasks.classification import Classification
from vitrail.tasks.task import Mistaken, Order, Outputs, each_once, in_order, shuffled
from vitrail.tasks.worst import Judged, judged, worst_of

# Frames of a clip where the model does not say how many it takes.
FRAMES = 8
# Clips that are asked about at once.
WATCHED = 16


@dataclass(frozen=True)
class Video(Classification):
    """Tells one of several classes of video clips.

    Shown are `frames` of a clip, every `stride`-th one; 0 frames are as many as the model takes. In
    training the first of them is drawn anew each time, in the race it is the middle of the clip
    that is seen, and the test is judged by the mean of `views` views, evenly from the whole clip.

    vitrail fit clips/ --task video
    vitrail train --set task=video --set model=mvit_b_16x4 --set data=clips/
    """

    takes: ClassVar[Kind] = "clips"

    frames: int = 0
    stride: int = 4
    views: int = 3

    def __post_init__(self) -> None:
        if self.frames < 0 or self.frames == 1:
            raise ConfigError(f"task.frames is {self.frames}: give 2 or more, or 0 for the model's")
        for name in ("stride", "views"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name} is {getattr(self, name)}: give 1 or more")

    @property
    def sampling(self) -> Sampling:
        """Return which frames are shown of a clip."""
        return Sampling(self.frames or FRAMES, self.stride, self.views)

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the clips behind `spec` with their classes. Raises DataError."""
        return open_clips(spec, self.sampling)

    def check(self, source: Source) -> None:
        """Raise DataError for anything but clips."""
        if source.clips is None:
            raise DataError(f"{source.origin} has {source.nouns}, not clips: leave out --task")

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which takes clips. Raises ConfigError for others."""
        if input_kind(backbone.config) != "clips":
            raise ConfigError(
                f"model takes {input_words(backbone.config)}, task video takes clips: take "
                "model=mvit_b_16x4, or any backbone of images"
            )
        return backbone

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> ClipBatches:
        """Return shuffled batches of clips that begin anywhere, augmented."""
        return shuffled(ClipBatches, order, normal, _clips(pixels))

    def watching(self, pixels: Pixels, normal: Normal) -> ClipBatches:
        """Return batches to judge by, of the view that the clips are seen from."""
        return in_order(ClipBatches, WATCHED, normal, _clips(pixels))

    def judge(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Judged:
        """Ask a finished model about the test clips, each seen in `views` views.

        What is returned as logits are those of the mean probability.
        """
        views = self.views
        seen = [
            each_once(self, model, _clips(images).seen_from(view, views), normal, device)
            for view in range(views)
        ]
        shares = torch.stack([one.values.double().softmax(1) for one in seen]).mean(0)
        return judged(Outputs(shares.log().float(), seen[0].targets), images)

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Return the model between uint8 clips and probabilities."""
        return serve(model, labels)

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return what a classification tells, and filmstrips of the worst mistakes."""
        found = dict(super().judged(outputs, labels))
        names = labels.classes
        strips = [
            Strip(one.key, one.shown, names[one.truth], names[one.guess], one.share)
            for one in worst_of(outputs)
        ]
        return found | {"chapters": filmstrips(strips, self.views)}

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how a constant and small models do that see the middle frame alone."""
        middle = MiddleFrames(_clips(train)), MiddleFrames(_clips(test))
        told = super().against(*middle, outputs, labels)
        return [
            one if one.constant else replace(one, name=f"{one.name} of the middle frame")
            for one in told
        ]

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return none: the worst answers are drawn as filmstrips."""
        return []


def _clips(pixels: Pixels) -> ClipPixels:
    assert isinstance(pixels, ClipPixels)
    return pixels
