"""What a model is for: all that a run knows of labels, outputs and scores, behind one protocol.

A task is a frozen value of a recipe. Whoever trains, races, resumes, exports and reports knows
it only through this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data.augment import Augment
from vitrail.data.batches import Batches
from vitrail.data.cache import Pixels
from vitrail.data.labels import Labels
from vitrail.data.source import Kind, Source
from vitrail.engines.served import Agreement
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.report.scores import Baseline
from vitrail.tasks.baselines import Features
from vitrail.training.evaluate import predict

Picture = TypeVar("Picture")
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says of every image of a part, in its order, and what is true of it.

    `values` are float32 (N, ...) and `targets` (N, ...), both on the CPU.
    """

    values: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Scores:
    """How good outputs are: `main` ranks a race, larger is better, and `loss` breaks ties.

    `name` says what `main` is. `figures` are further shares by name.
    """

    main: float
    loss: float
    n: int
    name: str = "accuracy"
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def order(self) -> tuple[float, float]:
        """Return what sorts the better scores last."""
        return self.main, -self.loss


@dataclass(frozen=True)
class Order:
    """Which batches: their size and seed, and how images are changed before they are shown."""

    batch: int
    seed: int = 0
    augment: Augment | None = None


class Task(Protocol):
    """What a model is for; `several` says whether it learns any number of labels per image, `maps`
    whether a class for every pixel, `boxes` whether boxes around objects, `takes` what it is about:
    images, or something else."""

    several: ClassVar[bool]
    maps: ClassVar[bool]
    boxes: ClassVar[bool]
    takes: ClassVar[Kind]

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the images behind `spec` with what is true of them. Raises DataError."""
        ...

    def check(self, source: Source) -> None:
        """Raise DataError, in one sentence, unless the source's labels are of this task."""
        ...

    def model(self, backbone: Backbone) -> nn.Module:
        """Return what is trained: the backbone with the task's head."""
        ...

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> Batches:
        """Return shuffled, augmented batches: a function of (seed, epoch, number)."""
        ...

    def watching(self, pixels: Pixels, normal: Normal) -> Batches:
        """Return batches to judge by: every image once, in order, as it is."""
        ...

    def answers(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Outputs:
        """Ask the model about all images at its own size, in their order."""
        ...

    def judge(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Outputs:
        """Ask a finished model about the test images, which are judged as they came."""
        ...

    def scores(self, outputs: Outputs) -> Scores:
        """Return how good outputs are."""
        ...

    def settled(self, labels: Labels, outputs: Outputs) -> Labels:
        """Return the labels with what the validation split decides: temperature, thresholds."""
        ...

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Return what is exported: float32 (B, C, H, W) of 0 to 255 in, answers out."""
        ...

    def agreement(self, ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
        """Compare the model's outputs with those of an exported file."""
        ...

    def right(self, outputs: Outputs) -> list[bool]:
        """Tell for each image whether its answer is right, to compare two models by."""
        ...

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return the task's figures of the test split, as fields of the report's facts."""
        ...

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how small models do on the test split, beside the model's outputs.

        One of them is linear on `features`, where there are published weights.
        """
        ...

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return the worst answers, the surest first."""
        ...

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return the answer in a few words, for the terminal: "89.7 % of 1,000 images right"."""
        ...


@dataclass(frozen=True)
class Mistaken:
    """An image whose answer is wrong: its row in the part, truth, guess, and how sure it was.

    `asked` is the output to explain.
    """

    row: int
    truth: str
    guess: str
    confidence: float
    asked: int


def shuffled(kind: Callable[..., Made], order: Order, normal: Normal, *what: Any) -> Made:
    """Return shuffled, augmented batches of a `kind`, of pixels and what else it takes."""
    return kind(
        *what, batch=order.batch, seed=order.seed, augment=order.augment, mean=normal.mean,
        std=normal.std,
    )  # fmt: skip


def in_order(kind: Callable[..., Made], batch: int, normal: Normal, *what: Any) -> Made:
    """Return batches of a `kind` that show everything once, in order, as it is."""
    return kind(
        *what, batch=batch, mean=normal.mean, std=normal.std, shuffle=False, drop_last=False
    )


def each_once(task: Task, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Outputs:
    """Return what a model says of all images, and what is true of them, of one answer an image."""
    return Outputs(*predict(model.eval(), task.watching(images, normal), device=device))


def best(scored: Sequence[tuple[Scores, nn.Module]]) -> tuple[Scores, nn.Module]:
    """Return the best scores, and the model that has them."""
    return max(scored, key=lambda pair: pair[0].order)


def at_rest(model: nn.Module) -> nn.Module:
    """Return the model in eval mode on the CPU, as it is exported and explained."""
    return model.eval().to(torch.device("cpu"))


def apart(
    drawn: Sequence[Picture], right: Callable[[Picture], float], worst: int, others: int
) -> tuple[list[Picture], list[Picture]]:
    """Return at most so many of the worst pictures, and of the others in their order.

    Of few each is shown once: the better half of them are the others.
    """
    most = min(worst, max(1, len(drawn) // 2))
    bad = sorted(drawn, key=right)[:most]
    return bad, [one for one in drawn if one not in bad][:others] or list(drawn)


def worst_and_some(own: np.ndarray, worst: int, some: int) -> list[int]:
    """Return which of N images to show by how right they are, (N,): the worst, and every so many.

    Those without a figure (NaN) count as the best.
    """
    order = own.argsort(kind="stable").tolist()
    return list(dict.fromkeys([*order[:worst], *range(0, len(order), max(1, len(order) // some))]))
