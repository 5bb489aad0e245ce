"""A run out of a file of weights as it is: nothing is trained, the test part judges what is given.

What starts from finished runs can start from a published file this way.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from vitrail.engines.apart import Apart
from vitrail.errors import ConfigError
from vitrail.jobs.wish import EPOCHS
from vitrail.models import identify
from vitrail.models.trunk.catalog import purpose
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data, Recipe
from vitrail.report.facts import FindingFacts
from vitrail.run.budget import Budget
from vitrail.run.finish import Asked, Desk, Trained, conclude, ship
from vitrail.run.folder import RunFolder
from vitrail.run.reading import Hardware, pictured, read
from vitrail.run.state import NAME, State
from vitrail.run.subject import subject
from vitrail.run.view import View
from vitrail.run.watch import checkpoints
from vitrail.run.workshop import Workshop


def as_given(
    file: str | os.PathLike, data: str | os.PathLike, folder: Path, site: tuple[Hardware, int],
    view: View,
) -> Path:  # fmt: skip
    """Judge the weights of a file on labelled images, in a run folder of their own.

    `site` is where to compute and how many threads latencies are for. Returns the folder. Raises
    ConfigError where the file tells no classes of images, or not as many as the data have.
    """
    hardware, threads = site
    reference, spec = os.fspath(file), os.fspath(data)
    known = identify(reference)
    if (kind := purpose(known.config)) != "images" or not known.config.classes:
        said = f"a model of {kind}" if kind != "images" else "without a head"
        raise ConfigError(
            f"{file} is {known.name}, {said}: give weights that tell classes of images"
        )
    images = read(Data(spec), hardware, view)
    workshop, told = images.workshop, len(images.workshop.split.classes)
    if known.config.classes != told:
        raise ConfigError(
            f"{file} tells {known.config.classes} classes and {data} has {told}: fit a head for "
            f"these by `vitrail fit {data} --pretrained {file}`, and give that run"
        )
    recipe, one = _recipe(known.config, reference, spec, workshop), subject(known.config)
    budget = pictured(Budget(threads=threads, device=hardware.device), images)
    with RunFolder.create(folder) as run, view.shown():
        state = State.new(
            run.path / NAME, images=images.digest, seconds={"data": images.seconds},
            spent_s=images.seconds,
        )  # fmt: skip
        view.phase(f"judging {known.name} as it is given")
        model = workshop.model(recipe).eval()
        journal = checkpoints(run.path, one.name) / "metrics.jsonl"
        journal.parent.mkdir(parents=True)
        run.write_bytes(journal, b"")
        notes = [FindingFacts("as given", "info", f"the weights are those of {file}: nothing was "
                              "trained here, and its outputs are taken for the classes in their "
                              "order")]  # fmt: skip
        asked = Asked(f"vitrail compress --pretrained {file} --data {data}", budget)
        desk = Desk(run, workshop, images.inspection, state, asked, Apart(), notes)
        trained = Trained(one, recipe, model, workshop.validate(model, recipe))
        with run.scratch() as scratch:
            conclude(trained, ship(trained, desk, scratch), desk, scratch)
    return folder


def _recipe(config: object, file: str, spec: str, workshop: Workshop) -> Recipe:
    """Return the recipe by which the model would be tuned."""
    split, one = workshop.split, subject(config)
    batch = batch_size(len(split.train), workshop.device, config)
    recipe = default(
        config, workshop.data(Data(spec), one.image, one.channels, file), images=len(split.train),
        total=EPOCHS * max(1, len(split.train) // batch), pretrained=file, device=workshop.device,
    )  # fmt: skip
    return replace(recipe, head="random", keep_head=True)
