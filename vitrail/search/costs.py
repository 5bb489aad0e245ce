"""What a candidate costs: multiply-adds, parameters, and where it is asked for measured latency."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError
from vitrail.run.budget import Budget
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.latency_table import Deviation, LatencyTable
from vitrail.search.rescue import as_exported
from vitrail.search.spaces.space import Genes, Space, drawn
from vitrail.search.timing import folded_latency
from vitrail.units import count, seconds

# Random candidates whose mean tells what a space costs.
SAMPLES = 1000
# Seconds for timing three candidates as exported.
PATIENCE_S = 60.0
# Whole networks that tell a latency table's factor, and as many its error.
WHOLE = 5
# A table that is off by more than this on average is not used.
TRUSTED = 0.2
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

    A latency is that of torch with folded weights times `engine`, which is how long the engine of
    the budget takes of what torch takes. It is predicted by a `table` where there is one, else
    measured.
    """

    space: Space
    budget: Budget
    engine: float = 1.0
    table: LatencyTable | None = None
    known: dict[Genes, Cost] = field(default_factory=dict)

    def cost(self, genes: Genes) -> Cost:
        """Return what a candidate costs; its latency only where one is limited and the counts
        are allowed."""
        if genes not in self.known:
            one, latency_s = self.candidate(genes), None
            counted = self.budget.allows(params=one.params, macs=one.macs)
            if self.budget.latency_s is not None and counted:
                model_s = self.engine * self._torch_s(one)
                latency_s = model_s + self._resize_s(one)
            self.known[genes] = Cost(one.macs, one.params, latency_s)
        return self.known[genes]

    def allows(self, genes: Genes) -> bool:
        """Return whether a candidate keeps every limit."""
        cost = self.cost(genes)
        return self.budget.allows(params=cost.params, macs=cost.macs, latency_s=cost.latency_s)

    def excess(self, genes: Genes) -> float:
        """Return how far a candidate is over the tightest limit, in shares of it; below 0 is room.

        A latency counts only where the counts are allowed, as it is not measured otherwise.
        """
        cost = self.cost(genes)
        share = self.budget.excess(params=cost.params, macs=cost.macs, latency_s=cost.latency_s)
        return share - 1

    def candidate(self, genes: Genes) -> Candidate:
        """Return a candidate with its counts."""
        config = self.space.config(genes)
        counts = self.space.count(config)
        return candidate(config, params=counts.params, macs=counts.macs)

    def calibrated(self, apart: Apart, seed: int) -> Meter:
        """Return a meter that knows how long the engine takes of what torch takes: the median of
        the cheapest and two random candidates.

        Raises BudgetError where the cheapest misses the latency already.
        """
        if self.budget.latency_s is None:
            return self
        rng, space = random.Random(seed), self.space
        some = [self.candidate(g) for g in (space.ends[0], drawn(space, rng), drawn(space, rng))]
        timed = as_exported(some, self.budget, seconds=PATIENCE_S, apart=apart)
        ratios = []
        for one in timed:
            assert one.latency_s is not None
            ratios.append(one.latency_s / self._torch_s(one))
            least_s = one.latency_s + self._resize_s(one)
            if one.name == some[0].name and least_s > self.budget.latency_s:
                raise BudgetError(
                    f"--latency {seconds(self.budget.latency_s)} is outside the space: the "
                    f"cheapest network of {space.title} takes {seconds(least_s)} here, so give "
                    "a longer one"
                )
        return replace(self, engine=median(ratios) if ratios else 1.0)

    def tabled(self, seed: int) -> tuple[Meter, Deviation | None]:
        """Return a meter that predicts latencies from a table, and how far these are from random
        networks that were measured whole; itself without a limit, and where they are too far off.

        One half of the networks tells the table's factor, the other how far it is off.
        """
        if self.budget.latency_s is None:
            return self, None
        rng = random.Random(f"table {seed}")
        some = [self.candidate(drawn(self.space, rng)) for _ in range(2 * WHOLE)]
        whole = [folded_latency(one, self.budget).quickest_s for one in some]
        configs = [one.config for one in some]
        table = LatencyTable(self.budget.threads).fitted(configs[:WHOLE], whole[:WHOLE])
        off = table.deviation(configs[WHOLE:], whole[WHOLE:])
        return (self if off.mean > TRUSTED else replace(self, table=table)), off

    def _torch_s(self, one: Candidate) -> float:
        if self.table is not None:
            return self.table.seconds(one.config)
        return folded_latency(one, self.budget).quickest_s

    def _resize_s(self, one: Candidate) -> float:
        if self.budget.beyond:
            return 0.0
        return self.budget.resize_s(one.image, one.channels)


def check_within(space: Space, budget: Budget) -> str:
    """Raise BudgetError, which says the range, where a limit is below the cheapest candidate.

    Returns a sentence on limits that limit nothing, "" where there is none.
    """
    loose = []
    small, large = (space.count(space.config(genes)) for genes in space.ends)
    for option, limit, least, most in (
        ("macs", budget.macs, small.macs, large.macs),
        ("params", budget.params, small.params, large.params),
    ):
        said = f"networks of {space.title} for these images have {count(least)} to {count(most)}"
        if limit is not None and limit < least:
            raise BudgetError(
                f"--{option} {count(limit)} is outside the space: {said}, so give a limit in "
                "between"
            )
        if limit is not None and limit > most:
            loose.append(f"--{option} {count(limit)} limits nothing, as {said}")
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
