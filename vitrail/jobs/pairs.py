"""A training of images and sentences: vocabulary, recipe, training, test and page.

`vitrail train --set task=image_text` comes here. What differs from a training of labels is that
nothing is exported: classes are known when somebody asks for them.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path

from vitrail.config import to_json
from vitrail.data.augment import Augment
from vitrail.data.captions import Captions
from vitrail.data.split import Part
from vitrail.data.words import Words, learned, opened
from vitrail.jobs.wish import DECIDED, EPOCHS, Wish
from vitrail.models import config_json
from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Recipe, amend
from vitrail.run.folder import RunFolder
from vitrail.run.paired import NAME, TOKENIZER, Paired, conclude
from vitrail.run.reading import Hardware, Read
from vitrail.run.reading import read as read_data
from vitrail.run.state import State
from vitrail.run.stopping import interruptible
from vitrail.run.subject import subject
from vitrail.run.view import View
from vitrail.run.watch import Watched
from vitrail.tasks import ImageText
from vitrail.training.optimizer import AdamW
from vitrail.units import counted, seconds

__all__ = ["NAME", "again", "train"]

# A batch tells each pair from all others in it, so it is as large as the data allow.
SMALLEST, LARGEST, PER_EPOCH = 16, 256, 8


def train(wish: Wish, folder: Path, hardware: Hardware, view: View) -> Path:
    """Train what a wish for images and sentences says; returns the run folder.

    Raises VitrailError.
    """
    images = read_data(wish.recipe.data, hardware, view, wish.recipe.task)
    words = _words(wish.recipe, images, view)
    recipe = _completed(wish, images, words)
    images.workshop.builder.learner(recipe)  # what does not fit leaves no folder
    with RunFolder.create(folder) as run:
        state = State.new(
            run.path / "fit.json",
            recipe=to_json(recipe),
            command=wish.command(folder),
            images=images.digest,
            seconds={"data": images.seconds},
            spent_s=images.seconds,
        )
        run.write_text(run.path / TOKENIZER, words.text())
        run.write_json(run.recipe, to_json(recipe))
        return _run(recipe, run, images, state, view)


def again(run: RunFolder, recipe: Recipe, state: State, hardware: Hardware, view: View) -> Path:
    """Go on with a training that was stopped, with the vocabulary that it began with."""
    images = read_data(recipe.data, hardware, view, recipe.task)
    state.require_images(images.digest)
    if (run.path / TOKENIZER).is_file():
        length = recipe.config.text.length
        _captions(images).settle(opened(run.path / TOKENIZER, length))
    else:  # stopped before it was written
        run.write_text(run.path / TOKENIZER, _words(recipe, images, view).text())
    return _run(recipe, run, images, state, view)


def _captions(images: Read) -> Captions:
    found = images.inspection.source.captions
    assert found is not None
    return found


def _words(recipe: Recipe, images: Read, view: View) -> Words:
    """Settle how sentences become ids: by a file, or by the sentences of the training part."""
    task, length = recipe.task, recipe.config.text.length
    assert isinstance(task, ImageText)
    captions, train = _captions(images), images.workshop.split.train
    texts = _sentences(captions, train)
    if task.tokenizer is not None:
        words = opened(task.tokenizer, length)
    else:
        view.phase("learning a vocabulary")
        words = learned(texts, length, most=task.vocabulary)
    captions.settle(words)
    if longer := words.cut(texts):
        view.say(
            f"{counted(longer, 'sentence')} of {len(texts):,} are longer than {length} tokens and "
            "are cut: --set model.text.length=N takes longer ones"
        )
    view.say(f"{counted(words.size, 'token')} for {counted(len(texts), 'different sentence')}")
    return words


def _sentences(captions: Captions, part: Part) -> list[str]:
    return list(dict.fromkeys(text for some in captions.of(part.rows) for text in some))


def _completed(wish: Wish, images: Read, words: Words) -> Recipe:
    """Add what the data decide: vocabulary, channels, statistics, steps. Raises VitrailError."""
    workshop, early = images.workshop, wish.recipe
    split, config = workshop.split, early.config
    channels = config.channels if early.pretrained else split.channels
    tower = replace(config.tower, channels=channels)
    config = replace(config, tower=tower, text=replace(config.text, vocabulary=words.size))
    image, n = (config.image[0], config.image[1]), len(split.train)
    data = workshop.data(early.data, image, channels, early.pretrained)
    batch = 1 << int(math.log2(min(LARGEST, max(SMALLEST, n // PER_EPOCH))))
    total = EPOCHS * max(1, n // batch)
    recipe = default(
        config.tower, data, images=n, total=total, seed=early.seed, pretrained=early.pretrained,
        device=workshop.device,
    )  # fmt: skip
    recipe = replace(
        recipe,
        model=to_json(config_json(config)),
        optimizer=AdamW(lr=1e-3, weight_decay=1e-4),
        augment=Augment(flip=0.5),
        steps=replace(recipe.steps, batch=batch),
        head="random",
    )
    rest = [s for s in wish.settings if _first(s) not in DECIDED]
    return amend(recipe, rest)


def _first(setting: str) -> str:
    return setting.partition("=")[0].strip().partition(".")[0]


def _run(recipe: Recipe, run: RunFolder, images: Read, state: State, view: View) -> Path:
    one = replace(subject(recipe.config.tower, pretrained=recipe.pretrained), name=NAME)
    resume = f"vitrail train --resume --out {shlex.quote(str(run.path))}"
    with interruptible(resume), view.shown():
        view.enter([one])
        view.phase(f"training {one.title} with sentences")
        view.update(one.name, status="training")
        with state.phase("training"):
            model, scores = Watched(images.workshop, run.path, NAME, view).to_end(recipe)
        view.phase("testing and reporting")
        told = conclude(Paired(one, recipe, model, scores), run, images, state)
    view.console.print(
        f"{one.title} with sentences: {told}\n"
        f"ask it by `vitrail predict {shlex.quote(str(run.path))} IMAGES --classes 'a,b'`\n"
        f"report: {run.report} (after {seconds(state.spent_s)})",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    return run.path
