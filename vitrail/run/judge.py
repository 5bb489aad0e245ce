"""The judge: the only place where the test part is opened, once, for the finished model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vitrail.data.cache import Pixels, pixels
from vitrail.data.split import HeldBack, unseal
from vitrail.recipes.recipe import Recipe
from vitrail.run.workshop import Trainer


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the finished model says of the test part: logits (N, K), labels (N,), the pixels."""

    logits: Tensor
    labels: Tensor
    pixels: Pixels


def judge(model: nn.Module, recipe: Recipe, held_back: HeldBack, trainer: Trainer) -> Verdict:
    """Open the test part and let the finished model look at it."""
    part = unseal(held_back)
    data = recipe.data
    images = pixels(part, data.image, data.channels, progress=False)
    logits, labels = trainer.logits(model, recipe, images)
    return Verdict(logits, labels, images)
