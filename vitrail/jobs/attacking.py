"""A finished run under attack: who is attacked, what is kept of it, and what withstands."""

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

from vitrail.attacks.autoattack import members
from vitrail.attacks.ball import Ball
from vitrail.attacks.suite import Answer, Attack, attacked, suite
from vitrail.attribution import png
from vitrail.config import read_json
from vitrail.data.cache import Pixels
from vitrail.data.labels import Labels
from vitrail.data.parallel import bar
from vitrail.layers.normal import Normal
from vitrail.proportions import wilson
from vitrail.report.chapter import Card
from vitrail.report.stress import AttackFacts, AttackRow
from vitrail.run.folder import RunFolder
from vitrail.run.record import digest
from vitrail.tasks.task import Task

SHOWN = 12
KEPT = "stress.json"
# Maps uint8 images (B, H, W, C) to raw outputs (B, ...).
Ask = Callable[[np.ndarray], np.ndarray]
# Hears of so many more images.
Advance = Callable[[int], None]


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


class Kept:
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


def under_attack(
    ball: Ball, one: Subject, images: Pixels, kept: Kept, *, automatic: bool, progress: bool
) -> tuple[AttackFacts, list[Card]]:
    """Attack a model within a ball; returns facts for the page, and images before and after.

    `automatic` adds AutoAttack to the attacks of `suite`.
    """
    normal, classes = Normal(one.labels.mean, one.labels.std), len(one.labels.classes)
    one.model.requires_grad_(False)

    def answer(pixels: torch.Tensor) -> torch.Tensor:
        return one.model(normal.apply(pixels))

    pixels = torch.from_numpy(images.take(np.arange(len(images)))).permute(0, 3, 1, 2) / 255
    case = _Case(answer, pixels, torch.from_numpy(np.asarray(images.labels)), ball, kept)
    own, ensemble = suite(ball, classes), members(ball, classes) if automatic else {}
    withstood: dict[str, np.ndarray] = {}
    with bar("attacking", len(images) * len([*own, *ensemble]), shown=progress) as advance:
        for name, attack in own.items():
            withstood[name] = case.withstood(name, attack, advance)
        if automatic:
            withstood["AutoAttack"] = case.in_turn(ensemble, advance)
    rows = {"none": case.right(), **withstood}
    rows["all of them"] = np.all([*withstood.values()], axis=0)
    facts = AttackFacts(
        ball.norm, ball.radius, len(images), [_row(*row) for row in rows.items()], [*ensemble]
    )
    shown = [*own][1]
    fooled = np.flatnonzero(rows["none"] & ~withstood[shown])[:SHOWN]
    return facts, _pairs(fooled, case, own[shown], one, images.keys)


@dataclass(frozen=True, eq=False)
class _Case:
    """A model before images in [0, 1] whose classes are known, with what was found of them."""

    answer: Answer
    pixels: torch.Tensor
    truth: torch.Tensor
    ball: Ball
    kept: Kept

    @torch.no_grad()
    def right(self) -> np.ndarray:
        """Return which images (N,) are answered rightly as they are."""
        batches = zip(self.pixels.split(64), self.truth.split(64), strict=True)
        parts = [self.answer(some).argmax(1) == truth for some, truth in batches]
        return torch.cat(parts).numpy()

    def withstood(
        self, name: str, attack: Attack, advance: Advance, among: np.ndarray | None = None
    ) -> np.ndarray:
        """Return which images, or which of those `among` them, an attack leaves right."""
        rows = torch.arange(len(self.pixels)) if among is None else torch.from_numpy(among)

        def find() -> list[bool]:
            images = self.pixels[rows], self.truth[rows]
            return attacked(self.answer, *images, attack, advance=advance)[0].tolist()

        ball = f"{self.ball.norm} {self.ball.radius:.9g}"
        return np.array(self.kept.get(f"{ball} {name}", find), bool)

    def in_turn(self, attacks: Mapping[str, Attack], advance: Advance) -> np.ndarray:
        """Return which images withstand attacks that come one after the other."""
        left = np.ones(len(self.pixels), bool)
        for name, attack in attacks.items():
            advance(int((~left).sum()))
            left[left] = self.withstood(f"AutoAttack, {name}", attack, advance, left)
        return left


def _row(name: str, right: np.ndarray) -> AttackRow:
    found = wilson(int(right.sum()), len(right))
    return AttackRow(name, found.value, found.low, found.high)


def _pairs(
    rows: np.ndarray, case: _Case, attack: Attack, one: Subject, keys: Sequence[str]
) -> list[Card]:
    """Draw images beside what an attack made of them."""
    if not len(rows):
        return []
    at = torch.from_numpy(rows)
    before, truth = case.pixels[at], case.truth[at]
    cards, classes = [], one.labels.classes
    _, after = attacked(case.answer, before, truth, attack)
    with torch.no_grad():
        guesses = case.answer(after).argmax(1).tolist()
    for number, row in enumerate(rows.tolist()):
        pictures = [(_drawn(side[number]), what) for side, what in
                    ((before, "before the attack"), (after, "after it"))]  # fmt: skip
        told = f"{classes[int(truth[number])]}, then {classes[guesses[number]]}"
        cards.append(Card(pictures, [told], keys[int(row)]))
    return cards


def _drawn(pixels: torch.Tensor) -> bytes:
    return png((pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
