"""Images and sentences: which sentence an image has, which image a sentence means.

A run is chosen by recall at 1, the mean of both directions. Where the data name classes, zero-shot
accuracy stands beside it: classes are asked for in sentences, and no label is learned from. Zhai et
al., "LiT: Zero-Shot Transfer with Locked-image text Tuning", CVPR 2022, arXiv 2111.07991.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data.batches import Batches
from vitrail.data.cache import Pixels
from vitrail.data.captioned import ALL, open_captions
from vitrail.data.captions import CaptionBatches, captions_of
from vitrail.data.labels import Labels
from vitrail.data.source import Kind, Source
from vitrail.data.words import MOST, Words
from vitrail.engines.served import Agreement
from vitrail.errors import ConfigError, DataError
from vitrail.layers.normal import Normal
from vitrail.layers.pairs import softmax_loss
from vitrail.models import Backbone
from vitrail.models.lit import LiT
from vitrail.report.scores import Baseline
from vitrail.tasks.baselines import Features
from vitrail.tasks.pairing import Pairs, check_prompts, figures, in_words, ranks
from vitrail.tasks.task import Mistaken, Order, Outputs, Scores, in_order, shuffled
from vitrail.training.device import open_fabric
from vitrail.training.evaluate import predict

NAME = "recall at 1"
PROMPTS = ("{}", "a {}", "a photo of a {}", "a picture of a {}")
WATCHED = 64
# The loss is told of so many pairs, as in one batch.
IN_LOSS = 256


@dataclass(frozen=True)
class ImageText:
    """Finds the sentence of an image and the image of a sentence.

    `tokenizer` is a tokenizer.json; without one a vocabulary of at most `vocabulary` pieces is
    learned from the training sentences. Classes are asked for in `prompts`, whose `{}` is the name.

    vitrail train --set task=image_text --set model=vit_ti16 --set data=captions.csv
    """

    several: ClassVar[bool] = False
    maps: ClassVar[bool] = False
    boxes: ClassVar[bool] = False
    takes: ClassVar[Kind] = "images"

    tokenizer: str | None = None
    vocabulary: int = MOST
    prompts: tuple[str, ...] = PROMPTS

    def __post_init__(self) -> None:
        check_prompts(self.prompts)

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the images behind `spec` with their sentences. Raises DataError."""
        return open_captions(spec)

    def check(self, source: Source) -> None:
        """Raise DataError where images have no sentences."""
        if source.captions is None:
            raise DataError(
                f"images of {source.origin} have no sentences: give a table of image and caption"
            )

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which has two towers. Raises ConfigError for others."""
        if not isinstance(backbone, LiT):
            raise ConfigError(
                f"{type(backbone).__name__} reads no sentences: name a ViT, as model=vit_ti16"
            )
        return backbone

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> CaptionBatches:
        """Return shuffled, augmented batches: targets are ids of a sentence of each image."""
        return shuffled(CaptionBatches, order, normal, pixels)

    def watching(self, pixels: Pixels, normal: Normal) -> Batches:
        """Return batches to judge by: every image once, with its class."""
        return in_order(Batches, WATCHED, normal, pixels)

    def answers(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Pairs:
        """Embed all images, all their sentences, and the classes in words."""
        lit, captions = cast(LiT, model), captions_of(images)
        values, targets = predict(_Seen(lit).eval(), self.watching(images, normal), device=device)
        texts = captions.of(images.part.rows)
        said = list(dict.fromkeys(text for some in texts for text in some))
        index = {text: at for at, text in enumerate(said)}
        own = [(row, index[text]) for row, some in enumerate(texts) for text in some]

        def embed(sentences: list[str]) -> Tensor:
            return embedded(lit, captions.words, sentences, device)

        found, asked = embed(said), None
        if images.classes != (ALL,):
            asked = in_words(images.classes, self.prompts, embed)
        first = torch.tensor([index[some[0]] for some in texts[:IN_LOSS]])
        scale = lit.temperature.detach().cpu()
        loss = softmax_loss(values[:IN_LOSS], found[first], scale).item()
        return Pairs(values, targets, found, said, torch.tensor(own), loss, asked)

    def judge(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Pairs:
        """Do as `answers`: test images are judged at the model's size."""
        return self.answers(model, images, normal, device)

    def scores(self, outputs: Outputs) -> Scores:
        """Return recall at 1, the mean of both directions, with all figures beside it."""
        pairs = cast(Pairs, outputs)
        told = figures(pairs)
        main = sum(told[f"{way}, {NAME}"] for way in ("image to text", "text to image")) / 2
        return Scores(main, pairs.loss, len(pairs), NAME, told)

    def settled(self, labels: Labels, outputs: Outputs) -> Labels:
        """Return the labels as they are: cosines decide, and no threshold."""
        return labels

    def right(self, outputs: Outputs) -> list[bool]:
        """Tell for each image whether the sentence found first is one of its own."""
        pairs = cast(Pairs, outputs)
        return (ranks(pairs.values, pairs.texts, pairs.own) == 1).tolist()

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return the figures of the test split by their names."""
        return dict(self.scores(outputs).figures)

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return the recalls at 1, and zero-shot accuracy where it is known."""
        told = (
            f"of the first answers {judged[f'image to text, {NAME}']:.1%} are right from image to "
            f"sentence and {judged[f'text to image, {NAME}']:.1%} from sentence to image"
        )
        shot = judged.get("zero-shot accuracy")
        return told if shot is None else f"{told}; zero-shot accuracy {shot:.1%}"

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return none: what is found is shown in a chapter of its own."""
        return []

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return none: random order is what the page compares with."""
        return []

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Raise ConfigError: classes are known when they are asked for, not when a file is made."""
        _no_file()

    def agreement(self, ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
        """Raise ConfigError, as there is no file."""
        _no_file()


class _Seen(nn.Module):
    """An image tower: images to embeddings."""

    def __init__(self, model: LiT) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.embedding(image)


@torch.no_grad()
def embedded(model: LiT, words: Words, sentences: Sequence[str], device: Any) -> Tensor:
    """Return embeddings of sentences (N, D) on the CPU, computed on `device`."""
    fabric = open_fabric(device)
    fabric.to_device(model.eval())
    found = []
    for start in range(0, len(sentences), WATCHED):
        ids = torch.from_numpy(words(sentences[start : start + WATCHED])).to(fabric.device)
        with fabric.autocast():
            found.append(model.embedded(ids).float().cpu())
    return torch.cat(found)


def _no_file() -> NoReturn:
    raise ConfigError(
        "a run of images and sentences makes no file for engines: ask it by `vitrail predict RUN "
        "IMAGES --classes 'a shirt,a bag'`"
    )
