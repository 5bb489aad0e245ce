"""`vitrail fit`: a folder of images in; the best model within the budget, and a report, out.

    source -> data gate -> split -> shortlist -> race -> full training -> export -> judge -> report

Each step is a file; this one passes the results on and keeps the clock.
"""

from __future__ import annotations

import shutil
import time as clock
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from rich.console import Console

from vitrail.config import to_json
from vitrail.data.opening import open_source
from vitrail.data.split import Split
from vitrail.engines import rivals
from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError, ConfigError, ExportError, RunError
from vitrail.jobs.arguments import Arguments, Words, amended, ask, given
from vitrail.jobs.pretrain import pretrain
from vitrail.jobs.training import train_in_full
from vitrail.methods import Methods
from vitrail.objectives import Distillation
from vitrail.objectives.distillation import require_classes
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import amend
from vitrail.report.facts import FindingFacts
from vitrail.run.budget import Budget
from vitrail.run.dialling import dialled, quickest
from vitrail.run.exported import exported_latency
from vitrail.run.facts import teacher_of
from vitrail.run.finish import Desk, Finished, Shipped, Trained, conclude, ship
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.pictures import spoken
from vitrail.run.reading import Read, pictured, read
from vitrail.run.reserve import reserve
from vitrail.run.state import State, resumed
from vitrail.run.stopping import interruptible
from vitrail.run.storage import completed
from vitrail.run.teachers import open_teacher
from vitrail.run.view import View
from vitrail.run.watch import Watched, checkpoints
from vitrail.runs import Run
from vitrail.search.candidate import Candidate
from vitrail.search.choices import Measuring, chosen
from vitrail.search.dense_space import dense_sizes
from vitrail.search.field import Field
from vitrail.search.first_rung import SHARE, Bench, Probed, probed
from vitrail.search.first_rung import chosen as best_of
from vitrail.search.guests import guests, timed
from vitrail.search.race import Race
from vitrail.search.rungs import Runner, candidates_for, field_size, rung_seconds, rung_steps
from vitrail.search.shelf import published, shelf
from vitrail.search.shortlist import Shortlist, Terms, shortlist
from vitrail.search.space import image_sizes
from vitrail.search.suited import refusal
from vitrail.search.timing import held
from vitrail.units import percent, seconds

RACE_SHARE = 0.3
PRETRAIN_SHARE = 1 / 3
# A race on a busy machine may take so many times its share before it is cut short.
RACE_GRACE = 1.4


def fit(
    data: str | Path,
    *,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    **options: Unpack[Words],
) -> Run:
    """Find, train, judge and export the best model for `data`.

    `data` is a folder of class folders, a CSV or Parquet table, or a built-in name. `options` are
    limits and what else `fit.arguments.Words` tells. `settings` change the recipe of every
    candidate, like `augment.flip=0`. With `resume` the run in `out` goes on with its own
    arguments; new limits and more time are taken over.

    Raises VitrailError for every mistake that a user can mend; BudgetError after the report was
    written where no model keeps the latency.

    Examples:
        >>> best = vitrail.fit("photos", latency="50ms", time="30s", out="best")
        >>> best.result["test"]["n"], best.accuracy >= 0
        (12, True)
        >>> [found] = best.predict("photos/cat/000.png")
        >>> found.path
        'photos/cat/000.png'
    """
    view, words = View(console), options
    if resume:
        path = resumed(out, view, lambda run, state: _again(run, state, words, settings, view))
        return Run(path)
    asked = ask(data, words, settings, out)
    if (pictures := words.get("pretrain")) is not None:
        asked = _pretrained_first(asked, str(pictures), words, out, console)
    task = asked.wish.task
    folder = (
        Path(out)
        if out
        else free_name(
            Path(data).resolve().name if task.maps else open_source(data, several=task.several).name
        )
    )
    RunFolder.check_free(folder)
    began = clock.monotonic()
    view.until(began + asked.time_s)
    images = read(asked.wish.data, asked.hardware, view, task)
    found, probes = _list(asked, view, images, began)
    with RunFolder.create(folder) as run:
        spent = clock.monotonic() - began
        state = State.new(
            run.path / "fit.json",
            arguments=to_json(asked.public),
            images=images.digest,
            shortlist=to_json(found),
            features=to_json(probes),
            spent_s=spent,
            seconds={"data": images.seconds, "shortlist": spent - images.seconds},
        )
        with interruptible(asked.again(run.path)):
            return Run(_Fit(asked, run, state, view, images, found).run())


