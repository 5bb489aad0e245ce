"""`vitrail train`: one recipe without a race, from settings to the same run folder as a fit."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vitrail.config import to_json
from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError, ConfigError
from vitrail.fit.arguments import Arguments
from vitrail.fit.fit import free_name
from vitrail.fit.training import train_to_end
from vitrail.measure.machine import cores
from vitrail.models import create
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data, Recipe, amend, read
from vitrail.run.finish import finish
from vitrail.run.folder import RunFolder
from vitrail.run.reading import Read
from vitrail.run.reading import read as read_data
from vitrail.run.state import State, resumed
from vitrail.run.stopping import interruptible
from vitrail.run.view import View
from vitrail.run.workshop import Trainer
from vitrail.search.candidate import candidate
from vitrail.search.rungs import Runner
from vitrail.search.space import counted
from vitrail.train.steps import Steps

EPOCHS = 30


def train_recipe(
    settings: Sequence[str],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    threads: int | None = None,
    console: Console | None = None,
) -> Path:
    """Train, export, test and report one recipe; returns the run folder.

    `settings` are like `model=cvt_13`, `data=photos/`, `optimizer.lr=3e-4`; model and data
    must be among them, everything else has a default: the model at its own image size, its
    head and channels fitted to the data, 30 epochs. With `resume` the training in `out` goes
    on with its own recipe. Raises VitrailError.

    Examples:
        >>> settings = ["model=cct_2_3x2_32", "data=photos", "model.image=32,32"]
        >>> run = vitrail.train([*settings, "steps.total=4"], out="run")
    """
    view = View(console)
    arguments = Arguments(
        data="", time_s=0.0, device=device, devices=devices, threads=threads or cores()
    )
    if resume:
        return resumed(out, view, lambda run, state: _again(run, state, arguments, view))
    wish = _wish(settings)
    folder = Path(out) if out is not None else free_name(wish.model["family"])
    RunFolder.check_free(folder)
    images = read_data(wish.data, arguments, view)
    recipe = _complete(wish, settings, images.trainer)
    words = [f"--set {shlex.quote(setting)}" for setting in settings]
    command = " ".join(["vitrail train", *words, f"--out {shlex.quote(str(folder))}"])
    arguments = replace(arguments, data=recipe.data.spec, command=command, seed=recipe.seed)
    with RunFolder.create(folder) as run:
        run.write_json(run.recipe, to_json(recipe))
        state = State.new(
            run.path / "fit.json",
            arguments=to_json(arguments),
            images=images.digest,
            seconds={"data": images.seconds},
        )
        return _run(recipe, images, arguments, run, state, view)


def _again(run: RunFolder, state: State, arguments: Arguments, view: View) -> Path:
    """Go on with a stopped training, by its own recipe."""
    recipe = read(run.recipe)
    command = state.values["arguments"]["command"]
    arguments = replace(arguments, data=recipe.data.spec, command=command)
    return _run(recipe, read_data(recipe.data, arguments, view), arguments, run, state, view)


def _wish(settings: Sequence[str]) -> Recipe:
    """The settings on an empty recipe: all names and types are checked before any work."""
    names = {setting.partition("=")[0].strip() for setting in settings}
    for name, example in (("model", "model=cvt_13"), ("data", "data=photos/")):
        if name not in names and f"{name}.spec" not in names:
            raise ConfigError(f"{name} is not given: add --set {example}")
    family_first = [s for s in settings if s.partition("=")[0].strip() == "model"]
    rest = [s for s in settings if s not in family_first]
    empty = Recipe({}, Data(""), Steps(1, 1))
    return amend(empty, [*family_first, *rest])


def _complete(wish: Recipe, settings: Sequence[str], trainer: Trainer) -> Recipe:
    """The wish with what the data decide: classes, channels, statistics, steps."""
    split = trainer.split
    channels = wish.config.channels if wish.pretrained else split.channels
    config = replace(wish.config, classes=len(split.classes), channels=channels)
    create(config)
    data = trainer.data(wish.data, tuple(config.image), channels)
    images = len(split.train)
    total = EPOCHS * max(1, images // batch_size(images, trainer.device))
    recipe = default(
        config,
        data,
        images=images,
        total=total,
        seed=wish.seed,
        pretrained=wish.pretrained,
        device=trainer.device,
    )
    decided = ("model", "data", "pretrained", "seed")
    rest = [s for s in settings if s.partition("=")[0].strip().partition(".")[0] not in decided]
    recipe = amend(recipe, rest)
    if not any(s.startswith("schedule.total") for s in rest):
        recipe = replace(recipe, schedule=replace(recipe.schedule, total=recipe.steps.total))
    return recipe


def _run(
    recipe: Recipe,
    images: Read,
    arguments: Arguments,
    run: RunFolder,
    state: State,
    view: View,
) -> Path:
    figures = counted(recipe.config)
    if figures is None:
        raise ConfigError(f"the model cannot be built at {recipe.data.image}: give another image")
    one = candidate(
        recipe.config, params=figures.params, macs=figures.macs, pretrained=recipe.pretrained
    )
    runner = Runner(one, recipe, (recipe.steps.total,))
    again = f"vitrail train --resume --out {shlex.quote(str(run.path))}"
    with interruptible(again), view.shown():
        view.enter([one])
        view.phase(f"training {one.name}")
        with state.phase("training"):
            model, score = train_to_end(runner, images.trainer, folder=run.path, view=view)
        view.phase("exporting, testing and reporting")
        done = replace(runner, rung=0, accuracy=score.accuracy, loss=score.loss)
        finished = finish(
            model,
            recipe,
            score,
            run=run,
            trainer=images.trainer,
            inspection=images.inspection,
            arguments=arguments,
            runners=[done],
            winner=done,
            over=(),
            misses={},
            state=state,
            apart=Apart(),
        )
    if finished is None:
        raise BudgetError("a recipe has no budget to miss")
    finished.say(view.console)
    return run.path
