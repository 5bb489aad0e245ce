"""Clips, sounds and sentences: which sound and which sentence a clip has, which clip they mean.

A run is chosen by recall at 1 of clips that are asked for, by sentences and by sounds: nothing is
learned for the clips that are searched, so it is zero-shot. Where the data name classes, zero-shot
accuracy stands beside it. Akbari et al., "VATT", NeurIPS 2021, arXiv 2104.11178.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

import numpy as np
from torch import Tensor, nn

from vitrail.data.captioned import ALL
from vitrail.data.captions import captions_of
from vitrail.data.clip_pixels import ClipBatches, ClipPixels
from vitrail.data.clip_table import Sounding, open_clip_table
from vitrail.data.clip_triples import Beside, TripleBatches
from vitrail.data.labels import Labels
from vitrail.data.source import Kind, Sampling, Source
from vitrail.data.words import MOST
from vitrail.engines.served import Agreement
from vitrail.errors import ConfigError, DataError
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.models.trunk.backbone import input_kind
from vitrail.report.scores import Baseline
from vitrail.tasks.baselines import Features
from vitrail.tasks.meeting import Clips, Meetings, embedded, with_sentences, with_sounds
from vitrail.tasks.pairing import check_prompts, in_words, ranks
from vitrail.tasks.task import Mistaken, Order, Outputs, Scores, in_order, shuffled
from vitrail.training.evaluate import predict

NAME = "recall at 1"
PROMPTS = ("{}", "a video of {}")
WATCHED = 16
WAYS = ("text to clip", "sound to clip")


@dataclass(frozen=True)
class MultiModal:
    """Finds the clip that a sentence or a sound means, and what a clip has of both.

    A view of a clip has every `stride`-th frame, its sound is heard at `rate` hertz, 0 for what
    most sounds have; `frames` and `samples` are the model's. Of the sentences of a clip up to
    `candidates` are compared at a time; sounds are learned from under `noise`. A vocabulary is
    learned, or is the file `tokenizer`, and classes are asked for in `prompts`.

        vitrail train --set task=multimodal --set model=vatt_bbs --set data=clips.csv
    """

    several: ClassVar[bool] = False
    maps: ClassVar[bool] = False
    boxes: ClassVar[bool] = False
    takes: ClassVar[Kind] = "clips"

    frames: int = 0
    stride: int = 2
    samples: int = 0
    rate: int = 0
    candidates: int = 5
    noise: float = 0.01
    tokenizer: str | None = None
    vocabulary: int = MOST
    prompts: tuple[str, ...] = PROMPTS

    def __post_init__(self) -> None:
        if self.stride < 1 or min(self.frames, self.samples, self.rate) < 0:
            raise ConfigError(
                f"task is stride={self.stride}, frames={self.frames}, samples={self.samples}, "
                f"rate={self.rate}: give a stride of 1 or more, and no number below 0"
            )
        Beside(self.candidates, self.noise)
        check_prompts(self.prompts, "a video of {}")

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the clips behind `spec` with their sounds and sentences. Raises DataError."""
        return open_clip_table(
            spec, Sampling(self.frames, self.stride), Sounding(self.samples, self.rate)
        )

    def check(self, source: Source) -> None:
        """Raise DataError where there is no table of clips."""
        if source.clips is None or source.tracks is None or source.captions is None:
            raise DataError(
                f"{source.origin} lists no clips: give a table of clip, sound and sentence"
            )

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which has a tower of each. Raises ConfigError for others."""
        if input_kind(backbone.config) != "triples":
            raise ConfigError(
                f"{type(backbone).__name__} reads no sounds or sentences beside clips: take "
                "model=vatt_bbs"
            )
        return backbone

    def training(self, pixels: Any, normal: Normal, order: Order) -> TripleBatches:
        """Return shuffled batches of clips that begin anywhere, with what goes beside them."""
        return shuffled(TripleBatches, order, normal, pixels, Beside(self.candidates, self.noise))

    def watching(self, pixels: Any, normal: Normal) -> ClipBatches:
        """Return batches to judge by: the middle of every clip once, with its class."""
        return in_order(ClipBatches, WATCHED, normal, pixels)

    def answers(self, model: Any, images: Any, normal: Normal, device: Any) -> Meetings:
        """Embed all clips, their sounds and sentences, and the classes in words."""
        clips, towers = cast(ClipPixels, images), model.config.towers
        values, targets = predict(Clips(model).eval(), self.watching(clips, normal), device=device)
        # Sounds are met in the fine space, sentences in the coarse one.
        fine, coarse = values.tensor_split([model.config.spaces.fine], 1)
        sound = None
        if "audio" in towers:
            sound = with_sounds(model, fine, targets, clips, device)
        text, captions = None, captions_of(clips)
        if "text" in towers:

            def embed(sentences: list[str]) -> Tensor:
                return embedded(model, "text", captions.words(sentences), device)

            text = with_sentences(coarse, targets, captions.of(clips.part.rows), embed)
            if text is not None and clips.classes != (ALL,):
                text = replace(text, asked=in_words(clips.classes, self.prompts, embed))
        return Meetings(values, targets, text, sound)

    def judge(self, model: nn.Module, images: Any, normal: Normal, device: Any) -> Meetings:
        """Do as `answers`: test clips are judged at the model's size."""
        return self.answers(model, images, normal, device)

    def scores(self, outputs: Outputs) -> Scores:
        """Return recall at 1 of clips, the mean of those asked for by sentences and by sounds."""
        met = cast(Meetings, outputs)
        told = met.figures
        first = [told[f"{way}, {NAME}"] for way in WAYS if f"{way}, {NAME}" in told]
        main = sum(first) / len(first) if first else 0.0
        return Scores(main, met.loss, len(met), NAME, told)

    def settled(self, labels: Labels, outputs: Outputs) -> Labels:
        """Return the labels as they are: cosines decide, and no threshold."""
        return labels

    def right(self, outputs: Outputs) -> list[bool]:
        """Tell for each clip whether the first sentence, or sound, that it finds is its own."""
        met = cast(Meetings, outputs)
        pairs = met.text or met.sound
        assert pairs is not None
        return (ranks(pairs.values, pairs.texts, pairs.own) == 1).tolist()

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return the figures of the test split by their names."""
        return dict(self.scores(outputs).figures)

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return how often the first clip that is found is right, and zero-shot accuracy."""
        told = [
            f"{judged[f'{way}, {NAME}']:.1%} asked for by a {way.partition(' ')[0]}"
            for way in WAYS
            if f"{way}, {NAME}" in judged
        ]
        said = f"of the clips found first right are {' and '.join(told)}".replace("a text", "text")
        shot = judged.get("zero-shot accuracy")
        return said if shot is None else f"{said}; zero-shot accuracy {shot:.1%}"

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return none: what is found is shown in a chapter of its own."""
        return []

    def against(
        self, train: Any, test: Any, outputs: Outputs, labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:  # fmt: skip
        """Return none: random order is what the page compares with."""
        return []

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Raise ConfigError: what is asked is known when somebody asks, not when a file is made."""
        _no_file()

    def agreement(self, ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
        """Raise ConfigError, as there is no file."""
        _no_file()


def _no_file() -> NoReturn:
    raise ConfigError(
        "a run of clips, sounds and sentences makes no file for engines: fine-tune a network of "
        "clips from it by --set pretrained=RUN, and export that"
    )
