"""What trainings of things that find each other differ in: images with sentences, boxes with what
asks for them, and clips with sounds and sentences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vitrail.config import to_json
from vitrail.data.augment import Augment
from vitrail.data.words import Words
from vitrail.errors import CheckpointError, DataError
from vitrail.jobs.wish import EPOCHS
from vitrail.models import config_json
from vitrail.models.owl_vit import CLIP
from vitrail.recipes.defaults import augment_for, batch_size, default
from vitrail.recipes.recipe import Recipe
from vitrail.report.multimodal import next_of
from vitrail.run import image_text, multimodal, open_vocabulary
from vitrail.run.folder import RunFolder
from vitrail.run.paired import Paired
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.run.subject import Subject, subject
from vitrail.tasks import ImageText, MultiModal, OpenVocabulary, Tasks
from vitrail.training.optimizer import AdamW

# A batch tells each pair from all others in it, so it is as large as the data allow.
SMALLEST, LARGEST, PER_EPOCH = 16, 256, 8
# Published: 1e-4 at a width of 768. Narrower ones take more, in proportion.
RATE, FASTEST = 1e-4 * 768, 1e-3
# As OWL-ViT's authors went on with weights of CLIP.
ASKED_AGAIN = AdamW(lr=5e-5, weight_decay=0.0)


@dataclass(frozen=True)
class Way:
    """What one task says of its own training.

    `length` is how many words a network reads, which the setting `field` changes, and `pad` the id
    behind the last one (None: that of the end of a sentence); that end is the `last` id of all
    where it is known by that. `tokenizer` is the file that says how, None where that is learned.
    `completed` adds to a recipe what the data decide. What is learned `beside` images or clips and
    what is `next` are told to the user.
    """

    length: Callable[[Any], int]
    field: str
    pad: int | None
    completed: Callable[[Recipe, Read, Words], Recipe]
    subject: Callable[[Recipe], Subject]
    conclude: Callable[[Paired, RunFolder, Read, State], str]
    beside: str
    next: Callable[[str], str]
    last: bool = False
    tokenizer: Callable[[Recipe], Any] = lambda recipe: recipe.task.tokenizer  # pyright: ignore


def way(task: Tasks) -> Way:
    """Return how a task of things that find each other is trained."""
    if isinstance(task, OpenVocabulary):
        return _QUERIES
    return _CLIPS if isinstance(task, MultiModal) else _IMAGES


def paired(task: Tasks) -> bool:
    """Return whether a task is of things that find each other."""
    return isinstance(task, ImageText | MultiModal | OpenVocabulary)


def _with_sentences(early: Recipe, images: Read, words: Words) -> Recipe:
    """Add vocabulary, channels, statistics, steps. Raises VitrailError."""
    config = early.config
    channels = config.channels if early.pretrained else images.workshop.split.channels
    tower = replace(config.tower, channels=channels)
    config = replace(config, tower=tower, text=replace(config.text, vocabulary=words.size))
    recipe = _timed(early, images, config, config.tower)
    return replace(recipe, optimizer=AdamW(lr=1e-3, weight_decay=1e-4), augment=Augment(flip=0.5))


def _with_sounds(early: Recipe, images: Read, words: Words) -> Recipe:
    """Add vocabulary, towers, statistics, steps. Raises VitrailError."""
    config, part = early.config, images.workshop.split.train
    source = images.inspection.source
    assert source.tracks is not None and source.captions is not None
    given = {"video"}
    if any(row in source.tracks.lengths for row in part.rows.tolist()):
        given.add("audio")
    if any(source.captions.of(part.rows)):
        given.add("text")
    towers = tuple(kind for kind in config.towers if kind in given)
    if len(towers) < 2 or "video" not in towers:
        raise DataError(
            f"the training clips of {source.origin} come with {_named(given)}, and the model reads "
            f"{_named(set(config.towers))}: there is nothing to compare clips with"
        )
    config = replace(config, towers=towers, inputs=replace(config.inputs, vocabulary=words.size))
    recipe = _timed(early, images, config, config)
    width = config.encoder.dim if hasattr(config, "encoder") else config.video.dim
    rate = min(FASTEST, RATE / width)
    # Sentences and sounds may tell the sides.
    augment = replace(augment_for(config.image), flip=0.0)
    return replace(recipe, optimizer=AdamW(lr=rate, weight_decay=1e-4), augment=augment)


def _with_queries(early: Recipe, images: Read, words: Words) -> Recipe:
    """Add vocabulary, CLIP's mean and deviation, steps. Raises CheckpointError."""
    config, workshop, n = early.config, images.workshop, len(images.workshop.split.train)
    if early.pretrained is None:
        config = replace(config, text=replace(config.text, vocabulary=words.size))
    elif words.size > config.text.vocabulary:
        raise CheckpointError(
            f"the tokenizer has {words.size} tokens and {early.pretrained} knows "
            f"{config.text.vocabulary}: set task.tokenizer to the tokenizer.json of these weights"
        )
    data = replace(
        early.data, image=config.image, channels=config.channels, mean=CLIP.mean, std=CLIP.std
    )
    recipe = default(
        config, data, images=n, seed=early.seed, pretrained=early.pretrained,
        total=EPOCHS * max(1, n // batch_size(n, workshop.device, config)), device=workshop.device,
    )  # fmt: skip
    if early.pretrained is None:
        return recipe
    return replace(recipe, head="random", keep_head=True, optimizer=ASKED_AGAIN)


def _named(kinds: set[str]) -> str:
    names = {"video": "clips", "audio": "sounds", "text": "sentences"}
    return " and ".join(name for kind, name in names.items() if kind in kinds)


def _timed(early: Recipe, images: Read, config: Any, tower: Any) -> Recipe:
    """Return the recipe of a network at the data's statistics, with large batches and 30 epochs."""
    workshop, n = images.workshop, len(images.workshop.split.train)
    size = (config.image[0], config.image[1])
    data = workshop.data(early.data, size, config.channels, early.pretrained)
    batch = 1 << int(math.log2(min(LARGEST, max(SMALLEST, n // PER_EPOCH))))
    total = EPOCHS * max(1, n // batch)
    recipe = default(
        tower, data, images=n, total=total, seed=early.seed, pretrained=early.pretrained,
        device=workshop.device,
    )  # fmt: skip
    steps = replace(recipe.steps, batch=batch)
    return replace(recipe, model=to_json(config_json(config)), steps=steps, head="random")


_IMAGES = Way(
    length=lambda config: config.text.length,
    field="model.text.length",
    pad=None,
    completed=_with_sentences,
    subject=lambda recipe: subject(recipe.config.tower, pretrained=recipe.pretrained),
    conclude=image_text.conclude,
    beside="sentences",
    next=lambda run: f"ask it by `vitrail predict {run} IMAGES --classes 'a,b'`",
)
_QUERIES = Way(
    length=lambda config: config.text.length,
    field="model.text.length",
    pad=0,
    completed=_with_queries,
    subject=lambda recipe: open_vocabulary.subject(recipe.config, recipe.pretrained),
    conclude=open_vocabulary.conclude,
    beside="queries in words",
    next=lambda run: f"ask it by `vitrail detect IMAGES --weights {run} --for 'a sleeve'`",
    last=True,
    tokenizer=open_vocabulary.tokenizer,
)
_CLIPS = Way(
    length=lambda config: config.inputs.words,
    field="model.words",
    pad=0,
    completed=_with_sounds,
    subject=lambda recipe: subject(recipe.config),
    conclude=multimodal.conclude,
    beside="sounds and sentences",
    next=lambda run: f"learn classes of clips from it by `{next_of(run)}`",
)
