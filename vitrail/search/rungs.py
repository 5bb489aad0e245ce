"""The arithmetic of a race: how many candidates, how long on each rung, who goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.proportions import Z
from vitrail.recipes.recipe import Recipe
from vitrail.search.candidate import Candidate

# Some of the rate measured on bare steps goes into data, averages and snapshots.
EFFICIENCY = 0.85
# Steps after which the order of two candidates begins to mean something.
TELLING_STEPS = 120
# Whoever is that far behind after the same time, with the whole 95 % interval, is given up. On
# CIFAR-10 (JPEG copies) leads of 7 to 9 points after 10 s were 15 to 19 after 20 s in one race; in
# another the winner was 4 points behind after 10 s and 5 ahead after 20.
FAR = 0.05


@dataclass(frozen=True)
class Runner:
    """A candidate in the race: its recipe, the steps of each rung, and where it stands.

    `rung` is the last one finished (-1: none), `rate` the images per second of its training,
    `judged` the number of images that `accuracy` is of.
    `seconds` are what it may have trained in all after each rung, as far as that was planned.
    """

    candidate: Candidate
    recipe: Recipe
    steps: tuple[int, ...]
    rung: int = -1
    accuracy: float | None = None
    loss: float | None = None
    rate: float | None = None
    trial: int = -1
    seconds: tuple[float, ...] = ()
    judged: int | None = None

    @property
    def done(self) -> int:
        """Steps trained so far."""
        return self.steps[self.rung] if self.rung >= 0 else 0

    @property
    def order(self) -> tuple[int, float, float]:
        """Return what sorts the best last: the furthest, then the most accurate, then the least
        loss."""
        loss = float("inf") if self.loss is None else self.loss
        return self.rung, self.accuracy or 0.0, -loss


def rung_sizes(n: int) -> list[int]:
    """Return how many candidates are in each rung: halves, and two in the last."""
    sizes = [n]
    while sizes[-1] > 2 and len(sizes) < 4:
        sizes.append(max(2, (sizes[-1] + 1) // 2))
    return sizes


def rung_seconds(n: int, seconds: float) -> list[float]:
    """Return what a candidate has trained in all after each rung, so that the race takes `seconds`.

    Each rung doubles it: 1, 2, 4 ... parts.
    """
    sizes = rung_sizes(n)
    parts = [2**i for i in range(len(sizes))]
    more = [part - before for part, before in zip(parts, [0, *parts], strict=False)]
    unit = seconds / sum(size * part for size, part in zip(sizes, more, strict=True))
    return [unit * part for part in parts]


def candidates_for(seconds: float) -> int:
    """Return how many candidates a race of that length can tell apart."""
    return int(min(24, max(2, 0.9 * (seconds / 2) ** 0.5)))


def field_size(rates: Sequence[float], batch: int, seconds: float) -> int:
    """Return how many of the first candidates may race, given their images per second.

    Before some hundred steps nothing is to be seen, so the first rung must have room for them.
    """
    for n in range(len(rates), 3, -1):
        typical = sorted(rates[:n])[n // 2]
        if typical * EFFICIENCY * rung_seconds(n, seconds)[0] / batch >= TELLING_STEPS:
            return n
    return min(3, len(rates))


def rung_steps(rate: float, batch: int, seconds: Sequence[float]) -> tuple[int, ...]:
    """Return the steps that fit into each of the times at `rate` images per second."""
    steps = [int(rate * EFFICIENCY * s / batch) for s in seconds]
    return tuple(max(4 * (i + 1), step) for i, step in enumerate(steps))


def keep(standings: Sequence[Runner], size: int, *, last: bool) -> list[Runner]:
    """Return the `size` best; into the last rung with one of a second family, if there is one.

    Those far behind the best are left out, so that one alone may remain.
    """
    ordered = sorted(standings, key=lambda r: r.order, reverse=True)
    ordered = [r for r in ordered if not _far(r, ordered[0])]
    kept = ordered[:size]
    if last and size > 1 and len({r.candidate.family for r in kept}) == 1:
        others = [r for r in ordered[size:] if r.candidate.family != kept[0].candidate.family]
        if others:
            kept[-1] = others[0]
    return kept


def _far(one: Runner, best: Runner) -> bool:
    """Tell whether a candidate is too far behind the best of the same rung to catch up."""
    if one.rung != best.rung or not one.judged or not best.judged:
        return False
    ours, theirs = one.accuracy or 0.0, best.accuracy or 0.0
    error = ours * (1 - ours) / one.judged + theirs * (1 - theirs) / best.judged
    return theirs - ours - Z * math.sqrt(max(0.0, error)) > FAR
