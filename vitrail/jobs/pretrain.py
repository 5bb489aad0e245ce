"""`vitrail pretrain`: a backbone learns from pictures alone.

    pictures -> data gate -> recipe -> pace -> training, looked at ten times -> weights, page

Where pictures lie in class folders, their labels tell how good features are, and nothing else; the
test part of a fit with the same seed is not among the pictures.
"""

from __future__ import annotations

import shlex
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from vitrail.config import to_json
from vitrail.data.gate import inspect
from vitrail.data.split import divide, undivided
from vitrail.data.told import told as told_of
from vitrail.data.unlabelled import open_pictures, unlabelled
from vitrail.errors import ConfigError, DataError
from vitrail.models import create, resolve
from vitrail.recipes.pretraining import (
    known_method,
    lengthened,
    require_batch,
    usual_model,
    usual_objective,
    usual_pretraining,
)
from vitrail.recipes.recipe import Data, Recipe, changed, from_json
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.pretrained import Pretrained, conclude
from vitrail.run.probing import told
from vitrail.run.reading import Hardware, Read
from vitrail.run.state import State, resumed
from vitrail.run.stopping import interruptible
from vitrail.run.subject import subject
from vitrail.run.view import View
from vitrail.run.watch import checkpoints
from vitrail.run.workshop import Workshop
from vitrail.training.device import open_fabric
from vitrail.training.journal import Journal
from vitrail.units import counted, parse_duration, percent, seconds

LOOKS = 10
PACE_STEPS = 6  # whose pace tells how many fit into the time
# What is left over for the page, and for a machine that grows busier.
PUNCTUALITY, RESERVE_S = 0.92, 5.0
NAME = "backbone"  # of the folder of checkpoints
DECIDED = ("data", "pretrained", "seed", "model")


@dataclass(frozen=True)
class Asked:
    """What a user asks of a pretraining; kept in the run folder for `--resume`.

    `labels` false takes class folders for plain folders.
    """

    pictures: str
    method: str
    model: str | None = None
    time_s: float = 600.0
    labels: bool = True
    seed: int = 0
    settings: tuple[str, ...] = ()

    def again(self, run: Path) -> str:
        """Return the command that goes on with this pretraining."""
        return (
            f"vitrail pretrain {shlex.quote(self.pictures)} --method {self.method} --resume --out "
            f"{shlex.quote(str(run))}"
        )


def pretrain(
    pictures: str | Path,
    *,
    method: str = "attmask",
    model: str | None = None,
    time: str | float = "10m",
    settings: Sequence[str] = (),
    labels: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    console: Console | None = None,
) -> Path:
    """Pretrain a backbone on pictures without labels; returns the run folder.

    `pictures` is a folder of pictures at any depth, or what `fit` takes, of which labels only tell
    how good features are, unless `labels` is false. `method` is sit, attmask, dino, ibot or mae;
    `model` a published variant or a file of weights, by default a small DeiT. `settings` are fields
    of the recipe, as `objective.crops.number=4`. Raises VitrailError.

    Examples:
        >>> run = pretrain("photos", method="mae", time="2s", out="pretrained")
        >>> (run / "weights.safetensors").is_file()
        True
    """
    view, hardware = View(console), Hardware(device, devices)
    asked = Asked(
        str(pictures), known_method(method), model, parse_duration(time), labels, seed,
        tuple(settings),
    )  # fmt: skip
    if resume:
        return resumed(out, view, lambda run, state: _again(run, state, hardware, view))
    folder = Path(out) if out is not None else free_name(f"{asked.method}-pretraining")
    RunFolder.check_free(folder)
    _check(asked)
    view.until(clock.monotonic() + asked.time_s)
    images = read_pictures(asked, hardware, view)
    recipe = _recipe(asked, images.workshop, images.inspection.size)
    with RunFolder.create(folder) as run:
        state = State.new(
            run.path / "fit.json",
            pretraining=to_json(asked),
            images=images.digest,
            spent_s=images.seconds,
            seconds={"data": images.seconds},
        )
        return _Pretraining(asked, run, state, images, view).run(recipe)


