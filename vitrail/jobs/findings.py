"""What a search found, as its file and as chapters of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vitrail.config import to_json
from vitrail.jobs.arguments import Arguments
from vitrail.models import config_json
from vitrail.recipes.recipe import Recipe
from vitrail.report.architecture import Block
from vitrail.report.chapter import Chapter
from vitrail.report.search import chapters
from vitrail.report.search_facts import (
    AloneFacts,
    GrowthFacts,
    LevelFacts,
    MixtureFacts,
    PriceFacts,
    SearchedPoint,
    SearchFacts,
    WindowFacts,
)
from vitrail.run.folder import RunFolder
from vitrail.search.costs import Meter, share_within
from vitrail.search.found import NAME, FoundFile, Searched
from vitrail.search.judging import correlation
from vitrail.search.spaces.space import Space
from vitrail.search.strategies import Found


@dataclass(frozen=True, eq=False)
class Findings:
    """All candidates of the search and of chance, and how they were judged.

    `plain` is the space before it was fitted to the budget. `alone` has the steps and the scores
    of networks that were trained by themselves, by genes; `chosen` is the network that was
    trained in full, the best unless others were too slow; `growth` says how cells grew, where they
    were trained one by one, `mixture` what gradients learned, `price` what being over the limits
    cost; `earlier` are the levels before.
    """

    plain: Space
    meter: Meter
    searched: Sequence[Found]
    chance: Sequence[Found]
    steps: int
    shared_s: float
    images: int
    alone: dict[str, Any] = field(default_factory=dict)
    chosen: Found | None = None
    growth: GrowthFacts | None = None
    mixture: MixtureFacts | None = None
    price: PriceFacts | None = None
    earlier: tuple[Findings, ...] = ()

    @property
    def every(self) -> list[Found]:
        """Return the candidates of the search, then those of chance."""
        return [*self.searched, *self.chance]

    @property
    def within(self) -> list[Found]:
        """Return the candidates that keep the limits, which with a multiplier not all do."""
        return [one for one in self.every if self.keeps(one)]

    def keeps(self, one: Found) -> bool:
        """Return whether a candidate keeps every limit."""
        cost = one.cost
        budget = self.meter.budget
        return budget.allows(params=cost.params, macs=cost.macs, latency_s=cost.latency_s)

    @property
    def best(self) -> Found:
        """Return the network that was trained in full, or will be."""
        return self.chosen or max(self.within, key=lambda one: one.order)

    @property
    def facts_alone(self) -> AloneFacts | None:
        """Return inherited scores beside those of networks trained alone."""
        if not self.alone.get("scores"):
            return None
        inherited = {" ".join(map(str, one.genes)): one.score for one in self.every}
        pairs = [(inherited[key], score) for key, score in self.alone["scores"].items()]
        ranks = correlation(pairs)
        return AloneFacts(pairs, self.alone["steps"], ranks.kendall, ranks.spearman)


def written(found: Findings, run: RunFolder, limits: Arguments) -> None:
    """Write found.json: what others take, and the figures of the search."""
    best, space = found.best, found.meter.space
    config = space.config(best.genes)
    alone = found.facts_alone
    figures: dict[str, Any] = {
        "score": best.score,
        "cost": to_json(best.cost),
        "evaluated": len(found.searched),
        "best": max((one.score for one in found.searched if found.keeps(one)), default=None),
        "random": len(found.chance),
        "best_random": max((one.score for one in found.chance), default=None),
        "shared_steps": found.steps,
        "command": limits.command,
    }
    if alone is not None:
        figures["alone"] = {
            "pairs": [list(pair) for pair in alone.pairs],
            "steps": alone.steps,
            "kendall": alone.kendall,
            "spearman": alone.spearman,
        }
    if found.growth is not None:
        figures["growth"] = found.growth.told
    if found.price is not None:
        figures["price"] = to_json(found.price)
    if found.mixture is not None:
        figures["mixture"] = to_json(found.mixture)
    searched = Searched(space.name, best.genes, tuple(config.image), figures)
    run.write_json(run.path / NAME, to_json(FoundFile(to_json(config_json(config)), searched)))


def chapters_of(found: Findings, limits: Arguments, recipe: Recipe) -> list[Chapter]:
    """Return what the search adds to the page."""
    space, best = found.meter.space, found.best
    config = space.config(best.genes)
    every = [("search", one) for one in found.searched] + [("random", one) for one in found.chance]
    points = [
        SearchedPoint(
            one.cost.macs, one.cost.params, one.score, by, one.cost.latency_s, found.keeps(one)
        )
        for by, one in every
    ]
    return chapters(
        SearchFacts(
            title=space.title,
            paper=space.paper,
            points=points,
            best=[one.genes for _, one in every].index(best.genes),
            steps=found.steps,
            shared_s=found.shared_s,
            images=found.images,
            measure="accuracy" if not recipe.task.several else "mean average precision",
            limit_macs=limits.macs,
            blocks=[Block(row.label, row.parts, row.note) for row in space.rows(config)],
            network=space.described(config),
            alone=found.facts_alone,
            growth=found.growth,
            mixture=found.mixture,
            price=found.price,
            window=_window(found, limits),
            earlier=[
                LevelFacts(len(one.every), one.best.score, one.steps) for one in found.earlier
            ],
        )
    )


def _window(found: Findings, limits: Arguments) -> WindowFacts | None:
    """Return the share of random candidates near the limit, where a
    probability was fitted to it.
    """
    before, after = (getattr(one, "identity", None) for one in (found.plain, found.meter.space))
    if before is None or after is None or not (limits.macs or limits.params):
        return None
    budget, seed = found.meter.budget, limits.seed
    shares = [share_within(one, budget, seed) for one in (found.plain, found.meter.space)]
    return WindowFacts(shares[0], shares[1], (before, after))
