"""A search as plain values, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitrail.report.architecture import Block


@dataclass(frozen=True)
class SearchedPoint:
    """A candidate with inherited weights: its score in [0, 1] on validation images, and its cost.

    `by` is the strategy that proposed it; `within` says whether it keeps the limits.
    """

    macs: int
    params: int
    score: float
    by: str
    latency_s: float | None = None
    within: bool = True


@dataclass(frozen=True)
class AloneFacts:
    """Networks that were trained by themselves as well: (inherited, alone) scores, and rank
    correlations, None where they have none."""

    pairs: Sequence[tuple[float, float]]
    steps: int
    kendall: float | None
    spearman: float | None


@dataclass(frozen=True)
class LevelFacts:
    """An earlier level of the search: candidates, the best score, and steps of its network."""

    candidates: int
    best: float
    steps: int


@dataclass(frozen=True)
class GrowthFacts:
    """Cells that grew: each was judged by a small network, trained for `steps`.

    `sizes` are how many cells of one block, two and so on were trained; `ranks` are (predictor,
    blocks, cells, Spearman's rank correlation of what was expected and what was reached, None where
    it cannot be told); `predictor` is the one that chose.
    """

    steps: int
    sizes: Sequence[int]
    predictor: str
    ranks: Sequence[tuple[str, int, int, float | None]]

    @property
    def told(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "trained": list(self.sizes),
            "steps": self.steps,
            "predictor": self.predictor,
            "ranks": [
                {"predictor": kind, "blocks": blocks, "cells": n, "spearman": rank}
                for kind, blocks, n, rank in self.ranks
            ],
        }


@dataclass(frozen=True)
class MixtureFacts:
    """The mixture of operations that was learned: temperature, mean entropy of an edge in nats,
    how many of the strongest `edges` have no weights, what was binary meanwhile, and where the
    multiplier ended that enforced the limits, if one did."""

    temperature: float
    entropy: float
    free: int
    edges: int
    binary: str
    multiplier: float | None = None


@dataclass(frozen=True)
class PriceFacts:
    """A multiplier that enforced the limits, in the `way` of that name: its values by generation,
    and how many candidates of the search lay `within` them, `of` how many."""

    way: str
    multipliers: Sequence[float]
    within: int
    of: int


@dataclass(frozen=True)
class WindowFacts:
    """The share of random candidates near the budget, before and after the identity was fitted."""

    before: float
    after: float
    identity: tuple[float, float]


@dataclass(frozen=True)
class SearchFacts:
    """A search as the page tells it.

    `steps` trained the shared network for `shared_s` seconds; `images` validation images judged
    each candidate. `network` says what the found network has beside its `blocks`.
    """

    title: str
    paper: str
    points: Sequence[SearchedPoint]
    best: int
    steps: int
    shared_s: float
    images: int
    measure: str = "accuracy"
    limit_macs: int | None = None
    blocks: Sequence[Block] = ()
    network: Mapping[str, str] = field(default_factory=dict)
    alone: AloneFacts | None = None
    window: WindowFacts | None = None
    growth: GrowthFacts | None = None
    mixture: MixtureFacts | None = None
    price: PriceFacts | None = None
    earlier: Sequence[LevelFacts] = ()

    @property
    def found(self) -> SearchedPoint:
        """Return the candidate that was chosen."""
        return self.points[self.best]

    def of(self, by: str) -> list[SearchedPoint]:
        """Return the candidates of a strategy."""
        return [one for one in self.points if one.by == by]
