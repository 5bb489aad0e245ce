"""Trains and judges recipes on one split; the test part is out of its reach."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from vitrail import heap
from vitrail.config import to_json
from vitrail.data.cache import Pixels
from vitrail.data.inputs import inputs, statistics
from vitrail.data.likeness import Likeness, likeness
from vitrail.data.split import Part, Split
from vitrail.layers.normal import Normal
from vitrail.models import identify
from vitrail.objectives.context import Context
from vitrail.recipes.build import Builder
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.answers import known
from vitrail.run.features import linear_head
from vitrail.run.normalisation import Normalisation, normalisation
from vitrail.run.teachers import open_teacher
from vitrail.tasks.linear_head import LinearHead
from vitrail.tasks.task import Order, Outputs, Scores, best
from vitrail.training.crew import crew
from vitrail.training.device import Precision, open_fabric, open_together
from vitrail.training.evaluate import predict
from vitrail.training.journal import Journal
from vitrail.training.learner import Learner
from vitrail.training.loop import Outcome, Place, Plan, train
from vitrail.training.objective import teachers
from vitrail.training.plan import OnStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Images of a part by which it is known how images look.
LOOKED_AT = 1000


class Workshop:
    """One split, one device, and the pixels of every image size used so far.

    `say` hears, in a few words, of what is made once before a training.
    """

    def __init__(
        self,
        split: Split,
        *,
        device: str = "auto",
        devices: int = 1,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.split, self._say = split, say
        fabric = open_fabric(device)
        self.device = str(fabric.device)
        self.crew = crew()
        self._device, self.devices = device, self.crew.size if self.crew else devices
        context = Context(split.classes, split.train.counts, len(split.train))
        self.builder = Builder(context, open_teacher, self.head)
        self._heads: dict[str, LinearHead | None] = {}
        self._fabrics: dict[Precision, Fabric] = {"32-true": fabric}
        self._pixels: dict[tuple[str, tuple[int, int], int], Pixels] = {}
        self._statistics: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {}
        self._published: dict[str, Normalisation] = {}

    def data(
        self, base: Data, image: tuple[int, int], channels: int, pretrained: str | None = None
    ) -> Data:
        """Return `base` at an image size, with the channel statistics of the training part.

        With pretrained weights those that they were trained with, as their publisher says.
        """
        if pretrained is not None:
            if pretrained not in self._published:
                self._published[pretrained] = normalisation(pretrained, identify(pretrained))
            known = self._published[pretrained]
            if len(known.mean) == channels:
                return replace(base, image=image, channels=channels, mean=known.mean, std=known.std)
        if channels not in self._statistics:
            self._statistics[channels] = statistics(self.pixels("train", image, channels))
        mean, std = self._statistics[channels]
        return replace(base, image=image, channels=channels, mean=mean, std=std)

    def pixels(
        self, part: str, image: tuple[int, int], channels: int, *, progress: bool = False
    ) -> Pixels:
        """Return the "train" or "val" images at a size, decoded on first use."""
        key = (part, image, channels)
        if key not in self._pixels:
            chosen: Part = {"train": self.split.train, "val": self.split.val}[part]
            self._pixels[key] = self.opened(chosen, image, channels, progress=progress)
        return self._pixels[key]

    def opened(
        self, part: Part, image: tuple[int, int], channels: int, *, progress: bool = False
    ) -> Pixels:
        """Return the images of a part at a size."""
        return inputs(part, image, channels, progress=progress)

    def look(self, recipe: Recipe) -> Likeness | None:
        """Return how the training images look, so that others can be told; see `likeness`.

        Of what is not an image it is None.
        """
        if recipe.task.takes != "images":
            return None
        image, channels = recipe.data.image, recipe.data.channels
        parts = [self.pixels(name, image, channels).first(LOOKED_AT) for name in ("train", "val")]
        train, held = (part.take(np.arange(len(part))) for part in parts)
        return likeness(train, held)

    def model(self, recipe: Recipe) -> nn.Module:
        """Make the untrained model of a recipe: the same weights every time."""
        return self.builder.model(recipe)

    def head(self, recipe: Recipe) -> LinearHead | None:
        """Return the linear model on features with which a recipe's head begins, fitted once; None
        where there is none for it."""
        key = json.dumps([recipe.model, recipe.pretrained, recipe.seed, to_json(recipe.data)])
        if key not in self._heads:
            self._heads[key] = linear_head(recipe, self)
        return self._heads[key]

    @property
    def speedup(self) -> float:
        """Return how many times faster all devices are thought to train than one."""
        return 1.0 if self.devices == 1 else 0.8 * self.devices

    def train(
        self,
        recipe: Recipe,
        folder: Path,
        until: int,
        on_step: OnStep | None = None,
        *,
        together: bool = False,
        learner: Learner | None = None,
    ) -> Outcome:
        """Train from the folder's last snapshot, or from the start, up to step `until`.

        With `together` each of the devices trains in a process of its own, and this one takes
        over their snapshot; to start them takes some ten seconds, unless torchrun did. A `learner`
        takes the place of the recipe's own, as the shared network of a search does.
        """
        images = self.pixels("train", recipe.data.image, recipe.data.channels)
        share = _Share(recipe, images, folder, until)
        learner = learner or self.builder.learner(recipe)
        fabric = self._opened(recipe)
        if together and self.crew is not None:
            self.along(recipe, folder, until, on_step)
        elif together and self.devices > 1:
            # Once, before there are several processes, which then find it.
            known(learner, recipe, images, fabric.device, self._say)
            several = open_together(self._device, self.devices, recipe.steps.precision)
            share = replace(share, head=self.head(recipe) if recipe.head == "linear" else None)
            several.launch(partial(_train_share, share=share, context=self.builder.context))
        return share.train(learner, fabric, on_step, self._say)

    def along(
        self, recipe: Recipe, folder: Path, until: int, on_step: OnStep | None = None
    ) -> None:
        """Train with the other processes that torchrun started; the first of them tells what."""
        assert self.crew is not None
        fabric = self.crew.opened(self._device, recipe.steps.precision)
        if self.crew.first:
            self.crew.told((to_json(recipe), folder.resolve(), until, self.split.train.digest))
        images = self.pixels("train", recipe.data.image, recipe.data.channels)
        share = _Share(recipe, images, folder, until)
        share.train(self.builder.learner(recipe), fabric, on_step, self._say)

    def outputs(self, model: nn.Module, recipe: Recipe, images: Pixels) -> Outputs:
        """Ask the model about all images, in their order."""
        batches = recipe.task.watching(images, normal(recipe))
        return Outputs(*predict(model.eval(), batches, device=self._opened(recipe)))

    def answers(self, model: nn.Module, recipe: Recipe, images: Pixels) -> Outputs:
        """Return what the task keeps of the model's answers to all images, in their order."""
        return recipe.task.answers(model, images, normal(recipe), self._opened(recipe))

    def judged(self, model: nn.Module, recipe: Recipe, images: Pixels) -> Outputs:
        """Return what a finished model says of test images, as they are judged."""
        return recipe.task.judge(model, images, normal(recipe), self._opened(recipe))

    def watched(self, recipe: Recipe, limit: int | None = None) -> Pixels:
        """Return the validation images, or the first `limit` of them.

        The part is in the order of its digests, so its beginning is a fair sample.
        """
        held = self.pixels("val", recipe.data.image, recipe.data.channels)
        return held.first(limit) if limit is not None and len(held) > limit else held

    def validate(self, model: nn.Module, recipe: Recipe, limit: int | None = None) -> Scores:
        """Score a model on the validation images, or on the first `limit` of them."""
        return recipe.task.scores(self.answers(model, recipe, self.watched(recipe, limit)))

    def better(
        self, outcome: Outcome, recipe: Recipe, limit: int | None = None
    ) -> tuple[nn.Module, Scores]:
        """Return the average of the weights or the last ones, whichever validates better.

        Early in a training the average lags behind. `limit` is as in `validate`.
        """
        models = [m for m in (outcome.ema_model, outcome.model) if m is not None]
        scored = [(self.validate(model, recipe, limit), model) for model in models]
        scores, model = best(scored)
        return model.eval(), scores

    def _opened(self, recipe: Recipe) -> Fabric:
        """Return the device in the recipe's precision."""
        precision = recipe.steps.precision
        if precision not in self._fabrics:
            self._fabrics[precision] = open_fabric(self._device, precision)
        return self._fabrics[precision]


