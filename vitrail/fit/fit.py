"""`vitrail fit`: a folder of images in; the best model within the budget, and a report, out.

    source -> data gate -> split -> shortlist -> race -> full training -> export -> judge -> report

Each step is a file; this one passes the results on and keeps the clock.
"""

from __future__ import annotations

import shutil
import time as clock
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vitrail.config import parse, to_json
from vitrail.data.opening import open_source
from vitrail.data.split import Split
from vitrail.engines import rivals
from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError, ExportError, RunError
from vitrail.fit.arguments import Arguments, ask
from vitrail.fit.training import finish_training
from vitrail.recipes.defaults import batch_size, default
from vitrail.run.budget import Budget
from vitrail.run.exported import exported_latency
from vitrail.run.finish import Finished, finish
from vitrail.run.folder import RunFolder
from vitrail.run.reading import Read, read
from vitrail.run.state import State, resumed
from vitrail.run.stopping import interruptible
from vitrail.run.view import View
from vitrail.search.candidate import Candidate
from vitrail.search.race import Race, checkpoint
from vitrail.search.rungs import Runner, candidates_for, field_size, rung_seconds, rung_steps
from vitrail.search.shelf import published, shelf
from vitrail.search.shortlist import Shortlist, shortlist
from vitrail.units import seconds

RACE_SHARE = 0.3
# A race on a busy machine may take so many times its share before it is cut short.
RACE_GRACE = 1.4
# Export, test and report take about as long whatever the training took.
RESERVE_S = 30.0
RESERVE_SHARE = 0.15


def fit(
    data: str | Path,
    *,
    latency: str | float | None = None,
    macs: str | int | None = None,
    params: str | int | None = None,
    time: str | float = "10m",
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    pretrained: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    storage: str | None = None,
    group_by: str | None = None,
    devices: int = 1,
    engine: str = "onnxruntime",
    console: Console | None = None,
) -> Path:
    """Find, train, judge and export the best model for `data`; returns the run folder.

    `data` is a folder of class folders, a CSV or Parquet table, or a built-in name. Limits:
    `latency` ("20ms") of the exported file at batch 1 on `threads` CPU threads (default: all),
    its median, in `engine`: "onnxruntime", "openvino", or "auto" for the faster one; `macs` and
    `params` ("50M") exact counts; `time` ("10m") for everything.
    `pretrained` is a folder of checkpoint files, or "hub" to download published ones. With
    `resume` the run in `out` goes on with its own arguments. Every error that a user can mend
    is a VitrailError.

    Examples:
        >>> best = vitrail.fit("photos", latency="50ms", time="30s", out="best")
    """
    view = View(console)
    if resume:
        return resumed(out, view, lambda run, state: _again(run, state, view))
    arguments = ask(
        data, latency, macs, params, time, device, threads, seed, pretrained, storage,
        group_by, devices, engine, out,
    )  # fmt: skip
    folder = Path(out) if out is not None else free_name(open_source(data).name)
    RunFolder.check_free(folder)
    began = clock.monotonic()
    view.until(began + arguments.time_s)
    images = read(arguments.source, arguments, view)
    found = _list(arguments, view, images, began)
    with RunFolder.create(folder) as run:
        spent = clock.monotonic() - began
        state = State.new(
            run.path / "fit.json",
            arguments=to_json(arguments),
            images=images.digest,
            shortlist=to_json(found),
            spent_s=spent,
            seconds={"data": images.seconds, "shortlist": spent - images.seconds},
        )
        with interruptible(arguments.again(run.path)):
            return _Fit(arguments, run, state, view, images, found).run()


def _again(run: RunFolder, state: State, view: View) -> Path:
    """Go on with a stopped run, under its own arguments."""
    if "shortlist" not in state.values:
        raise RunError(f"{run.path} was made by `vitrail train`: go on with that command")
    arguments = parse(Arguments, state.values["arguments"])
    known = parse(Shortlist, state.values["shortlist"])
    rivals(arguments.engine)
    with interruptible(arguments.again(run.path)):
        view.until(state.deadline(arguments.time_s))
        images = read(arguments.source, arguments, view)
        state.require_images(images.digest)
        return _Fit(arguments, run, state, view, images, known).run()


