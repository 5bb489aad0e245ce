"""From trained weights to a finished run folder: export, test, report.

The order matters: calibration and export look at the validation part (`ship`); only when the
exported file is accepted does the judge open the test part (`conclude`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from torch import nn

from vitrail.attribution import ASKED, explain, overlay, png
from vitrail.config import to_json
from vitrail.data.gate import Inspection
from vitrail.data.labels import Labels
from vitrail.engines.apart import Apart
from vitrail.engines.onnx import Exported, export_onnx
from vitrail.measure.machine import machine
from vitrail.recipes.recipe import Recipe
from vitrail.report.card import render_card
from vitrail.report.chapter import Chapter
from vitrail.report.facts import BudgetFacts, CandidatePoint, Facts, FindingFacts
from vitrail.report.page import render
from vitrail.report.pictures import composed
from vitrail.report.scores import Baseline, Mistake, under_its_name
from vitrail.report.timings import LatencyFacts
from vitrail.report.verdict import sentence
from vitrail.run import dial, looks
from vitrail.run import facts as gathered
from vitrail.run.answers import Embedded
from vitrail.run.budget import Budget
from vitrail.run.dial import Dial
from vitrail.run.exported import Timed, held_back, measured
from vitrail.run.exported import labels as labels_of
from vitrail.run.folder import RunFolder
from vitrail.run.frozen import frozen_features
from vitrail.run.hearing import held_back_waves, write_hearing
from vitrail.run.judge import Verdict, judge
from vitrail.run.looks import Looks
from vitrail.run.pictures import Decoding, decoding
from vitrail.run.state import State
from vitrail.run.subject import Subject
from vitrail.run.watch import checkpoints
from vitrail.run.workshop import Workshop
from vitrail.tasks.task import Scores, at_rest
from vitrail.tasks.unknowns import left_out
from vitrail.training.journal import Journal
from vitrail.units import counted, seconds

MISTAKES = 24
# So much of the time limit goes into asking about images once more, for features; whatever it
# is, the fewest tell little.
LOOKING, LEAST, MOST = 0.04, 500, 1 << 20


class Field(Protocol):
    """Who took part in a search, for the report."""

    def points(self, latency_s: float, accuracy: float, steps: int) -> list[CandidatePoint]:
        """Return all candidates, the winner with its final figures."""
        ...

    def pretrained(self) -> Recipe | None:
        """Return the best recipe that starts from published weights, if one does."""
        ...


@dataclass(frozen=True)
class Asked:
    """What the user asked for, as far as the report repeats it."""

    command: str
    budget: Budget
    seed: int = 0
    time_s: float | None = None


@dataclass(frozen=True)
class Addition:
    """What a job adds to a run: a chapter that stands first, more behind it, and figures for
    result.json."""

    chapter: Chapter
    figures: Mapping[str, Any]
    more: Sequence[Chapter] = ()


Adds = Callable[[Facts], Addition]


@dataclass(frozen=True, eq=False)
class Desk:
    """Where a run is finished: its folder, the data, the state on disk, and other engines.

    `notes` are what was decided about the data on the way, `opening` chapters on how the model was
    found, `chapters` what the page tells besides; `adds` is asked, once all is known, what a job
    has to say of its own.
    """

    run: RunFolder
    workshop: Workshop
    inspection: Inspection
    state: State
    asked: Asked
    apart: Apart
    notes: list[FindingFacts] = field(default_factory=list)
    opening: list[Chapter] = field(default_factory=list)
    chapters: Sequence[Chapter] = ()
    adds: Adds | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """A model at the end of its training, with its score on the validation part.

    Where it has a `dial`, it stands at the setting that was chosen. `judged` answers in its place
    where the test is of something else that was made of it.
    """

    subject: Subject
    recipe: Recipe
    model: nn.Module
    scores: Scores
    dial: Dial | None = None
    judged: nn.Module | None = None


@dataclass(frozen=True, eq=False)
class Shipped:
    """An exported file that was accepted, and what it takes for one image."""

    labels: Labels
    exported: Exported
    timed: Timed

    @property
    def latency_s(self) -> float:
        """Return the median that counts against the budget."""
        return self.timed.latency.p50_s


@dataclass(frozen=True)
class Finished:
    """The answer: what was found, how good it is, where the report lies.

    `sentence` says how good in the task's words, `beside` the same beside what small models reach;
    `where` says of which engine the latency is.
    """

    name: str
    sentence: str
    test: Any
    latency: LatencyFacts
    run: Path
    where: str = ""
    beside: str = ""

    def say(self, console: Console) -> None:
        """Print the answer in three lines."""
        wait, most = seconds(self.latency.p50_s), seconds(self.latency.p90_s)
        of = composed(self.latency)
        console.print(
            f"{self.beside or f'{self.name}: {self.sentence}'}\n"
            f"latency {wait} (90 % below {most}) as exported{self.where}, batch 1, "
            f"{counted(self.latency.threads, 'thread')}{f', {of}' if of else ''}\n"
            f"report: {self.run / 'report.html'}",
            highlight=False,
            soft_wrap=True,
        )


@dataclass(frozen=True, eq=False)
class _Tested:
    """What the test part says: the task's figures, what small models reach, the worst answers,
    images that deserve a look, and which share of unknown classes may be told."""

    judged: Mapping[str, Any]
    against: Sequence[Baseline]
    mistakes: Sequence[Mistake]
    looks: Looks
    unknown: float | None


def ship(trained: Trained, desk: Desk, scratch: Path) -> Shipped:
    """Calibrate, export and time a model; nothing of the test part is seen.

    `scratch` keeps what other engines make of the file. Raises ExportError.
    """
    recipe, workshop = trained.recipe, desk.workshop
    with desk.state.phase("export"):
        outputs = workshop.answers(trained.model, recipe, workshop.watched(recipe))
        labels = recipe.task.settled(labels_of(recipe, workshop), outputs)
        labels = replace(labels, look=workshop.look(recipe))
        model, images = at_rest(trained.model), held_back(recipe, workshop)
        exported = export_onnx(
            model, labels, desk.run.onnx, images=images, config=recipe.model,
            serve=recipe.task.served, agree=recipe.task.agreement,
        )  # fmt: skip
        write_hearing(desk.run, labels, held_back_waves(workshop.split.val))
        timed = measured(
            model, desk.run.onnx, labels, images, desk.asked.budget, scratch, desk.apart
        )
    return Shipped(labels, exported, timed)


def conclude(
    trained: Trained, shipped: Shipped, desk: Desk, scratch: Path, race: Field | None = None
) -> Finished:
    """Keep the weights, open the test part once, and write report, card and result."""
    run, recipe, asked = desk.run, trained.recipe, desk.asked
    run.write_bytes(run.metrics, _journal(trained, desk).path.read_bytes())
    run.save_model(trained.model, to_json(recipe), shipped.labels)
    if trained.dial is not None:
        dial.write(run, trained.dial)
    shipped.timed.settle(run, scratch, asked.budget, shipped.exported.n)
    with desk.state.phase("test"):
        tested = _tested(trained, shipped, desk, race)
    latency = shipped.timed.facts(asked.budget, _decoding(desk, recipe))
    facts = _facts(trained, shipped, desk, tested, latency, race)
    own = desk.adds(facts) if desk.adds else None
    if own is not None:
        facts = replace(facts, opening=[*facts.opening, own.chapter, *own.more])
    run.write_text(run.looks, tested.looks.table)
    run.write_text(run.report, render(facts))
    run.write_text(run.readme, render_card(facts))
    told = _result(facts, trained.scores, desk.state)
    run.write_json(run.result, {**told, **(own.figures if own else {})})
    return Finished(
        trained.subject.title, recipe.task.sentence(tested.judged), tested.judged.get("test"),
        latency, run.path, shipped.timed.said(asked.budget),
        sentence(facts) if facts.test else "",
    )  # fmt: skip


def _journal(trained: Trained, desk: Desk) -> Journal:
    """Return the journal of the model's training."""
    return Journal(checkpoints(desk.run.path, trained.subject.name) / "metrics.jsonl")


