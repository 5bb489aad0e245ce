"""Real images for calibration and for the measuring of a drop; the test part stays sealed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data.cache import Pixels, pixels
from vitrail.data.gate import inspect
from vitrail.data.labels import Labels
from vitrail.data.opening import open_source
from vitrail.data.source import Source
from vitrail.data.split import Part, divide
from vitrail.engines.int8 import Images, Score
from vitrail.errors import DataError
from vitrail.recipes.recipe import Data, from_json, task_of
from vitrail.run.folder import RunFolder
from vitrail.tasks import Tasks
from vitrail.tasks.task import Outputs, Scores

CALIBRATION = 256
HELD = 2000


def real_images(
    run: RunFolder,
    recipe: dict[str, Any],
    labels: Labels,
    data: str | os.PathLike | None,
    *,
    progress: bool = False,
) -> Images:
    """Return the run's own images where they are still there, else those of `data`.

    Contents decide about the parts, so the run's images that moved are divided as before.
    Raises DataError.
    """
    own = from_json(recipe).data if "data" in recipe else None
    rules = own or Data("")
    source = _source(run, own, labels, data)
    found = inspect(source, progress=progress, threshold=rules.threshold)
    # Deep images are scaled as in the training, whatever these would ask for.
    found = replace(found, source=replace(found.source, ranges=labels.ranges))
    split = divide(
        found,
        group_by=rules.group_by,
        val=rules.val,
        test=rules.test,
        seed=rules.seed,
        duplicates=rules.duplicates,
    )
    train, held = (
        pixels(_spread(part, most), labels.image, labels.channels, progress=progress)
        for part, most in ((split.train, CALIBRATION), (split.val, HELD))
    )
    score, name = _judge(task_of(recipe), _targets(held, split.classes, labels), labels)
    return Images(train.take(np.arange(len(train))), held.take(np.arange(len(held))), score, name)


def _source(
    run: RunFolder, own: Data | None, labels: Labels, data: str | os.PathLike | None
) -> Source:
    """Return the images of `data`, else those that the run learned from. Raises DataError."""
    what = (
        "a table of images and their labels" if labels.several else "images in a folder per class"
    )
    spec = data if data is not None or own is None else own.spec
    if spec is None:
        raise DataError(
            f"run folder {run.path} does not say what it learned from: give {what} by --data"
        )
    try:
        source = open_source(os.fspath(spec), several=labels.several)
    except DataError as error:
        if data is not None:
            raise
        raise DataError(
            f"the images that {run.path} learned from are gone ({error}): give {what} by --data"
        ) from error
    unknown = sorted(set(source.classes) - set(labels.classes))
    if unknown:
        raise DataError(
            f"{source.origin} has a class {unknown[0]!r} that {run.path} does not know: give "
            f"images of {', '.join(labels.classes[:5])}{' ...' if len(labels.classes) > 5 else ''}"
        )
    return source


def _targets(held: Pixels, classes: Sequence[str], labels: Labels) -> Tensor:
    """Return what is true of the images in the order of the run's
    classes: (N,), or marks (N, K).
    """
    order = torch.tensor([labels.classes.index(name) for name in classes])
    given = torch.as_tensor(held.labels)
    if not labels.several:
        return order[given]
    marks = torch.zeros(len(given), len(labels.classes))
    marks[:, order] = given.float()
    return marks


def _judge(task: Tasks, targets: Tensor, labels: Labels) -> tuple[Score, str]:
    """Return how the task judges logits, by its main score, and how it calls that."""

    def scores(logits: np.ndarray) -> Scores:
        return task.scores(Outputs(torch.from_numpy(logits).float(), targets))

    nothing = np.zeros((len(targets), len(labels.classes)), np.float32)
    return lambda logits: scores(logits).main, scores(nothing).name


def _spread(part: Part, most: int) -> Part:
    """Return at most so many images, evenly over the part."""
    rows = np.unique(np.linspace(0, len(part) - 1, min(most, len(part))).astype(int))
    return Part(part.source, part.rows[rows], part.digests[rows])
