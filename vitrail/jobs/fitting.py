"""The life of a fit in its run folder, once its candidates are listed."""

from __future__ import annotations

import shutil
import time as clock
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitrail.config import to_json
from vitrail.data.split import Split
from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError, ExportError, RunError
from vitrail.jobs.against import against_scratch
from vitrail.jobs.arguments import Arguments
from vitrail.jobs.entrants import RACE_SHARE, may_answer_twice, may_resize, within
from vitrail.jobs.training import train_in_full
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import amend
from vitrail.report.facts import FindingFacts
from vitrail.run.dialling import dialled, quickest
from vitrail.run.exported import exported_latency
from vitrail.run.finish import Desk, Finished, Shipped, Trained, conclude, ship
from vitrail.run.folder import RunFolder
from vitrail.run.pictures import spoken
from vitrail.run.reading import Read
from vitrail.run.reserve import reserve
from vitrail.run.sides import sided
from vitrail.run.state import State
from vitrail.run.view import View
from vitrail.run.watch import Watched, checkpoints
from vitrail.search.candidate import Candidate
from vitrail.search.choices import Measuring, chosen
from vitrail.search.field import Field, brought
from vitrail.search.first_rung import Probed
from vitrail.search.other_size import Rest, other_size
from vitrail.search.other_size import said as resized
from vitrail.search.race import Race
from vitrail.search.rungs import Runner, rung_seconds, rung_steps
from vitrail.search.shortlist import Shortlist
from vitrail.units import seconds

# A race on a busy machine may take so many times its share before it is cut short.
RACE_GRACE = 1.4


