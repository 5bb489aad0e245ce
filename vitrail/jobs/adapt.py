"""`vitrail adapt`: a trained backbone and images in; the way to adapt it that suits them out.

Every way trains on the same images for as many epochs, or as long as its share of the time limit
allows. The validation part chooses the best within the limit of trained parameters, which becomes
a finished run that stores what it adds to its base. Then the test part is opened, and the table
says how all ways do there. What is decided is on disk before it is acted upon, so a stopped job
goes on.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vitrail.config import to_json
from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError, CheckpointError, ConfigError, RunError
from vitrail.jobs.adapt_wanted import Wanted
from vitrail.models import create, identify
from vitrail.models.trunk.catalog import purpose
from vitrail.recipes.base import weights_of
from vitrail.recipes.defaults import batch_size
from vitrail.recipes.recipe import Data, Recipe
from vitrail.recipes.ways import Start, chosen, recipe_of
from vitrail.report.adapt import WayFacts, chapter
from vitrail.run.budget import Budget
from vitrail.run.finish import Asked, Desk, Finished, Trained, conclude, ship
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read, pictured
from vitrail.run.reading import read as read_data
from vitrail.run.state import State, here, require_same, resumed
from vitrail.run.stopping import interruptible
from vitrail.run.subject import Subject, subject
from vitrail.run.view import View
from vitrail.run.watch import Watched
from vitrail.runs import Run
from vitrail.tasks.metrics import accuracy

RESULT = "adapt.json"
# Of a time limit, what reading, export, test and report get.
RESERVE = 0.2
# Steps that tell the pace of a way, at most.
PROBE = 32


def adapt(wanted: Wanted, *, out: Path | None = None, console: Console | None = None) -> Run:
    """Try the ways to adapt a base to images, and finish the best as a run.

    Returns the run, whose folder has `adapt.json` with a row for each way. Raises VitrailError.
    """
    view = View(console)
    config = _backbone(wanted.base)
    folder = out or free_name(Path(wanted.data).name or "adapted")
    RunFolder.check_free(folder)
    began = time.monotonic()
    images = _read(wanted, view)
    job = _Adapting(wanted, config, images, view)
    job.require_one()
    with RunFolder.create(folder) as run:
        state = State.new(
            run.path / "fit.json", adapting=to_json(wanted), images=images.digest,
            spent_s=time.monotonic() - began, seconds={"data": images.seconds},
        )  # fmt: skip
        return job.run(run, state)


def resume(
    out: Path, console: Console | None = None, *, given: Mapping[str, Any] | None = None
) -> Run:
    """Go on with what was stopped in the folder `out`, as it was asked for.

    `given` are fields of `Wanted` that have to be what they were; None is not given. Raises
    VitrailError.
    """
    view = View(console)

    def again(run: RunFolder, state: State) -> Path:
        if "adapting" not in state.values:
            raise RunError(f"{run.path} was not made by `vitrail adapt`: go on with what made it")
        wanted = state.get(Wanted, "adapting")
        wanted = replace(wanted, data=here(wanted.data, (given or {}).get("data")))
        images = _read(wanted, view)
        state.require_images(images.digest)
        return _Adapting(wanted, _backbone(wanted.base), images, view).run(run, state).path

    def check(run: RunFolder, state: State) -> None:
        if "adapting" in state.values and given:
            require_same(run, given, vars(state.get(Wanted, "adapting")))

    return Run(resumed(out, view, again, check=check))


def _backbone(base: str) -> Any:
    """Return the config of a base. Raises CheckpointError for anything but a backbone of images."""
    found = identify(weights_of(base))
    if (kind := purpose(found.config)) != "images":
        raise CheckpointError(f"{base} is {found.name}, a model of {kind}: give one of images")
    return found.config


def _read(wanted: Wanted, view: View) -> Read:
    data = Data(wanted.data, group_by=wanted.group_by)
    return read_data(data, Hardware(wanted.device), view)


class _Adapting:
    """The ways, their recipes, and what is known of each."""

    def __init__(self, wanted: Wanted, config: Any, images: Read, view: View) -> None:
        self.wanted, self.images, self.view = wanted, images, view
        self.workshop = workshop = images.workshop
        split = workshop.split
        n, weights = len(split.train), weights_of(wanted.base)
        config = replace(config, classes=len(split.classes))
        data = workshop.data(
            Data(wanted.data, group_by=wanted.group_by), tuple(config.image), config.channels,
            weights,
        )  # fmt: skip
        self.start = Start(wanted.base, config, data, n)
        self.subject = subject(config, pretrained=weights)
        total = wanted.epochs * max(1, n // batch_size(n, workshop.device, config))
        self.recipes: dict[str, Recipe] = {}
        self.left_out: list[WayFacts] = []
        self.trained: dict[str, int] = {}
        for name in chosen(wanted.only):
            self._enter(name, total)

    def _enter(self, name: str, total: int) -> None:
        """Let a way take part, or note why it does not."""
        made = recipe_of(
            name, self.start, total=total, seed=self.wanted.seed, device=self.workshop.device
        )
        with torch.device("meta"):
            model: Any = create(self.start.config)
        try:
            for method in made.methods:
                method.check(model)
                model = method.apply(model)
        except ConfigError as error:
            self.left_out.append(WayFacts(name, why=f"does not fit: {error}"))
            return
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        most = self.wanted.params
        if most is not None and count > (most * self.subject.params if most < 1 else most):
            self.left_out.append(WayFacts(name, count, why="over budget"))
            return
        self.recipes[name], self.trained[name] = made, count

    def require_one(self) -> None:
        """Raise BudgetError unless a way keeps the limit."""
        if not self.recipes:
            least = min(self.left_out, key=lambda one: one.trained or 1 << 62)
            if not least.trained:
                raise ConfigError(f"{self.wanted.base} cannot be adapted: {least.name} {least.why}")
            raise BudgetError(
                f"no way to adapt {self.wanted.base} trains as few parameters: {least.name} trains "
                f"{least.trained:,}; allow more by --params"
            )

    def run(self, run: RunFolder, state: State) -> Run:
        """Train every way, finish the best, and write the table."""
        again = f"vitrail adapt --resume --out {shlex.quote(str(run.path))}"
        with interruptible(again), self.view.shown():
            self.view.enter([self._subject(name) for name in self.recipes])
            done = {name: self._train(name, run, state) for name in self.recipes}
            self.view.phase("exporting, testing and reporting")
            winner = max(done, key=lambda name: done[name].scores.order)
            ways = [
                *(self._tested(n, one, state, won=n == winner) for n, one in done.items()),
                *self.left_out,
            ]
            run.write_json(run.path / RESULT, [asdict(one) for one in ways])
            finished = self._finish(done[winner], ways, run, state)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        finished.say(self.view.console)
        return Run(run.path)

    def _train(self, name: str, run: RunFolder, state: State) -> Trained:
        """Train one way to its end, which a time limit may bring forward."""
        recipe = self._timed(name, run, state)
        self.view.phase(f"training {name}")
        called = self._subject(name).name
        self.view.update(called, status="training")
        with state.phase(f"training {name}"):
            model, scores = Watched(self.workshop, run.path, called, self.view).to_end(recipe)
        self.view.update(called, accuracy=scores.main, status="finished")
        return Trained(self._subject(name), recipe, model, scores)

    def _subject(self, name: str) -> Subject:
        """Return the backbone under the name of a way."""
        return replace(self.subject, name=f"{self.subject.name}-{name}")

    def _timed(self, name: str, run: RunFolder, state: State) -> Recipe:
        """Return the recipe with as many steps as fit into the way's share of the time."""
        recipe, limit = self.recipes[name], self.wanted.time_s
        if limit is None:
            return recipe
        hold = max(4, min(PROBE, recipe.steps.total // 8))
        recipe = replace(recipe, schedule=replace(recipe.schedule, hold=hold))
        plan = state.finals.get(name)
        if plan is None:
            began = time.monotonic()
            left = max(0.0, (1 - RESERVE) * limit - state.spent_s)
            share = left / (len(self.recipes) - [*self.recipes].index(name))
            with state.phase(f"training {name}"):
                watched = Watched(self.workshop, run.path, self._subject(name).name, self.view)
                watched.advance(recipe, hold)
            spent = time.monotonic() - began
            more = int((share - spent) * watched.made / spent) if watched.made else 0
            total = min(recipe.steps.total, hold + max(1, more))
            plan = {"hold": hold, "total": total}
            state.decide(name, plan)
        return replace(recipe, steps=replace(recipe.steps, total=int(plan["total"])))

    def _tested(self, name: str, one: Trained, state: State, *, won: bool) -> WayFacts:
        """Judge a way by the test part."""
        recipe, workshop = one.recipe, self.workshop
        verdict = judge(one.model, recipe, workshop.split.test, workshop)
        right = accuracy(verdict.outputs.values, verdict.outputs.targets)
        return WayFacts(
            name, self.trained[name], self.trained[name] / self.subject.params,
            recipe.steps.total, state.seconds.get(f"training {name}", 0.0), one.scores.main,
            right.value, right.low, right.high, won,
        )  # fmt: skip

    def _finish(
        self, winner: Trained, ways: Sequence[WayFacts], run: RunFolder, state: State
    ) -> Finished:
        """Make a finished run of the best way."""
        budget = Budget(threads=self.wanted.threads, device=self.wanted.device)
        asked = Asked(
            self.wanted.command, pictured(budget, self.images), self.wanted.seed, self.wanted.time_s
        )
        tested = len(self.workshop.split.test)
        told = [chapter(ways, self.wanted.base, tested)]
        desk = Desk(
            run, self.workshop, self.images.inspection, state, asked, Apart(), chapters=told
        )
        with run.scratch() as scratch:
            return conclude(winner, ship(winner, desk, scratch), desk, scratch)