def _tested(trained: Trained, shipped: Shipped, desk: Desk, race: Field | None) -> _Tested:
    """Open the test part: judge the model and what it is compared with, look at its mistakes."""
    recipe, workshop = trained.recipe, desk.workshop
    verdict = judge(trained.judged or trained.model, recipe, workshop.split.test, workshop)
    judged = recipe.task.judged(verdict.outputs, shipped.labels)
    train = workshop.pixels("train", recipe.data.image, recipe.data.channels)
    most = _affordable(desk, shipped)
    start = recipe if recipe.pretrained or race is None else race.pretrained() or recipe
    frozen = None
    # Heads of maps and boxes see no vector for an image; published weights are of images.
    task = recipe.task
    if not (task.maps or task.boxes) and task.takes == "images":
        frozen = frozen_features(start, workshop, verdict.pixels, most=most)
    against = task.against(train, verdict.pixels, verdict.outputs, shipped.labels, frozen)
    mistakes = _mistakes(trained, verdict, shipped.labels)
    return _Tested(judged, against, mistakes, *_looks(trained, desk, verdict, most))


def _facts(
    trained: Trained, shipped: Shipped, desk: Desk, tested: _Tested, latency: LatencyFacts,
    race: Field | None,
) -> Facts:  # fmt: skip
    """Return all that the page and the card tell."""
    recipe, asked, budget = trained.recipe, desk.asked, desk.asked.budget
    facts = Facts(
        model=gathered.model_facts(trained.subject, recipe),
        data=gathered.data_facts(recipe, desk.inspection, desk.workshop.split, desk.notes),
        command=asked.command,
        baselines=tested.against,
        latency=latency,
        engines=shipped.timed.others(budget),
        size_bytes=shipped.exported.size_bytes,
        budget=BudgetFacts(budget.latency_s, budget.macs, budget.params, asked.time_s),
        candidates=_points(trained, shipped, race),
        opening=desk.opening,
        curves=gathered.curve_points(_journal(trained, desk).read()),
        mistakes=tested.mistakes,
        export=gathered.export_facts(shipped.exported),
        versions=machine()["versions"],
        machine={k: v for k, v in machine().items() if k != "versions"},
        seconds=dict(desk.state.seconds),
        seed=asked.seed,
        date=gathered.today(),
        run=str(desk.run.path),
        **tested.judged,
    )
    if facts.refusal is not None:
        facts = replace(facts, refusal=replace(facts.refusal, unknown=tested.unknown))
    added = [gathered.dial_chapter(trained.dial, budget.latency_s), tested.looks.chapter]
    known = [one for one in added if one is not None]
    return replace(facts, chapters=[*desk.chapters, *facts.chapters, *known])


