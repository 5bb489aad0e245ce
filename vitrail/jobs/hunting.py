"""A search in its run folder: its levels, then the full training of what was found."""

from __future__ import annotations

import shutil
import time as clock
from dataclasses import replace
from pathlib import Path

from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError, ExportError, RunError
from vitrail.jobs.findings import Findings, chapters_of, written
from vitrail.jobs.growing import Growing
from vitrail.jobs.relaxing import Relaxing
from vitrail.jobs.sharing import Sharing, sharing
from vitrail.jobs.stages import Bench, Ready, Stages
from vitrail.jobs.training import train_in_full
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Recipe, amend
from vitrail.run.exported import exported_latency
from vitrail.run.finish import Desk, Finished, conclude, ship
from vitrail.run.folder import RunFolder
from vitrail.run.reading import Read
from vitrail.run.reserve import reserve
from vitrail.run.state import State
from vitrail.run.view import View
from vitrail.run.watch import Watched, checkpoints
from vitrail.search.candidate import Candidate
from vitrail.search.costs import Meter
from vitrail.search.finishing import finishing
from vitrail.search.oneshot import SHARED
from vitrail.search.rungs import Runner
from vitrail.search.strategies import Found
from vitrail.search.timing import paced
from vitrail.units import seconds

# Candidates whose exported file is timed before the search gives up on a latency.
TRIES = 5


def stages_of(ready: Ready, bench: Bench, shared: Sharing) -> Stages:
    """Return who searches the space: by shared weights, cells that grow, or gradients."""
    kinds = {"pnas": Growing, "bats": Relaxing}
    return kinds.get(ready.wanted.name, Stages)(ready, bench, shared)


class Searching:
    """One run of a search."""

    def __init__(self, ready: Ready, run: RunFolder, state: State, view: View, data: Read) -> None:
        self.ready, self.folder, self.state, self.view = ready, run, state, view
        self.budget = ready.meter.budget
        self.limits, self.workshop = ready.wanted.limits, data.workshop
        asked = replace(self.limits.asked, budget=self.budget)
        self.desk = Desk(run, data.workshop, data.inspection, state, asked, Apart())
        end = state.deadline(self.limits.time_s)
        view.until(end)
        self.train_end = end - reserve(self.limits.time_s)

    def run(self) -> Path:
        """Do all of it; returns the run folder. Raises BudgetError where all candidates that were
        exported are too slow."""
        with self.state.phase("data"):
            self._recipe(self.ready.meter.candidate(self.ready.meter.space.ends[0]))
        if "train_s" not in self.state.values:
            self.state.put(train_s=max(1.0, self.train_end - clock.monotonic()))
        bench = Bench(
            self.folder, self.state, self.view, self.workshop, self._recipe, self._paced,
            self.train_end,
        )  # fmt: skip
        with self.view.shown():
            shared = sharing(self.ready.wanted, self.folder, self.state)
            found = stages_of(self.ready, bench, shared).run()
            with self.desk.apart:
                finished = self._final(found, shared)
        finished.say(self.view.console)
        return self.folder.path

    def _recipe(self, one: Candidate, *, final: bool = False) -> Recipe:
        """Return the recipe of a candidate; its images are decoded at the first call. The `final`
        one is what its paper trains the found network with.
        """
        limits, workshop = self.limits, self.workshop
        data = workshop.data(limits.wish.data, one.image, one.channels)
        workshop.pixels("val", one.image, one.channels)
        recipe = default(
            one.config, data, images=len(workshop.split.train), total=1 << 20, seed=limits.seed,
            device=workshop.device, precision=one.precision if one.rate else None,
        )  # fmt: skip
        if final:
            recipe = finishing(self.ready.wanted.name, recipe)
        return amend(recipe, [s for s in limits.settings if not s.startswith("data")])

    def _paced(self, meter: Meter, one: Found) -> Candidate:
        batch = batch_size(len(self.workshop.split.train), self.workshop.device)
        return paced(meter.candidate(one.genes), batch=batch, device=self.workshop.device)

    def _final(self, found: Findings, shared: Sharing) -> Finished:
        """Train the best in full; where its exported file misses the latency, the next.

        Of machines that search together each trains the best that no other trains.
        """
        ordered = sorted(found.within, key=lambda one: one.order, reverse=True)
        if found.chosen is not None:
            ordered.insert(0, found.chosen)
        tries = 0
        for number, one in enumerate(ordered, 1):
            if tries == TRIES:
                break
            with shared.taking("training " + " ".join(map(str, one.genes))) as mine:
                if not mine:
                    continue
                tries += 1
                name = f"{found.meter.space.name}-found" + (f"-{number}" if number > 1 else "")
                if (finished := self._tried(name, one, found)) is not None:
                    return finished
        if not tries:
            raise RunError(
                "every network that was found is trained by another machine: search with fewer "
                "machines, or for longer"
            )
        misses = self.state.values.get("misses", {})
        least = seconds(min(misses.values())) if misses else "too long"
        raise BudgetError(
            f"the best {TRIES} networks take {least} or more as exported, over the budget "
            f"({self.budget.spoken()}): give a longer latency, or more --time to search"
        )

    def _tried(self, name: str, one: Found, found: Findings) -> Finished | None:
        """Train a network in full; None where it cannot be exported or takes too long."""
        misses = dict(self.state.values.get("misses", {}))
        if name in misses:
            return None
        candidate = replace(self._paced(found.meter, one), name=name)
        recipe = self._recipe(candidate, final=True)
        self.view.enter([candidate])
        try:
            late_s = self._late_s(name, recipe)
            if late_s is None:
                return self._finish(candidate, recipe, replace(found, chosen=one))
        except ExportError as error:
            self.view.phase(f"{name} cannot be exported: {error}")
            return None
        self.state.put(misses=misses | {name: late_s})
        self.view.update(name, status="over budget")
        return None

    def _late_s(self, name: str, recipe: Recipe) -> float | None:
        """Return the latency of a candidate as exported where it is over the limit, else None.

        It is measured before the full training, not after.
        """
        if self.budget.latency_s is None or name in self.state.finals:
            return None
        self.view.phase(f"timing {name} as exported")
        timed = exported_latency(
            recipe, self.workshop, self.folder, budget=self.budget, apart=self.desk.apart
        )
        return timed.latency.p50_s if timed.held_s(self.budget) > self.budget.latency_s else None

    def _finish(self, one: Candidate, recipe: Recipe, found: Findings) -> Finished:
        self.view.phase(f"training {one.title} from scratch")
        with self.state.phase("training"):
            watched = Watched(self.workshop, self.folder.path, one.name, self.view)
            trained = train_in_full(Runner(one, recipe, ()), watched, self.state, self.train_end)
        self.view.phase("exporting, testing and reporting")
        written(found, self.folder, self.limits)
        self.desk.opening.extend(chapters_of(found, self.limits, recipe))
        with self.folder.scratch() as scratch:
            finished = conclude(trained, ship(trained, self.desk, scratch), self.desk, scratch)
        for shared in checkpoints(self.folder.path, SHARED).parent.glob(f"{SHARED}*"):
            shutil.rmtree(shared, ignore_errors=True)
        return finished