def _pretrained_first(
    asked: Arguments, pictures: str, words: Words, out: str | Path | None, console: Console | None
) -> Arguments:
    """Pretrain on pictures with a share of the time; returns what is left to do with the weights.

    The pretraining is a run of its own beside that of the fit, and is gone on with by its own
    command.
    """
    if asked.pretrained is not None:
        raise ConfigError(
            f"--pretrained {asked.pretrained} and --pretrain {pictures} both give weights to start "
            "from: leave one out"
        )
    began = clock.monotonic()
    beside = free_name("pretraining") if out is None else Path(f"{Path(out)}-pretraining")
    # The same seed holds back the same images for the test.
    made = pretrain(
        pictures, time=PRETRAIN_SHARE * asked.time_s, seed=asked.seed, out=beside,
        device=words.get("device") or "auto", devices=words.get("devices") or 1, console=console,
    )  # fmt: skip
    left = max(1.0, asked.time_s - (clock.monotonic() - began))
    return replace(asked, pretrained=str(made), time_s=left)


def _again(run: RunFolder, state: State, words: Words, settings: Sequence[str], view: View) -> Path:
    """Go on with a stopped run, under its own arguments, and new limits where they are given."""
    if "shortlist" not in state.values:
        maker = "pretrain" if "pretraining" in state.values else "train"
        raise RunError(f"{run.path} was made by `vitrail {maker}`: go on with that command")
    asked = state.get(Arguments, "arguments")
    asked = replace(asked, storage=completed(asked.storage, words.get("storage")))
    asked = _changed(asked, words, settings, state, view)
    known = state.get(Shortlist, "shortlist")
    rivals(asked.engine)
    with interruptible(asked.again(run.path)):
        view.until(state.deadline(asked.time_s))
        images = read(asked.wish.data, asked.hardware, view, asked.wish.task)
        state.require_images(images.digest)
        return _Fit(asked, run, state, view, images, known).run()


def _changed(
    asked: Arguments, words: Words, settings: Sequence[str], state: State, view: View
) -> Arguments:
    """Take over new limits; refuse what would make another run of it."""
    settled = (
        "seed", "group-by", "duplicates", "pretrained", "pretrain", "task", "flexible", "teacher",
        "add",
    )  # fmt: skip
    fixed = [name for name in given(words) if name in settled]
    if fixed or settings:
        raise ConfigError(
            f"--{fixed[0] if fixed else f'set {settings[0]}'} cannot change while a run goes on: "
            "resume it without, or start a new one"
        )
    now = amended(asked, words)
    if now == asked:
        return asked
    if now.time_s != asked.time_s and any(plan["fixed"] for plan in state.finals.values()):
        raise ConfigError(
            "--time cannot change any more, as the last steps of the training are fixed: let it "
            "end, then fit again with --pretrained and this folder"
        )
    view.phase("going on with new limits")
    # Whoever missed the old latency may keep the new one, and the other way round.
    state.put(arguments=to_json(now.public), misses={})
    return now


