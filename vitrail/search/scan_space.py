"""The few networks of lidar scans that race, and how fast each trains here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from vitrail.models.rangevit import (
    Config,
    ConvStem,
    LinearDecoder,
    PatchStem,
    PixelHead,
    UpDecoder,
)
from vitrail.recipes.recipe import Recipe
from vitrail.run.budget import Budget
from vitrail.run.subject import subject
from vitrail.run.workshop import Workshop, normal
from vitrail.search.candidate import Candidate, candidate
from vitrail.tasks.task import Order
from vitrail.training.objective import Step

# From a plain ViT whose pixels answer to one that refines points; patches are rows by columns.
_NARROW, _WIDE = Config(64, 3, 1, 192), Config(192, 6, 3, 512)
SHAPES: tuple[Config, ...] = (
    replace(_NARROW, stem=ConvStem(32, 16), decoder=UpDecoder(32)),
    replace(_NARROW, stem=PatchStem(), decoder=LinearDecoder(), points=PixelHead()),
    replace(_NARROW, dim=128, depth=4, heads=2, hidden=384, stem=ConvStem(64, 16),
            decoder=UpDecoder(64)),
    replace(_WIDE, stem=ConvStem(64, 32), decoder=UpDecoder(64)),
)  # fmt: skip
# Steps by which a pace is told, the first of which warms up.
TIMED = 3


def scan_candidates(
    image: tuple[int, int], channels: int, classes: int, budget: Budget
) -> list[Candidate]:
    """Return the networks within a budget of multiply-adds and parameters, for crops of a size."""
    found = []
    for shape in SHAPES:
        config = replace(shape, image=image, channels=channels, classes=classes)
        counts = subject(config)
        if budget.allows(params=counts.params, macs=counts.macs):
            found.append(candidate(config, params=counts.params, macs=counts.macs))
    return found


def paces(recipes: Sequence[Recipe], workshop: Workshop) -> list[float]:
    """Return the scans per second that each recipe trains on, by a few steps that change nothing
    that is kept."""
    return [_pace(recipe, workshop) for recipe in recipes]


def _pace(recipe: Recipe, workshop: Workshop) -> float:
    scans = workshop.pixels("train", recipe.data.image, recipe.data.channels)
    order = Order(recipe.steps.batch, recipe.seed, recipe.augment)
    batches = recipe.task.training(scans, normal(recipe), order)
    learner = workshop.builder.learner(recipe).to(workshop.device)
    spent = []
    for number in range(TIMED):
        began = time.perf_counter()
        batch = batches.get(number, 0).to(torch.device(workshop.device))
        learner(batch, Step(number, TIMED, 0.0, recipe.seed))["loss"].backward()
        spent.append(time.perf_counter() - began)
    return min(recipe.steps.batch, len(scans)) / min(spent[1:])
