"""`vitrail train --set task=lidar`: scans in, a network that tells the class of every point.

scans -> gate -> parts -> recipe -> training -> export -> test -> page
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from vitrail.config import to_json
from vitrail.errors import ConfigError
from vitrail.jobs.wish import Wish, completed
from vitrail.models import config_json
from vitrail.models.rangevit import PointHead
from vitrail.recipes.recipe import Recipe
from vitrail.run.finish_scans import FinishedScans, TrainedScans, finish
from vitrail.run.folder import RunFolder
from vitrail.run.reading import Hardware
from vitrail.run.scans import ReadScans, ScanWorkshop, read_scans
from vitrail.run.state import State
from vitrail.run.stopping import interruptible
from vitrail.run.subject import subject
from vitrail.run.view import View
from vitrail.run.watch import Watched
from vitrail.run.workshop import normal
from vitrail.tasks import Lidar

WIDTH = 384  # of a crop, where the range image is not narrower
NEIGHBOURS = 7


def train_scans(wish: Wish, folder: Path, hardware: Hardware, view: View) -> Path:
    """Train, export, test and report one recipe of scans; returns the run folder."""
    task = lidar_of(wish.recipe)
    read = read_scans(wish.recipe.data, hardware, view, task)
    recipe = _recipe(wish, read.workshop)
    command = wish.command(folder)
    with RunFolder.create(folder) as run:
        state = State.new(
            run.path / "fit.json", recipe=to_json(recipe), command=command, images=read.digest,
            seconds={"data": read.seconds}, spent_s=read.seconds,
        )  # fmt: skip
        run.write_json(run.recipe, to_json(recipe))
        return _run(recipe, run, read, state, view)


def go_on(recipe: Recipe, run: RunFolder, state: State, hardware: Hardware, view: View) -> Path:
    """Go on with a training that was stopped, by its own recipe."""
    read = read_scans(recipe.data, hardware, view, lidar_of(recipe))
    state.require_images(read.digest)
    return _run(recipe, run, read, state, view)


def lidar_of(recipe: Recipe) -> Lidar:
    """Return the recipe's task. Raises ConfigError where it is another."""
    if not isinstance(recipe.task, Lidar):
        raise ConfigError("the recipe is not of scans: set task=lidar")
    return recipe.task


def _recipe(wish: Wish, workshop: ScanWorkshop) -> Recipe:
    """Return the recipe with what the scans decide: projection, crop, neighbours, statistics."""
    early, projection = wish.recipe, workshop.projection
    config = replace(early.config, channels=workshop.split.channels)
    if "model.image" not in wish.given:
        crop = min(WIDTH, projection.width)
        config = replace(config, image=(projection.height, crop))
    elif config.image[0] != projection.height or config.image[1] > projection.width:
        raise ConfigError(
            f"model.image is {config.image[0]}x{config.image[1]} and range images have "
            f"{projection.height}x{projection.width} pixels: crops have the full height, and at "
            "most the width"
        )
    model = to_json(config_json(config))
    recipe, _ = completed(replace(wish, recipe=replace(early, model=model)), workshop)
    return settled(recipe, workshop)


def settled(recipe: Recipe, workshop: ScanWorkshop) -> Recipe:
    """Return a recipe of scans with their projection, and neighbours where points are refined.

    Raises ConfigError where whole scans cannot be read by it.
    """
    task, config = lidar_of(recipe), recipe.config
    refines = isinstance(config.points, PointHead)
    neighbours = (task.neighbours or NEIGHBOURS) if refines else 0
    task = replace(task, projection=workshop.projection, neighbours=neighbours)
    # Lean activations are counted on images alone, and points come beside them.
    steps = replace(recipe.steps, lean=bool(recipe.steps.lean))
    recipe = replace(recipe, task=task, steps=steps, head="random")
    task.reader(config.image[1], normal(recipe))
    return recipe


def _run(recipe: Recipe, run: RunFolder, read: ReadScans, state: State, view: View) -> Path:
    one = subject(recipe.config, pretrained=recipe.pretrained)
    again = f"vitrail train --resume --out {shlex.quote(str(run.path))}"
    with interruptible(again), view.shown():
        view.enter([one])
        view.phase(f"training {one.name}")
        view.update(one.name, status="training")
        with state.phase("training"):
            model, scores = Watched(read.workshop, run.path, one.name, view).to_end(recipe)
        view.phase("exporting, testing and reporting")
        finished: FinishedScans = finish(TrainedScans(one, recipe, model, scores), run, read, state)
    finished.say(view.console)
    return run.path