def _list(asked: Arguments, view: View, data: Read, began: float) -> tuple[Shortlist, list[Probed]]:
    """The candidates, and how those of a shelf stand on their features; made before there is a run
    folder, so that a wrong budget leaves none."""
    split = data.workshop.split
    size, classes = data.inspection.size, len(split.classes)
    extra: list[Candidate] = []
    if asked.pretrained == "hub":
        extra = published(image_size=size, classes=classes)
    elif asked.pretrained is not None:
        extra, left_out = shelf(Path(asked.pretrained), image_size=size, classes=classes)
        for sentence in left_out:
            view.phase(f"left out of the shelf: {sentence}")
    if (teacher := _teacher(asked, data)) is not None:
        view.say(f"all candidates are taught by {teacher}")
        extra = [one for one in extra if one.model["channels"] == split.channels]
    methods, extra = asked.wish.methods, _taking(extra, asked.wish.methods, view)
    budget = _held(asked, data)
    if budget.beyond:
        view.say(_beyond(budget))
    probes: list[Probed] = []
    if extra and asked.pretrained != "hub":
        share = SHARE * max(1.0, asked.time_s - (clock.monotonic() - began))
        bench = Bench(data.workshop, asked.wish.data, asked.settings, budget, share, view.phase)
        probes = probed(extra, bench)
        extra = best_of(extra, probes)
    spent = clock.monotonic() - began
    left = max(1.0, asked.time_s - spent - reserve(asked.time_s, more=2 if methods else 1))
    terms = Terms(
        image_size=size,
        channels=split.channels,
        classes=classes,
        images=len(split.train),
        budget=budget,
        seconds=left,
        size=candidates_for(RACE_SHARE * left),
        batch=batch_size(len(split.train), data.workshop.device),
        device=data.workshop.device,
        seed=asked.seed,
        methods=methods,
        maps=asked.wish.task.maps,
    )
    invited = guests(asked.add, terms)
    with view.shown(), Apart() as apart:
        found = shortlist(terms, extra=extra, say=view.phase, apart=apart)
        first = timed(invited, terms, apart)
    others = [c for c in found.candidates if c.name not in {guest.name for guest in first}]
    found = replace(found, candidates=(*first, *others))
    rates = [one.rate or 0.0 for one in found.candidates]
    kept = field_size(rates, terms.batch, RACE_SHARE * left)
    return replace(found, candidates=found.candidates[:kept]), probes


def _taking(extra: Sequence[Candidate], methods: Sequence[Methods], view: View) -> list[Candidate]:
    """The candidates with pretrained weights that take the methods; says why others do not."""
    kept = []
    for one in extra:
        why = refusal(one.config, methods)
        if why is None:
            kept.append(one)
        else:
            view.phase(f"left out of the race: {one.name}: {why}")
    return kept


def _teacher(asked: Arguments, data: Read) -> str | None:
    """Return who teaches the candidates, opened once so that one that cannot costs no time."""
    objective, split = asked.wish.objective, data.workshop.split
    if not isinstance(objective, Distillation):
        return None
    if objective.teacher:
        whole = (0.5,) * split.channels
        seen = replace(asked.wish.data, channels=split.channels, mean=whole, std=whole)
        found = open_teacher(objective.teacher, seen, split.classes)
        require_classes(objective.teacher, found, split.classes)
    return teacher_of(objective)


def _held(asked: Arguments, data: Read) -> Budget:
    """The budget for the pictures at hand, or those that the user names."""
    split = data.workshop.split
    budget = pictured(asked.budget, data, asked.input)
    sizes = (dense_sizes if asked.wish.task.maps else image_sizes)(data.inspection.size)
    return held(budget, sizes, split.channels)


def _beyond(budget: Budget) -> str:
    assert budget.pictures is not None and budget.latency_s is not None
    return (
        f"resizing a picture of {budget.pictures.spoken()} alone takes longer than "
        f"{seconds(budget.latency_s)}: models are held to the limit without it"
    )


