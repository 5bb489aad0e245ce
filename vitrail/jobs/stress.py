"""A finished run under stress: attacked within a ball, and on corrupted pictures.

What is found is kept in the folder of the evaluation, attack by attack and severity by severity, so
that the same command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail.attacks.ball import Ball
from vitrail.attacks.suite import attacked, ball_of, suite
from vitrail.attribution import png
from vitrail.config import read_json, to_json
from vitrail.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from vitrail.data.cache import Pixels
from vitrail.data.labels import Labels
from vitrail.data.parallel import bar
from vitrail.data.split import Part
from vitrail.errors import ConfigError
from vitrail.layers.normal import Normal
from vitrail.proportions import wilson
from vitrail.report.chapter import Card, Chapter
from vitrail.report.stress import (
    AttackFacts,
    AttackRow,
    CorruptionFacts,
    attack_chapter,
    corruption_chapter,
    spoken,
)
from vitrail.run.folder import RunFolder
from vitrail.run.record import digest
from vitrail.tasks.task import Outputs, Task

SHOWN, SEEN_AT = 12, 3
KEPT = "stress.json"
# Maps uint8 images (B, H, W, C) to raw outputs (B, ...).
Ask = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Stress:
    """Asks for an `attack` such as "linf:4/255", for corruptions, or both.

    They take up to `images` images, a fair sample. Raises ConfigError for an attack that cannot be
    read or leaves the pixels' range.
    """

    attack: str | None = None
    corruptions: bool = False
    images: int = 1000

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(f"images is {self.images}: give 1 or more to attack and corrupt")
        if self.attack is not None:
            ball_of(self.attack)

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


@dataclass(frozen=True, eq=False)
class Subject:
    """Who is put under stress by which images: the model, how it answers, and where to keep."""

    folder: RunFolder
    task: Task
    model: nn.Module
    labels: Labels
    ask: Ask
    where: Path
    engine: str | None = None


def stressed(
    stress: Stress, one: Subject, images: Pixels, *, progress: bool = False
) -> tuple[list[Chapter], dict[str, Any]]:
    """Return chapters for the page and figures in JSON. Raises VitrailError."""
    some = sample(images, stress.images)
    kept = _Kept(one, some)
    chapters, figures = [], {}
    if stress.ball is not None:
        facts, cards = _under_attack(stress.ball, one, some, kept, progress)
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


class _Kept:
    """What was found so far, in a file that is of these weights and images alone."""

    def __init__(self, one: Subject, images: Pixels) -> None:
        self.folder, self.path = one.folder, one.where / KEPT
        told = f"{digest(one.folder)} {images.part.digest} {one.engine}"
        self.of = hashlib.sha256(told.encode()).hexdigest()
        self.found: dict[str, Any] = {}
        if self.path.is_file():
            remedy = "remove it, and evaluate again"
            old = read_json(self.path, dict, remedy=remedy)
            if old.get("of") == self.of and isinstance(old.get("found"), dict):
                self.found = old["found"]

    def get(self, name: str, find: Callable[[], Any]) -> Any:
        """Return what is kept by a name, or find it and keep it."""
        if name not in self.found:
            self.found[name] = find()
            text = json.dumps({"of": self.of, "found": self.found}) + "\n"
            self.folder.write_text(self.path, text)
        return self.found[name]


def _under_attack(
    ball: Ball, one: Subject, images: Pixels, kept: _Kept, progress: bool
) -> tuple[AttackFacts, list[Card]]:
    labels, normal = one.labels, Normal(one.labels.mean, one.labels.std)
    one.model.requires_grad_(False)

    def answer(pixels: torch.Tensor) -> torch.Tensor:
        return one.model(normal.apply(pixels))

    pixels = torch.from_numpy(images.take(np.arange(len(images)))).permute(0, 3, 1, 2) / 255
    truth = torch.from_numpy(np.asarray(images.labels))
    attacks = suite(ball, len(labels.classes))
    withstood: dict[str, list[bool]] = {}
    with bar("attacking", len(images) * len(attacks), shown=progress) as advance:
        for name, attack in attacks.items():

            def find(attack: Any = attack) -> list[bool]:
                return attacked(answer, pixels, truth, attack, advance=advance)[0].tolist()

            withstood[name] = kept.get(f"{ball.norm} {ball.radius:.9g} {name}", find)
    with torch.no_grad():
        parts = [answer(some).argmax(1) == t for some, t in _batches(pixels, truth)]
    rows = {"none": torch.cat(parts).tolist(), **withstood}
    rows["all of them"] = np.all([*withstood.values()], axis=0).tolist()
    facts = AttackFacts(
        ball.norm, ball.radius, len(images), [_row(name, right) for name, right in rows.items()]
    )
    fooled = np.flatnonzero(np.array(rows["none"]) & ~np.array(rows["all of them"]))[:SHOWN]
    return facts, _pairs(fooled, (pixels, truth), answer, ball, one, images.keys)


def _batches(pixels: torch.Tensor, truth: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(pixels.split(64), truth.split(64), strict=True))


def _row(name: str, right: Sequence[bool]) -> AttackRow:
    found = wilson(sum(right), len(right))
    return AttackRow(name, found.value, found.low, found.high)


def _pairs(
    rows: np.ndarray,
    images: tuple[torch.Tensor, torch.Tensor],
    answer: Callable[[torch.Tensor], torch.Tensor],
    ball: Ball,
    one: Subject,
    keys: Sequence[str],
) -> list[Card]:
    """Draw images beside what an attack made of them."""
    if not len(rows):
        return []
    at = torch.from_numpy(rows)
    before, truth = images[0][at], images[1][at]
    cards, classes = [], one.labels.classes
    attack = [*suite(ball, len(classes)).values()][1]
    _, after = attacked(answer, before, truth, attack)
    with torch.no_grad():
        guesses = answer(after).argmax(1).tolist()
    for number, row in enumerate(rows.tolist()):
        pictures = [(_drawn(side[number]), what) for side, what in
                    ((before, "before the attack"), (after, "after it"))]  # fmt: skip
        told = f"{classes[int(truth[number])]}, then {classes[guesses[number]]}"
        cards.append(Card(pictures, [told], keys[int(row)]))
    return cards


def _drawn(pixels: torch.Tensor) -> bytes:
    return png((pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def _corrupted(
    one: Subject, images: Pixels, kept: _Kept, progress: bool
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
