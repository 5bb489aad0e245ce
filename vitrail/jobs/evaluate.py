"""A finished run on other labelled images: the same figures and the same page as its own test.

Nothing is learned and nothing is chosen by these images, so they may be looked at as often as
one likes; only the figures that the run was chosen by are not theirs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from vitrail.attribution import ASKED, explain, overlay, png
from vitrail.config import to_json
from vitrail.data.boxes import Boxes
from vitrail.data.cache import Pixels
from vitrail.data.gate import Inspection, inspect
from vitrail.data.inputs import inputs
from vitrail.data.labels import Labels
from vitrail.data.mask_views import renumbered
from vitrail.data.source import Source
from vitrail.data.split import Part
from vitrail.errors import ConfigError, DataError
from vitrail.jobs.attacking import Ask, Subject
from vitrail.jobs.evaluate_scans import evaluate_scans
from vitrail.jobs.stress import Stress, stressed
from vitrail.layers.normal import Normal
from vitrail.measure.machine import machine
from vitrail.recipes.recipe import task_of
from vitrail.report.facts import BrokenFile, DataFacts, Facts, FindingFacts, ModelFacts
from vitrail.report.page import render
from vitrail.report.scores import Mistake
from vitrail.report.text import link, plain
from vitrail.run.answers import Embedded
from vitrail.run.facts import today
from vitrail.run.folder import RunFolder
from vitrail.run.judge import own_test
from vitrail.run.looks import Looks, looks, of_evaluation
from vitrail.run.record import open_run
from vitrail.run.subject import subject
from vitrail.tasks.task import Outputs, Task
from vitrail.units import shortened

BATCH = 64
MISTAKES = 24
CALM = Stress()


@dataclass(frozen=True)
class Evaluation:
    """What a run says of labelled images: the task's figures, and the page that shows them."""

    sentence: str
    figures: dict[str, Any]
    n: int
    folder: Path

    @property
    def report(self) -> Path:
        """Return the path of the page."""
        return self.folder / "report.html"

    def _repr_html_(self) -> str:
        """Show the answer in a notebook, with a link to the page."""
        return str(Markup("{}<br>{}").format(plain(self.sentence), link(self.report)))


def evaluate(
    run: str | os.PathLike,
    data: str | os.PathLike | None = None,
    *,
    engine: str | None = None,
    name: str | None = None,
    stress: Stress = CALM,
    progress: bool = False,
) -> Evaluation:
    """Judge a finished run by labelled images, by default its own test images.

    `data` is what `fit` takes; its classes must be among those of the run. `engine` answers with
    what `vitrail export --engine` made. `stress` attacks the model or corrupts the images as well:
    `Stress(attack="linf:4/255", corruptions=True)`. Page, figures and the table of images that
    deserve a look go to RUN/evaluations/`name` (by default the name of the data). Raises
    VitrailError.

    Examples:
        >>> found = vitrail.evaluate("run", "photos")
        >>> found.n, found.report.name
        (80, 'report.html')
    """
    folder = RunFolder.open(run)
    if folder.of_scans():
        return _of_scans(folder, data, engine, stress, name=name, progress=progress)
    evaluations = folder.evaluations()
    model, recipe, labels = folder.load_model()
    task = task_of(recipe)
    _require_judged(folder, task, labels, engine, stress)
    stress.check(task, labels, engine)
    source = _source(folder, recipe, data, labels, progress=progress)
    found = inspect(source, progress=progress, least=1)
    part = Part(found.source, found.rows, found.digests)
    images = inputs(part, labels.image, labels.channels, progress=progress)
    ask = _asker(folder, model, labels, engine)
    case = _Case(task, model, labels, found, images, _outputs(task, model, labels, images, ask))
    judged = task.judged(case.outputs, labels)
    where = evaluations / (name or found.source.name)
    where.mkdir(parents=True, exist_ok=True)
    facts = _facts(case, recipe, part, judged, run, _command(run, data, engine, stress))
    seen = _looks(case)
    if seen.chapter is not None:
        facts = replace(facts, chapters=[*facts.chapters, seen.chapter])
    chapters, more = [], {}
    if not case.drawn:
        one = Subject(folder, task, model, labels, ask, where, engine)
        chapters, more = stressed(stress, one, images, progress=progress)
    facts = replace(facts, chapters=[*chapters, *facts.chapters])
    # What a task draws is for the page.
    told = {key: to_json(value) for key, value in judged.items() if key != "chapters"} | more
    folder.write_text(where / "look-at.csv", seen.table)
    folder.write_text(where / "report.html", render(facts))
    folder.write_text(where / "result.json", json.dumps(told, indent=1) + "\n")
    return Evaluation(task.sentence(judged), told, len(case.outputs), where)


