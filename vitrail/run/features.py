"""The features that published weights give before any training: computed once, kept, and a linear
head on them.

Features of a part of the data at a size are a file of the cache, found again by the weights, how
images become numbers, and what the images show.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from vitrail import digests
from vitrail.config import to_json
from vitrail.data import store
from vitrail.data.builtin import cache_folder
from vitrail.data.cache import Pixels
from vitrail.data.decode import DECODER
from vitrail.layers.fold import deploy
from vitrail.recipes.recipe import Recipe
from vitrail.run.answers import Embedded
from vitrail.tasks.linear_head import LinearHead, fit_head

if TYPE_CHECKING:
    from vitrail.run.workshop import Workshop

# Images on which a linear head is fitted: more make it slower and hardly better.
MOST = 4000


def unchanged(recipe: Recipe) -> Recipe:
    """Return the recipe without what changes its network before the first step."""
    return replace(recipe, head="random", methods=())


def features(recipe: Recipe, workshop: Workshop, part: str, *, most: int = MOST) -> np.ndarray:
    """Return what the head of a recipe's untrained network sees of the first `most` images of
    "train" or "val": float32 (n, width).

    Kept in the cache, and found there the next time.
    """
    plain, data = unchanged(recipe), recipe.data
    images = workshop.pixels(part, data.image, data.channels)
    images = images.first(most) if len(images) > most else images
    model: Any = workshop.model(plain)
    path = cache_folder() / "features" / f"{_name(plain, model, images)}.npy"
    shape = (len(images), 4 * int(model.width))
    found = kept(path, shape)
    if found is None:
        network = Embedded(deploy(model))
        found = workshop.outputs(network, plain, images).values.numpy().astype(np.float32)
        keep(path, found)
    return found


def keep(path: Path, found: np.ndarray) -> None:
    """Write features, float32 (n, width), into a file of the cache, with sums. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bytes_of = np.ascontiguousarray(found, np.float32).view(np.uint8)
    store.write_array(path, (len(found), 4 * found.shape[1]), [bytes_of])


def kept(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the features in a file of the cache; None where it is missing or damaged."""
    try:
        found = store.open_array(path, shape)
    except ValueError:
        return None
    return None if found is None else np.array(found).view(np.float32)


def _name(recipe: Recipe, model: nn.Module, images: Pixels) -> str:
    body = {n: v for n, v in model.state_dict().items() if not n.startswith("head.")}
    data = recipe.data
    facts = [
        to_json(recipe.model), data.image, data.channels, data.mean, data.std, DECODER,
        images.part.digest, recipe.steps.precision, str(images.part.source.ranges),
    ]  # fmt: skip
    return hashlib.blake2b(
        digests.of_tensors(body, json.dumps(facts, sort_keys=True)).encode(), digest_size=16
    ).hexdigest()


def linear_head(recipe: Recipe, workshop: Workshop) -> LinearHead | None:
    """Return a head fitted on the features of training images; None where a recipe has random
    weights, several labels an image, or a head that is not one linear layer."""
    if recipe.pretrained is None or recipe.task.several:
        return None
    model, images = workshop.model(unchanged(recipe)), workshop.split.train
    labels = workshop.pixels("train", recipe.data.image, recipe.data.channels).labels[:MOST]
    if len(labels) < 2 or not isinstance(model.head, nn.Linear):
        return None
    found = fit_head(features(recipe, workshop, "train"), labels, len(images.classes))
    return found if found.fits(model.head) else None
