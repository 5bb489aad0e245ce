"""Who takes part in a fit: the shortlist, the models of a shelf and invited ones."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitrail.engines.apart import Apart
from vitrail.jobs.arguments import Arguments
from vitrail.methods import Methods
from vitrail.objectives import Distillation
from vitrail.objectives.distillation import require_classes
from vitrail.recipes.defaults import batch_size
from vitrail.run.budget import Budget
from vitrail.run.facts import teacher_of
from vitrail.run.reading import Read, pictured
from vitrail.run.reserve import reserve
from vitrail.run.teachers import open_teacher
from vitrail.run.view import View
from vitrail.run.workshop import Workshop
from vitrail.search.candidate import Candidate
from vitrail.search.dense_space import dense_sizes
from vitrail.search.first_rung import SHARE, Bench, Probed, probed
from vitrail.search.first_rung import chosen as best_of
from vitrail.search.guests import guests, timed
from vitrail.search.rungs import candidates_for, field_size
from vitrail.search.shelf import published, shelf
from vitrail.search.shortlist import Shortlist, Terms, shortlist
from vitrail.search.space import image_sizes
from vitrail.search.suited import refusal
from vitrail.search.timing import held
from vitrail.tasks import Classification, Instances, MultiLabel
from vitrail.units import seconds

# Of the time that is left for training: the race.
RACE_SHARE = 0.3


def listed(
    asked: Arguments, view: View, data: Read, began: float
) -> tuple[Shortlist, list[Probed]]:
    """Return the candidates, and how those of a shelf stand on their features.

    They are listed before there is a run folder, so that a wrong budget leaves none.
    Raises BudgetError, ConfigError.
    """
    split, methods = data.workshop.split, asked.wish.methods
    budget = within(asked, data)
    extra = _taking(_started(asked, view, data), methods, view)
    if budget.beyond:
        view.say(_beyond(budget))
    probes: list[Probed] = []
    if extra and asked.pretrained != "hub":
        share = SHARE * max(1.0, asked.time_s - (clock.monotonic() - began))
        bench = Bench(data.workshop, asked.wish.data, asked.settings, budget, share, view.phase)
        probes = probed(extra, bench)
        extra = best_of(extra, probes)
    spent = clock.monotonic() - began
    left = max(1.0, asked.time_s - spent - reserve(asked.time_s, more=2 if methods else 1))
    terms = Terms(
        image_size=_size(data),
        channels=split.channels,
        classes=len(split.classes),
        images=len(split.train),
        budget=budget,
        seconds=left,
        size=candidates_for(RACE_SHARE * left),
        batch=batch_size(len(split.train), data.workshop.device),
        device=data.workshop.device,
        seed=asked.seed,
        methods=methods,
        maps=asked.wish.task.maps,
        boxes=asked.wish.task.boxes,
        outlines=isinstance(asked.wish.task, Instances),
        takes=asked.wish.task.takes,
        frames=_frames(data),
        sounds=split.train.source.hearing is not None,
        sides=may_answer_twice(asked),
    )
    return _invited(asked, terms, extra, view), probes


def _size(data: Read) -> tuple[int, int]:
    """Return the size of what networks see at most: the median of images, (1, samples) of waves."""
    source = data.inspection.source
    if source.kind == "waves" and source.hearing is not None:
        return 1, source.hearing.samples
    return data.inspection.size


def may_answer_twice(asked: Arguments) -> bool:
    """Tell whether the winner may answer by both sides of an image in the end."""
    settled = any(
        one.strip().startswith("methods") or one.strip() in ("augment.flip=0", "augment.flip=0.0")
        for one in asked.settings
    )
    return _tells_classes(asked) and not settled and not asked.wish.methods


def may_resize(asked: Arguments, workshop: Workshop) -> bool:
    """Tell whether the race's winner may be trained in another size of its family.

    Machines that share a race would each decide for themselves; other senses have spaces of their
    own.
    """
    plain = workshop.split.train.source.hearing is None and asked.wish.task.takes == "images"
    alone = asked.storage is None and not asked.wish.methods
    return plain and _tells_classes(asked) and alone


def _tells_classes(asked: Arguments) -> bool:
    return isinstance(asked.wish.task, Classification | MultiLabel)


def _frames(data: Read) -> int:
    clips = data.inspection.source.clips
    return 1 if clips is None else clips.frames


def _started(asked: Arguments, view: View, data: Read) -> list[Candidate]:
    """Return the candidates that start from weights: of a shelf, or published ones."""
    split, size, extra = data.workshop.split, _size(data), list[Candidate]()
    if asked.pretrained == "hub":
        extra = published(image_size=size, classes=len(split.classes))
    elif asked.pretrained is not None:
        extra, left_out = shelf(
            Path(asked.pretrained), image_size=size, classes=len(split.classes),
            takes=asked.wish.task.takes, frames=_frames(data),
        )  # fmt: skip
        for sentence in left_out:
            view.phase(f"left out of the shelf: {sentence}")
    if (teacher := _teacher(asked, data)) is not None:
        view.say(f"all candidates are taught by {teacher}")
        extra = [one for one in extra if one.channels == split.channels]
    return extra


def _invited(asked: Arguments, terms: Terms, extra: Sequence[Candidate], view: View) -> Shortlist:
    """Return the shortlist behind those whom the user adds, as many as the race has time for."""
    invited = guests(asked.add, terms)
    with view.shown(), Apart() as apart:
        found = shortlist(terms, extra=extra, say=view.phase, apart=apart)
        first = timed(invited, terms, apart)
    others = [c for c in found.candidates if c.name not in {guest.name for guest in first}]
    everyone = (*first, *others)
    kept = field_size(
        [one.rate or 0.0 for one in everyone], terms.batch, RACE_SHARE * terms.seconds
    )
    return replace(found, candidates=everyone[:kept])


def _taking(extra: Sequence[Candidate], methods: Sequence[Methods], view: View) -> list[Candidate]:
    """Return the candidates with pretrained weights that take the
    methods; say why others do not.
    """
    kept = []
    for one in extra:
        why = refusal(one.config, methods)
        if why is None:
            kept.append(one)
        else:
            view.phase(f"left out of the race: {one.name}: {why}")
    return kept


def _teacher(asked: Arguments, data: Read) -> str | None:
    """Return who teaches the candidates, opened once so that one that cannot costs no time."""
    objective, split = asked.wish.objective, data.workshop.split
    if not isinstance(objective, Distillation):
        return None
    if objective.teacher:
        whole = (0.5,) * split.channels
        seen = replace(asked.wish.data, channels=split.channels, mean=whole, std=whole)
        found = open_teacher(objective.teacher, seen, split.classes)
        require_classes(objective.teacher, found, split.classes)
    return teacher_of(objective)


def within(asked: Arguments, data: Read) -> Budget:
    """Return the budget for the pictures at hand, or those that the user names."""
    split, task = data.workshop.split, asked.wish.task
    budget = pictured(asked.budget, data, asked.input)
    if budget.pictures is None:  # what comes at the model's own size
        return budget
    sizes = (dense_sizes if task.maps or task.boxes else image_sizes)(data.inspection.size)
    return held(budget, sizes, split.channels)


def _beyond(budget: Budget) -> str:
    assert budget.pictures is not None and budget.latency_s is not None
    return (
        f"resizing a {budget.pictures.called} of {budget.pictures.spoken()} alone takes longer "
        f"than {seconds(budget.latency_s)}: models are held to the limit without it"
    )
