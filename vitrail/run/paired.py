"""From a trained pair of towers to a finished run folder: weights, tokenizer, figures, page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from vitrail import checkpoint
from vitrail.attribution import png
from vitrail.config import parse, read_json, to_json
from vitrail.data.captioned import ALL
from vitrail.data.labels import Labels
from vitrail.data.words import Words
from vitrail.data.words import opened as words_of
from vitrail.errors import ConfigError, RunError
from vitrail.measure.machine import machine
from vitrail.models.lit import LiT
from vitrail.models.trunk.catalog import shapes
from vitrail.recipes.build import restored
from vitrail.recipes.recipe import Recipe, task_of
from vitrail.report.facts import FindingFacts
from vitrail.report.image_text import Asked, ImageTextFacts, card, render
from vitrail.run.facts import today
from vitrail.run.folder import RESTORE, RunFolder
from vitrail.run.judge import Verdict, judge
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.run.subject import Subject
from vitrail.run.watch import checkpoints
from vitrail.tasks import ImageText
from vitrail.tasks.pairing import Pairs, by_chance
from vitrail.tasks.task import Scores, at_rest
from vitrail.training.journal import Journal

NAME = "towers"  # of the folder of checkpoints
TOKENIZER = "tokenizer.json"
ASKED, SHOWN = 8, 4


@dataclass(frozen=True, eq=False)
class Paired:
    """A training of two towers at its end; `subject` is the image tower's."""

    subject: Subject
    recipe: Recipe
    model: nn.Module
    scores: Scores


@dataclass(frozen=True, eq=False)
class Opened:
    """A finished run that is asked for classes in words."""

    model: LiT
    words: Words
    task: ImageText
    labels: Labels


def opened(run: RunFolder, classes: tuple[str, ...]) -> Opened:
    """Open a run of images and sentences to tell `classes`. Raises RunError for any other run."""
    recipe = run.read_recipe()
    task = task_of(recipe)
    if not isinstance(task, ImageText):
        raise RunError(
            f"{run.path} knows its classes and reads no sentences: leave out --classes, or give a "
            "run of `vitrail train --set task=image_text`"
        )
    told = read_json(run.labels, dict, remedy=RESTORE)
    try:
        labels = parse(Labels, {**told, "classes": classes})
        model = restored(recipe, run.weights)
    except ConfigError as error:
        raise RunError(f"{run.path} is damaged ({error}): {RESTORE}") from error
    assert isinstance(model, LiT)
    words = words_of(run.path / TOKENIZER, model.config.text.length)
    if words.size != model.config.text.vocabulary:
        raise RunError(
            f"{run.path / TOKENIZER} has {words.size} tokens and the weights know "
            f"{model.config.text.vocabulary}: {RESTORE}"
        )
    return Opened(model, words, task, labels)


def conclude(found: Paired, run: RunFolder, images: Read, state: State) -> str:
    """Open the test part once; write weights, labels, result, page and card.

    Returns the answer in a sentence. Raises RunError.
    """
    recipe, workshop = found.recipe, images.workshop
    with state.phase("test"):
        verdict = judge(found.model, recipe, workshop.split.test, workshop)
    judged = recipe.task.judged(verdict.outputs, cast(Any, None))
    checkpoint.save(
        run.weights, at_rest(found.model).state_dict(), metadata={"config": recipe.model}
    )
    classes = workshop.split.classes
    labels = {
        "classes": [] if classes == (ALL,) else classes,
        "image": recipe.data.image,
        "channels": recipe.data.channels,
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "ranges": to_json(workshop.split.train.source.ranges),
    }
    run.write_json(run.labels, labels)
    journal = Journal(checkpoints(run.path, NAME) / "metrics.jsonl")
    run.write_bytes(run.metrics, journal.path.read_bytes())
    facts = _facts(found, run, images, state, verdict, judged)
    run.write_text(run.report, render(facts))
    run.write_text(run.readme, card(facts))
    run.write_json(run.result, _result(found, facts, state))
    return recipe.task.sentence(judged)


