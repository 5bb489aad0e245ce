"""The training of a pretraining: its pace, the looks at its features, and its end."""

from __future__ import annotations

import shlex
import time as clock
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrail.config import to_json
from vitrail.recipes.pretraining import lengthened, usual_objective
from vitrail.recipes.recipe import Recipe, changed
from vitrail.run.folder import RunFolder
from vitrail.run.pretrained import NAME, Pretrained, conclude
from vitrail.run.probing import told
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.run.stopping import interruptible
from vitrail.run.subject import subject
from vitrail.run.view import View
from vitrail.run.watch import checkpoints
from vitrail.training.journal import Journal
from vitrail.units import counted, percent, seconds

LOOKS = 10
PACE_STEPS = 6  # whose pace tells how many fit into the time
# What is left over for the page, and for a machine that grows busier.
PUNCTUALITY, RESERVE_S = 0.92, 5.0


@dataclass(frozen=True)
class Asked:
    """What a user asks of a pretraining; kept in the run folder for `--resume`.

    `labels` false takes class folders for plain folders.
    """

    pictures: str
    method: str = "attmask"
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


class Pretraining:
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
        """Return the recipe for so many steps; what the user sets stays."""
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
