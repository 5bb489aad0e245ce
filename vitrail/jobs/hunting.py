"""A search in its run folder: the shared network, the search and chance, the full training."""

from __future__ import annotations

import shutil
import time as clock
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError, ExportError
from vitrail.jobs.findings import Findings, chapters_of, written
from vitrail.jobs.searched import Wanted
from vitrail.jobs.training import train_in_full
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Recipe, amend
from vitrail.run.exported import exported_latency
from vitrail.run.finish import Desk, Finished, conclude, ship
from vitrail.run.folder import RunFolder
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.run.view import View
from vitrail.run.watch import Watched, checkpoints
from vitrail.search.candidate import Candidate
from vitrail.search.costs import Meter
from vitrail.search.hunt import Hunt, Judge
from vitrail.search.judging import Inherited, sampled
from vitrail.search.oneshot import SHARED, OneShot
from vitrail.search.race import LOOK_AT
from vitrail.search.rungs import EFFICIENCY, Runner
from vitrail.search.spaces.space import Space
from vitrail.search.strategies import Evolve, Found, Ground, Random, Strategy
from vitrail.search.timing import paced
from vitrail.units import seconds

# Of the time for training: the shared network, the search with chance beside it, and where it is
# asked for the networks that are trained alone. The network that is found has the rest.
SHARED_SHARE, HUNT_SHARE, ALONE_SHARE = 0.4, 0.2, 0.25
RESERVE_S, RESERVE_SHARE = 30.0, 0.15
# Candidates that are judged whatever the time, so that there is something to choose from.
FEWEST = 8
# Candidates whose exported file is timed before the search gives up on a latency.
TRIES = 5
SEARCH, CHANCE = "search", "random"
STUDY = "study.sqlite"


@dataclass(frozen=True, eq=False)
class Ready:
    """What was asked for, the space as it is and fitted to the budget (the meter's), and how
    candidates are bred."""

    wanted: Wanted
    plain: Space
    meter: Meter
    evolve: Evolve


@dataclass(frozen=True)
class Line:
    """A row of the live view."""

    name: str
    macs: int = 0
    latency_s: float | None = None


