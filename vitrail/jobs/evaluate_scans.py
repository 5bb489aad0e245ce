"""A finished run of lidar scans on labelled ones: its exported file answers, and is judged."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.config import to_json
from vitrail.data.lidar.folder import open_scans
from vitrail.data.lidar.gate import inspect_scans
from vitrail.data.lidar.scans import Scans
from vitrail.data.split import Part
from vitrail.errors import DataError
from vitrail.jobs.scans import ScanPredictor
from vitrail.layers.normal import Normal
from vitrail.recipes.recipe import from_json
from vitrail.report.facts import BrokenFile, FindingFacts
from vitrail.report.scan_evaluation import ScanEvaluation, render
from vitrail.run.facts import today
from vitrail.run.folder import RunFolder
from vitrail.run.judge import own_scans, require_finished
from vitrail.tasks import Lidar
from vitrail.units import shortened


@dataclass(frozen=True)
class Judged:
    """The answer in a sentence, the figures, how many scans were judged, and where the page is."""

    sentence: str
    figures: dict[str, Any]
    n: int
    folder: Path


def evaluate_scans(
    folder: RunFolder, data: str | os.PathLike | None, *, name: str | None, progress: bool
) -> Judged:
    """Judge a finished run of scans by a folder of labelled ones, by default its own test scans.

    Page and figures go to RUN/evaluations/`name`. Raises VitrailError, also for scans of other
    classes.
    """
    evaluations = folder.evaluations()
    predictor, recipe = ScanPredictor(folder), from_json(folder.read_recipe())
    task, labels = recipe.task, predictor.labels
    assert isinstance(task, Lidar)
    if data is None:
        require_finished(folder)
    found = inspect_scans(
        open_scans(recipe.data.spec if data is None else os.fspath(data)), progress=progress
    )
    source = found.source
    if source.classes != labels.classes:
        raise DataError(
            f"{source.origin} has the classes {shortened(', '.join(source.classes))}, and "
            f"{folder.path} tells {shortened(', '.join(labels.classes))}: give scans of these"
        )
    part = (
        own_scans(folder, recipe, found)
        if data is None
        else Part(source, found.rows, found.digests)
    )
    scans = Scans(part, predictor.reader.projection, labels.image)
    outputs = task.answered(predictor.network, scans, Normal(labels.mean, labels.std))
    judged = task.judged(outputs, labels)
    called = source.name if data is not None else f"{source.name}-test"
    where = evaluations / (name or called)
    where.mkdir(parents=True, exist_ok=True)
    own = [] if data is None else [os.fspath(data)]
    page = ScanEvaluation(
        title=folder.path.resolve().name,
        data=called,
        origin=source.origin,
        test=judged["test"],
        chapters=judged["chapters"],
        findings=[FindingFacts(f.kind, f.severity, f.message, f.keys) for f in found.findings],
        broken=[BrokenFile(one.key, one.reason) for one in found.broken],
        command=" ".join(["vitrail evaluate", os.fspath(folder.path), *own]),
        date=today(),
    )
    folder.write_text(where / "report.html", render(page))
    figures = {"test": to_json(judged["test"])}
    folder.write_text(where / "result.json", json.dumps(figures, indent=1) + "\n")
    return Judged(task.sentence(judged), figures, len(outputs), where)
