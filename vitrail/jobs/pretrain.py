"""`vitrail pretrain`: a backbone learns from pictures alone.

    pictures -> data gate -> recipe -> pace -> training, looked at ten times -> weights, page

Where pictures lie in class folders, their labels tell how good features are, and nothing else; the
test part of a fit with the same seed is not among the pictures.
"""

from __future__ import annotations

import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from vitrail.config import to_json
from vitrail.data.gate import inspect
from vitrail.data.split import divide, undivided
from vitrail.data.told import told as told_of
from vitrail.data.unlabelled import open_pictures, unlabelled
from vitrail.errors import ConfigError, DataError
from vitrail.jobs.pretraining import Asked, Pretraining
from vitrail.models import config_json, create, resolve
from vitrail.objectives.context import Context
from vitrail.recipes.pretraining import (
    known_method,
    require_batch,
    usual_model,
    usual_objective,
    usual_pretraining,
)
from vitrail.recipes.recipe import Data, Recipe, changed, from_json
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.reading import Hardware, Read
from vitrail.run.state import State, here, require_same, resumed
from vitrail.run.view import View
from vitrail.run.workshop import Workshop
from vitrail.training.crew import require_alone
from vitrail.training.device import open_fabric
from vitrail.training.steps import Steps
from vitrail.units import parse_duration

ONE_STEP = Steps(1, 2)  # of a recipe whose steps are still to be counted


def pretrain(
    pictures: str | Path,
    *,
    method: str | None = None,
    model: str | None = None,
    time: str | float | None = None,
    settings: Sequence[str] = (),
    labels: bool | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    console: Console | None = None,
) -> Path:
    """Pretrain a backbone on pictures without labels; returns the run folder.

    `pictures` is a folder of pictures at any depth, or what `fit` takes, of which labels only tell
    how good features are, unless `labels` is false. `method` is sit, attmask (the
    default), dino, ibot or mae, `time` is 10m unless given;
    `model` a published variant or a file of weights, by default a small DeiT. `settings` are fields
    of the recipe, as `objective.crops.number=4`. Raises VitrailError.

    Examples:
        >>> run = pretrain("photos", method="mae", time="2s", out="pretrained")
        >>> (run / "weights.safetensors").is_file()
        True
    """
    require_alone("a pretraining")
    view, hardware = View(console), Hardware(device, devices)
    given: dict[str, Any] = {
        "pictures": str(pictures),
        "method": None if method is None else known_method(method),
        "model": model,
        "time_s": None if time is None else parse_duration(time),
        "labels": labels,
        "seed": seed,
        "settings": tuple(settings) or None,
    }
    if resume:
        return resumed(
            out, view, lambda run, state: _again(run, state, pictures, hardware, view),
            check=lambda run, state: _require_same(run, state, given),
        )  # fmt: skip
    asked = Asked(**{name: value for name, value in given.items() if value is not None})
    folder = Path(out) if out is not None else free_name(f"{asked.method}-pretraining")
    RunFolder.check_free(folder)
    _check(asked)
    view.until(clock.monotonic() + asked.time_s)
    images = read_pictures(asked, hardware, view)
    recipe = _recipe(asked, images.workshop, images.inspection.size)
    with RunFolder.create(folder) as run:
        state = State.new(
            run.path / "fit.json",
            pretraining=to_json(asked),
            images=images.digest,
            spent_s=images.seconds,
            seconds={"data": images.seconds},
        )
        return Pretraining(asked, run, state, images, view).run(recipe)


def _require_same(run: RunFolder, state: State, given: Mapping[str, Any]) -> None:
    """Raise ConfigError for what was given and is not as the pretraining was begun."""
    if "pretraining" in state.values:
        require_same(run, given, vars(state.get(Asked, "pretraining")))


def _again(
    run: RunFolder, state: State, pictures: str | Path, hardware: Hardware, view: View
) -> Path:
    if "pretraining" not in state.values:
        raise ConfigError(f"{run.path} was not made by `vitrail pretrain`: go on with its command")
    asked = state.get(Asked, "pretraining")
    asked = replace(asked, pictures=here(asked.pictures, pictures))
    view.until(state.deadline(asked.time_s))
    images = read_pictures(asked, hardware, view)
    state.require_images(images.digest)
    saved = state.values.get("recipe")
    if saved is not None:
        recipe = from_json(saved)
    else:
        recipe = _recipe(asked, images.workshop, images.inspection.size)
    return Pretraining(asked, run, state, images, view).run(recipe)


def _check(asked: Asked) -> None:
    """Refuse what can be refused before any picture is read. Raises ConfigError."""
    for setting in asked.settings:
        path = setting.partition("=")[0].strip()
        if path.partition(".")[0] in ("data", "task", "pretrained"):
            raise ConfigError(f"--set {setting}: pretrain decides {path} itself: leave it out")
    base = Recipe({}, Data(asked.pictures), ONE_STEP, seed=asked.seed)
    config = _named(asked) or resolve("deit_tiny", image=(32, 32), patch=8, classes=0)
    base = replace(base, model=to_json(config_json(config)))
    base = replace(base, objective=usual_objective(asked.method, 1000, (32, 32), 100))
    found = changed(base, list(asked.settings))
    if asked.model is not None:
        found.objective.build(create(found.config), Context())


def _named(asked: Asked) -> Any:
    """Return the Config that the user names, without a head; None where none is named."""
    return None if asked.model is None else resolve(asked.model, classes=0)


def read_pictures(asked: Asked, hardware: Hardware, view: View) -> Read:
    """Inspect the pictures, and keep back validation and test parts where classes are known.

    Raises DataError.
    """
    began = clock.monotonic()
    open_fabric(hardware.device)
    source = open_pictures(asked.pictures, labels=asked.labels)
    view.phase("reading the pictures")
    shown = view.console.is_terminal
    try:
        inspection = inspect(source, progress=shown)
        split = divide(inspection, seed=asked.seed) if source.classes else undivided(inspection)
    except DataError:
        if not source.classes:
            raise
        view.say("the folders are too small for classes: all pictures are learned from")
        inspection = inspect(unlabelled(source), progress=shown)
        split = undivided(inspection)
    for line in told_of(inspection, split.findings):
        view.say(line)
    workshop = Workshop(split, device=hardware.device, devices=hardware.devices)
    return Read(inspection, workshop, clock.monotonic() - began)


def _recipe(asked: Asked, workshop: Workshop, size: tuple[int, int]) -> Recipe:
    """Return the recipe but for its number of steps. Raises ConfigError."""
    split = workshop.split
    config = _named(asked)
    if config is None:
        config = usual_model(size, split.channels, workshop.device)
    else:
        config = replace(config, channels=split.channels)
    model = [s for s in asked.settings if s.strip().startswith("model.")]
    rest = [s for s in asked.settings if s not in model]
    shaped = changed(
        replace(Recipe({}, Data(""), ONE_STEP), model=to_json(config_json(config))), model
    )
    config = shaped.config
    base = Data(asked.pictures, seed=asked.seed)
    data = workshop.data(base, tuple(config.image), split.channels)
    images = len(split.train)
    recipe = usual_pretraining(
        asked.method, config, data, images=images, total=1000, device=workshop.device,
        seed=asked.seed,
    )  # fmt: skip
    recipe = changed(recipe, rest)
    require_batch(recipe, images)
    workshop.builder.learner(recipe)
    return recipe