class Searching:
    """One run of a search."""

    def __init__(self, ready: Ready, run: RunFolder, state: State, view: View, data: Read) -> None:
        self.ready, self.folder, self.state, self.view = ready, run, state, view
        self.meter, self.space = ready.meter, ready.meter.space
        self.limits, self.workshop = ready.wanted.limits, data.workshop
        asked = replace(self.limits.asked, budget=self.meter.budget)
        self.desk = Desk(run, data.workshop, data.inspection, state, asked, Apart())
        end = state.deadline(self.limits.time_s)
        view.until(end)
        self.train_end = end - min(RESERVE_S, RESERVE_SHARE * self.limits.time_s)

    def run(self) -> Path:
        """Do all of it; returns the run folder. Raises BudgetError where all candidates that were
        exported are too slow."""
        self.recipe  # noqa: B018  # decodes the training images
        if "train_s" not in self.state.values:
            self.state.put(train_s=max(1.0, self.train_end - clock.monotonic()))
        with self.view.shown():
            large = self.meter.candidate(self.space.ends[1])
            self.view.enter([Line(SHARED, large.macs), Line(SEARCH), Line(CHANCE)])
            found = self._hunted()
            ordered = sorted((*found.searched, *found.chance), key=lambda one: -one.score)
            with self.desk.apart:
                finished = self._final(found, ordered)
        finished.say(self.view.console)
        return self.folder.path

    @cached_property
    def recipe(self) -> Recipe:
        """How the shared network is trained, and all candidates are judged."""
        return self._recipe(self.meter.candidate(self.space.ends[1]))

    def _recipe(self, one: Candidate) -> Recipe:
        limits, workshop = self.limits, self.workshop
        with self.state.phase("data"):
            data = workshop.data(limits.wish.data, one.image, one.model["channels"])
            workshop.pixels("val", one.image, one.model["channels"])
        recipe = default(
            one.config, data, images=len(workshop.split.train), total=1 << 20, seed=limits.seed,
            device=workshop.device, precision=one.precision if one.rate else None,
        )  # fmt: skip
        return amend(recipe, [s for s in limits.settings if not s.startswith("data")])

    # ---- the search --------------------------------------------------------------------

    def _hunted(self) -> Findings:
        """Train the shared network, search, look at as many random candidates, train some alone."""
        view, state, share = self.view, self.state, self.state.values["train_s"]
        if self.ready.wanted.alone:
            share *= 1 - ALONE_SHARE
        view.phase("training the shared network")
        view.update(SHARED, status="training")
        with state.phase("shared network"):
            folder = checkpoints(self.folder.path, SHARED)
            one_shot = OneShot(self.space, self.recipe, self.workshop, folder)
            shared = one_shot.trained(
                state, SHARED_SHARE * share, lambda step, total: view.step(SHARED, step, total)
            )
        steps = int(state.finals[SHARED]["total"])
        view.update(SHARED, status="trained", steps=steps)
        images = len(self.workshop.watched(self.recipe, LOOK_AT))
        judge = Inherited(shared, self.meter, self.workshop, self.recipe, LOOK_AT)
        with state.phase("search"):
            half = HUNT_SHARE * share / 2
            count = state.values.get("searched")
            searched = self._hunt(SEARCH, self.ready.evolve, judge, half, count)
            state.put(searched=len(searched))
            chance = self._hunt(CHANCE, Random(len(searched)), judge, 1.5 * half, len(searched))
        found = Findings(
            self.ready.plain, self.meter, searched, chance, steps,
            state.seconds["shared network"], images,
        )  # fmt: skip
        written(found, self.folder, self.limits)
        return replace(found, alone=self._alone(found)) if self.ready.wanted.alone else found

    def _hunt(
        self, name: str, strategy: Strategy, judge: Judge, seconds: float, most: int | None
    ) -> list[Found]:
        """Run one strategy for so many seconds, or up to a number of candidates."""
        view, stop = self.view, clock.monotonic() + seconds
        view.phase(f"{name}: judging candidates with inherited weights")
        best, made = [0.0], [0]

        def told(genes: tuple[int, ...]) -> Found:
            one = judge(genes)
            made[0] += 1
            view.step(name, made[0], most or 0)
            if one.score > best[0]:
                best[0] = one.score
                view.update(name, accuracy=one.score, steps=made[0], status="searching")
            return one

        def enough(found: list[Found]) -> bool:
            if most is not None and len(found) >= most:
                return True
            return len(found) >= FEWEST and clock.monotonic() > stop

        hunt = Hunt(self.folder.path / STUDY, name)
        ground = Ground(self.space, self.meter.allows, self.limits.seed)
        found = hunt.run(strategy, ground, told, enough=enough)
        view.update(name, status="done", steps=len(found))
        return found

    def _alone(self, found: Findings) -> dict[str, float]:
        """Train some candidates from scratch, all for as many steps; their scores by genes."""
        number, state = self.ready.wanted.alone, self.state
        some = sampled([*found.searched, *found.chance], number)
        plan = dict(state.values.get("alone", {}))
        with state.phase("trained alone"):
            if not plan:
                batch = self.recipe.steps.batch
                rates = [self._paced(one).rate or 1.0 for one in some]
                each = ALONE_SHARE * state.values["train_s"] / len(some)
                plan = {"steps": max(20, int(EFFICIENCY * min(rates) * each / batch)), "scores": {}}
                state.put(alone=plan)
            for at, one in enumerate(some, 1):
                key = " ".join(map(str, one.genes))
                if key not in plan["scores"]:
                    self.view.phase(f"training network {at} of {len(some)} alone")
                    plan["scores"][key] = self._trained_alone(one, plan["steps"])
                    state.put(alone=plan)
        return plan

    def _trained_alone(self, one: Found, steps: int) -> float:
        recipe = self._recipe(self.meter.candidate(one.genes))
        recipe = replace(recipe, steps=replace(recipe.steps, total=steps, ema=None))
        where = checkpoints(self.folder.path, "alone")
        shutil.rmtree(where, ignore_errors=True)
        outcome = self.workshop.train(recipe, where, steps)
        score = self.workshop.validate(outcome.model, recipe, LOOK_AT).main
        shutil.rmtree(where, ignore_errors=True)
        return score

    # ---- what was found ----------------------------------------------------------------

    def _final(self, found: Findings, ordered: list[Found]) -> Finished:
        """Train the best in full; where its exported file misses the latency, the next."""
        budget, misses = self.meter.budget, dict(self.state.values.get("misses", {}))
        for number, one in enumerate(ordered[:TRIES], 1):
            name = f"{self.space.name}-found" + (f"-{number}" if number > 1 else "")
            if name in misses:
                continue
            candidate = replace(self._paced(one), name=name)
            recipe = self._recipe(candidate)
            self.view.enter([candidate])
            try:
                if budget.latency_s is not None and name not in self.state.finals:
                    self.view.phase(f"timing {name} as exported")
                    timed = exported_latency(
                        recipe, self.workshop, self.folder, budget=budget, apart=self.desk.apart
                    )
                    if timed.held_s(budget) > budget.latency_s:
                        misses[name] = timed.latency.p50_s
                        self.state.put(misses=misses)
                        self.view.update(name, status="over budget")
                        continue
                return self._finish(candidate, recipe, replace(found, chosen=one))
            except ExportError as error:
                self.view.phase(f"{name} cannot be exported: {error}")
        least = seconds(min(misses.values())) if misses else "too long"
        raise BudgetError(
            f"the best {TRIES} networks take {least} or more as exported, over the budget "
            f"({budget.spoken()}): give a longer latency, or more --time to search"
        )

    def _finish(self, one: Candidate, recipe: Recipe, found: Findings) -> Finished:
        self.view.phase(f"training {one.title} from scratch")
        with self.state.phase("training"):
            watched = Watched(self.workshop, self.folder.path, one.name, self.view)
            runner = Runner(one, recipe, ())
            trained = train_in_full(runner, watched, self.state, self.train_end)
        self.view.phase("exporting, testing and reporting")
        written(found, self.folder, self.limits)
        self.desk.opening.extend(chapters_of(found, self.limits, self.recipe))
        with self.folder.scratch() as scratch:
            finished = conclude(trained, ship(trained, self.desk, scratch), self.desk, scratch)
        shutil.rmtree(checkpoints(self.folder.path, SHARED), ignore_errors=True)
        return finished

    def _paced(self, one: Found) -> Candidate:
        batch = batch_size(len(self.workshop.split.train), self.workshop.device)
        return paced(self.meter.candidate(one.genes), batch=batch, device=self.workshop.device)