class _Fit:
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
        self.budget = _held(asked, data)
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
        """The pixels of every image size of the race, before the clock of the race starts."""
        shown = self.view.console.is_terminal
        for image, channels in {(c.image, c.model["channels"]) for c in self.found.candidates}:
            for part in ("train", "val"):
                self.workshop.pixels(part, image, channels, progress=shown)

    def _race(self) -> tuple[Race, list[Runner]]:
        asked, state = self.asked, self.state
        self.view.phase(f"racing {len(self.found.candidates)} candidates")
        shared = asked.storage is not None
        race = Race(
            self.folder.path,
            name=_study_name(asked, self.workshop.split) if shared else "race",
            owner=str(self.folder.path.resolve()),
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
            self.desk.notes.append(FindingFacts("pretrained", "info", said))
            self.view.say(said)
        if not any(runner.accuracy is not None for runner in runners):
            raise RunError(
                f"no candidate of {asked.storage or 'the race'} was left for this run: give "
                "more --time, or fewer machines"
            )
        return race, runners

    def _runners(self, race_s: float, train_s: float) -> list[Runner]:
        """The candidates with their recipes, and the steps of each rung."""
        asked, workshop = self.asked, self.workshop
        images = len(workshop.split.train)
        marks = rung_seconds(len(self.found.candidates), race_s)
        batch, runners = batch_size(images, workshop.device), []
        for one in self.found.candidates:
            steps = rung_steps(one.rate or 1.0, batch, marks)
            whole = rung_steps(one.rate or 1.0, batch, [train_s - race_s + marks[-1]])[0]
            recipe = default(
                one.config,
                workshop.data(asked.wish.data, one.image, one.model["channels"], one.pretrained),
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
            runners.append(Runner(one, recipe, steps, seconds=tuple(marks)))
        return runners

    def _final(self, race: Race, runners: list[Runner]) -> tuple[Finished, bool]:
        """Train the best in full; where its exported file misses the latency, the next.

        Where all miss it, the least slow one is finished all the same, and True returned.
        """
        misses: dict[str, float] = dict(self.state.values.get("misses", {}))
        field = [r for r in runners if r.accuracy is not None]
        for runner in field:
            name = runner.candidate.name
            if name in misses:
                continue
            try:
                finished = self._try(runner, runners, misses)
            except ExportError as error:
                self.view.phase(f"{name} cannot be exported: {error}")
                continue
            if finished is not None:
                return self._won(race, runners, runner, finished), False
            self.state.put(misses=misses)
            self.view.update(name, status="over budget")
        if not misses:
            raise BudgetError("no candidate could be exported: see the lines above")
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
        note = (
            f"the linear model on features is kept: it has {scores.main:.1%} of {scores.n} "
            f"validation images right, and {trained.scores.main:.1%} after the training"
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
            trained = dialled(trained, self.desk, scratch, self.view.phase)
            shipped: Shipped = ship(trained, self.desk, scratch)
            slow = limit is not None and shipped.timed.held_s(self.budget) > limit
            if slow and not whatever:
                misses[runner.candidate.name] = shipped.latency_s
                return None
            won = replace(runner, candidate=replace(runner.candidate, macs=trained.subject.macs))
            probes = self.state.get(list[Probed], "features") if "features" in values else []
            field = Field(runners, self.found.over, misses, won, self.budget, probes)
            return conclude(trained, shipped, self.desk, scratch, field)


def brought(runners: Sequence[Runner]) -> str | None:
    """Say what pretrained weights brought in the race; None where it had not both kinds."""
    seen = [(r.accuracy, r.rung, r.candidate) for r in runners if r.accuracy is not None]
    with_, without = (
        max(
            ((rung, right, one.title) for right, rung, one in seen if bool(one.pretrained) is kind),
            default=None,
        )
        for kind in (True, False)
    )
    if with_ is None or without is None:
        return None
    ahead = 100 * (with_[1] - without[1])
    more = "more" if ahead >= 0 else "fewer"
    return (
        f"in the race the best start from given weights ({with_[2]}) reached {percent(with_[1])}, "
        f"the best from scratch ({without[2]}) {percent(without[1])}: {abs(ahead):.1f} points "
        f"{more}, in rounds {with_[0] + 1} and {without[0] + 1} of equal time"
    )


def _study_name(asked: Arguments, split: Split) -> str:
    limits = f"{asked.latency_s} {asked.macs} {asked.params} {asked.seed}"
    if asked.engine != "onnxruntime":
        limits += f" {asked.engine}"
    if asked.flexible:
        limits += " flexible"
    if asked.input is not None:
        limits += f" {spoken(asked.input)}"
    return f"vitrail {split.train.digest[:12]} {limits} {asked.time_s:g}"
