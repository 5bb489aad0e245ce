"""The first rung of candidates with published weights: a linear model on their features.

It takes seconds where a training takes minutes, so whoever is on a shelf stands there before the
race begins, and only the best of them are trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data, amend
from vitrail.run.budget import Budget
from vitrail.run.features import MOST, features
from vitrail.run.workshop import Workshop
from vitrail.search.candidate import Candidate
from vitrail.tasks.task import Outputs

# The share of a time limit that goes into features, and how many go on to be trained.
SHARE, BEST = 0.25, 2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Probed:
    """What a linear model on the features of a candidate reaches on `n` validation images."""

    candidate: Candidate
    accuracy: float
    loss: float
    n: int
    seconds: float

    @property
    def order(self) -> tuple[float, float]:
        """Return what sorts the best last."""
        return self.accuracy, -self.loss

    @property
    def sentence(self) -> str:
        """Say how good it is."""
        return (
            f"{self.candidate.name}: a linear model on its features has {self.accuracy:.1%} of "
            f"{self.n} validation images right, after {self.seconds:.0f} s"
        )


@dataclass(frozen=True, eq=False)
class Bench:
    """Where features are made: the workshop, what the user said of data and recipe, the limits, and
    the seconds that there are."""

    workshop: Workshop
    data: Data
    settings: Sequence[str]
    budget: Budget
    seconds: float
    say: Say


def probed(shelf: Sequence[Candidate], bench: Bench) -> list[Probed]:
    """Return how the candidates of a shelf stand on their features, the best first.

    Those over the limits of parameters and multiply-adds are left out; the smallest are looked at
    first, until the time is over, and one at least.
    """
    allowed = [c for c in shelf if bench.budget.allows(params=c.params, macs=c.macs)]
    found: list[Probed] = []
    began, images = time.monotonic(), min(MOST, len(bench.workshop.split.train))
    for one in sorted(allowed, key=lambda c: c.macs):
        spent = time.monotonic() - began
        pace = sum(p.candidate.macs for p in found) / max(spent, 1e-3)
        if found and spent + one.macs / pace > bench.seconds:
            bench.say(f"no time for the features of {one.name} and larger ones")
            break
        bench.say(f"features of {one.name} for {images} images")
        probe = _probe(one, bench)
        if probe is None:
            continue
        found.append(probe)
        bench.say(probe.sentence)
    return sorted(found, key=lambda p: p.order, reverse=True)


def chosen(shelf: Sequence[Candidate], found: Sequence[Probed]) -> list[Candidate]:
    """Return who goes on to be trained: the best on features, all of the shelf where there are none
    of it."""
    return [p.candidate for p in found[:BEST]] or list(shelf)


def _probe(one: Candidate, bench: Bench) -> Probed | None:
    """Fit a linear model on the features of a candidate; None where its head is of another kind."""
    began, workshop = time.monotonic(), bench.workshop
    data = workshop.data(bench.data, one.image, one.channels, one.pretrained)
    recipe = default(
        one.config, data, images=len(workshop.split.train), total=1,
        pretrained=one.pretrained, device=workshop.device,
    )  # fmt: skip
    recipe = amend(recipe, [s for s in bench.settings if s.startswith(("task", "objective"))])
    head = workshop.head(recipe)
    if head is None:
        return None
    held = workshop.watched(recipe, MOST)
    values = head.logits(features(recipe, workshop, "val"))
    scores = recipe.task.scores(Outputs(values, torch.tensor(held.labels)))
    spent = time.monotonic() - began
    return Probed(one, scores.main, scores.loss, scores.n, spent)
