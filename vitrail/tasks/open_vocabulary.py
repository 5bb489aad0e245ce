"""Objects that sentences ask for: classes are words, so that kinds may be asked for later that no
training picture was annotated with.

Minderer et al., "Simple Open-Vocabulary Object Detection with Vision Transformers", ECCV 2022,
arXiv 2205.06230. A run is chosen and judged by COCO's mean average precision of the classes that it
learned; classes that are `held_out` are asked for in the test alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from torch import Tensor, nn

from vitrail.data.cache import Pixels
from vitrail.data.captions import Captions, captions_of
from vitrail.data.labels import Labels
from vitrail.data.queries import Asking, QueryBatches
from vitrail.data.source import Source
from vitrail.data.words import MOST
from vitrail.engines.served import Agreement
from vitrail.errors import ConfigError, DataError
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.models.owl_vit import OwlViT
from vitrail.report.chapter import Chapter, Column, Paragraph, Table
from vitrail.report.scores import Baseline, Score
from vitrail.tasks import finding
from vitrail.tasks.baselines import Features
from vitrail.tasks.detection import MOST_WATCHED, NAME, Detection, figures_of
from vitrail.tasks.finding import Matches
from vitrail.tasks.image_text import PROMPTS
from vitrail.tasks.pairing import check_prompts, prompted
from vitrail.tasks.queried import Queried, asked, named
from vitrail.tasks.task import Order, Outputs, Scores, in_order, shuffled
from vitrail.units import percent

HELD_OUT = "of held-out classes"
Found = Mapping[tuple[int, str], Matches]


@dataclass(frozen=True)
class OpenVocabulary(Detection):
    """Finds objects that are asked for in words and draws a box around each.

    `tokenizer` is a tokenizer.json; without one a vocabulary of at most `vocabulary` pieces is
    learned from the classes in their `prompts`, whose `{}` is the name. No picture is asked for
    classes that are `held_out`, and their boxes are not learned from. With `federated` a picture is
    asked for what it is known to show or not to show, and for up to `least` other classes, `most`
    in all; else for every class, as if all of them had been looked for. With `mosaics` up to nine
    pictures lie side by side.

    vitrail train --set task=open_vocabulary --set model=owlvit_b32 --set data=photos/
    """

    tokenizer: str | None = None
    vocabulary: int = MOST
    prompts: tuple[str, ...] = PROMPTS
    held_out: tuple[str, ...] = ()
    federated: bool = True
    least: int = 50
    most: int = 100
    mosaics: bool = False

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        if self.least < 0 or self.most < 1:
            raise ConfigError(
                f"least is {self.least} and most {self.most}: give 0 or more, and 1 or more classes"
            )

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the images behind `spec` with their boxes, and what these show in words.

        Raises DataError, and ConfigError where what judges boxes is not installed.
        """
        source = super().source(spec, progress=progress)
        learned = self.learned(source.classes)
        assert source.boxes is not None
        said = [prompted(name, self.prompts) for name in source.classes]
        texts = [
            tuple(text for kind in one.classes if learned[kind] for text in said[kind])
            for one in source.boxes.truths
        ]
        return replace(source, captions=Captions(texts))

    def learned(self, classes: Sequence[str]) -> np.ndarray:
        """Return which classes are learned, bool (K,). Raises ConfigError for held-out ones that
        the data do not have, and where none is left."""
        for name in self.held_out:
            if name not in classes:
                raise ConfigError(
                    f"held_out has {name!r}, which the data do not: give some of "
                    f"{', '.join(classes[:20])}"
                )
        found = np.array([name not in self.held_out for name in classes])
        if not found.any():
            raise ConfigError("held_out has all classes: leave some to learn")
        return found

    def check(self, source: Source) -> None:
        """Raise DataError where images have no boxes."""
        if source.boxes is None or source.captions is None:
            raise DataError(
                f"images of {source.origin} have no boxes: give COCO's JSON, Pascal VOC's XML or "
                "YOLO's texts beside them, or a table of boxes"
            )

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which is asked in words. Raises ConfigError for others."""
        if not isinstance(backbone, OwlViT):
            raise ConfigError(
                f"{type(backbone).__name__} is not asked in words: name an OWL-ViT, as "
                "model=owlvit_b32 or model=owlv2_b16"
            )
        return backbone

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> QueryBatches:
        """Return shuffled batches, augmented with their boxes, and what each image is asked for."""
        return shuffled(QueryBatches, order, normal, pixels, self._asking(pixels))

    def watching(self, pixels: Pixels, normal: Normal) -> QueryBatches:
        """Return batches to judge by: every image once, asked for all classes that are learned."""
        return in_order(QueryBatches, MOST_WATCHED, normal, pixels, self._asking(pixels))

    def answers(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Queried:
        """Ask the model about all images: boxes in pixels of each picture."""
        learned, batches = self.learned(images.classes), self.watching(images, normal)
        queries = named(cast(OwlViT, model), images, self.prompts, device)
        return asked(cast(OwlViT, model), batches, queries, learned, device)

    def scores(self, outputs: Outputs) -> Scores:
        """Return COCO's mean average precision of the classes that are learned, with that at an
        overlap of 0.5 beside it."""
        told = cast(Queried, outputs)
        found = _of(finding.matches(told, told.classes), told.known)
        main = finding.known(finding.mean_precision(found))
        return Scores(main, told.loss, len(told), NAME, {NAME: main, **figures_of(found)})

    def settled(self, labels: Labels, outputs: Outputs) -> Labels:
        """Return the labels with the score from which on answers are shown."""
        told = cast(Queried, outputs)
        found = _of(finding.matches(told, told.classes), told.known)
        return replace(labels, threshold=finding.best_score(found))

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return the mean with its interval over resampled images, figures of each class, and the
        mean of classes that were held out."""
        told = cast(Queried, outputs)
        found = finding.matches(told, told.classes)
        known, others = _of(found, told.known), _without(found, told.known)
        main = finding.known(finding.mean_precision(known))
        spread = finding.interval(main, finding.resampled(known, len(told)))
        figures = figures_of(known)
        if others:
            mean = finding.known(finding.mean_precision(others))
            figures |= {
                HELD_OUT: mean,
                f"{HELD_OUT} at overlap 0.5": finding.known(
                    finding.mean_precision(others, overlap=0)
                ),
            }
        whole = super().judged(outputs, labels)
        test = replace(
            whole["test"], accuracy=main, low=spread.low, high=spread.high, figures=figures
        )
        added = [_held_out(others, labels.classes, main)] if others else []
        return {"test": test, "chapters": [*added, *whole["chapters"]]}

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how the same boxes do in every image, where no class is held out: of each class
        its median box."""
        if self.held_out:
            return []
        return super().against(train, test, outputs, labels, features)

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return the mean with its interval, that at an overlap of 0.5, and that of held-out
        classes where there are some."""
        test: Score = judged["test"]
        own = test.figures.get(HELD_OUT)
        return super().sentence(judged) + ("" if own is None else f"; {HELD_OUT} {own:.1%}")

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Raise ConfigError: classes are known when they are asked for, not when a file is made."""
        _no_file()

    def agreement(self, ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
        """Raise ConfigError, as there is no file."""
        _no_file()

    def _asking(self, pixels: Pixels) -> Asking:
        words, learned = captions_of(pixels).words, self.learned(pixels.classes)
        some = [prompted(name, self.prompts) for name in pixels.classes]
        # A name with its own article has fewer sentences, which are then asked more often.
        said = [own[at % len(own)] for own in some for at in range(len(self.prompts))]
        ids = words(said).reshape(len(some), len(self.prompts), -1)
        return Asking(ids, learned, self.federated, self.least, self.most, self.mosaics)


def _of(found: Found, known: Sequence[int]) -> Found:
    return {key: one for key, one in found.items() if key[0] in known}


def _without(found: Found, known: Sequence[int]) -> Found:
    return {key: one for key, one in found.items() if key[0] not in known}


def _held_out(found: Found, classes: Sequence[str], known: float) -> Chapter:
    """Return the chapter on classes of which no box was learned from."""
    rows: list[list[str | float]] = []
    for (label, size), one in found.items():
        if size == "all" and one.objects.sum():
            precision = one.precision()
            rows.append([
                classes[label], f"{int(one.objects.sum()):,}", percent(float(precision.mean())),
                percent(float(precision[0].mean())),
            ])  # fmt: skip
    mean = finding.known(finding.mean_precision(found))
    text = (
        "No training picture was asked for these classes, and their boxes were not learned from: "
        "the name alone asks for them. Their mean average precision is "
        f"{percent(mean)}, that of the classes that were learned {percent(known)}."
    )
    columns = [
        Column("class"), Column("objects", "number"), Column("average precision", "number"),
        Column("at 0.5", "number"),
    ]  # fmt: skip
    return Chapter("Classes that were held out", [Paragraph(text), Table(columns, rows)])


def _no_file() -> NoReturn:
    raise ConfigError(
        "a run that is asked in words makes no file for engines: ask it by `vitrail detect IMAGES "
        "--weights RUN --for 'a sleeve'`"
    )