class Fitting:
    """A fit in its run folder: race, full training, export, test, report."""

    def __init__(
        self,
        asked: Arguments,
        run: RunFolder,
        state: State,
        view: View,
        data: Read,
        found: Shortlist,
    ) -> None:
        self.asked, self.state, self.view, self.found = asked, state, view, found
        self.workshop, self.folder = data.workshop, run
        self.budget = within(asked, data)
        told = replace(asked.asked, budget=self.budget)
        self.desk = Desk(run, data.workshop, data.inspection, state, told, Apart())
        end = state.deadline(asked.time_s)
        view.until(end)
        # A dial has several files.
        self.train_end = end - reserve(asked.time_s, more=2 if asked.wish.methods else 1)

    def run(self) -> Path:
        """Do all of it; returns the run folder."""
        with self.state.phase("data"):
            self._decode()
        with self.view.shown():
            everyone = [*self.found.candidates, *self.found.over]
            self.view.enter([replace(c, latency_s=c.with_resize_s(self.budget)) for c in everyone])
            for one in self.found.over:
                self.view.update(one.name, status="over budget")
            with self.state.phase("race"):
                race, runners = self._race()
            with self.desk.apart:
                finished, missed = self._final(race, runners)
        finished.say(self.view.console)
        if missed or self.budget.beyond:
            raise BudgetError(self._missed(finished))
        return self.folder.path

    def _missed(self, finished: Finished) -> str:
        """Return what to say where not one model keeps the latency."""
        latency, where = finished.latency, self.folder.path
        lead = f"no model keeps the budget ({self.budget.spoken()})"
        if latency.picture is None or not latency.picture.resize_s:
            return f"{lead}: the best found takes {seconds(latency.p50_s)}; it is in {where}"
        resize_s = seconds(latency.picture.resize_s)
        if self.budget.beyond:
            return (
                f"{lead}, as the resize alone takes {resize_s}: the best found, which takes "
                f"{seconds(latency.picture.model_s)} without it, is in {where}; give it smaller "
                "pictures and name their size with --input"
            )
        return (
            f"{lead}: the best found takes {seconds(latency.p50_s)}, {resize_s} of it for the "
            f"resize; it is in {where}"
        )

    def _decode(self) -> None:
        """Decode the pixels of every image size of the race, before the
        clock of the race starts.
        """
        shown = self.view.console.is_terminal
        for image, channels in {(c.image, c.channels) for c in self.found.candidates}:
            for part in ("train", "val"):
                self.workshop.pixels(part, image, channels, progress=shown)

    def _race(self) -> tuple[Race, list[Runner]]:
        asked, state = self.asked, self.state
        self.view.phase(f"racing {len(self.found.candidates)} candidates")
        shared = asked.storage is not None
        race = Race(
            self.folder.path,
            name=_study_name(asked, self.workshop.split) if shared else "race",
            owner=state.owner,
            storage=asked.storage,
        )
        if "race_s" not in state.values:
            left = max(1.0, self.train_end - clock.monotonic())
            state.put(race_s=RACE_SHARE * left, train_s=left)
        if not race.entered:
            entrants = self._runners(state.values["race_s"], state.values["train_s"])
            if not shared:  # several machines would have to agree
                measuring = Measuring(self.workshop, self.folder.path, state, self.view)
                entrants = measuring.settle(entrants, asked.settings)
            race.enter(entrants)
        self.desk.notes.extend(
            FindingFacts(name, "info", choice.sentence) for name, choice in chosen(state).items()
        )
        runners = race.run(
            self.workshop,
            self.view,
            deadline=clock.monotonic() + RACE_GRACE * state.values["race_s"],
            localise=lambda r: replace(r, data=replace(r.data, spec=asked.data)),
        )
        if (said := brought(runners)) is not None:
            self._brought(said)
        if not any(runner.accuracy is not None for runner in runners):
            raise RunError(
                f"no candidate of {asked.public.storage or 'the race'} was left for this run: give "
                "more --time, or fewer machines"
            )
        return race, self._resized(runners)

    def _brought(self, said: str) -> None:
        """Tell, on the page as well, what weights brought."""
        self.desk.notes.append(FindingFacts("pretrained", "info", said))
        self.view.say(said)

    def _runners(self, race_s: float, train_s: float) -> list[Runner]:
        """Return the candidates with their recipes, and the steps of each rung."""
        marks = rung_seconds(len(self.found.candidates), race_s)
        whole_s = train_s - race_s + marks[-1]
        return [self._runner(one, marks, whole_s) for one in self.found.candidates]

    def _runner(self, one: Candidate, marks: Sequence[float], whole_s: float) -> Runner:
        """Return a candidate with its recipe for `whole_s` seconds, and the steps of each rung."""
        asked, workshop = self.asked, self.workshop
        images = len(workshop.split.train)
        batch = batch_size(images, workshop.device, one.config)
        steps = rung_steps(one.rate or 1.0, batch, marks)
        whole = rung_steps(one.rate or 1.0, batch, [whole_s])[0]
        recipe = default(
            one.config,
            workshop.data(asked.wish.data, one.image, one.channels, one.pretrained),
            images=images,
            total=max(steps[-1] + 1, whole),
            seed=asked.seed,
            pretrained=one.pretrained,
            device=workshop.device,
            precision=one.precision,
        )
        recipe = amend(recipe, [s for s in asked.settings if not s.startswith("data")])
        schedule = replace(recipe.schedule, hold=steps[-1])
        recipe = replace(recipe, schedule=schedule, methods=asked.wish.methods)
        return Runner(one, recipe, steps, seconds=tuple(marks))

    def _resized(self, runners: list[Runner]) -> list[Runner]:
        """Return the runners behind another size of the best, where that suits the rest better."""
        asked, state, winner = self.asked, self.state, runners[0]
        if not may_resize(asked, self.workshop):
            return runners
        left = max(1.0, self.train_end - clock.monotonic())
        if "resized" not in state.values:
            rest = Rest(len(self.workshop.split.train), left, self.budget, may_answer_twice(asked))
            found = None if state.finals else other_size(winner, rest)
            state.put(resized=None if found is None else to_json(found))
        if state.values["resized"] is None:
            return runners
        one = state.get(Candidate, "resized")
        why = resized(winner, one)
        self.view.say(why)
        self.desk.notes.append(FindingFacts("another size", "info", why))
        other = self._runner(one, winner.seconds, left)
        measuring = Measuring(self.workshop, self.folder.path, state, self.view)
        [other] = measuring.settle([replace(other, rate=one.rate)], asked.settings)
        self.view.add(one)
        return [other, *runners]

    def _final(self, race: Race, runners: list[Runner]) -> tuple[Finished, bool]:
        """Train the best in full; where its exported file misses the latency, the next.

        Where all miss it, the least slow one is finished all the same, and True returned.
        """
        misses: dict[str, float] = dict(self.state.values.get("misses", {}))
        why = ""
        # Another size of the best has not raced.
        field = [r for r in runners if r.accuracy is not None or r is runners[0]]
        for runner in field:
            name = runner.candidate.name
            if name in misses:
                continue
            try:
                finished = self._try(runner, runners, misses)
            except ExportError as error:
                why = f"{name}: {error}"
                self.view.phase(f"{name} cannot be exported: {error}")
                continue
            if finished is not None:
                return self._won(race, runners, runner, finished), False
            self.state.put(misses=misses)
            self.view.update(name, status="over budget")
        if not misses:
            raise BudgetError(f"no candidate could be exported, the last one for this: {why}")
        self.view.phase("no candidate keeps the latency: finishing the least slow")
        runner = min(
            (r for r in field if r.candidate.name in misses),
            key=lambda r: misses[r.candidate.name],
        )
        finished = self._try(runner, runners, misses, whatever=True)
        assert finished is not None
        return self._won(race, runners, runner, finished), True

    def _won(
        self, race: Race, runners: list[Runner], winner: Runner, finished: Finished
    ) -> Finished:
        race.finish(runners, winner)
        for other in runners:
            if other.candidate.name != winner.candidate.name:
                where = checkpoints(self.folder.path, other.candidate.name)
                shutil.rmtree(where, ignore_errors=True)
        return finished

    def _try(
        self,
        runner: Runner,
        runners: list[Runner],
        misses: dict[str, float],
        *,
        whatever: bool = False,
    ) -> Finished | None:
        """Finish the run with this candidate as winner; None when it is over the budget."""
        name, limit = runner.candidate.name, self.budget.latency_s
        if limit is not None and name not in self.state.finals and not whatever:
            # Before the time goes into its full training, not after.
            self.view.phase(f"measuring {name} as exported")
            with self.state.phase("export"):
                timed = exported_latency(
                    quickest(runner.recipe, self.workshop.model(runner.recipe)),
                    self.workshop, self.folder,
                    budget=self.budget, apart=self.desk.apart,
                )  # fmt: skip
            self.view.update(name, latency_s=timed.latency.p50_s)
            if timed.held_s(self.budget) > limit:
                misses[name] = timed.latency.p50_s
                return None
        self.view.phase(f"training {name} in full")
        with self.state.phase("training"):
            watched = Watched(self.workshop, self.folder.path, name, self.view)
            trained = train_in_full(runner, watched, self.state, self.train_end)
            trained = self._no_worse(trained, runner)
        self.view.phase("exporting, testing and reporting")
        return self._finish(trained, runner, runners, misses, whatever)

    def _no_worse(self, trained: Trained, runner: Runner) -> Trained:
        """Keep the published weights under their linear head where training made them worse."""
        recipe = runner.recipe
        if recipe.head != "linear" or self.workshop.head(recipe) is None:
            return trained
        start = self.workshop.model(recipe).eval()
        scores = self.workshop.validate(start, recipe)
        if scores.order <= trained.scores.order:
            return trained
        items = self.workshop.split.train.source.nouns
        note = (
            f"the linear model on features is kept: it has {scores.main:.1%} of {scores.n} "
            f"validation {items} right, and {trained.scores.main:.1%} after the training"
        )
        self.view.say(note)
        self.desk.notes.append(FindingFacts("features", "info", note))
        return replace(trained, model=start, scores=scores)

    def _finish(
        self,
        trained: Trained,
        runner: Runner,
        runners: list[Runner],
        misses: dict[str, float],
        whatever: bool,
    ) -> Finished | None:
        limit, values = self.budget.latency_s, self.state.values
        with self.folder.scratch() as scratch:
            alone = dialled(trained, self.desk, scratch, self.view.phase)
            trained, shipped = self._shipped(alone, scratch)
            slow = limit is not None and shipped.timed.held_s(self.budget) > limit
            if slow and not whatever:
                misses[runner.candidate.name] = shipped.latency_s
                return None
            if self.asked.against_scratch:
                said = against_scratch(alone, self.desk, self.view, self.asked.settings)
                self._brought(said or "the best network began from scratch: nothing to compare")
            won = replace(runner, candidate=replace(runner.candidate, macs=trained.subject.macs))
            probes = self.state.get(list[Probed], "features") if "features" in values else []
            field = Field(runners, self.found.over, misses, won, self.budget, probes)
            return conclude(trained, shipped, self.desk, scratch, field)

    def _shipped(self, trained: Trained, scratch: Path) -> tuple[Trained, Shipped]:
        """Export a trained model, answering by both sides where that is better and fast enough."""
        limit, both = self.budget.latency_s, None
        if may_answer_twice(self.asked):
            both = sided(trained, self.workshop, self.budget)
        if both is not None:
            try:
                shipped = ship(both.trained, self.desk, scratch)
            except ExportError as error:
                self.view.say(f"the network answers by one side, since by both {error}")
                return trained, ship(trained, self.desk, scratch)
            if limit is None or shipped.timed.held_s(self.budget) <= limit:
                self.view.say(both.sentence)
                self.desk.notes.append(FindingFacts("both sides", "info", both.sentence))
                return both.trained, shipped
        return trained, ship(trained, self.desk, scratch)


def _study_name(asked: Arguments, split: Split) -> str:
    limits = f"{asked.latency_s} {asked.macs} {asked.params} {asked.seed}"
    if asked.engine != "onnxruntime":
        limits += f" {asked.engine}"
    if asked.flexible:
        limits += " flexible"
    if asked.input is not None:
        limits += f" {spoken(asked.input)}"
    return f"vitrail {split.train.digest[:12]} {limits} {asked.time_s:g}"
