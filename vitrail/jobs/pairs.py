"""A training of things that find each other: vocabulary, recipe, training, test and page.

`vitrail train --set task=image_text`, `task=open_vocabulary` and `task=multimodal` come here. What
differs from a training of labels is that nothing is exported: what is asked for is known when
somebody asks. What the tasks differ in is a `Way` each.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.config import to_json
from vitrail.data.captions import Captions
from vitrail.data.split import Part
from vitrail.data.words import Words, learned, opened
from vitrail.jobs.ways import Way, way
from vitrail.jobs.wish import DECIDED, Wish
from vitrail.recipes.recipe import Recipe, amend
from vitrail.run.folder import RunFolder
from vitrail.run.paired import NAME, TOKENIZER, Paired
from vitrail.run.reading import Hardware, Read
from vitrail.run.reading import read as read_data
from vitrail.run.state import State
from vitrail.run.stopping import interruptible
from vitrail.run.view import View
from vitrail.run.watch import Watched
from vitrail.units import counted, seconds

__all__ = ["NAME", "again", "train"]


def train(wish: Wish, folder: Path, hardware: Hardware, view: View) -> Path:
    """Train what a wish for things with sentences says; returns the run folder.

    Raises VitrailError.
    """
    images = read_data(wish.recipe.data, hardware, view, wish.recipe.task)
    words = _words(wish.recipe, images, view)
    recipe = way(wish.recipe.task).completed(wish.recipe, images, words)
    recipe = amend(recipe, [s for s in wish.settings if _first(s) not in DECIDED])
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
        how = way(recipe.task)
        words = opened(run.path / TOKENIZER, how.length(recipe.config), pad=how.pad)
        _captions(images).settle(words)
    else:  # stopped before it was written
        run.write_text(run.path / TOKENIZER, _words(recipe, images, view).text())
    return _run(recipe, run, images, state, view)


def _captions(images: Read) -> Captions:
    found = images.inspection.source.captions
    assert found is not None
    return found


def _words(recipe: Recipe, images: Read, view: View) -> Words:
    """Settle how sentences become ids: by a file, or by the sentences of the training part."""
    how: Way = way(recipe.task)
    task: Any = recipe.task
    length, pad = how.length(recipe.config), how.pad
    captions, train = _captions(images), images.workshop.split.train
    texts = _sentences(captions, train)
    if (tokenizer := how.tokenizer(recipe)) is not None:
        words = opened(tokenizer, length, pad=pad)
    else:
        view.phase("learning a vocabulary")
        words = learned(texts, length, most=task.vocabulary, pad=pad, last=how.last)
    captions.settle(words)
    if longer := words.cut(texts):
        view.say(
            f"{counted(longer, 'sentence')} of {len(texts):,} are longer than {length} tokens and "
            f"are cut: --set {how.field}=N takes longer ones"
        )
    view.say(f"{counted(words.size, 'token')} for {counted(len(texts), 'different sentence')}")
    return words


def _sentences(captions: Captions, part: Part) -> list[str]:
    return list(dict.fromkeys(text for some in captions.of(part.rows) for text in some))


def _first(setting: str) -> str:
    return setting.partition("=")[0].strip().partition(".")[0]


def _run(recipe: Recipe, run: RunFolder, images: Read, state: State, view: View) -> Path:
    how = way(recipe.task)
    one = replace(how.subject(recipe), name=NAME)
    resume = f"vitrail train --resume --out {shlex.quote(str(run.path))}"
    with interruptible(resume), view.shown():
        view.enter([one])
        view.phase(f"training {one.title} with {how.beside}")
        view.update(one.name, status="training")
        with state.phase("training"):
            model, scores = Watched(images.workshop, run.path, NAME, view).to_end(recipe)
        view.phase("testing and reporting")
        told = how.conclude(Paired(one, recipe, model, scores), run, images, state)
    view.console.print(
        f"{one.title} with {how.beside}: {told}\n{how.next(shlex.quote(str(run.path)))}\n"
        f"report: {run.report} (after {seconds(state.spent_s)})",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    return run.path
