"""What a run of masks or boxes looks at: pieces of the image are hidden, and one class is watched.

Of boxes it is the surest one of the class, wherever it is then; of masks how likely the class is
over the pixels that it has in the whole image. That is occlusion, as of labels; the other methods
read a network's answer for a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.data.labels import Labels
from vitrail.errors import ConfigError, DataError
from vitrail.report.masks import BACKGROUND

METHOD = "occlusion"
# Shares of certainty are kept from 0 and 1, whose logarithms are none.
LEAST = 1e-6


def require_occlusion(method: str, run: str, labels: Labels) -> None:
    """Raise ConfigError for a method that reads an answer for a label."""
    if method not in ("auto", METHOD):
        raise ConfigError(
            f"method is {method!r}, and {run} gives {'masks' if labels.maps else 'boxes'}, which "
            f"are explained by {METHOD} alone: leave out --method"
        )


@dataclass(frozen=True)
class Asked:
    """What is watched: `network` maps images to the logarithms of how sure a class is and is not,
    (B, 2); the class that is the model's `guess`, with how sure it is, and the one that was
    `asked`."""

    network: nn.Module
    guess: int
    asked: int
    confidence: float


def asked(model: nn.Module, image: Tensor, labels: Labels, about: str | None) -> Asked:
    """Return what to watch in an image (C, H, W), normalised. Raises DataError where the model
    finds nothing in it, or nothing of the class that it is asked about."""
    with torch.inference_mode():
        shares = _of_masks(model, image, labels) if labels.maps else _of_boxes(model, image, labels)
    guess = int(shares.argmax())
    which = guess if about is None else labels.classes.index(about)
    if not shares[which] > 0:
        what = "any object" if about is None else f"a {about!r}"
        raise DataError(f"the run does not find {what} in this image: name a class that is there")
    network = _watched(model, image, which, labels)
    guessed = network if which == guess else _watched(model, image, guess, labels)
    with torch.inference_mode():
        confidence = float(guessed(image[None])[0, 0].exp())
    return Asked(network, guess, which, confidence)


def _watched(model: nn.Module, image: Tensor, which: int, labels: Labels) -> nn.Module:
    if labels.maps:
        return _Mask(model, image, which)
    return _Surest(model, which, len(labels.classes))


def _of_boxes(model: Any, image: Tensor, labels: Labels) -> Tensor:
    """Return how sure the surest box of each class is."""
    return surest(model, image[None], len(labels.classes))[0]


def _of_masks(model: nn.Module, image: Tensor, labels: Labels) -> Tensor:
    """Return the share of pixels that each class has, hardly any for a background unless nothing
    else is there.
    """
    answer = model(image[None]).argmax(1)
    shares = torch.bincount(answer.flatten(), minlength=len(labels.classes)) / answer.numel()
    plain = [at for at, name in enumerate(labels.classes) if name.casefold() in BACKGROUND]
    if shares.sum() > shares[plain].sum():
        shares[plain] *= LEAST
    return shares


def surest(model: Any, images: Tensor, classes: int) -> Tensor:
    """Return how sure the surest box of each class is in images (B, C, H, W): (B, classes)."""
    out = images.new_zeros(len(images), classes)
    for row, one in zip(out, model.found(model(images)), strict=True):
        row.scatter_reduce_(0, one.labels, one.scores.to(row.dtype), "amax")
    return out


def _both(shares: Tensor) -> Tensor:
    """Bring shares (B,) to the logarithms of themselves and of what is left, (B, 2)."""
    kept = shares.clamp(LEAST, 1 - LEAST)
    return torch.stack([kept.log(), (1 - kept).log()], 1)


class _Surest(nn.Module):
    """How sure the surest box of a class is."""

    def __init__(self, model: nn.Module, which: int, classes: int) -> None:
        super().__init__()
        self.model, self.which, self.classes = model, which, classes

    def forward(self, images: Tensor) -> Tensor:
        return _both(surest(self.model, images, self.classes)[:, self.which])


class _Mask(nn.Module):
    """How likely a class is over the pixels that it has in one image."""

    def __init__(self, model: nn.Module, image: Tensor, which: int) -> None:
        super().__init__()
        self.model, self.which = model, which
        with torch.inference_mode():
            self.own = model(image[None])[0].argmax(0) == which

    def forward(self, images: Tensor) -> Tensor:
        shares = self.model(images).softmax(1)[:, self.which]
        return _both(shares[:, self.own].mean(1))