def _affordable(desk: Desk, shipped: Shipped) -> int:
    """Return how many images may be asked about once more, in a share of the time limit."""
    limit = desk.asked.time_s
    return MOST if limit is None else max(LEAST, int(LOOKING * limit / shipped.latency_s))


def _looks(trained: Trained, desk: Desk, verdict: Verdict, most: int) -> tuple[Looks, float | None]:
    """Return which of up to `most` images deserve a look, and which share of images of unknown
    classes may be told by their probability."""
    recipe, workshop = trained.recipe, desk.workshop
    # Of others only what the gate found is known.
    if recipe.task.maps or recipe.task.boxes or recipe.task.takes != "images":
        return looks.looks(desk.inspection, []), None
    data, network = recipe.data, Embedded(trained.model)
    parts = {name: workshop.pixels(name, data.image, data.channels) for name in ("train", "val")}
    some = looks.sampled({**parts, "test": verdict.pixels}, min(most, looks.LOOKED))
    seen = {
        name: workshop.outputs(network, recipe, images).values.numpy()
        for name, images in some.items()
    }
    told, right = None, trained.scores.figures.get("accuracy", 0.0)
    if not recipe.task.several:
        told = left_out(seen["train"], some["train"].labels, seen["val"], some["val"].labels)
    unknown = told.told if told is not None and told.speaks_of(right) else None
    return looks.looks(desk.inspection, looks.of_fit(desk.inspection, some, seen)), unknown


def _decoding(desk: Desk, recipe: Recipe) -> Decoding | None:
    """Return what it takes to decode a picture of the budget's size."""
    pictures = desk.asked.budget.pictures
    return pictures and decoding(desk.inspection, pictures.size, recipe.data.channels)


def _points(trained: Trained, shipped: Shipped, race: Field | None) -> list[CandidatePoint]:
    """Return the candidates of a race, or the one model of a run without any."""
    figures = shipped.latency_s, trained.scores.main, trained.recipe.steps.total
    if race is not None:
        return race.points(*figures)
    one = trained.subject
    return [CandidatePoint(
        one.name, one.family, one.params, one.macs, *figures, "won", one.image, clock="exported",
        title=one.title,
    )]  # fmt: skip


def _mistakes(trained: Trained, verdict: Verdict, labels: Labels) -> Sequence[Mistake]:
    """Draw the worst answers, with what the model looked at."""
    model, found = at_rest(trained.model), []
    for one in trained.recipe.task.mistakes(verdict.outputs, labels, MISTAKES):
        image = verdict.pixels.take(np.array([one.row]))[0]
        seen, method = explain(model, labels.normalised(image[None])[0], one.asked)
        told = (one.truth, one.guess, one.confidence, verdict.pixels.keys[one.row], ASKED[method])
        found.append(Mistake(png(image), overlay(image, seen), *told))
    return found


def _result(facts: Facts, scores: Scores, state: State) -> Mapping[str, Any]:
    """Return result.json: the figures of the report for scripts."""
    names = ("model", "latency", "size_bytes", "budget", "export", "machine", "versions")
    chosen = {name: to_json(getattr(facts, name)) for name in names}
    chosen["test"] = facts.test.to_json() if facts.test else None
    chosen["baselines"] = [under_its_name(one, facts.measure) for one in facts.baselines]
    if facts.engines:
        chosen["engines"] = [asdict(one) for one in facts.engines]
    validation = {scores.name: scores.main, **scores.figures, "loss": scores.loss, "n": scores.n}
    return {
        **chosen,
        "validation": validation,
        "candidates": [asdict(c) for c in facts.candidates],
        "command": facts.command,
        "seed": facts.seed,
        "seconds": {**facts.seconds, "total": state.spent_s},
    }
