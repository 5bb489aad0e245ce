"""The judge: the only place where the test part is opened, for a finished model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from vitrail.data.boxes import Boxes
from vitrail.data.cache import Pixels
from vitrail.data.gate import inspect
from vitrail.data.mask_views import some
from vitrail.data.source import Source
from vitrail.data.split import HeldBack, divide, unseal
from vitrail.errors import DataError, RunError
from vitrail.recipes.recipe import Recipe, from_json
from vitrail.run.folder import RunFolder
from vitrail.run.state import State
from vitrail.run.workshop import Workshop
from vitrail.tasks.task import Outputs


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the finished model says of the test part, and its pixels."""

    outputs: Outputs
    pixels: Pixels


def judge(model: nn.Module, recipe: Recipe, held_back: HeldBack, workshop: Workshop) -> Verdict:
    """Open the test part and let the finished model look at it."""
    part = unseal(held_back)
    data = recipe.data
    images = workshop.opened(part, data.image, data.channels)
    return Verdict(workshop.judged(model, recipe, images), images)


def own_test(run: RunFolder, recipe: Mapping[str, Any], *, progress: bool = False) -> Source:
    """Return the test images of a finished run, which nothing is chosen by any more.

    Raises RunError for a run that is not finished or whose images have changed, and DataError
    where they are gone, or where the run does not say what it learned from.
    """
    if "data" not in recipe:
        raise DataError(
            f"run folder {run.path} does not say what it learned from: give labelled data"
        )
    if not run.result.is_file():
        raise RunError(f"{run.path} is not finished, so its test part is sealed: --resume it")
    whole = from_json(recipe)
    data = whole.data
    try:
        source = whole.task.source(data.spec)
    except DataError as error:
        raise DataError(
            f"what {run.path} learned from is gone ({error}): give labelled data"
        ) from error
    found = inspect(source, progress=progress, threshold=data.threshold)
    split = divide(
        found, group_by=data.group_by, val=data.val, test=data.test, seed=data.seed,
        duplicates=data.duplicates,
    )  # fmt: skip
    digests = f"{split.train.digest} {split.val.digest} {split.test.digest}"
    State.read(run.path / "fit.json").require_images(digests)
    part = unseal(split.test)
    arrays = None if source.pixels is None else source.pixels[part.rows]
    series = None if source.series is None else source.series.taken(part.rows)
    name = f"{source.name}-test"
    boxes = found.source.boxes
    if boxes is not None:
        boxes = Boxes(tuple(boxes.truths[int(row)] for row in part.rows))
    masks = found.source.masks
    if masks is not None:
        masks = some(masks, part.rows)
    return replace(
        found.source, name=name, items=part.items, pixels=arrays, series=series, boxes=boxes,
        masks=masks,
    )  # fmt: skip
