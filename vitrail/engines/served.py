"""A model as it is exported: the deployed network between pixels and answers, and its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data.labels import Labels
from vitrail.layers.fold import deploy


@dataclass(frozen=True)
class Agreement:
    """Says how an exported file compares: the largest difference, and how many answers changed."""

    largest: float
    changed: int


Agree = Callable[[Tensor, np.ndarray, Labels], Agreement]


def same_answers(ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
    """Compare logits (B, K): the largest difference, and for how many images the answer differs.

    The answer is the likeliest class, or the set of labels that reach their thresholds. Of maps
    (B, K, H, W) no answer is counted here: `engines.masks` compares masks of all images together.
    """
    expected = ours.float().numpy()
    largest = float(np.abs(theirs - expected).max())
    if labels.maps:  # whose masks `engines.masks` compares, over all images together
        return Agreement(largest, 0)
    if not labels.several:
        return Agreement(largest, int((theirs.argmax(1) != expected.argmax(1)).sum()))
    if not labels.thresholds:  # nothing is decided yet, so there are no answers to differ
        return Agreement(largest, 0)
    mine, other = (
        labels.chosen(labels.probabilities(torch.as_tensor(logits)))
        for logits in (expected, theirs)
    )
    return Agreement(largest, int((mine != other).any(1).sum()))


class Served(nn.Module):
    """The deployed model between pixels and probabilities.

    float32 (B, C, H, W) with values of 0 to 255 to probabilities and logits, each (B, classes).
    """

    # The last one is what the model itself gives, and is compared with it.
    outputs: ClassVar[tuple[str, ...]] = ("probabilities", "logits")
    # How its input is called in the file.
    entry: ClassVar[str] = "pixels"

    def __init__(self, model: nn.Module, labels: Labels) -> None:
        super().__init__()
        self.model = deploy(model)
        self.labels = labels
        mean, std = torch.tensor(labels.mean), torch.tensor(labels.std)
        self.register_buffer("factor", (1 / (255 * std)).view(1, -1, 1, 1))
        self.register_buffer("offset", (-mean / std).view(1, -1, 1, 1))

    def example(self) -> Tensor:
        """Return two inputs: with one, torch would take the batch for a constant."""
        return torch.zeros(2, self.labels.channels, *self.labels.image)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(pixels * self.factor + self.offset)  # pyright: ignore[reportOperatorIssue]
        return self.labels.probabilities(logits), logits


class ServedSeries(Served):
    """The deployed model between series and probabilities.

    float32 (B, T, F) in the features' own units, NaN where a number is missing or behind the last
    step, to probabilities and logits, each (B, classes).
    """

    entry: ClassVar[str] = "series"

    def __init__(self, model: nn.Module, labels: Labels) -> None:
        super().__init__(model, labels)
        self.register_buffer("middle", torch.tensor(labels.mean))
        self.register_buffer("spread", torch.tensor(labels.std))

    def example(self) -> Tensor:
        """Return two inputs: with one, torch would take the batch for a constant."""
        return torch.zeros(2, self.labels.image[0], self.labels.channels)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model((pixels - self.middle) / self.spread)  # pyright: ignore[reportOperatorIssue]
        return self.labels.probabilities(logits), logits


class ServedWaves(Served):
    """The deployed model between waveforms and probabilities.

    float32 (B, samples) from -1 to 1 to probabilities and logits, each (B, classes).
    """

    entry: ClassVar[str] = "samples"

    def example(self) -> Tensor:
        """Return two inputs: with one, torch would take the batch for a constant."""
        return torch.zeros(2, self.labels.image[1])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.labels.mean[0], self.labels.std[0]
        logits = self.model((pixels[:, None] - mean) / std)
        return self.labels.probabilities(logits), logits


class ServedClips(Served):
    """The deployed model between clips and probabilities.

    uint8 (B, T, H, W, C) to probabilities and logits, each (B, classes).
    """

    entry: ClassVar[str] = "clips"

    def example(self) -> Tensor:
        """Return two inputs: with one, torch would take the batch for a constant."""
        told = self.labels
        return torch.zeros(2, told.frames, *told.image, told.channels, dtype=torch.uint8)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        # Normalised where the channels are last, as the statistics of an image are.
        shape = (1, 1, 1, 1, -1)
        x = pixels.float() * self.factor.view(shape) + self.offset.view(shape)  # pyright: ignore
        logits = self.model(x.permute(0, 4, 1, 2, 3))
        return self.labels.probabilities(logits), logits


class ServedMaps(Served):
    """The deployed model between pixels and scores of every pixel.

    float32 (B, C, H, W) with values of 0 to 255 to logits (B, classes, H, W); the likeliest class
    at the size of the image is found behind it (`engines.masks`).
    """

    outputs: ClassVar[tuple[str, ...]] = ("logits",)

    def forward(self, pixels: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.model(pixels * self.factor + self.offset)  # pyright: ignore[reportOperatorIssue]


class ServedBoxes(Served):
    """The deployed detector between pixels and its answers at every place.

    float32 (B, C, H, W) with values of 0 to 255 to boxes (B, N, 4) in shares of the sides and
    scores (B, N, classes); the best of them are found behind it (`engines.boxes`).
    """

    outputs: ClassVar[tuple[str, ...]] = ("shares", "probabilities")

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.model(pixels * self.factor + self.offset)  # pyright: ignore[reportOperatorIssue]
        boxes, scores = self.model.answers(raw)  # pyright: ignore[reportCallIssue]
        return boxes, scores


class ServedChosen(Served):
    """The deployed detector of two stages between pixels and what it chose.

    float32 (B, C, H, W) with values of 0 to 255 to boxes (B, D, 4) in shares of the sides, scores
    (B, D), 0 where a row is empty, and classes (B, D); the rest is done behind it
    (`engines.boxes`).
    """

    outputs: ClassVar[tuple[str, ...]] = ("shares", "probabilities", "kinds")

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        raw = self.model(pixels * self.factor + self.offset)  # pyright: ignore[reportOperatorIssue]
        return tuple(one for one in self.model.chosen(raw) if one is not None)  # pyright: ignore


class ServedInstances(ServedChosen):
    """The deployed detector with masks: how likely each place of a box is the object's, (B, D, h,
    w), is the last of what it gives."""

    outputs: ClassVar[tuple[str, ...]] = (*ServedChosen.outputs, "inside")


def serve(model: nn.Module, labels: Labels) -> nn.Module:
    """Return the module that is exported: of maps without, of labels with their probabilities."""
    if labels.boxes:
        kind = ServedChosen if hasattr(model, "chosen") else ServedBoxes
        return (ServedInstances if hasattr(model, "outlined") else kind)(model, labels)
    if labels.takes == "series":
        return ServedSeries(model, labels)
    if labels.takes == "clips":
        return ServedClips(model, labels)
    if labels.takes == "waves":
        return ServedWaves(model, labels)
    return (ServedMaps if labels.maps else Served)(model, labels)
