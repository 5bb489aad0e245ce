"""From trained towers of clips, sounds and sentences to a finished run folder."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from vitrail.data.captioned import ALL
from vitrail.report.filmstrips import SIDE, drawn
from vitrail.report.masks import as_png
from vitrail.report.multimodal import MultiModalFacts, card, render
from vitrail.run.folder import RunFolder
from vitrail.run.paired import Paired, asked, common, confusion, finished, tested
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.tasks import MultiModal
from vitrail.tasks.meeting import Meetings


def conclude(found: Paired, run: RunFolder, images: Read, state: State) -> str:
    """Open the test part once; write weights, labels, result, page and card.

    Returns the answer in a sentence. Raises RunError.
    """
    recipe, split, config = found.recipe, images.workshop.split, found.recipe.config
    assert isinstance(recipe.task, MultiModal)
    verdict = tested(found, run, images, state)
    met = cast(Meetings, verdict.outputs)
    judged = recipe.task.judged(met, cast(Any, None))
    tracks = images.inspection.source.tracks
    assert tracks is not None
    labels = {
        "classes": [] if split.classes == (ALL,) else split.classes,
        "image": recipe.data.image,
        "channels": recipe.data.channels,
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "takes": "clips",
        "frames": config.frames,
        "stride": recipe.task.stride,
    }
    run.write_json(run.labels, labels)
    classes = () if met.text is None or met.text.asked is None else split.classes
    facts = MultiModalFacts(
        **common(found, run, images, state),
        figures=judged,
        chance=met.chances,
        classes=classes,
        prompts=recipe.task.prompts,
        confusion=confusion(met.text, len(classes)),
        asked=[] if met.text is None else asked(met.text, verdict, strip),
        towers=config.towers,
        one_encoder=hasattr(config, "encoder"),
        keep=config.inputs.keep,
        rate=tracks.rate,
        sounds=0 if met.sound is None else len(met.sound.said),
        sentences=0 if met.text is None else len(met.text.said),
    )
    run.write_text(run.report, render(facts))
    run.write_text(run.readme, card(facts))
    counts = {"clips": facts.test, "sounds": facts.sounds, "sentences": facts.sentences}
    result = {
        "task": "multimodal",
        "model": {"title": found.subject.title, "params": facts.params, "towers": facts.towers},
        "test": {**counts, **facts.figures},
        "chance": facts.chance,
        "rate": tracks.rate,
    }
    run.write_json(run.result, result | finished(found, state))
    return recipe.task.sentence(judged)


def strip(clip: np.ndarray) -> bytes:
    """Return the frames of a clip, uint8 (T, H, W, 3), as a PNG."""
    return as_png(drawn(clip), least=SIDE)
