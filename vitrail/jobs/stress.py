"""A finished run under stress: attacked within a ball, and on corrupted pictures.

What is found is kept in the folder of the evaluation, attack by attack and severity by severity, so
that the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vitrail.attacks.autoattack import library
from vitrail.attacks.ball import Ball
from vitrail.attacks.suite import ball_of
from vitrail.attribution import png
from vitrail.config import to_json
from vitrail.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from vitrail.data.cache import Pixels
from vitrail.data.labels import Labels
from vitrail.data.parallel import bar
from vitrail.data.split import Part
from vitrail.errors import ConfigError
from vitrail.jobs.attacking import Kept, Subject, under_attack
from vitrail.report.chapter import Card, Chapter
from vitrail.report.stress import CorruptionFacts, attack_chapter, corruption_chapter, spoken
from vitrail.tasks.task import Outputs, Task

SEEN_AT = 3


@dataclass(frozen=True)
class Stress:
    """Asks for an `attack` such as "linf:4/255", for corruptions, or both.

    They take up to `images` images, a fair sample. `autoattack` adds AutoAttack within the ball of
    `attack` (extra `autoattack`). Raises ConfigError for an attack that cannot be read or leaves
    the pixels' range.
    """

    attack: str | None = None
    corruptions: bool = False
    images: int = 1000
    autoattack: bool = False

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(f"images is {self.images}: give 1 or more to attack and corrupt")
        if self.attack is not None:
            ball_of(self.attack)
        elif self.autoattack:
            raise ConfigError(
                "AutoAttack needs to know how far pixels may move: give --attack linf:4/255 besides"
            )

    @property
    def ball(self) -> Ball | None:
        """Return how far an attack may go, None where there is none."""
        return None if self.attack is None else ball_of(self.attack)

    def check(self, task: Task, labels: Labels, engine: str | None) -> None:
        """Raise ConfigError where a run or an engine cannot be attacked, or inputs corrupted."""
        if labels.takes != "images" and (self.attack or self.corruptions):
            raise ConfigError(
                f"attacks and corruptions are of images, and this run takes {labels.takes}: leave "
                "them out"
            )
        ball = self.ball
        if ball is None:
            return
        if engine is not None:
            raise ConfigError(
                f"engine {engine} computes no gradients, which an attack needs: leave out --engine "
                "to attack the model itself, or --attack"
            )
        if task.several:
            raise ConfigError(
                "an attack is on one class an image, and this run tells several labels: leave out "
                "--attack"
            )
        ball.check(labels.channels * labels.image[0] * labels.image[1])
        if self.autoattack:
            library()


def stressed(
    stress: Stress, one: Subject, images: Pixels, *, progress: bool = False
) -> tuple[list[Chapter], dict[str, Any]]:
    """Return chapters for the page and figures in JSON. Raises VitrailError."""
    some = sample(images, stress.images)
    kept = Kept(one, some)
    chapters, figures = [], {}
    if stress.ball is not None:
        facts, cards = under_attack(
            stress.ball, one, some, kept, automatic=stress.autoattack, progress=progress
        )
        chapters.append(attack_chapter(facts, cards))
        figures["attack"] = to_json(facts)
    if stress.corruptions:
        found, cards = _corrupted(one, some, kept, progress)
        chapters.append(corruption_chapter(found, cards))
        figures["corruptions"] = {**to_json(found), "mean": found.mean}
    return chapters, figures


def sample(images: Pixels, most: int) -> Pixels:
    """Return at most so many images, those of the smallest digests, which is a fair sample."""
    part = images.part
    high, low = part.digests.T
    rows = np.sort(np.lexsort((low, high))[:most])
    chosen = Part(part.source, part.rows[rows], part.digests[rows])
    taken = None if images.images is None else images.images[rows]
    return Pixels(chosen, images.image, images.channels, taken, images.workers)


def _corrupted(
    one: Subject, images: Pixels, kept: Kept, progress: bool
) -> tuple[CorruptionFacts, list[Card]]:
    plain, truth = images.take(np.arange(len(images))), torch.from_numpy(np.asarray(images.labels))

    def scored(name: str = "", severity: int = 0) -> float:
        parts = []
        for at in range(0, len(plain), 64):
            rows = range(at, min(at + 64, len(plain)))
            some = plain[at : rows.stop]
            if name:
                some = corrupted(some, name, severity, rows=rows)  # pyright: ignore[reportArgumentType]
            parts.append(one.ask(some))
            advance(len(rows))
        return one.task.scores(Outputs(torch.from_numpy(np.concatenate(parts)), truth)).main

    rows: dict[str, list[float]] = {}
    total = len(plain) * (1 + len(CORRUPTIONS) * len(SEVERITIES))
    with bar("corrupting", total, shown=progress) as advance:
        clean = kept.get("as they are", scored)
        for name in CORRUPTIONS:
            rows[name] = [
                kept.get(f"{name} {s}", lambda n=name, s=s: scored(n, s)) for s in SEVERITIES
            ]
    score = one.task.scores(Outputs(torch.zeros(len(truth), len(one.labels.classes)), truth)).name
    return CorruptionFacts(score, len(plain), clean, rows), _gallery(plain[:1], rows)


def _gallery(image: np.ndarray, rows: Mapping[str, Sequence[float]]) -> list[Card]:
    """Draw one picture under every corruption, at the middle severity."""
    found = [("as it is", image)]
    found += [(spoken(name), corrupted(image, name, SEEN_AT)) for name in rows]
    return [Card([(png(one[0]), name)], [name]) for name, one in found]
