"""What features tell of classes while nothing is learned from these: figures for a pretraining."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from vitrail.data.cache import Pixels
from vitrail.recipes.recipe import Recipe
from vitrail.run.frozen import Embedded
from vitrail.run.workshop import Workshop
from vitrail.tasks.fewshot import least_squares, nearest

# Images that labels are learned from, and images that are told; the parts are in the order of their
# digests, so their beginnings are fair samples.
KNOWN, ASKED = 2000, 1000


@dataclass(frozen=True)
class Told:
    """How many images of the validation part two models on frozen features name rightly."""

    knn: float
    linear: float
    n: int


def embedded(model: nn.Module, recipe: Recipe, workshop: Workshop, images: Pixels) -> np.ndarray:
    """Return the features float32 (N, D) of images, in their order."""
    return workshop.outputs(Embedded(model), recipe, images).values.numpy()


def told(model: nn.Module, recipe: Recipe, workshop: Workshop) -> Told | None:
    """Return what the features of a model tell; None where no classes are known."""
    split = workshop.split
    if len(split.classes) < 2 or not len(split.val) or split.val.labels.ndim > 1:
        return None
    image, channels = recipe.data.image, recipe.data.channels
    known = workshop.pixels("train", image, channels).first(KNOWN)
    asked = workshop.pixels("val", image, channels).first(ASKED)
    x, z = (embedded(model, recipe, workshop, one) for one in (known, asked))
    answers = nearest(x, known.labels, z), least_squares(x, known.labels, z)
    knn, linear = (float((one == asked.labels).mean()) for one in answers)
    return Told(knn, linear, len(asked))
