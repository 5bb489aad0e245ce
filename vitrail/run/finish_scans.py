"""From a trained network of scans to a finished run folder: export, test, page.

The order is that of every run: the export is compared on the validation part, and only when it is
accepted the judge opens the test part, once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from vitrail.config import to_json
from vitrail.data.labels import Labels
from vitrail.data.lidar.reader import Answered, Network
from vitrail.data.lidar.scans import Scans
from vitrail.engines.kpconv import in_numpy
from vitrail.engines.onnx import Exported
from vitrail.engines.scans import Compared, export_scans
from vitrail.measure.machine import machine
from vitrail.measure.session import session
from vitrail.recipes.recipe import Recipe
from vitrail.report.facts import BrokenFile, FindingFacts
from vitrail.report.scans import ScanFacts, render
from vitrail.report.scores import Score, under_its_name
from vitrail.run.facts import curve_points, today
from vitrail.run.folder import RunFolder
from vitrail.run.judge import judge
from vitrail.run.scans import ReadScans
from vitrail.run.state import State
from vitrail.run.subject import Subject
from vitrail.run.watch import checkpoints
from vitrail.run.workshop import normal
from vitrail.tasks import Lidar
from vitrail.tasks.scan_answers import in_torch
from vitrail.tasks.task import Scores, at_rest
from vitrail.training.journal import Journal
from vitrail.units import seconds

# Held-back scans that an export is compared on, and those by which a scan is timed.
PARITY, TIMED = 8, 5


@dataclass(frozen=True, eq=False)
class TrainedScans:
    """A network of scans at the end of its training, with its score on the validation part."""

    subject: Subject
    recipe: Recipe
    model: nn.Module
    scores: Scores


@dataclass(frozen=True)
class FinishedScans:
    """The answer in words, the seconds of a whole scan, and the run folder."""

    title: str
    sentence: str
    scan_s: float
    run: Path

    def say(self, console: Console) -> None:
        """Print the answer in three lines."""
        console.print(
            f"{self.title}: {self.sentence}\n{seconds(self.scan_s)} for a scan as exported, from "
            f"its points to their classes\nreport: {self.run / 'report.html'}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip


def finish(trained: TrainedScans, run: RunFolder, read: ReadScans, state: State) -> FinishedScans:
    """Export, judge once on the test part, and write weights, page and result."""
    recipe, model = trained.recipe, at_rest(trained.model)
    labels = labels_of(recipe, read)
    held: Any = read.workshop.pixels("val", recipe.data.image, recipe.data.channels)
    with state.phase("export"):
        exported, scan_s = _ship(model, recipe, labels, run, held)
    journal = Journal(checkpoints(run.path, trained.subject.name) / "metrics.jsonl")
    run.write_bytes(run.metrics, journal.path.read_bytes())
    run.save_model(model, to_json(recipe), labels)
    with state.phase("test"):
        verdict = judge(model, recipe, read.workshop.split.test, read.workshop)
        judged = recipe.task.judged(verdict.outputs, labels)
        train: Any = read.workshop.pixels("train", recipe.data.image, recipe.data.channels)
        against = recipe.task.against(train, verdict.pixels, verdict.outputs, labels)
    facts = ScanFacts(
        title=trained.subject.title,
        data=read.inspected.source.name,
        origin=read.inspected.source.origin,
        parts=(len(train), len(held), len(read.workshop.split.test)),
        test=judged["test"],
        chapters=judged["chapters"],
        baselines=against,
        params=trained.subject.params,
        macs=trained.subject.macs,
        crop=recipe.data.image,
        projection=str(to_json(recipe.task)["projection"]),
        scan_s=scan_s,
        compared=(exported.n, exported.max_logit_difference),
        steps=recipe.steps.total,
        batch=recipe.steps.batch,
        curves=curve_points(journal.read()),
        findings=_findings(read),
        broken=[BrokenFile(one.key, one.reason) for one in read.inspected.broken],
        command=state.values["command"],
        machine={k: v for k, v in machine().items() if k != "versions"},
        seconds=dict(state.seconds),
        date=today(),
        run=str(run.path),
    )
    run.write_text(run.report, render(facts))
    run.write_json(run.result, _result(trained, facts, exported, state))
    return FinishedScans(trained.subject.title, recipe.task.sentence(judged), scan_s, run.path)


def labels_of(recipe: Recipe, read: ReadScans) -> Labels:
    """Return what stands between scans and the network."""
    data = recipe.data
    classes = read.workshop.split.classes
    return Labels(classes, data.image, data.channels, data.mean, data.std, takes="scans")


def _ship(
    model: Any, recipe: Recipe, labels: Labels, run: RunFolder, held: Scans
) -> tuple[Exported, float]:
    """Return the accepted file, and the median seconds of a whole scan by it."""
    assert isinstance(recipe.task, Lidar)
    reader = recipe.task.reader(labels.image[1], normal(recipe))
    some = held.first(PARITY)

    def answer(at: int, network: Network) -> Answered:
        scan = some.scan(at)
        return reader.answer(scan.xyz, scan.intensity, network)

    device = next(model.parameters()).device
    ours = in_torch(model, device, recipe.task.neighbours)
    state = model.state_dict()
    compared = Compared(answer, len(some), ours)
    exported = export_scans(model.network, state, labels, run.onnx, compared)
    theirs, times = in_numpy(session(run.onnx), state, recipe.task.neighbours), []
    for at in range(min(TIMED, len(some)) + 1):
        began = time.perf_counter()
        answer(max(0, at - 1), theirs)
        times.append(time.perf_counter() - began)
    return exported, float(np.median(times[1:]))


def _findings(read: ReadScans) -> list[FindingFacts]:
    found = [*read.inspected.findings, *read.workshop.split.findings]
    return [FindingFacts(one.kind, one.severity, one.message, one.keys) for one in found]


def _result(
    trained: TrainedScans, facts: ScanFacts, exported: Exported, state: State
) -> Mapping[str, Any]:
    """Return what result.json holds: the figures of the page for scripts."""
    scores, test = trained.scores, facts.test
    assert isinstance(test, Score)
    validation = {scores.name: scores.main, **scores.figures, "loss": scores.loss, "n": scores.n}
    return {
        "model": {
            "name": trained.subject.name, "title": trained.subject.title,
            "params": trained.subject.params, "macs": trained.subject.macs,
            "config": trained.subject.model,
        },
        "test": test.to_json(),
        "baselines": [under_its_name(one, test.name) for one in facts.baselines],
        "validation": validation,
        "scan_s": facts.scan_s,
        "size_bytes": exported.size_bytes,
        "export": {"scans": exported.n, "max_score_difference": exported.max_logit_difference},
        "command": facts.command,
        "seed": trained.recipe.seed,
        "machine": machine(),
        "seconds": {**state.seconds, "total": state.spent_s},
    }  # fmt: skip
