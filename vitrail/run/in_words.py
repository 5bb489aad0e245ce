"""A finished run that is asked for classes in words: towers of images, or clips, and sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vitrail.config import parse, read_json
from vitrail.data.labels import Labels
from vitrail.data.words import Words
from vitrail.data.words import opened as words_of
from vitrail.errors import ConfigError, RunError
from vitrail.recipes.build import restored
from vitrail.recipes.recipe import from_json, task_of
from vitrail.run.folder import RESTORE, RunFolder
from vitrail.run.paired import TOKENIZER
from vitrail.tasks import ImageText, MultiModal
from vitrail.tasks import image_text as images
from vitrail.tasks import meeting as clips


@dataclass(frozen=True, eq=False)
class InWords:
    """What answers: `seen` gives embeddings of length 1 of what `labels` normalise, `said` those of
    sentences, and probabilities are a softmax over `scale` times their cosines."""

    labels: Labels
    prompts: tuple[str, ...]
    seen: Callable[[Tensor], Tensor]
    said: Callable[[list[str]], Tensor]
    scale: float


def opened(run: RunFolder, classes: tuple[str, ...]) -> InWords:
    """Open a run of things with sentences to tell `classes`. Raises RunError for any other run."""
    recipe = run.read_recipe()
    task = task_of(recipe)
    if not isinstance(task, ImageText | MultiModal):
        raise RunError(
            f"{run.path} knows its classes and reads no sentences: leave out --classes, or give a "
            "run of `vitrail train --set task=image_text` or task=multimodal"
        )
    told = read_json(run.labels, dict, remedy=RESTORE)
    try:
        labels = parse(Labels, {**told, "classes": classes})
        model: Any = restored(recipe, run.weights)
        whole = from_json(recipe)
    except ConfigError as error:
        raise RunError(f"{run.path} is damaged ({error}): {RESTORE}") from error
    config = model.config
    if isinstance(task, ImageText):
        words = _words(run, config.text.length, config.text.vocabulary)
        scale = float(model.temperature.detach())
        return InWords(
            labels, task.prompts, model.embedding,
            lambda some: images.embedded(model, words, some, "cpu"), scale,
        )  # fmt: skip
    if "text" not in config.towers:
        raise RunError(
            f"{run.path} was trained on clips with sounds and reads no sentences: give a run whose "
            "table has sentences"
        )
    ids = _words(run, config.inputs.words, config.inputs.vocabulary, pad=0)
    model = model.eval()
    return InWords(
        labels, task.prompts,
        lambda seen: F.normalize(model(video=seen).clip_text.float(), dim=-1),
        lambda some: clips.embedded(model, "text", ids(some), "cpu"),
        1 / whole.objective.temperature,  # pyright: ignore[reportAttributeAccessIssue]
    )  # fmt: skip


def _words(run: RunFolder, length: int, known: int, *, pad: int | None = None) -> Words:
    """Return the vocabulary of a run. Raises RunError where its weights know another."""
    words = words_of(run.path / TOKENIZER, length, pad=pad)
    if words.size != known:
        raise RunError(
            f"{run.path / TOKENIZER} has {words.size} tokens and the weights know {known}: "
            f"{RESTORE}"
        )
    return words
