"""The judge: the only place where the test part is opened, once, for the finished model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vitrail.data.cache import Pixels, pixels
from vitrail.data.split import HeldBack, unseal
from vitrail.recipes.recipe import Recipe
from vitrail.run.workshop import Workshop
from vitrail.tasks.task import Outputs


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the finished model says of the test part, and its pixels."""

    outputs: Outputs
    pixels: Pixels


def judge(model: nn.Module, recipe: Recipe, held_back: HeldBack, workshop: Workshop) -> Verdict:
    """Open the test part and let the finished model look at it."""
    part = unseal(held_back)
    data = recipe.data
    images = pixels(part, data.image, data.channels, progress=False)
    return Verdict(workshop.judged(model, recipe, images), images)