def normal(recipe: Recipe) -> Normal:
    """Return how the recipe's pixels become numbers."""
    return Normal(recipe.data.mean, recipe.data.std)


def identity(recipe: Recipe, images: Pixels) -> dict[str, Any]:
    """Return, as JSON, what a training and one that goes on with it must share.

    Where images lie may change, what they show may not.
    """
    data = recipe.data
    told: Mapping[str, Any] = {
        "image": data.image, "channels": data.channels, "mean": data.mean, "std": data.std,
    }  # fmt: skip
    whole = to_json(recipe)
    names = ("model", "augment", "objective", "task", "methods")
    return {name: whole[name] for name in names} | {"data": {"digest": images.part.digest, **told}}


def taught_by(learner: Learner) -> dict[str, Any]:
    """Return, as JSON, which teachers a learner has: a training goes on with the same ones."""
    found = teachers(learner.objective)
    return {"teachers": found} if found else {}


@dataclass(frozen=True, eq=False)
class _Share:
    """What each of several processes is told."""

    recipe: Recipe
    images: Pixels
    folder: Path
    until: int
    head: LinearHead | None = None

    def train(
        self,
        learner: Learner,
        fabric: Fabric,
        on_step: OnStep | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> Outcome:
        """Go on with this training in this process."""
        recipe, steps = self.recipe, self.recipe.steps
        order = Order(steps.batch // steps.accumulate, recipe.seed, recipe.augment)
        images, second = self.images, None
        if learner.objective.two is not None:
            # Each optimizer learns from images that the other does not see.
            images, rest = images.halves()
            second = recipe.task.training(rest, normal(recipe), order)
        batches = recipe.task.training(images, normal(recipe), order)
        batches.features = known(learner, recipe, self.images, fabric.device, say)
        plan = Plan(
            recipe.optimizer,
            recipe.schedule,
            steps,
            recipe.methods,
            identity(recipe, self.images) | taught_by(learner),
        )
        place = Place(
            self.folder,
            device=fabric,
            journal=Journal(self.folder / "metrics.jsonl"),
            resume=True,
            until=self.until,
            workers=1,
            on_step=on_step,
        )
        return train(learner, batches, plan, place, second=second)


def _train_share(fabric: Fabric, *, share: _Share, context: Context) -> None:
    heap.keep()
    builder = Builder(context, open_teacher, lambda _: share.head)
    share.train(builder.learner(share.recipe), fabric)
