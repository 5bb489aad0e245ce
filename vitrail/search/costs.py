"""What a candidate costs: multiply-adds, parameters, and where it is asked for measured latency."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vitrail.errors import BudgetError
from vitrail.run.budget import Budget
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.spaces.space import Genes, Space, drawn
from vitrail.search.timing import folded_latency
from vitrail.units import count, seconds

# Random candidates whose mean tells what a space costs.
SAMPLES = 1000
# A window reaches from this share of the tightest limit up to the limit.
WINDOW = 0.8


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one image, parameters, and seconds where they were measured."""

    macs: int
    params: int
    latency_s: float | None = None


@dataclass(frozen=True, eq=False)
class Meter:
    """Measures candidates of a space against a budget, each of them once.

    A latency is measured in torch with folded weights and multiplied by `engine`, which is how
    long the engine of the budget takes of what torch takes.
    """

    space: Space
    budget: Budget
    engine: float = 1.0
    known: dict[Genes, Cost] = field(default_factory=dict)

    def cost(self, genes: Genes) -> Cost:
        """Return what a candidate costs; its latency only where one is limited and the counts
        are allowed."""
        if genes not in self.known:
            config = self.space.config(genes)
            counts = self.space.count(config)
            latency_s = None
            if self.budget.latency_s is not None and self.budget.allows(
                params=counts.params, macs=counts.macs
            ):
                latency_s = self.latency_s(config)
            self.known[genes] = Cost(counts.macs, counts.params, latency_s)
        return self.known[genes]

    def latency_s(self, config: Any) -> float:
        """Return the estimated seconds of a candidate in the engine, resize included."""
        one = self.candidate(config)
        model_s = self.engine * folded_latency(one, self.budget).quickest_s
        if self.budget.beyond:
            return model_s
        return model_s + self.budget.resize_s(one.image, one.model["channels"])

    def allows(self, genes: Genes) -> bool:
        """Return whether a candidate keeps every limit."""
        cost = self.cost(genes)
        return self.budget.allows(params=cost.params, macs=cost.macs, latency_s=cost.latency_s)

    def candidate(self, config: Any) -> Candidate:
        """Return a candidate with its counts."""
        counts = self.space.count(config)
        return candidate(config, params=counts.params, macs=counts.macs)


def check_within(meter: Meter) -> str:
    """Raise BudgetError, which says the range, where a limit is below the cheapest candidate.

    Returns a sentence on limits that limit nothing, "" where there is none.
    """
    budget, space, loose = meter.budget, meter.space, []
    small, large = (space.count(space.config(genes)) for genes in space.ends)
    for option, limit, least, most in (
        ("macs", budget.macs, small.macs, large.macs),
        ("params", budget.params, small.params, large.params),
    ):
        range_said = f"networks of {space.title} have {count(least)} to {count(most)} here"
        if limit is not None and limit < least:
            raise BudgetError(
                f"--{option} {count(limit)} is outside the space: {range_said}, so give a limit "
                "in between"
            )
        if limit is not None and limit > most:
            loose.append(f"--{option} {count(limit)} limits nothing, as {range_said}")
    if budget.latency_s is not None and not budget.beyond:
        least_s = meter.latency_s(space.config(space.ends[0]))
        if least_s > budget.latency_s:
            raise BudgetError(
                f"--latency {seconds(budget.latency_s)} is outside the space: the cheapest network "
                f"of {space.title} takes about {seconds(least_s)} here, so give a longer one"
            )
    return "; ".join(loose)


def fitted(space: Space, budget: Budget, seed: int) -> Space:
    """Return the space whose random candidates are near the limit that can be counted, if any.

    A window of 0.8 to 1 times the limit is what their mean should lie in.
    """
    limit = budget.macs or budget.params
    if limit is None:
        return space

    def mean(one: Space) -> float:
        return sum(_sizes(one, budget, seed)) / SAMPLES

    return space.fitted(mean, WINDOW * limit, limit)


def share_within(space: Space, budget: Budget, seed: int) -> float:
    """Return the share of random candidates within 0.8 to 1 times the limit that is counted."""
    limit = budget.macs or budget.params or 0
    return sum(WINDOW * limit <= size <= limit for size in _sizes(space, budget, seed)) / SAMPLES


def _sizes(space: Space, budget: Budget, seed: int) -> Sequence[int]:
    rng = random.Random(seed)
    counts = (space.count(space.config(drawn(space, rng))) for _ in range(SAMPLES))
    return [one.macs if budget.macs else one.params for one in counts]
