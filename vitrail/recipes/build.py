"""The only place that makes a model of a recipe.

    config -> create -> pretrained weights -> linear head -> methods in order -> the task's head
        -> the objective

A fit, each process of a distributed training, resuming, and loading a finished run all call this,
so that whatever a recipe says is true of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail import checkpoint
from vitrail.config import parse
from vitrail.errors import CheckpointError
from vitrail.methods import Methods
from vitrail.models import config_from_json, create, load
from vitrail.objectives.context import Context
from vitrail.recipes import base as bases
from vitrail.recipes.pretrained import start
from vitrail.recipes.recipe import Data, Recipe, task_of
from vitrail.tasks import (
    Classification,
    Detection,
    ImageText,
    Lidar,
    MultiLabel,
    MultiModal,
    Segmentation,
    Series,
    Tasks,
    Video,
    Waveform,
)
from vitrail.tasks.linear_head import LinearHead
from vitrail.training.learner import Learner

ApplyInOrder: Any = tuple[Methods, ...]
# Tasks that put nothing around a network.
_BARE = (
    Classification, MultiLabel, Segmentation, Detection, Series, Video, Waveform, ImageText,
    MultiModal, Lidar,
)  # fmt: skip
# Opens a trained model by its name for a training on such data, that tells such classes.
Opener = Callable[[str, Data, Sequence[str]], nn.Module]
# Fits the head with which a recipe's training begins; None where there is none for it.
Fitter = Callable[[Recipe], LinearHead | None]


class Builder:
    """Makes learners of recipes; reads each file of pretrained weights once, each teacher as well.

    `context` is what objectives may ask for; what they call teachers comes from `opener`, and heads
    that are linear models on features from `fitter`.
    """

    def __init__(
        self,
        context: Context | None = None,
        opener: Opener | None = None,
        fitter: Fitter | None = None,
    ) -> None:
        self.context, self._opener, self._fitter = context or Context(), opener, fitter
        self._starts: dict[str, dict[str, Tensor]] = {}
        self._teachers: dict[tuple[str, Data], nn.Module] = {}

    def model(self, recipe: Recipe) -> nn.Module:
        """Make the untrained model of a recipe: the same weights every time.

        Raises VitrailError.
        """
        # Before anything is random: to fit it makes models of its own.
        fitted = self._fitter(recipe) if recipe.head == "linear" and self._fitter else None
        torch.manual_seed(recipe.seed)
        model = create(recipe.config)
        if recipe.pretrained is not None:
            # Reading and naming a checkpoint takes seconds, and a race asks for it many times.
            key = json.dumps([recipe.model, recipe.pretrained, recipe.seed, recipe.keep_head])
            if key not in self._starts:
                torch.manual_seed(recipe.seed)
                self._starts[key] = start(
                    recipe.config, recipe.pretrained, keep_head=recipe.keep_head
                ).state_dict()
            model.load_state_dict(self._starts[key])
        if fitted is not None:
            fitted.into(model.head)  # pyright: ignore[reportArgumentType]
        return changed(model, recipe.methods, recipe.task)

    def learner(self, recipe: Recipe) -> Learner:
        """Make the model of a recipe with its objective. Raises VitrailError."""
        model, data, opener = self.model(recipe), recipe.data, self._opener
        context = replace(self.context, mean=data.mean, std=data.std)
        if opener is not None:

            def opened(spec: str) -> nn.Module:
                # One for all learners: a teacher never changes.
                key = (spec, recipe.data)
                if key not in self._teachers:
                    self._teachers[key] = opener(spec, recipe.data, context.classes)
                return self._teachers[key]

            context = replace(context, open_model=opened)
        return Learner(model, recipe.objective.build(model, context))


def changed(model: Any, methods: Sequence[Methods], task: Tasks) -> nn.Module:
    """Apply methods in their order and add the task's head. Raises ConfigError."""
    for method in methods:
        method.check(model)
        model = method.apply(model)
    return task.model(model)


def restored(recipe: Mapping[str, Any], weights: Path) -> nn.Module:
    """Return the trained model of a run, in eval mode, with every tensor of its file.

    `recipe` is JSON whose "model" is the model's config; methods and task are those that it
    names. Raises CheckpointError when weights and recipe do not fit each other, ConfigError when
    the recipe cannot be built.
    """
    config = config_from_json(recipe["model"])
    methods = parse(ApplyInOrder, recipe.get("methods", []), "methods")
    task = task_of(recipe)
    if recipe.get("base"):
        return _joined(recipe, weights)
    if not methods and isinstance(task, _BARE):
        return load(config, weights, source="vitrail")
    model = changed(create(config), methods, task)
    checkpoint.assign(model, checkpoint.read(weights), dtype=torch.float32)
    return model.eval()


def grown(recipe: Mapping[str, Any], base: str, seed: int) -> nn.Module:
    """Return the untrained model that the base of a recipe, in JSON, and its methods give.

    What is random in it comes from `seed`. Raises VitrailError.
    """
    config = config_from_json(recipe["model"])
    methods = parse(ApplyInOrder, recipe.get("methods", []), "methods")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return changed(start(config, bases.weights_of(base)), methods, task_of(recipe))


def parted(model: nn.Module, recipe: Mapping[str, Any], folder: Path) -> bases.Stored:
    """Return what the run folder of a recipe with a base has to store of its trained model."""
    # Of another seed, so that nothing random is taken for the base's.
    fresh = grown(recipe, recipe["base"], recipe.get("seed", 0) + 1)
    return bases.parted(model, fresh, recipe["base"], folder)


def _joined(recipe: Mapping[str, Any], weights: Path) -> nn.Module:
    """Return the trained model of a run that has only what its base lacks."""
    held = checkpoint.contents(weights)
    written = held.written.get(bases.KEY)
    if not isinstance(written, dict):
        raise CheckpointError(f"{weights} does not say what its base is: restore the folder")
    base = bases.found(recipe["base"], written, weights.parent)
    model = grown(recipe, base, 0)
    checkpoint.assign(model, model.state_dict() | held.state, dtype=torch.float32)
    return model.eval()