def _again(run: RunFolder, state: State, hardware: Hardware, view: View) -> Path:
    if "pretraining" not in state.values:
        raise ConfigError(f"{run.path} was not made by `vitrail pretrain`: go on with its command")
    asked = state.get(Asked, "pretraining")
    view.until(state.deadline(asked.time_s))
    images = read_pictures(asked, hardware, view)
    state.require_images(images.digest)
    saved = state.values.get("recipe")
    if saved is not None:
        recipe = from_json(saved)
    else:
        recipe = _recipe(asked, images.workshop, images.inspection.size)
    return _Pretraining(asked, run, state, images, view).run(recipe)


def _check(asked: Asked) -> None:
    """Refuse what can be refused before any picture is read. Raises ConfigError."""
    for setting in asked.settings:
        path = setting.partition("=")[0].strip()
        if path.partition(".")[0] in ("data", "task", "pretrained"):
            raise ConfigError(f"--set {setting}: pretrain decides {path} itself: leave it out")
    base = Recipe({}, Data(asked.pictures), _one_step(), seed=asked.seed)
    config = _named(asked) or resolve("deit_tiny", image=(32, 32), patch=8, classes=0)
    base = replace(base, model=_model_json(config))
    base = replace(base, objective=usual_objective(asked.method, 1000, (32, 32), 100))
    found = changed(base, list(asked.settings))
    from vitrail.objectives.context import Context

    if asked.model is not None:
        found.objective.build(create(found.config), Context())


def _named(asked: Asked) -> Any:
    """The Config that the user names, without a head; None where none is named."""
    return None if asked.model is None else resolve(asked.model, classes=0)


def _model_json(config: Any) -> dict[str, Any]:
    from vitrail.models import config_json

    return to_json(config_json(config))


def _one_step() -> Any:
    from vitrail.training.steps import Steps

    return Steps(1, 2)


def read_pictures(asked: Asked, hardware: Hardware, view: View) -> Read:
    """Inspect the pictures, and keep back validation and test parts where classes are known.

    Raises DataError.
    """
    began = clock.monotonic()
    open_fabric(hardware.device)
    source = open_pictures(asked.pictures, labels=asked.labels)
    view.phase("reading the pictures")
    shown = view.console.is_terminal
    try:
        inspection = inspect(source, progress=shown)
        split = divide(inspection, seed=asked.seed) if source.classes else undivided(inspection)
    except DataError:
        if not source.classes:
            raise
        view.say("the folders are too small for classes: all pictures are learned from")
        inspection = inspect(unlabelled(source), progress=shown)
        split = undivided(inspection)
    for line in told_of(inspection, split.findings):
        view.say(line)
    workshop = Workshop(split, device=hardware.device, devices=hardware.devices)
    return Read(inspection, workshop, clock.monotonic() - began)


def _recipe(asked: Asked, workshop: Workshop, size: tuple[int, int]) -> Recipe:
    """The recipe but for its number of steps. Raises ConfigError."""
    split = workshop.split
    config = _named(asked)
    if config is None:
        config = usual_model(size, split.channels, workshop.device)
    else:
        config = replace(config, channels=split.channels)
    model = [s for s in asked.settings if s.strip().startswith("model.")]
    rest = [s for s in asked.settings if s not in model]
    shaped = changed(replace(Recipe({}, Data(""), _one_step()), model=_model_json(config)), model)
    config = shaped.config
    base = Data(asked.pictures, seed=asked.seed)
    data = workshop.data(base, tuple(config.image), split.channels)
    images = len(split.train)
    recipe = usual_pretraining(
        asked.method, config, data, images=images, total=1000, device=workshop.device,
        seed=asked.seed,
    )  # fmt: skip
    recipe = changed(recipe, rest)
    require_batch(recipe, images)
    workshop.builder.learner(recipe)
    return recipe


