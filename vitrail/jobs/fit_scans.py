"""`vitrail fit SCANS --task lidar`: a few networks of scans race, the best is trained in full.

scans -> gate -> parts -> race -> full training -> export -> test -> page
"""

from __future__ import annotations

import shutil
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrail.config import to_json
from vitrail.errors import BudgetError, ConfigError
from vitrail.jobs.arguments import Arguments
from vitrail.jobs.entrants import RACE_SHARE
from vitrail.jobs.lidar import WIDTH, settled
from vitrail.jobs.training import train_in_full
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Recipe, amend
from vitrail.run.finish_scans import FinishedScans, TrainedScans, finish
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.reserve import reserve
from vitrail.run.scans import ReadScans, read_scans
from vitrail.run.state import State
from vitrail.run.stopping import interruptible
from vitrail.run.view import View
from vitrail.run.watch import Watched, checkpoints
from vitrail.search.candidate import Candidate
from vitrail.search.race import Race
from vitrail.search.rungs import Runner, rung_seconds, rung_steps
from vitrail.search.scan_space import SHAPES, paces, scan_candidates
from vitrail.tasks import Lidar
from vitrail.units import counted

# As in a race of images.
GRACE = 1.4


def check(asked: Arguments) -> None:
    """Raise ConfigError for what a race of networks of scans does not do."""
    for name, value, why in (
        ("latency", asked.latency_s, "the report tells what a whole scan takes"),
        ("storage", asked.storage, "networks of scans race on one machine"),
        ("add", asked.add, "others are trained by `vitrail train --set task=lidar`"),
    ):
        if value:
            raise ConfigError(f"--{name} is not for lidar scans: {why}, leave it out")


def fit_scans(asked: Arguments, out: str | Path | None, view: View) -> Path:
    """Find, train, export and judge the best network for a folder of scans; returns the run.

    Raises VitrailError.
    """
    check(asked)
    folder = Path(out) if out else free_name(Path(asked.data).resolve().stem)
    RunFolder.check_free(folder)
    began = clock.monotonic()
    view.until(began + asked.time_s)
    read = read_scans(asked.wish.data, asked.hardware, view, _task(asked))
    _field(asked, read)
    with RunFolder.create(folder) as run:
        state = State.new(
            run.path / "fit.json", arguments=to_json(asked.public), command=asked.command,
            images=read.digest, scans=True, seconds={"data": read.seconds},
            spent_s=clock.monotonic() - began,
        )  # fmt: skip
        with interruptible(asked.again(run.path)):
            return ScanFitting(asked, run, state, view, read).run()


def again(asked: Arguments, run: RunFolder, state: State, view: View) -> Path:
    """Go on with a fit of scans that was stopped."""
    check(asked)
    with interruptible(asked.again(run.path)):
        view.until(state.deadline(asked.time_s))
        read = read_scans(asked.wish.data, asked.hardware, view, _task(asked))
        state.require_images(read.digest)
        return ScanFitting(asked, run, state, view, read).run()


def _task(asked: Arguments) -> Lidar:
    task = asked.wish.task
    assert isinstance(task, Lidar)
    return task


def _field(asked: Arguments, read: ReadScans) -> list[Candidate]:
    """Return the networks that race. Raises BudgetError where none is small enough."""
    workshop = read.workshop
    projection, split = workshop.projection, workshop.split
    image = (projection.height, min(WIDTH, projection.width))
    found = scan_candidates(image, split.channels, len(split.classes), asked.budget)
    if not found:
        raise BudgetError(
            f"none of {counted(len(SHAPES), 'network')} of scans keeps {asked.budget.spoken()}: "
            "allow more"
        )
    return found


@dataclass(frozen=True, eq=False)
class ScanFitting:
    """A fit of scans in its run folder: race, full training, export, test, page."""

    asked: Arguments
    folder: RunFolder
    state: State
    view: View
    read: ReadScans

    def run(self) -> Path:
        """Do all of it; returns the run folder."""
        asked, state, view, workshop = self.asked, self.state, self.view, self.read.workshop
        end = state.deadline(asked.time_s) - reserve(asked.time_s)
        with view.shown():
            with state.phase("race"):
                race, runners = self._race(end)
            best = runners[0]
            name = best.candidate.name
            view.phase(f"training {name} in full")
            with state.phase("training"):
                watched = Watched(workshop, self.folder.path, name, view)
                trained = train_in_full(best, watched, state, end)
            self.folder.write_json(self.folder.recipe, to_json(trained.recipe))
            view.phase("exporting, testing and reporting")
            scans = TrainedScans(best.candidate, trained.recipe, trained.model, trained.scores)
            finished: FinishedScans = finish(scans, self.folder, self.read, state)
            race.finish(runners, best)
            for other in runners[1:]:
                where = checkpoints(self.folder.path, other.candidate.name)
                shutil.rmtree(where, ignore_errors=True)
        finished.say(view.console)
        return self.folder.path

    def _race(self, end: float) -> tuple[Race, list[Runner]]:
        state, field = self.state, _field(self.asked, self.read)
        self.view.enter(field)
        self.view.phase(f"racing {counted(len(field), 'network')}")
        race = Race(self.folder.path, name="race", owner=str(self.folder.path.resolve()))
        if "race_s" not in state.values:
            left = max(1.0, end - clock.monotonic())
            state.put(race_s=RACE_SHARE * left, train_s=left)
        if not race.entered:
            race.enter(self._runners(field, state.values["race_s"], state.values["train_s"]))
        runners = race.run(
            self.read.workshop, self.view,
            deadline=clock.monotonic() + GRACE * state.values["race_s"],
            localise=lambda one: replace(one, data=replace(one.data, spec=self.asked.data)),
        )  # fmt: skip
        return race, runners

    def _runners(self, field: Sequence[Candidate], race_s: float, train_s: float) -> list[Runner]:
        """Return the networks with their recipes, and the steps of each rung."""
        workshop, runners = self.read.workshop, []
        marks = rung_seconds(len(field), race_s)
        recipes = [self._recipe(one.config, 1) for one in field]
        for one, rate in zip(field, paces(recipes, workshop), strict=True):
            batch = recipes[0].steps.batch
            steps = rung_steps(rate, batch, marks)
            whole = rung_steps(rate, batch, [train_s - race_s + marks[-1]])[0]
            recipe = self._recipe(one.config, max(steps[-1] + 1, whole))
            recipe = replace(recipe, schedule=replace(recipe.schedule, hold=steps[-1]))
            runners.append(Runner(replace(one, rate=rate), recipe, steps, seconds=tuple(marks)))
        return runners

    def _recipe(self, config: Any, total: int) -> Recipe:
        asked, workshop = self.asked, self.read.workshop
        images = len(workshop.split.train)
        recipe = default(
            config, workshop.data(asked.wish.data, config.image, config.channels), images=images,
            total=max(total, images // batch_size(images, workshop.device)), seed=asked.seed,
            device=workshop.device,
        )  # fmt: skip
        recipe = amend(recipe, [one for one in asked.settings if not one.startswith("data")])
        return settled(recipe, workshop)
