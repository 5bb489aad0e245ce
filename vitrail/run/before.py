"""A finished run as the start of another one: its model, recipe, images, and what it was worth."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from vitrail.config import read_json, to_json
from vitrail.data.labels import Labels
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.methods import BothSides
from vitrail.methods.both_sides import removed
from vitrail.models import Backbone, config_json
from vitrail.models.trunk.widths import places, prepared
from vitrail.recipes.recipe import Recipe, from_json
from vitrail.report.compression import Worth
from vitrail.report.facts import Facts
from vitrail.run.folder import RESTORE, RunFolder
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.state import NAME, State
from vitrail.run.subject import Subject, subject
from vitrail.run.view import View


@dataclass(frozen=True, eq=False)
class Before:
    """A finished run, opened: `result` are its figures, `images` the digest of its data.

    With `both_sides` these figures are of a model that answers by an image and its mirror image;
    `model` and `recipe` are without.
    """

    run: RunFolder
    recipe: Recipe
    model: Backbone
    labels: Labels
    result: dict[str, Any]
    images: str | None
    both_sides: bool = False

    @property
    def subject(self) -> Subject:
        """Return the model that was trained, counted and named."""
        return subject(self.recipe.config)

    @property
    def cuttable(self) -> Backbone:
        """Return the model as one that can be cut. Raises ConfigError for
        a family without widths.
        """
        places(self.model)
        return prepared(self.model)

    @property
    def test(self) -> dict[str, Any]:
        """Return what the judge said of it: accuracy, its interval, on how many images."""
        return self.result["test"]

    def data(self, hardware: Hardware, view: View) -> Read:
        """Return its images, divided as they were. Raises DataError, RunError."""
        try:
            found = read(self.recipe.data, hardware, view, self.recipe.task)
        except DataError as error:
            raise DataError(
                f"the images of {self.run.path} cannot be read ({error}): give where they are by "
                "--data"
            ) from error
        if self.images is not None and found.digest != self.images:
            raise RunError(
                f"the images at {self.recipe.data.spec} are not those of {self.run.path} (some "
                "were added, removed or changed): give where these are by --data"
            )
        return found


def before(path: str | os.PathLike, data: str | None = None) -> Before:
    """Open a finished run whose training can be taken up; `data` is where its images are now.

    Raises RunError where it is none, ConfigError where it is of several labels an image or its
    model was changed by a method.
    """
    run = RunFolder.open(path)
    if not run.result.is_file():
        raise RunError(f"{path} was not trained and judged here: give a folder that `vitrail fit` "
                       "or `vitrail train` made")  # fmt: skip
    model, told, labels = run.load_model()
    recipe = from_json(told)
    kept = tuple(one for one in recipe.methods if not isinstance(one, BothSides))
    both, recipe = len(kept) < len(recipe.methods), replace(recipe, methods=kept)
    if recipe.methods:
        raise ConfigError(
            f"{path} was trained with {type(recipe.methods[0]).__name__}, which changes its model: "
            "give a run without methods"
        )
    if recipe.task.several:
        raise ConfigError(f"{path} tells several labels of an image: give a run of one class each")
    if data is not None:
        recipe = replace(recipe, data=replace(recipe.data, spec=str(data)))
    result = read_json(run.result, dict, remedy=RESTORE)
    for name in ("test", "latency", "model"):
        if not isinstance(result.get(name), dict):
            raise RunError(f"{run.result} is damaged (it has no {name}): {RESTORE}")
    state = run.path / NAME
    images = State.read(state).values.get("images") if state.is_file() else None
    plain: Any = removed(model)
    return Before(run, recipe, plain, labels, result, images, both)


def model_json(config: Any) -> dict[str, Any]:
    """Return a Config as the JSON of a recipe."""
    return to_json(config_json(config))


def worth(old: Before) -> Worth:
    """Return what a run was judged to be worth."""
    test, result, one = old.test, old.result, old.subject
    macs = one.macs * (1 + old.both_sides)
    return Worth(
        test["accuracy"], test["low"], test["high"], test["n"], macs, one.params,
        result["latency"]["p50_s"], result.get("size_bytes"),
    )  # fmt: skip


def now(facts: Facts) -> Worth:
    """Return what a model was just judged to be worth."""
    test, latency = facts.test, facts.latency
    assert test is not None and latency is not None
    return Worth(
        test.accuracy, test.low, test.high, test.n, facts.model.macs, facts.model.params,
        latency.p50_s, facts.size_bytes,
    )  # fmt: skip
