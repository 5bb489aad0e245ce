"""From a trained network that is asked in words to a finished run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from vitrail import checkpoint
from vitrail.config import to_json
from vitrail.errors import CheckpointError
from vitrail.measure.counts import counts
from vitrail.models import config_json, family_of
from vitrail.models.trunk.catalog import skeleton
from vitrail.recipes.recipe import Recipe
from vitrail.report.open_vocabulary import OpenVocabularyFacts, card, render
from vitrail.run.exported import labels as labels_of
from vitrail.run.folder import RunFolder
from vitrail.run.paired import TOKENIZER, Paired, common, finished, tested
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.run.subject import Subject, called
from vitrail.tasks import OpenVocabulary
from vitrail.tasks.open_vocabulary import HELD_OUT


def conclude(found: Paired, run: RunFolder, images: Read, state: State) -> str:
    """Open the test part once; write weights, labels, result, page and card.

    Returns the answer in a sentence. Raises RunError.
    """
    recipe, workshop = found.recipe, images.workshop
    task, split = cast(OpenVocabulary, recipe.task), workshop.split
    held = workshop.answers(found.model, recipe, workshop.watched(recipe))
    labels = task.settled(labels_of(recipe, workshop), held)
    verdict = tested(found, run, images, state)
    judged = task.judged(verdict.outputs, labels)
    train = workshop.pixels("train", recipe.data.image, recipe.data.channels)
    score = judged["test"]
    facts = OpenVocabularyFacts(
        **common(found, run, images, state),
        score=score,
        learned=[name for name in split.classes if name not in task.held_out],
        apart=(task.held_out, score.figures[HELD_OUT]) if task.held_out else None,
        baselines=task.against(train, verdict.pixels, verdict.outputs, labels),
        prompts=task.prompts,
        pretrained=recipe.pretrained,
        chapters=judged["chapters"],
    )
    run.write_json(run.labels, labels.to_json())
    run.write_text(run.report, render(facts))
    run.write_text(run.readme, card(facts))
    result = {
        "task": "open_vocabulary",
        "model": {"title": found.subject.title, "params": facts.params},
        "test": {"images": facts.test, **score.to_json()},
        "learned": facts.learned,
        "held_out": list(task.held_out),
        "baselines": {one.name: one.accuracy for one in facts.baselines},
    }
    run.write_json(run.result, result | finished(found, state))
    return task.sentence(judged)


def subject(config: Any, pretrained: str | None) -> Subject:
    """Count a network that is asked in words; multiply-adds are those of an image alone."""
    figures = counts(_Seen(skeleton(config)), config.image, config.channels)
    return Subject(
        called(config, pretrained), family_of(config), to_json(config_json(config)),
        figures.params, figures.macs, pretrained,
    )  # fmt: skip


def tokenizer(recipe: Recipe) -> str | Path | None:
    """Return the tokenizer.json that a recipe names, or that of the weights it begins with; None
    where a vocabulary is to be learned. Raises CheckpointError where the weights have none."""
    task = cast(OpenVocabulary, recipe.task)
    if task.tokenizer is not None or recipe.pretrained is None:
        return task.tokenizer
    return beside(recipe.pretrained, "--set task.tokenizer=FILE")


def beside(weights: str, remedy: str) -> Path:
    """Return the tokenizer.json in the folder of some weights. Raises CheckpointError."""
    file = checkpoint.located(weights).with_name(TOKENIZER)
    if not file.is_file() and weights.startswith("hf-hub:"):
        file = checkpoint.hub.beside(weights, TOKENIZER) or file
    if not file.is_file():
        raise CheckpointError(
            f"no {TOKENIZER} lies beside {weights}, which says how words become numbers: give it "
            f"by {remedy}"
        )
    return file


class _Seen(nn.Module):
    """What is computed of an image, whatever it is asked for."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.model.features(image)