def _result(found: Paired, facts: ImageTextFacts, state: State) -> dict[str, Any]:
    return {
        "task": "image_text",
        "model": {"title": found.subject.title, "params": facts.params, "locked": facts.locked},
        "test": {"images": facts.test, "sentences": facts.sentences, **facts.figures},
        "chance": facts.chance,
        "validation": dict(found.scores.figures),
        "steps": found.recipe.steps.total,
        "command": facts.command,
        "seed": found.recipe.seed,
        "machine": machine(),
        "seconds": {**state.seconds, "total": state.spent_s},
    }


def _facts(
    found: Paired,
    run: RunFolder,
    images: Read,
    state: State,
    verdict: Verdict,
    judged: Mapping[str, float],
) -> ImageTextFacts:
    recipe, split = found.recipe, images.workshop.split
    pairs, lines = cast(Pairs, verdict.outputs), Journal(run.metrics).read()
    classes = () if pairs.asked is None else split.classes
    return ImageTextFacts(
        model=found.subject.title,
        locked=bool(getattr(recipe.objective, "locked", False)),
        pretrained=recipe.pretrained,
        params=sum(int(np.prod(s)) for s in shapes(recipe.config).values()),
        data=images.inspection.source.name,
        origin=images.inspection.source.origin,
        images=len(split.train),
        test=len(pairs),
        sentences=len(pairs.said),
        steps=recipe.steps.total,
        batch=recipe.steps.batch,
        figures=judged,
        chance=_chance(pairs, len(classes)),
        classes=classes,
        confusion=_confusion(pairs, len(classes)),
        prompts=getattr(recipe.task, "prompts", ()),
        asked=_asked(pairs, verdict),
        lines=[line for line in lines if "loss" in line],
        looks=[line for line in lines if "val_score" in line],
        findings=[
            FindingFacts(f.kind, f.severity, f.message, f.keys)
            for f in (*images.inspection.findings, *split.findings)
        ],
        broken=len(images.inspection.broken),
        command=str(state.values.get("command", "")),
        machine={k: v for k, v in machine().items() if k != "versions"},
        seconds=dict(state.seconds),
        date=today(),
        run=str(run.path),
    )


def _chance(pairs: Pairs, classes: int) -> dict[str, float]:
    """Return what each figure is where everything is found in random order."""
    images, texts = len(pairs.values), len(pairs.texts)
    forth, back = by_chance(pairs.own, images, texts), by_chance(pairs.backwards, texts, images)
    told = {f"image to text, recall at {k}": value for k, value in forth.items()}
    told |= {f"text to image, recall at {k}": value for k, value in back.items()}
    return told | ({"zero-shot accuracy": 1 / classes} if classes else {})


def _confusion(pairs: Pairs, classes: int) -> list[list[int]]:
    if pairs.asked is None:
        return []
    answers = (pairs.values @ pairs.asked.mT).argmax(1)
    counts = torch.bincount(pairs.targets * classes + answers, minlength=classes**2)
    return counts.view(classes, classes).tolist()


def _asked(pairs: Pairs, verdict: Verdict) -> list[Asked]:
    """Return some sentences, evenly over all, with the images that they find first."""
    chosen = np.unique(np.linspace(0, len(pairs.said) - 1, min(ASKED, len(pairs.said))).astype(int))
    own = {(row, text) for row, text in pairs.own.tolist()}
    found = []
    for text in map(int, chosen):
        cosines = pairs.values @ pairs.texts[text]
        rows = cosines.topk(min(SHOWN, len(cosines))).indices.tolist()
        pictures = [png(one) for one in verdict.pixels.take(np.array(rows))]
        keys = [verdict.pixels.keys[row] for row in rows]
        right = [(row, text) in own for row in rows]
        found.append(Asked(pairs.said[text], pictures, keys, right))
    return found