@dataclass(frozen=True, eq=False)
class _Case:
    """A model before labelled images, with what it says of them."""

    task: Task
    model: Any
    labels: Labels
    found: Inspection
    images: Pixels
    outputs: Outputs

    @property
    def drawn(self) -> bool:
        """Return whether an answer is drawn on the image: masks or boxes."""
        return self.task.maps or self.task.boxes


def _of_scans(
    folder: RunFolder, data: str | os.PathLike | None, engine: str | None, stress: Stress,
    *, name: str | None, progress: bool,
) -> Evaluation:  # fmt: skip
    """Judge a run of lidar scans."""
    if engine is not None or stress != CALM:
        raise ConfigError(
            f"{folder.path} tells points of lidar scans, which are judged as they are by its "
            "own file: leave out engines, attacks and corruptions"
        )
    found = evaluate_scans(folder, data, name=name, progress=progress)
    return Evaluation(found.sentence, found.figures, found.n, found.folder)


def _outputs(task: Task, model: Any, labels: Labels, images: Pixels, ask: Ask) -> Outputs:
    """Return what is said of all images, with the truth."""
    if task.maps or task.boxes or task.takes != "images":  # clips are seen in several views
        return task.judge(model, images, Normal(labels.mean, labels.std), "cpu")
    return Outputs(_answers(ask, images), torch.from_numpy(np.asarray(images.labels)))


def _facts(
    case: _Case, recipe: dict[str, Any], part: Part, judged: Mapping[str, Any],
    run: str | os.PathLike, command: str,
) -> Facts:  # fmt: skip
    """Return what the page tells, without what is looked at besides."""
    return Facts(
        model=_model(recipe),
        data=_data(case.found, part, case.task),
        command=command,
        mistakes=_mistakes(case),
        versions=machine()["versions"],
        machine={k: v for k, v in machine().items() if k != "versions"},
        date=today(),
        run=os.fspath(run),
        **judged,
    )


def _require_judged(
    folder: RunFolder, task: Any, labels: Labels, engine: str | None, stress: Stress
) -> None:
    """Raise ConfigError for a run that is judged by its own test part alone, or as it is alone."""
    if (task.maps or task.boxes) and (engine is not None or stress != CALM):
        raise ConfigError(
            f"{folder.path} gives {'masks' if task.maps else 'boxes'}, which are judged as they "
            "are by the weights: leave out engines, attacks and corruptions"
        )
    if labels.hearing is not None:
        raise ConfigError(
            f"{folder.path} tells sounds, which are judged by the run's own test part alone: see "
            "its report.html"
        )


def _source(
    folder: RunFolder, recipe: dict[str, Any], data: str | os.PathLike | None, labels: Labels,
    *, progress: bool,
) -> Source:  # fmt: skip
    """Return what is judged, in the run's classes: by default the run's own test part."""
    task = task_of(recipe)
    if data is None:
        source = own_test(folder, recipe, progress=progress)
    else:
        source = task.source(os.fspath(data), progress=progress)
    source = _known(source, labels, folder)
    task.check(source)
    return source