def _list(arguments: Arguments, view: View, data: Read, began: float) -> Shortlist:
    """The candidates; made before there is a run folder, so that a wrong budget leaves none."""
    size, classes = data.inspection.size, len(data.trainer.split.classes)
    extra: list[Candidate] = []
    if arguments.pretrained == "hub":
        extra = published(image_size=size, classes=classes)
    elif arguments.pretrained is not None:
        extra, left_out = shelf(Path(arguments.pretrained), image_size=size, classes=classes)
        for sentence in left_out:
            view.phase(f"left out of the shelf: {sentence}")
    spent = clock.monotonic() - began
    left = max(1.0, arguments.time_s - spent - reserve(arguments.time_s))
    batch = batch_size(len(data.trainer.split.train), data.trainer.device)
    with view.shown(), Apart() as apart:
        found = shortlist(
            image_size=size,
            channels=data.trainer.split.channels,
            classes=classes,
            budget=arguments.budget,
            images=len(data.trainer.split.train),
            seconds=left,
            size=candidates_for(RACE_SHARE * left),
            batch=batch,
            device=data.trainer.device,
            seed=arguments.seed,
            extra=extra,
            say=view.phase,
            apart=apart,
        )
    rates = [one.rate or 0.0 for one in found.candidates]
    kept = field_size(rates, batch, RACE_SHARE * left)
    return replace(found, candidates=found.candidates[:kept])


