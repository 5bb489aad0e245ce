"""From a trained pair of towers to a finished run folder: weights, tokenizer, figures, page."""

from __future__ import annotations

from typing import Any, cast

from vitrail.attribution import png
from vitrail.config import to_json
from vitrail.data.captioned import ALL
from vitrail.report.image_text import ImageTextFacts, card, render
from vitrail.report.paired import SHOT
from vitrail.run.folder import RunFolder
from vitrail.run.paired import (
    Paired,
    asked,
    common,
    confusion,
    finished,
    tested,
)
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.tasks.pairing import Pairs, chances


def conclude(found: Paired, run: RunFolder, images: Read, state: State) -> str:
    """Open the test part once; write weights, labels, result, page and card.

    Returns the answer in a sentence. Raises RunError.
    """
    recipe, split = found.recipe, images.workshop.split
    verdict = tested(found, run, images, state)
    pairs = cast(Pairs, verdict.outputs)
    judged = recipe.task.judged(pairs, cast(Any, None))
    labels = {
        "classes": [] if split.classes == (ALL,) else split.classes,
        "image": recipe.data.image,
        "channels": recipe.data.channels,
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "ranges": to_json(split.train.source.ranges),
    }
    run.write_json(run.labels, labels)
    classes = () if pairs.asked is None else split.classes
    facts = ImageTextFacts(
        **common(found, run, images, state),
        figures=judged,
        chance=chances(pairs) | ({SHOT: 1 / len(classes)} if classes else {}),
        classes=classes,
        prompts=recipe.task.prompts,  # pyright: ignore[reportAttributeAccessIssue]
        confusion=confusion(pairs, len(classes)),
        asked=asked(pairs, verdict, png),
        locked=bool(getattr(recipe.objective, "locked", False)),
        pretrained=recipe.pretrained,
        sentences=len(pairs.said),
    )
    run.write_text(run.report, render(facts))
    run.write_text(run.readme, card(facts))
    result = {
        "task": "image_text",
        "model": {"title": found.subject.title, "params": facts.params, "locked": facts.locked},
        "test": {"images": facts.test, "sentences": facts.sentences, **facts.figures},
        "chance": facts.chance,
    }
    run.write_json(run.result, result | finished(found, state))
    return recipe.task.sentence(judged)