def _known(source: Source, labels: Labels, folder: RunFolder) -> Source:
    """Return the source with the run's classes and features in the run's order, and its range of
    deep images."""
    unknown = sorted(set(source.classes) - set(labels.classes))
    if unknown:
        some = shortened(", ".join(labels.classes))
        raise DataError(
            f"{source.origin} has the class {unknown[0]!r}, which {folder.path} does not know: "
            f"give {source.nouns} of {some}"
        )
    at = [labels.classes.index(name) for name in source.classes]
    items = tuple(
        replace(
            item,
            label=at[item.label] if item.label >= 0 else item.label,
            several=item.several and tuple(sorted(at[n] for n in item.several)),
        )
        for item in source.items
    )
    boxes = source.boxes
    if boxes is not None:
        order = np.array(at, np.int64)
        boxes = Boxes(tuple(replace(one, labels=order[one.labels]) for one in boxes.truths))
    masks = source.masks
    if masks is not None:
        masks = renumbered(masks, at, len(labels.classes))
    return replace(
        source, classes=labels.classes, items=items, ranges=labels.ranges, boxes=boxes, masks=masks,
        series=source.series and source.series.ordered(labels.features),
    )  # fmt: skip


def _command(
    run: str | os.PathLike, data: str | os.PathLike | None, engine: str | None, stress: Stress
) -> str:
    words = ["vitrail evaluate", os.fspath(run), *([] if data is None else [os.fspath(data)])]
    words += [f"--engine {engine}"] if engine else []
    words += [f"--attack {stress.attack}"] if stress.attack else []
    words += ["--autoattack"] if stress.autoattack else []
    words += ["--corruptions"] if stress.corruptions else []
    words += [f"--images {stress.images}"] if stress != replace(stress, images=CALM.images) else []
    return " ".join(words)


def _asker(folder: RunFolder, model: Any, labels: Labels, engine: str | None) -> Ask:
    """Return what maps uint8 images (B, H, W, C) to raw outputs (B, ...)."""
    if engine is not None:
        opened = open_run(folder, labels, engine)
        return lambda batch: opened(batch)[1]

    def ask(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(labels.normalised(batch)).float().numpy()

    return ask


def _answers(ask: Ask, images: Pixels) -> torch.Tensor:
    """Return the raw outputs (N, ...) of all images, in their order."""
    rows = np.arange(len(images))
    parts = [ask(images.take(rows[at : at + BATCH])) for at in range(0, len(rows), BATCH)]
    return torch.from_numpy(np.concatenate(parts))


def _looks(case: _Case) -> Looks:
    """Return which of the images deserve a look; of other files only what the gate found."""
    labels = case.labels
    if case.drawn or labels.takes != "images":
        return looks(case.found, [])
    network = Embedded(case.model)

    def embed(some: Pixels) -> np.ndarray:
        rows = np.arange(len(some))
        with torch.inference_mode():
            return np.concatenate([
                network(labels.normalised(some.take(rows[at : at + BATCH]))).float().numpy()
                for at in range(0, len(rows), BATCH)
            ])  # fmt: skip

    shares = None if labels.several else labels.probabilities(case.outputs.values).numpy()
    return looks(case.found, of_evaluation(case.found, case.images, shares, embed))


def _model(recipe: dict[str, Any]) -> ModelFacts:
    from vitrail.models import config_from_json

    config = config_from_json(recipe["model"])
    one = subject(config)
    return ModelFacts(
        one.name, one.family, one.params, one.macs, one.image, config.channels,
        title=one.title, config=one.model,
    )  # fmt: skip


def _data(found: Inspection, part: Part, task: Task) -> DataFacts:
    return DataFacts(
        name=found.source.name,
        origin=found.source.origin,
        classes=found.classes,
        parts={"test": part.counts},
        findings=[FindingFacts(f.kind, f.severity, f.message, f.keys) for f in found.findings],
        broken=[BrokenFile(b.key, b.reason) for b in found.broken],
        split=f"all {found.source.nouns} are judged, none is learned from",
        takes=task.takes,
        boxes=task.boxes,
    )


def _mistakes(case: _Case) -> list[Mistake]:
    """Draw the worst answers, with what the model looked at."""
    drawn, images = [], case.images
    for one in case.task.mistakes(case.outputs, case.labels, MISTAKES):
        image = images.take(np.array([one.row]))[0]
        seen, method = explain(case.model, case.labels.normalised(image[None])[0], one.asked)
        key = images.keys[one.row]
        told = (one.truth, one.guess, one.confidence, key, ASKED[method])
        drawn.append(Mistake(png(image), overlay(image, seen), *told))
    return drawn