class _Pretraining:
    """A pretraining in its run folder: pace, training, page."""

    def __init__(
        self, asked: Asked, run: RunFolder, state: State, images: Read, view: View
    ) -> None:
        self.asked, self.folder, self.state, self.view = asked, run, state, view
        self.images, self.workshop = images, images.workshop
        self.checkpoints = checkpoints(run.path, NAME)
        self.journal = Journal(self.checkpoints / "metrics.jsonl")

    def run(self, recipe: Recipe) -> Path:
        """Do all of it; returns the run folder."""
        one = subject(recipe.config)
        with interruptible(self.asked.again(self.folder.path)), self.view.shown():
            self.view.enter([one])
            self.view.update(one.name, status="training")
            self._decode(recipe)
            if "recipe" not in self.state.values:
                recipe = self._paced(recipe)
            self.folder.write_json(self.folder.recipe, to_json(recipe))
            with self.state.phase("training"):
                model = self._train(recipe, one.name)
            self.view.phase("drawing what it learned")
            found = Pretrained(
                one, recipe, model, self.journal.read(), self.asked.method,
                f"{self.asked.again(self.folder.path)}".replace(" --resume", ""),
            )  # fmt: skip
            conclude(found, self.folder, self.images, self.state)
        self._say(one.title)
        return self.folder.path

    def _decode(self, recipe: Recipe) -> None:
        shown = self.view.console.is_terminal
        image, channels = recipe.data.image, recipe.data.channels
        self.workshop.pixels("train", image, channels, progress=shown)

    def _paced(self, recipe: Recipe) -> Recipe:
        """Measure a few steps and a look, and decide how many fit into the time."""
        if any(s.strip().startswith("steps.total") for s in self.asked.settings):
            total = recipe.steps.total
        else:
            self.view.phase("measuring the pace")
            short = lengthened(recipe, PACE_STEPS, len(self.workshop.split.train))
            with self.folder.scratch() as scratch:
                outcome = self.workshop.train(short, scratch, PACE_STEPS)
                began = clock.monotonic()
                told(outcome.best, recipe, self.workshop)
                look_s = clock.monotonic() - began
            left = self.state.deadline(self.asked.time_s) - clock.monotonic()
            left -= LOOKS * look_s + min(RESERVE_S, 0.1 * self.asked.time_s)
            pace = outcome.samples_per_s / recipe.steps.batch
            pace *= self.workshop.speedup
            total = max(2 * LOOKS, int(PUNCTUALITY * max(0.0, left) * pace))
        images = len(self.workshop.split.train)
        recipe = self._scaled(recipe, total, images)
        epochs = total * recipe.steps.batch / images
        self.view.say(f"{counted(total, 'step')} of {recipe.steps.batch}, {epochs:.3g} epochs")
        self.state.put(recipe=to_json(recipe))
        return recipe

    def _scaled(self, recipe: Recipe, total: int, images: int) -> Recipe:
        """The recipe for so many steps; what the user sets stays."""
        recipe = lengthened(recipe, total, images)
        usual = usual_objective(self.asked.method, images, recipe.data.image, total)
        rest = [s for s in self.asked.settings if not s.strip().startswith("model.")]
        return changed(replace(recipe, objective=usual), rest)

    def _train(self, recipe: Recipe, name: str) -> Any:
        """Train to the end, with looks at the features; returns what is kept."""
        total = recipe.steps.total
        self.view.phase(f"pretraining {name} by {self.asked.method}")

        def on_step(step: int, loss: float, lr: float, rate: float) -> None:
            self.view.step(name, step, total)

        marks = sorted({round(total * n / LOOKS) for n in range(1, LOOKS + 1)} - {0})
        model = None
        for mark in [0, *marks]:
            outcome = self.workshop.train(
                recipe, self.checkpoints, mark, on_step, together=mark > 0
            )
            if outcome.step > mark:
                continue
            model = outcome.best
            seen = told(model, recipe, self.workshop)
            if seen is not None:
                self.journal.write(mark, knn=seen.knn, linear=seen.linear)
                self.view.update(name, accuracy=seen.knn, steps=mark)
        return model

    def _say(self, title: str) -> None:
        looks = [line for line in self.journal.read() if "knn" in line]
        said = ""
        if looks:
            first, last = looks[0], looks[-1]
            said = (
                f": nearest neighbours name {percent(last['knn'])} of the validation images "
                f"rightly, before training {percent(first['knn'])}"
            )
        self.view.console.print(
            f"{title} by {self.asked.method}{said}\n"
            f"fit with it by `vitrail fit DATA --pretrained {self.folder.path}`\n"
            f"report: {self.folder.report} (after {seconds(self.state.spent_s)})",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
