"""What the studies of architecture searches share: networks that are trained for as many steps.

A `Lab` has one data set. It trains the shared network of a space, a candidate by itself, and asks
either about validation images, by which a search may choose, or about test images, by which nothing
is chosen. Steps are given, not seconds, so that a busy machine changes nothing.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.budget import Budget
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View
from vitrail.run.watch import LOOK_AT
from vitrail.search.costs import Meter
from vitrail.search.finishing import finishing
from vitrail.search.judging import Inherited
from vitrail.search.oneshot import Shares, SinglePath
from vitrail.search.spaces import space_of
from vitrail.search.spaces.images import Images
from vitrail.search.spaces.space import Genes, drawn
from vitrail.search.strategies import Found, Ground, Strategy
from vitrail.training.learner import Learner


@dataclass(frozen=True, eq=False)
class Lab:
    """One data set, and a folder for what is being trained."""

    spec: str
    images: Read
    out: Path

    @property
    def size(self) -> tuple[int, int]:
        """Return the height and width of the images."""
        return self.images.inspection.size

    def space(self, name: str, **changes: Any) -> Any:
        """Return a space for the images."""
        split = self.images.workshop.split
        made = space_of(name, Images(self.size, split.channels, len(split.classes)))
        return replace(made, **changes)  # pyright: ignore[reportArgumentType]

    def recipe(self, config: Any, steps: int, seed: int) -> Recipe:
        """Return a recipe of so many steps."""
        workshop = self.images.workshop
        split = workshop.split
        data = workshop.data(Data(self.spec), tuple(config.image), split.channels)
        made = default(config, data, images=len(split.train), total=steps, seed=seed)
        return replace(made, steps=replace(made.steps, total=steps, ema=None))

    def shared(
        self, space: Any, steps: int, seed: int, *, shares: Shares = SinglePath, name: str = ""
    ) -> tuple[Any, Recipe]:
        """Train the shared network of a space; returns it and its recipe."""
        recipe = self.recipe(space.config(space.ends[1]), steps, seed)
        torch.manual_seed(seed)
        shared, workshop = space.supernet(), self.images.workshop
        inner = recipe.objective.build(shared, workshop.builder.context)
        learner = Learner(shared, shares(inner, space))
        with _emptied(self.out / f"shared {space.name} {name} {seed}") as folder:
            return workshop.train(recipe, folder, steps, learner=learner).model.eval(), recipe

    def judge(self, shared: Any, recipe: Recipe, space: Any) -> Callable[[Genes], Found]:
        """Return who scores candidates by inherited weights on validation images."""
        return Inherited(shared, Meter(space, Budget()), self.images.workshop, recipe, LOOK_AT)

    def alone(
        self, config: Any, steps: int, seed: int, *, paper: str = "", test: bool = False
    ) -> float:
        """Train a network by itself, as a `paper` finishes its finds where one is named; returns
        how many validation images it has right, or test images."""
        recipe, workshop = self.recipe(config, steps, seed), self.images.workshop
        recipe = finishing(paper, recipe)
        with _emptied(self.out / f"alone {paper} {seed}") as folder:
            model = workshop.train(recipe, folder, steps).best
        if not test:
            return workshop.validate(model, recipe, LOOK_AT).main
        verdict = judge(model, recipe, workshop.split.test, workshop)
        return recipe.task.scores(verdict.outputs).main


class _emptied:
    """A folder of snapshots, which goes when the training in it is over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)


def opened(spec: str, out: Path) -> Lab:
    """Read the images of a study."""
    out.mkdir(parents=True, exist_ok=True)
    return Lab(spec, read(Data(spec), Hardware("cpu"), View()), out)


def hunted(strategy: Strategy, ground: Ground, judge: Callable[[Genes], Found]) -> list[Found]:
    """Evaluate what a strategy proposes, to its end."""
    found: list[Found] = []
    generation = 0
    while proposed := strategy.propose(ground, found, generation):
        found += [replace(judge(genes), generation=generation) for genes in proposed]
        generation += 1
    return found


def some_within(space: Any, number: int, seed: int, limit: int, least: float = 0.0) -> list[Genes]:
    """Return different random candidates of `least` to 1 times the limit of multiply-adds."""
    rng, found = random.Random(f"some {seed}"), {}
    for _ in range(100_000):
        genes = drawn(space, rng)
        if least * limit <= space.count(space.config(genes)).macs <= limit:
            found[genes] = None
        if len(found) == number:
            return [*found]
    raise SystemExit(f"{space.title} has no {number} networks within {limit:,} multiply-adds")


def share_of(space: Any, share: float) -> int:
    """Return the multiply-adds that far on the way from the cheapest network to the dearest."""
    small, large = (space.count(space.config(genes)).macs for genes in space.ends)
    return int(small + share * (large - small))


def best(found: Sequence[Found]) -> Found:
    """Return the best of all."""
    return max(found, key=lambda one: one.order)