class _Fit:
    """A fit in its run folder: race, full training, export, test, report."""

    def __init__(
        self,
        arguments: Arguments,
        run: RunFolder,
        state: State,
        view: View,
        data: Read,
        found: Shortlist,
    ) -> None:
        self.arguments, self.folder, self.state, self.view = arguments, run, state, view
        self.data, self.found, self.trainer = data, found, data.trainer
        self.apart = Apart()
        end = state.deadline(arguments.time_s)
        view.until(end)
        self.train_end = end - reserve(arguments.time_s)

    def run(self) -> Path:
        """All of it; returns the run folder."""
        with self.state.phase("data"):
            self._decode()
        with self.view.shown():
            self.view.enter([*self.found.candidates, *self.found.over])
            for one in self.found.over:
                self.view.update(one.name, status="over budget")
            with self.state.phase("race"):
                race, runners = self._race()
            with self.apart:
                finished = self._final(race, runners)
        finished.say(self.view.console)
        return self.folder.path

    def _decode(self) -> None:
        """The pixels of every image size of the race, before the clock of the race starts."""
        shown = self.view.console.is_terminal
        for image, channels in {(c.image, c.model["channels"]) for c in self.found.candidates}:
            for part in ("train", "val"):
                self.trainer.pixels(part, image, channels, progress=shown)

    def _race(self) -> tuple[Race, list[Runner]]:
        arguments, state = self.arguments, self.state
        self.view.phase(f"racing {len(self.found.candidates)} candidates")
        shared = arguments.storage is not None
        race = Race(
            self.folder.path,
            name=_study_name(arguments, self.trainer.split) if shared else "race",
            owner=str(self.folder.path.resolve()),
            storage=arguments.storage,
        )
        if "race_s" not in state.values:
            left = max(1.0, self.train_end - clock.monotonic())
            state.put(race_s=RACE_SHARE * left, train_s=left)
        if not race.entered:
            race.enter(self._runners(state.values["race_s"], state.values["train_s"]))
        runners = race.run(
            self.trainer,
            self.view,
            deadline=clock.monotonic() + RACE_GRACE * state.values["race_s"],
            localise=lambda r: replace(r, data=replace(r.data, spec=arguments.data)),
        )
        if not any(runner.accuracy is not None for runner in runners):
            raise RunError(
                f"no candidate of {arguments.storage or 'the race'} was left for this run: give "
                "more --time, or fewer machines"
            )
        return race, runners

    def _runners(self, race_s: float, train_s: float) -> list[Runner]:
        """The candidates with their recipes, and the steps of each rung."""
        arguments, images = self.arguments, len(self.trainer.split.train)
        marks = rung_seconds(len(self.found.candidates), race_s)
        batch, runners = batch_size(images, self.trainer.device), []
        for one in self.found.candidates:
            steps = rung_steps(one.rate or 1.0, batch, marks)
            whole = rung_steps(one.rate or 1.0, batch, [train_s - race_s + marks[-1]])[0]
            recipe = default(
                one.config,
                self.trainer.data(arguments.source, one.image, one.model["channels"]),
                images=images,
                total=max(steps[-1] + 1, whole),
                seed=arguments.seed,
                pretrained=one.pretrained,
                device=self.trainer.device,
                precision=one.precision,
            )
            recipe = replace(recipe, schedule=replace(recipe.schedule, hold=steps[-1]))
            runners.append(Runner(one, recipe, steps))
        return runners

    def _final(self, race: Race, runners: list[Runner]) -> Finished:
        """Train the best in full; where its exported file misses the latency, the next."""
        misses: dict[str, float] = dict(self.state.values.get("misses", {}))
        for runner in runners:
            name = runner.candidate.name
            if name in misses or runner.accuracy is None:
                continue
            try:
                finished = self._try(runner, runners, misses)
            except ExportError as error:
                self.view.phase(f"{name} cannot be exported: {error}")
                continue
            if finished is None:
                self.state.put(misses=misses)
                self.view.update(name, status="over budget")
                continue
            race.finish(runners, runner)
            for other in runners:
                if other.candidate.name != name:
                    shutil.rmtree(checkpoint(self.folder.path, other.candidate), ignore_errors=True)
            return finished
        raise _none_left(self.arguments.budget, misses)

    def _try(
        self, runner: Runner, runners: list[Runner], misses: dict[str, float]
    ) -> Finished | None:
        """The finished run with this candidate as winner, None when it is over the budget."""
        budget, name = self.arguments.budget, runner.candidate.name
        if budget.latency_s is not None and name not in self.state.finals:
            # Before the time goes into its full training, not after.
            self.view.phase(f"measuring {name} as exported")
            with self.state.phase("export"):
                wait_s = exported_latency(
                    runner.recipe, self.trainer, self.folder, budget=budget, apart=self.apart
                ).latency.p50_s
            self.view.update(name, latency_s=wait_s)
            if wait_s > budget.latency_s:
                misses[name] = wait_s
                return None
        self.view.phase(f"training {name} in full")
        with self.state.phase("training"):
            recipe, model, score = finish_training(
                runner,
                self.trainer,
                folder=self.folder.path,
                state=self.state,
                deadline=self.train_end,
                view=self.view,
            )
        self.view.phase("exporting, testing and reporting")
        return finish(
            model,
            recipe,
            score,
            run=self.folder,
            trainer=self.trainer,
            inspection=self.data.inspection,
            arguments=self.arguments,
            runners=runners,
            winner=runner,
            over=self.found.over,
            misses=misses,
            state=self.state,
            apart=self.apart,
        )


def _none_left(budget: Budget, misses: dict[str, float]) -> BudgetError:
    if not misses:
        return BudgetError("no candidate could be exported: see the lines above")
    name = min(misses, key=lambda n: misses[n])
    return BudgetError(
        f"no candidate keeps the budget ({budget.spoken()}) as exported: the closest is {name} "
        f"with {seconds(misses[name])}; allow that much"
    )


def reserve(seconds: float) -> float:
    """What export, test and report get of a time limit."""
    return min(RESERVE_S, RESERVE_SHARE * seconds)


def free_name(name: str) -> Path:
    """A folder in the working directory that is not there yet: fashion-sample-run-2."""
    number = 1
    while True:
        path = Path(f"{name}-run" + (f"-{number}" if number > 1 else ""))
        if not path.exists():
            return path
        number += 1


def _study_name(arguments: Arguments, split: Split) -> str:
    limits = f"{arguments.latency_s} {arguments.macs} {arguments.params} {arguments.seed}"
    if arguments.engine != "onnxruntime":
        limits += f" {arguments.engine}"
    return f"vitrail {split.train.digest[:12]} {limits} {arguments.time_s:g}"
