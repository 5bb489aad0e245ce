"""From trained weights to a finished run folder: export, test, report.

The order matters: calibration and export look at the validation part; only when the exported
file is accepted and keeps the latency budget does the judge open the test part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from vitrail.attribution import ASKED, explain, overlay, png
from vitrail.config import to_json
from vitrail.data.gate import Inspection
from vitrail.data.labels import Labels
from vitrail.engines.apart import Apart
from vitrail.engines.onnx import Exported, export_onnx
from vitrail.fit.arguments import Arguments
from vitrail.measure.latency import Latency
from vitrail.measure.machine import machine
from vitrail.models import Backbone
from vitrail.recipes.recipe import Recipe
from vitrail.report.card import render_card
from vitrail.report.facts import (
    BudgetFacts,
    ExportFacts,
    Facts,
    Mistake,
    ModelFacts,
)
from vitrail.report.page import render
from vitrail.run import facts as gathered
from vitrail.run.exported import held_back, measured
from vitrail.run.exported import labels as labels_of
from vitrail.run.folder import RunFolder
from vitrail.run.judge import Verdict, judge
from vitrail.run.state import State
from vitrail.run.workshop import Score, Trainer
from vitrail.search.candidate import Candidate
from vitrail.search.rungs import Runner
from vitrail.train.journal import Journal
from vitrail.train.metrics import fit_temperature
from vitrail.units import seconds

MISTAKES = 24


@dataclass(frozen=True)
class Finished:
    """The answer: what was found, how good it is, where the report lies; `where` says of which
    engine the latency is."""

    name: str
    accuracy: float
    low: float
    high: float
    n: int
    latency: Latency
    threads: int
    run: Path
    where: str = ""

    def say(self, console: Console) -> None:
        """The answer in three lines."""
        console.print(
            f"{self.name}: {self.accuracy:.1%} of {self.n} test images right (95 % interval "
            f"{self.low:.1%} to {self.high:.1%})\n"
            f"latency {seconds(self.latency.p50_s)} (90 % below {seconds(self.latency.p90_s)}) as "
            f"exported{self.where}, batch 1, {self.threads} threads\n"
            f"report: {self.run / 'report.html'}",
            highlight=False,
            soft_wrap=True,
        )


def finish(
    model: Backbone,
    recipe: Recipe,
    score: Score,
    *,
    run: RunFolder,
    trainer: Trainer,
    inspection: Inspection,
    arguments: Arguments,
    runners: Sequence[Runner],
    winner: Runner,
    over: Sequence[Candidate],
    misses: dict[str, float],
    state: State,
    apart: Apart,
) -> Finished | None:
    """Calibrate, export, test, report. None when the exported file misses the latency budget,
    which is then in `misses`; nothing of the test part was seen by then. `apart` asks other
    engines than ONNX Runtime. Raises ExportError.
    """
    budget = arguments.budget
    held = trainer.pixels("val", recipe.data.image, recipe.data.channels)
    with TemporaryDirectory(prefix=".engine", dir=run.path) as scratch:
        with state.phase("export"):
            temperature = fit_temperature(*trainer.logits(model, recipe, held))
            model = model.to("cpu")
            labels, images = labels_of(recipe, trainer, temperature), held_back(recipe, trainer)
            exported = export_onnx(model, labels, run.onnx, images=images, config=recipe.model)
            timed = measured(model, run.onnx, labels, images, budget, Path(scratch), apart)
            latency = timed.latency
        if budget.latency_s is not None and latency.p50_s > budget.latency_s:
            misses[winner.candidate.name] = latency.p50_s
            return None
        journal = Journal(run.checkpoints / winner.candidate.name / "metrics.jsonl")
        run.write_bytes(run.metrics, journal.path.read_bytes())
        run.save_model(model, to_json(recipe), labels)
        timed.settle(run, Path(scratch), budget, exported.n)
    with state.phase("test"):
        verdict = judge(model, recipe, trainer.split.test, trainer)
        test = gathered.score(verdict.logits, verdict.labels)
        mistakes = _mistakes(model.to("cpu"), verdict, labels, trainer.split.classes)
    facts = Facts(
        model=_model_facts(winner.candidate),
        data=gathered.data_facts(recipe, inspection, trainer.split),
        command=arguments.command,
        test=test,
        latency=timed.facts(budget.threads),
        engines=timed.others(budget),
        size_bytes=exported.size_bytes,
        budget=BudgetFacts(budget.latency_s, budget.macs, budget.params, arguments.time_s),
        candidates=gathered.candidate_points(
            runners,
            over,
            misses,
            winner,
            latency_s=latency.p50_s,
            accuracy=score.accuracy,
            steps=recipe.steps.total,
        ),
        curves=gathered.curve_points(journal.read()),
        per_class=gathered.class_rows(verdict.logits, verdict.labels, trainer.split.classes),
        confusion=gathered.confusion(verdict.logits, verdict.labels),
        calibration=gathered.calibration(verdict.logits, verdict.labels, temperature),
        mistakes=mistakes,
        export=_export_facts(exported),
        versions=machine()["versions"],
        machine={k: v for k, v in machine().items() if k != "versions"},
        seconds=dict(state.seconds),
        seed=arguments.seed,
        date=gathered.today(),
    )
    run.write_text(run.report, render(facts))
    run.write_text(run.readme, render_card(facts))
    run.write_json(run.result, _result(facts, score, state))
    return Finished(
        winner.candidate.name, test.accuracy, test.low, test.high, test.n, latency,
        budget.threads, run.path, timed.said(budget),
    )  # fmt: skip


def _mistakes(
    model: Backbone, verdict: Verdict, labels: Labels, classes: Sequence[str]
) -> list[Mistake]:
    """The wrong answers that the model was surest of, with what it looked at."""
    shares = (verdict.logits / labels.temperature).softmax(1)
    sure, guesses = shares.max(1)
    wrong = (guesses != verdict.labels).nonzero().flatten()
    worst = wrong[sure[wrong].argsort(descending=True)][:MISTAKES].tolist()
    found = []
    for row in worst:
        image = verdict.pixels.take(np.array([row]))[0]
        guess = int(guesses[row])
        seen, method = explain(model, labels.normalised(image[None])[0], guess)
        found.append(
            Mistake(
                png(image),
                overlay(image, seen),
                classes[int(verdict.labels[row])],
                classes[guess],
                float(sure[row]),
                verdict.pixels.keys[row],
                ASKED[method],
            )
        )
    return found


def _model_facts(one: Candidate) -> ModelFacts:
    return ModelFacts(
        one.name, one.family, one.params, one.macs, one.image, one.model["channels"],
        Path(one.pretrained).name if one.pretrained else None,
    )  # fmt: skip


def _export_facts(exported: Exported) -> ExportFacts:
    return ExportFacts(
        exported.n,
        exported.max_logit_difference,
        exported.size_bytes,
        exported.resize_inside,
    )


def _result(facts: Facts, score: Score, state: State) -> dict[str, Any]:
    """result.json: the figures of the report for scripts."""
    names = ("model", "test", "latency", "size_bytes", "budget", "export", "machine", "versions")
    chosen = {name: to_json(getattr(facts, name)) for name in names}
    if facts.engines:
        chosen["engines"] = [asdict(one) for one in facts.engines]
    validation = {"accuracy": score.accuracy, "loss": score.loss, "n": score.n}
    return {
        **chosen,
        "validation": validation,
        "candidates": [asdict(c) for c in facts.candidates],
        "command": facts.command,
        "seed": facts.seed,
        "seconds": {**facts.seconds, "total": state.spent_s},
    }
