"""`vitrail fit`: a folder of images in; the best model within the budget, and a report, out.

    source -> data gate -> split -> shortlist -> race -> full training -> export -> judge -> report

Each step is a file; this one passes the results on and keeps the clock.
"""

from __future__ import annotations

import shlex
import signal
import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from vitrail.config import parse, to_json
from vitrail.data.gate import Inspection, inspect
from vitrail.data.source import open_source
from vitrail.data.split import Split, divide
from vitrail.errors import BudgetError, ConfigError, ExportError, RunError
from vitrail.fit.arguments import Arguments
from vitrail.fit.budget import Budget, parse_count, parse_duration, parse_latency, seconds
from vitrail.fit.candidate import Candidate
from vitrail.fit.final import finish_training
from vitrail.fit.finish import Finished, exported_latency, finish
from vitrail.fit.pretrained import published, shelf
from vitrail.fit.race import (
    Race,
    Runner,
    candidates_for,
    rung_seconds,
    rung_steps,
)
from vitrail.fit.shortlist import Shortlist, shortlist
from vitrail.fit.state import State
from vitrail.fit.trainer import Trainer
from vitrail.fit.view import View
from vitrail.measure.machine import cores
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run_folder import RunFolder
from vitrail.train.loop import Interrupted

RACE_SHARE = 0.3
# Export, test and report take about as long whatever the training took.
RESERVE_S = 40.0
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
    console: Console | None = None,
) -> Path:
    """Find, train, judge and export the best model for `data`; returns the run folder.

    `data` is a folder of class folders, a CSV or Parquet table, or a built-in name. Limits:
    `latency` ("20ms") of the exported file at batch 1 on `threads` CPU threads (default: all),
    its median; `macs` and `params` ("50M") exact counts; `time` ("10m") for everything.
    `pretrained` is a folder of checkpoint files, or "hub" to download published ones. With
    `resume` the run in `out` goes on with its own arguments. Every error that a user can mend
    is a VitrailError.
    """
    view = View(console)
    began = clock.monotonic()
    if resume:
        if out is None:
            raise RunError("--resume needs the run folder to go on with: add --out RUN")
        run = RunFolder.create(out, resume=True)
        with run:
            state = State.read(run.path / "fit.json")
            arguments = parse(Arguments, state.values["arguments"])
            return _in_words(run, view, lambda: _go(arguments, run, state, view, began))
    arguments = _arguments(
        data, latency, macs, params, time, device, threads, seed, pretrained, storage,
        group_by, devices, out,
    )  # fmt: skip
    folder = Path(out) if out is not None else _free_name(open_source(data).name)
    RunFolder.check_free(folder)
    with view.shown():
        prepared = _prepare(arguments, view, began)
        run = RunFolder.create(folder)
    with run:
        values = to_json(arguments)
        state = State.new(run.path / "fit.json", values, spent_s=clock.monotonic() - began)
        state.put(shortlist=to_json(prepared.shortlist))
        return _in_words(run, view, lambda: _go(arguments, run, state, view, began, prepared))


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data read, models counted and timed: what is known before a run folder exists."""

    inspection: Inspection
    split: Split
    trainer: Trainer
    shortlist: Shortlist


def _prepare(
    arguments: Arguments, view: View, began: float, known: Shortlist | None = None
) -> Prepared:
    view.until(began + arguments.time_s)
    view.phase("reading the images")
    source = open_source(arguments.data)
    inspection = inspect(source, progress=False)
    split = divide(inspection, group_by=arguments.group_by, seed=arguments.seed)
    trainer = Trainer(split, device=arguments.device, devices=arguments.devices, progress=False)
    if known is not None:
        return Prepared(inspection, split, trainer, known)
    extra: list[Candidate] = []
    classes = len(split.classes)
    if arguments.pretrained == "hub":
        extra = published(image_size=inspection.size, classes=classes)
    elif arguments.pretrained is not None:
        extra, left_out = shelf(
            Path(arguments.pretrained), image_size=inspection.size, classes=classes
        )
        for sentence in left_out:
            view.phase(f"left out of the shelf: {sentence}")
    left = arguments.time_s - (clock.monotonic() - began) - _reserve(arguments.time_s)
    found = shortlist(
        image_size=inspection.size,
        channels=split.channels,
        classes=classes,
        budget=arguments.budget,
        images=len(split.train),
        seconds=max(left, arguments.time_s / 4),
        size=candidates_for(RACE_SHARE * max(left, 0.0)),
        batch=batch_size(len(split.train)),
        device=trainer.device,
        seed=arguments.seed,
        extra=extra,
        say=view.phase,
    )
    return Prepared(inspection, split, trainer, found)


def _go(
    arguments: Arguments,
    run: RunFolder,
    state: State,
    view: View,
    began: float,
    prepared: Prepared | None = None,
) -> Path:
    with view.shown():
        if prepared is None:
            known = parse(Shortlist, state.values["shortlist"])
            prepared = _prepare(arguments, view, began, known)
        found = prepared.shortlist
        end = state.deadline(arguments.time_s)
        view.until(end)
        view.enter([*found.candidates, *found.over])
        for one in found.over:
            view.update(one.name, status="over budget")
        base = Data(arguments.data, group_by=arguments.group_by, seed=arguments.seed)
        train_end = end - _reserve(arguments.time_s)
        with state.phase("race"):
            race, runners = _race(arguments, run, state, view, prepared, base, train_end)
        finished = _final(arguments, run, state, view, prepared, race, runners, train_end)
    finished.say(view.console)
    return run.path


def _race(
    arguments: Arguments,
    run: RunFolder,
    state: State,
    view: View,
    prepared: Prepared,
    base: Data,
    train_end: float,
) -> tuple[Race, list[Runner]]:
    trainer, candidates = prepared.trainer, prepared.shortlist.candidates
    images = len(prepared.split.train)
    view.phase(f"racing {len(candidates)} candidates")
    name = "race" if arguments.storage is None else _study_name(arguments, prepared.split)
    race = Race(run.path, name=name, owner=str(run.path.resolve()), storage=arguments.storage)
    if "race_s" not in state.values:
        left = max(1.0, train_end - clock.monotonic())
        state.put(race_s=RACE_SHARE * left, train_s=left)
    race_s, train_s = state.values["race_s"], state.values["train_s"]
    if not race.entered:
        marks = rung_seconds(len(candidates), race_s)
        runners = []
        for one in candidates:
            rate, batch = one.rate or 1.0, batch_size(images)
            steps = rung_steps(rate, batch, marks)
            rest = train_s - race_s + marks[-1]
            total = max(steps[-1] + 1, rung_steps(rate, batch, [rest])[0])
            recipe = default(
                one.config,
                trainer.data(base, one.image, one.model["channels"]),
                images=images,
                total=total,
                seed=arguments.seed,
                pretrained=one.pretrained,
                precision=trainer.precision,
            )
            recipe = replace(recipe, schedule=replace(recipe.schedule, hold=steps[-1]))
            runners.append(Runner(one, recipe, steps))
        race.enter(runners)

    def localise(recipe: Recipe) -> Recipe:
        return replace(recipe, data=replace(recipe.data, spec=arguments.data))

    deadline = clock.monotonic() + 1.4 * race_s
    runners = race.run(trainer, view, deadline=deadline, localise=localise)
    if not runners:
        raise RunError(
            f"the study {arguments.storage} has no candidate left for this machine: the others "
            "have taken them all"
        )
    return race, runners


def _final(
    arguments: Arguments,
    run: RunFolder,
    state: State,
    view: View,
    prepared: Prepared,
    race: Race,
    runners: list[Runner],
    train_end: float,
) -> Finished:
    """Train the best in full; where its exported file misses the latency, the next."""
    budget, trainer = arguments.budget, prepared.trainer
    misses: dict[str, float] = dict(state.values.get("misses", {}))
    for runner in runners:
        name = runner.candidate.name
        if name in misses or runner.accuracy is None:
            continue
        try:
            # Before the time goes into its full training, not after.
            if budget.latency_s is not None and name not in state.finals:
                view.phase(f"measuring {name} as exported")
                with state.phase("export"):
                    found = exported_latency(runner.recipe, trainer, run, threads=budget.threads)
                view.update(name, latency_s=found.p50_s)
                if found.p50_s > budget.latency_s:
                    misses[name] = found.p50_s
                    state.put(misses=misses)
                    view.update(name, status="over budget")
                    continue
            view.phase(f"training {name} in full")
            with state.phase("training"):
                recipe, model, score = finish_training(
                    runner, trainer, folder=run.path, state=state, deadline=train_end, view=view
                )
            view.phase("exporting, testing and reporting")
            finished = finish(
                model,
                recipe,
                score,
                run=run,
                trainer=trainer,
                inspection=prepared.inspection,
                arguments=arguments,
                runners=runners,
                winner=runner,
                over=prepared.shortlist.over,
                misses=misses,
                state=state,
            )
        except ExportError as error:
            view.phase(f"{name} cannot be exported: {error}")
            continue
        if finished is None:
            state.put(misses=misses)
            view.update(name, status="over budget")
            continue
        race.finish(runners, runner)
        view.update(name, status="won")
        return finished
    raise _none_left(budget, misses)


def _none_left(budget: Budget, misses: dict[str, float]) -> BudgetError:
    if not misses:
        return BudgetError("no candidate could be exported: see the lines above")
    name = min(misses, key=lambda n: misses[n])
    return BudgetError(
        f"no candidate keeps the budget ({budget.spoken()}) as exported: the closest is {name} "
        f"with {seconds(misses[name])}; allow that much"
    )


def _arguments(
    data: str | Path,
    latency: str | float | None,
    macs: str | int | None,
    params: str | int | None,
    time: str | float,
    device: str,
    threads: int | None,
    seed: int,
    pretrained: str | Path | None,
    storage: str | None,
    group_by: str | None,
    devices: int,
    out: str | Path | None,
) -> Arguments:
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}: give 1 or more")
    if devices < 1:
        raise ConfigError(f"devices is {devices}: give 1 or more")
    words: Sequence[tuple[str, Any]] = (
        ("latency", latency), ("macs", macs), ("params", params), ("time", time),
        ("device", None if device == "auto" else device), ("threads", threads),
        ("seed", seed or None), ("pretrained", pretrained), ("group-by", group_by),
        ("storage", storage), ("devices", None if devices == 1 else devices), ("out", out),
    )  # fmt: skip
    said = [f"--{name} {shlex.quote(str(value))}" for name, value in words if value is not None]
    return Arguments(
        data=str(data),
        latency_s=None if latency is None else parse_latency(latency),
        macs=None if macs is None else parse_count(macs),
        params=None if params is None else parse_count(params),
        time_s=parse_duration(time),
        device=device,
        threads=threads or cores(),
        seed=seed,
        pretrained=None if pretrained is None else str(pretrained),
        storage=storage,
        group_by=group_by,
        devices=devices,
        command=" ".join(["vitrail fit", shlex.quote(str(data)), *said]),
    )


def _reserve(seconds: float) -> float:
    return min(RESERVE_S, RESERVE_SHARE * seconds)


def _free_name(name: str) -> Path:
    """A folder in the working directory that is not there yet: fashion-sample-run-2."""
    number = 1
    while True:
        path = Path(f"{name}-run" + (f"-{number}" if number > 1 else ""))
        if not path.exists():
            return path
        number += 1


def _study_name(arguments: Arguments, split: Split) -> str:
    limits = f"{arguments.latency_s} {arguments.macs} {arguments.params} {arguments.seed}"
    return f"vitrail {split.train.digest[:12]} {limits} {arguments.time_s:g}"


def _in_words(run: RunFolder, view: View, work: Callable[[], Path]) -> Path:
    """Run `work`; a signal to stop becomes the sentence that says how to go on."""
    try:
        with _terminable():
            return work()
    except (Interrupted, KeyboardInterrupt) as error:
        raise Interrupted(
            f"stopped, nothing is lost: go on with `vitrail fit --resume --out {run.path}`"
        ) from error


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM acts like Ctrl-C inside, where that is possible."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
