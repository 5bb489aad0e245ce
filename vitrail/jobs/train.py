"""`vitrail train`: one recipe without a race, from settings to the same run folder as a fit."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from vitrail.config import kind_of, to_json
from vitrail.engines.apart import Apart
from vitrail.errors import ConfigError, RunError
from vitrail.jobs import pairs
from vitrail.jobs.lidar import go_on, train_scans
from vitrail.jobs.ways import paired
from vitrail.jobs.wish import completed, wished
from vitrail.measure.machine import cores
from vitrail.objectives import Adversarial, Distillation, Trades
from vitrail.recipes.recipe import Recipe, amend, from_json, read
from vitrail.run.budget import Budget
from vitrail.run.dialling import dialled
from vitrail.run.finish import Asked, Desk, Finished, Trained, conclude, ship
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.reading import Hardware, Read, pictured
from vitrail.run.reading import read as read_data
from vitrail.run.state import State, resumed
from vitrail.run.stopping import interruptible, terminable
from vitrail.run.subject import called, subject
from vitrail.run.view import View
from vitrail.run.watch import Watched, checkpoints
from vitrail.run.workshop import Workshop
from vitrail.tasks import Lidar
from vitrail.training.crew import Crew, crew, following, leading, require_alone
from vitrail.training.snapshot import newest

# What may change while a training goes on: none of it decides over steps that were made already.
CHANGEABLE = (
    "steps.total", "steps.save_s", "steps.lean", "schedule.hold", "schedule.floor",
    "schedule.cooldown",
)  # fmt: skip


def train_recipe(
    settings: Sequence[str],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    threads: int | None = None,
    console: Console | None = None,
) -> Path:
    """Train, export, test and report one recipe; returns the run folder.

    `settings` are like `model=cvt_13`, `data=photos/`, `optimizer.lr=3e-4`; model and data
    must be among them, everything else has a default: the model at its own image size, its
    head and channels fitted to the data, 30 epochs. `recipe=deit` takes a published recipe, scaled
    to the data, which further settings change. With `resume` the training in `out` goes on with
    its own recipe, and `steps.total` may be another: a stopped training ends sooner or later, a
    finished one goes on. Raises VitrailError.

    Examples:
        >>> settings = ["model=cct_2_3x2_32", "data=photos", "model.image=32,32"]
        >>> run = vitrail.train([*settings, "steps.total=4"], out="run")
    """
    hardware = Hardware(device, devices)
    if (mates := crew()) is not None:
        if devices > 1:
            raise ConfigError(
                f"devices is {devices} under torchrun, which starts the processes: leave it out"
            )
        if not mates.first:
            follow(mates, hardware)
            return Path(out or ".")
    with leading(device):
        return _train(settings, out, resume, hardware, threads, View(console))


def _train(
    settings: Sequence[str],
    out: str | Path | None,
    resume: bool,
    hardware: Hardware,
    threads: int | None,
    view: View,
) -> Path:
    budget = Budget(threads=threads or cores(), device=hardware.device)
    if resume:
        _require_changeable(settings)
        site = Site(hardware, budget, view)
        return resumed(
            out, view, lambda run, state: _again(run, state, settings, site),
            further=bool(settings),
        )  # fmt: skip
    wish = wished(settings)
    folder = Path(out) if out is not None else free_name(wish.recipe.model["family"])
    RunFolder.check_free(folder)
    if paired(wish.recipe.task) or isinstance(wish.recipe.task, Lidar):
        require_alone(f"a training of task {kind_of(type(wish.recipe.task))}")
    if paired(wish.recipe.task):
        return pairs.train(wish, folder, hardware, view)
    if isinstance(wish.recipe.task, Lidar):
        return train_scans(wish, folder, hardware, view)
    images = read_data(wish.recipe.data, hardware, view, wish.recipe.task)
    recipe, told = completed(wish, images.workshop)
    if told:
        view.say(told)
    # A teacher or a radius that does not fit leaves no folder.
    if isinstance(recipe.objective, Distillation | Adversarial | Trades):
        images.workshop.builder.learner(recipe)
    command = wish.command(folder)
    with RunFolder.create(folder) as run:
        state = State.new(
            run.path / "fit.json",
            recipe=to_json(recipe),
            command=command,
            images=images.digest,
            seconds={"data": images.seconds},
            spent_s=images.seconds,
        )
        run.write_json(run.recipe, to_json(recipe))
        asked = Asked(command, pictured(budget, images), recipe.seed)
        return _run(
            recipe, Desk(run, images.workshop, images.inspection, state, asked, Apart()), view
        )


def follow(mates: Crew, hardware: Hardware) -> None:
    """Train along with the first process, on the same images. Raises VitrailError."""
    known: dict[str, Workshop] = {}

    def train(share: tuple[Any, Path, int, str]) -> None:
        told, folder, until, digest = share
        recipe = from_json(told)
        if digest not in known:
            view = View(Console(quiet=True))
            known[digest] = read_data(recipe.data, hardware, view, recipe.task).workshop
        if known[digest].split.train.digest != digest:
            raise RunError(
                f"process {mates.rank} finds other images in {recipe.data.spec} than the first: "
                "all machines must see the same data"
            )
        known[digest].along(recipe, folder, until)

    with terminable():
        following(mates, hardware.device, train)


@dataclass(frozen=True, eq=False)
class Site:
    """Where a training goes on, which may be another machine than that where it began."""

    hardware: Hardware
    budget: Budget
    view: View


def _require_changeable(settings: Sequence[str]) -> None:
    """Raise ConfigError for a setting that would make another training of it."""
    for setting in settings:
        if setting.partition("=")[0].strip() not in CHANGEABLE:
            raise ConfigError(
                f"--set {setting} changes a training that is under way, where only "
                f"{', '.join(CHANGEABLE)} may change: resume it without, or start another in a "
                "new folder"
            )


def _again(run: RunFolder, state: State, settings: Sequence[str], site: Site) -> Path:
    """Go on with a training, by its own recipe; with settings also after its end."""
    if "pretraining" in state.values:
        raise ConfigError(f"{run.path} was made by `vitrail pretrain`: go on with that command")
    if "command" not in state.values:
        raise ConfigError(f"{run.path} was made by `vitrail fit`: go on with that command")
    if not run.recipe.is_file():  # stopped between the two files
        run.write_json(run.recipe, state.values["recipe"])
    # Where the dial of a finished run stands is nothing that its training knew.
    recipe = replace(read(run.recipe), methods=from_json(state.values["recipe"]).methods)
    if paired(recipe.task) or isinstance(recipe.task, Lidar):
        if settings:
            recipe = _changed(recipe, run, state, settings)
        if paired(recipe.task):
            return pairs.again(run, recipe, state, site.hardware, site.view)
        return go_on(recipe, run, state, site.hardware, site.view)
    images: Read = read_data(recipe.data, site.hardware, site.view, recipe.task)
    state.require_images(images.digest)
    if settings:
        recipe = _changed(recipe, run, state, settings)
    asked = Asked(state.values["command"], pictured(site.budget, images), recipe.seed)
    desk = Desk(run, images.workshop, images.inspection, state, asked, Apart())
    return _run(recipe, desk, site.view)


def _changed(recipe: Recipe, run: RunFolder, state: State, settings: Sequence[str]) -> Recipe:
    """Take over new limits, and write them down before anything is trained."""
    changed = amend(recipe, settings)
    name = pairs.NAME if paired(recipe.task) else called(recipe.config, recipe.pretrained)
    last = newest(checkpoints(run.path, name) / "checkpoint")
    if recipe.base is not None and last is None and run.result.is_file():
        raise ConfigError(
            f"{run.path} is finished and keeps no snapshots, since it stores only what its base "
            "lacks: train another run with more steps"
        )
    done, total = last.state["step"] if last else 0, changed.steps.total
    if total < done or (total == done and run.result.is_file()):
        raise ConfigError(
            f"steps.total={total} is too small: {run.path} has made {done} steps already; give a "
            "larger one by --set steps.total=N"
        )
    # From here on the run is not finished: what it had of a result was of fewer steps.
    run.result.unlink(missing_ok=True)
    run.write_json(run.recipe, to_json(changed))
    words = [f"--set {shlex.quote(setting)}" for setting in settings]
    again = " ".join(["vitrail train --resume", *words, f"--out {shlex.quote(str(run.path))}"])
    state.put(recipe=to_json(changed), command=f"{state.values['command']} && {again}")
    return changed


def _run(recipe: Recipe, desk: Desk, view: View) -> Path:
    one = subject(recipe.config, pretrained=recipe.pretrained)
    run = desk.run
    again = f"vitrail train --resume --out {shlex.quote(str(run.path))}"
    with interruptible(again), view.shown():
        view.enter([one])
        view.phase(f"training {one.name}")
        view.update(one.name, status="training")
        with desk.state.phase("training"):
            model, scores = Watched(desk.workshop, run.path, one.name, view).to_end(recipe)
        view.phase("exporting, testing and reporting")
        trained = Trained(one, recipe, model, scores)
        with run.scratch() as scratch:
            trained = dialled(trained, desk, scratch, view.phase)
            shipped = ship(trained, desk, scratch)
            finished: Finished = conclude(trained, shipped, desk, scratch)
    if recipe.base is not None:  # snapshots are many times as large as what is stored
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    finished.say(view.console)
    return run.path
