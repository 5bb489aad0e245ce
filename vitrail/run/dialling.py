"""Measuring a dial: what a model reaches at each of its settings, and what that takes as exported.

Scores are of the validation part, by which the setting is chosen; the test part stays sealed, and
is opened later for the chosen setting alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail.config import to_json
from vitrail.data.labels import Labels
from vitrail.engines.onnx import export_onnx
from vitrail.errors import ExportError
from vitrail.measure.counts import counts
from vitrail.measure.latency import summary
from vitrail.measure.machine import machine
from vitrail.methods import PSS, Flexivit, Methods, PatchDropout, dropping, flexivit
from vitrail.proportions import wilson
from vitrail.recipes.recipe import Recipe
from vitrail.run.budget import Budget
from vitrail.run.deploy import timed
from vitrail.run.dial import Dial, Point, Setting
from vitrail.run.exported import held_back
from vitrail.run.exported import labels as labels_of
from vitrail.run.finish import Desk, Trained
from vitrail.run.workshop import Workshop
from vitrail.tasks.task import Outputs, Scores, Task, at_rest

# Shares of the patches at which a model that learned to miss some is measured: those at which
# `pss` trains it.
KEEPS = (1.0, 0.8, 0.6, 0.4)
SECONDS = 0.4
# A setting's file is compared on so many images, and in full when it is the one chosen.
COMPARED = 64
RESAMPLED = 200


def settings(model: nn.Module, methods: Sequence[Methods]) -> list[Setting]:
    """Return the settings at which a model of such methods runs; a single one needs no dial.

    What a method fixes by `test_patch`, or by a `test_keep` below 1, stays as it is.
    """
    patches: Sequence[int | None] = (None,)
    keeps: Sequence[float] = (1.0,)
    for method in methods:
        if isinstance(method, Flexivit):
            own = flexivit.stems(model)[0].patches
            patches = own if method.test_patch is None else (method.test_patch,)
        elif isinstance(method, PatchDropout | PSS):
            keeps = KEEPS if method.test_keep == 1 else (method.test_keep,)
    ordered = sorted(patches, key=lambda one: one or 0)
    return [Setting(patch, keep) for patch in ordered for keep in keeps]


def turned(model: nn.Module, setting: Setting) -> nn.Module:
    """Put a model to a setting, from now on; returns the model. Raises ConfigError."""
    if setting.patch is not None:
        flexivit.choose(model, setting.patch)
    if any(isinstance(module, dropping.Leaving) for module in model.modules()):
        dropping.choose(model, setting.keep)
    return model


def turned_methods(methods: Sequence[Methods], setting: Setting) -> tuple[Methods, ...]:
    """Return the methods of a recipe whose model stands at a setting outside of training."""

    def at(method: Methods) -> Methods:
        if isinstance(method, Flexivit):
            return replace(method, test_patch=setting.patch)
        if isinstance(method, PatchDropout | PSS):
            return replace(method, test_keep=setting.keep)
        return method

    return tuple(map(at, methods))


def quickest(recipe: Recipe, model: nn.Module) -> Recipe:
    """Return the recipe at the setting that is thought to be the fastest: largest patches, fewest
    of them."""
    every = settings(model, recipe.methods)
    least = max(every, key=lambda one: (one.patch or 0, -one.keep))
    return recipe if len(every) < 2 else at(recipe, least)


def at(recipe: Recipe, setting: Setting) -> Recipe:
    """Return a recipe whose model stands at a setting outside of training."""
    return replace(recipe, methods=turned_methods(recipe.methods, setting))


@dataclass(frozen=True, eq=False)
class Seen:
    """A setting that was exported to `file`: its multiply-adds, scores and their interval, and its
    labels."""

    setting: Setting
    macs: int
    scores: Scores
    low: float
    high: float
    labels: Labels
    file: Path

    def timed(self, times: Sequence[float]) -> Point:
        """Return the point of a dial, by the seconds of each run of the file."""
        one, labels = summary(times), self.labels
        return Point(
            self.setting, self.macs, self.scores.main, self.low, self.high,
            one.p50_s, one.p90_s, one.n,
            labels.temperature, labels.threshold, labels.thresholds,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Measuring:
    """Where a dial is measured: the workshop, the budget, and what is shown meanwhile."""

    workshop: Workshop
    budget: Budget
    say: Callable[[str], None]

    def dial(self, model: nn.Module, recipe: Recipe, scratch: Path) -> Dial | None:
        """Measure every setting of a trained model and choose one: the best within the budget, or
        the fastest where none is; None for a model of one setting.

        The model then stands at it. A setting that cannot be exported is left out.
        """
        every, found = settings(model, recipe.methods), []
        if len(every) < 2:
            return None
        for number, setting in enumerate(every, 1):
            self.say(f"measuring {setting.name}, setting {number} of {len(every)}")
            try:
                found.append(self._seen(turned(model, setting), setting, recipe, scratch))
            except ExportError as error:
                self.say(f"{setting.name} is left out: {error}")
        if not found:
            raise ExportError("no setting of the dial can be exported: see the lines above")
        dial = self._timed(found)
        turned(model, dial[dial.chosen].setting)
        return dial

    def _seen(self, model: nn.Module, setting: Setting, recipe: Recipe, scratch: Path) -> Seen:
        """Judge and export a model that stands at a setting. Raises ExportError."""
        workshop, task, file = self.workshop, recipe.task, scratch / f"{setting.name}.onnx"
        outputs = workshop.outputs(model, recipe, workshop.watched(recipe))
        labels, scores = task.settled(labels_of(recipe, workshop), outputs), task.scores(outputs)
        images = held_back(recipe, workshop)[:COMPARED]
        export_onnx(
            at_rest(model), labels, file, images=images, config=recipe.model,
            serve=task.served, agree=task.agreement,
        )  # fmt: skip
        macs = macs_of(model)
        return Seen(setting, macs, scores, *interval(task, outputs, scores), labels, file)

    def _timed(self, found: Sequence[Seen]) -> Dial:
        """Time all files in turns, and choose."""
        budget, told, scores = self.budget, found[0].labels, found[0].scores
        pictures = None if budget.beyond else budget.pictures
        size = pictures.size if pictures else told.image
        shape = (1, *size, told.channels)
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        files = {one.file: "onnxruntime" for one in found}
        (spent,) = timed(files, told, [image], budget.threads, SECONDS)
        points = tuple(one.timed(spent[one.file.name]) for one in found)
        dial = Dial(
            "", points[0].name, scores.name, scores.n, size, budget.threads, points,
            to_json(machine()),
        )  # fmt: skip
        front = dial.front
        kept = [p for p in front if budget.allows(params=0, macs=p.macs, latency_s=p.p50_s)]
        return replace(dial, chosen=(kept[-1] if kept else front[0]).name)


def macs_of(model: nn.Module) -> int:
    """Return the multiply-adds of one image at the setting where a model stands."""
    bare: Any = deepcopy(model).to("meta")
    return counts(bare, tuple(bare.config.image), bare.config.channels).macs


def dialled(
    trained: Trained, desk: Desk, scratch: Path, say: Callable[[str], None] = lambda text: None
) -> Trained:
    """Return a trained model as it stands at the setting of its dial that was chosen; one without a
    dial as it is.

    `scratch` is a folder for the files that are timed. Raises ExportError.
    """
    measuring = Measuring(desk.workshop, desk.asked.budget, say)
    with desk.state.phase("dial"):
        dial = measuring.dial(trained.model, trained.recipe, scratch)
        if dial is None:
            return trained
        point = dial[dial.chosen]
        recipe = at(trained.recipe, point.setting)
        scores = desk.workshop.validate(trained.model, recipe)
    subject = replace(trained.subject, macs=point.macs)
    return Trained(subject, recipe, trained.model, scores, dial)


def interval(task: Task, outputs: Outputs, scores: Scores) -> tuple[float, float]:
    """Return the 95 % interval of the main score: Wilson's of accuracy, else the middle of what
    resampled images give, always the same ones."""
    if scores.name == "accuracy":
        share = wilson(round(scores.main * scores.n), scores.n)
        low, high = share.low, share.high
    else:
        dice, drawn = torch.Generator().manual_seed(0), []
        for _ in range(RESAMPLED):
            rows = torch.randint(len(outputs), (len(outputs),), generator=dice)
            some = Outputs(outputs.values[rows], outputs.targets[rows])
            again = task.scores(some)
            drawn.append(again.figures.get(scores.name, again.main))
        low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
    return min(low, scores.main), max(high, scores.main)
