"""`vitrail train`: one recipe without a race; the data gate, test, export and report are fit's.

    vitrail train --set model=cvt_13 --set data=photos/ --set optimizer.lr=3e-4

Every field of the recipe may be set. What is not set is what `fit` would take for the model
and the data, over EPOCHS passes.
"""

from __future__ import annotations

import math
import shlex
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from vitrail.config import parse, to_json
from vitrail.data.gate import Inspection, inspect
from vitrail.data.source import open_source
from vitrail.data.split import Split, divide
from vitrail.errors import ConfigError, RunError
from vitrail.fit.arguments import Arguments
from vitrail.fit.candidate import candidate
from vitrail.fit.final import finish_training
from vitrail.fit.finish import finish
from vitrail.fit.fit import free_name
from vitrail.fit.race import Runner
from vitrail.fit.shortlist import counted
from vitrail.fit.state import State
from vitrail.fit.stopping import interruptible
from vitrail.fit.trainer import Trainer
from vitrail.fit.view import View
from vitrail.measure.machine import cores
from vitrail.models import resolve
from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.recipes.recipe import from_json as recipe_from_json
from vitrail.run_folder import RunFolder

EPOCHS = 20
MODEL = "resnet_18"


@dataclass(frozen=True)
class Asked:
    """What the user asked for, kept in the run folder for `--resume`."""

    settings: tuple[str, ...]
    device: str = "auto"
    threads: int = 1
    command: str = ""


def train_recipe(
    settings: Sequence[str],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    console: Console | None = None,
) -> Path:
    """Train the recipe that `settings` ("optimizer.lr=3e-4", ...) describe; the run folder.

    `data=` must be among them; the model is resnet_18 unless set. With `resume` the run in
    `out` goes on with its own settings. Every error that a user can mend is a VitrailError.
    """
    view = View(console)
    if resume:
        if out is None:
            raise RunError("--resume needs the run folder to go on with: add --out RUN")
        with RunFolder.create(out, resume=True) as run:
            state = State.read(run.path / "fit.json")
            if run.result.is_file():
                view.console.print(f"{run.path} is finished: see {run.report}", soft_wrap=True)
                return run.path
            if "recipe" not in state.values:
                raise RunError(f"{run.path} is of `vitrail fit`: resume it with that command")
            asked = parse(Asked, state.values["arguments"])
            return _go(asked, recipe_from_json(state.values["recipe"]), run, state, view)
    words = [f"--set {shlex.quote(s)}" for s in settings]
    words += [] if out is None else [f"--out {shlex.quote(str(out))}"]
    command = " ".join(["vitrail train", *words])
    asked = Asked(tuple(settings), device, threads or cores(), command)
    # Wrong settings are told before any image is read.
    spec = amend(_plain("", images=1000, channels=3, classes=2), settings).data.spec
    if not spec:
        raise ConfigError("no data is named: add --set data=FOLDER, a table or a built-in name")
    folder = Path(out) if out is not None else free_name(open_source(spec).name)
    RunFolder.check_free(folder)
    began = clock.monotonic()
    recipe = _recipe(asked, spec)
    with RunFolder.create(folder) as run:
        state = State.new(run.path / "fit.json", to_json(asked), spent_s=clock.monotonic() - began)
        state.put(recipe=to_json(recipe))
        return _go(asked, recipe, run, state, view)


def _plain(spec: str, *, images: int, channels: int, classes: int) -> Recipe:
    """The recipe that settings start from."""
    config = resolve(MODEL, channels=channels, classes=classes)
    first = default(config, Data(spec), images=images, total=1)
    total = EPOCHS * max(1, images // first.steps.batch)
    return default(config, Data(spec), images=images, total=total)


def _recipe(asked: Asked, spec: str) -> Recipe:
    """The complete recipe, for the data as they are."""
    wanted = amend(_plain(spec, images=1000, channels=3, classes=2), asked.settings)
    _, split = _read(wanted, progress=True)
    images = len(split.train)
    base = _plain(spec, images=images, channels=split.channels, classes=len(split.classes))
    recipe = amend(base, asked.settings)
    names = {setting.partition("=")[0].strip() for setting in asked.settings}
    if (
        not any(name.startswith("optimizer") for name in names)
        and recipe.model["family"] != base.model["family"]
    ):
        usual = default(recipe.config, recipe.data, images=images, total=recipe.steps.total)
        recipe = replace(recipe, optimizer=usual.optimizer, augment=usual.augment)
        recipe = amend(recipe, [s for s in asked.settings if not s.startswith(("model", "data"))])
    if "schedule.total" not in names:
        recipe = replace(recipe, schedule=replace(recipe.schedule, total=recipe.steps.total))
    config = recipe.config
    trainer = Trainer(split, device=asked.device)
    data = trainer.data(recipe.data, config.image, config.channels)
    return replace(recipe, data=data)


def _read(recipe: Recipe, *, progress: bool) -> tuple[Inspection, Split]:
    data = recipe.data
    inspection = inspect(open_source(data.spec), progress=progress)
    return inspection, divide(
        inspection, group_by=data.group_by, val=data.val, test=data.test, seed=data.seed
    )


def _go(asked: Asked, recipe: Recipe, run: RunFolder, state: State, view: View) -> Path:
    data = recipe.data
    inspection, split = _read(recipe, progress=view.console.is_terminal)
    config = recipe.config
    if (config.classes, config.channels) != (len(split.classes), split.channels):
        raise ConfigError(
            f"the model has {config.classes} classes and {config.channels} channels, the data "
            f"{len(split.classes)} and {split.channels}: leave model.classes and model.channels"
        )
    figures = counted(config)
    if figures is None:
        raise ConfigError(f"{recipe.model} cannot be built: change model.image or its sizes")
    one = candidate(config, params=figures.params, macs=figures.macs)
    runner = Runner(one, recipe, (recipe.steps.total,))
    plan = {"hold": recipe.schedule.hold, "total": recipe.steps.total, "fixed": 1}
    state.decide(one.name, plan)
    command = f"vitrail train --resume --out {shlex.quote(str(run.path))}"
    trainer = Trainer(split, device=asked.device)
    with interruptible(command), view.shown():
        view.enter([one])
        view.phase(f"training {one.name}")
        with state.phase("training"):
            recipe, model, score = finish_training(
                runner, trainer, folder=run.path, state=state, deadline=math.inf, view=view
            )
        view.phase("exporting, testing and reporting")
        finished = finish(
            model,
            recipe,
            score,
            run=run,
            trainer=trainer,
            inspection=inspection,
            arguments=Arguments(
                data.spec, device=asked.device, threads=asked.threads, command=asked.command
            ),
            runners=[replace(runner, rung=0, accuracy=score.accuracy, loss=score.loss)],
            winner=runner,
            over=(),
            misses={},
            state=state,
        )
    if finished is None:
        raise RunError("a training without a budget missed it: this is a fault of vitrail")
    finished.say(view.console)
    return run.path
