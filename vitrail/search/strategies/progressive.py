"""Progressive growth: cells of one block first, then the best of those that are one larger."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from vitrail.errors import ConfigError
from vitrail.search.predictor import Kind, Predictor, fitted
from vitrail.search.spaces.blocks import Blocks
from vitrail.search.spaces.space import Gene, Genes
from vitrail.search.strategies.strategy import Draft, Found, Ground

# Cells of the next size that a predictor is asked about; of more, so many random ones.
ASKED = 20_000


class Growing(Protocol):
    """A space of cells that grow by a block."""

    @property
    def genes(self) -> tuple[Gene, ...]: ...
    @property
    def blocks(self) -> int: ...
    def cell(self, genes: Genes) -> Blocks: ...
    def begun(self) -> list[Genes]: ...
    def grown(self, genes: Genes) -> Iterator[Genes]: ...


@dataclass(frozen=True)
class Progressive:
    """Evaluates `first` cells of one block, then of each larger size the `beam` that a predictor
    expects most of, among all that grow out of the last ones.

    Cells that compute the same are one. The paper (arXiv 1712.00559) has 136 and 256, and an
    ensemble of five. Where `first` and `beam` are 0 `vitrail search` chooses what there is time
    for.
    """

    first: int = 0
    beam: int = 0
    predictor: Kind = "mlp"

    def __post_init__(self) -> None:
        if self.first < 0 or self.beam < 0:
            raise ConfigError(f"first {self.first} and beam {self.beam} must each be 1 or more")

    def propose(self, ground: Ground, seen: Sequence[Found], generation: int) -> list[Genes]:
        space, draft = cast(Growing, ground.space), Draft("grow", ground, seen, generation)
        if generation >= space.blocks:
            return []
        if not generation:
            cells = space.begun()
            draft.rng.shuffle(cells)
            return _taken(draft, cells, self.first)
        cells = self._next(space, seen, generation, draft.rng)
        if not cells:
            return []
        made = self.fitted(ground, seen)
        said = made.predict([space.cell(genes) for genes in cells])
        ranked = sorted(zip(said, cells, strict=True), reverse=True)
        return _taken(draft, [genes for _, genes in ranked], self.beam)

    def fitted(self, ground: Ground, seen: Sequence[Found]) -> Predictor:
        """Return the predictor that has learned from what was seen."""
        space = cast(Growing, ground.space)
        known = [(space.cell(one.genes), one.score) for one in seen]
        operations = max(len(gene.options) for gene in space.genes)
        sizes = (space.blocks + 1, operations)
        return fitted(known, sizes, kind=self.predictor, seed=ground.seed)

    def foretold(
        self, ground: Ground, seen: Sequence[Found]
    ) -> list[tuple[int, list[tuple[float, float]]]]:
        """Return for each size of cells from two blocks on what was expected of each that was
        evaluated, by a predictor that knew only smaller ones, beside what it reached."""
        space, told = cast(Growing, ground.space), []
        for generation in range(1, max((one.generation for one in seen), default=0) + 1):
            known = [one for one in seen if one.generation < generation]
            some = [one for one in seen if one.generation == generation]
            if known and some:
                said = self.fitted(ground, known).predict([space.cell(one.genes) for one in some])
                pairs = [*zip(said, (one.score for one in some), strict=True)]
                told.append((generation + 1, pairs))
        return told

    def _next(
        self, space: Growing, seen: Sequence[Found], generation: int, rng: random.Random
    ) -> list[Genes]:
        """Return all cells that grow out of the last ones, in an order of their own."""
        last = [one for one in seen if one.generation == generation - 1]
        best = sorted(last, key=lambda one: one.order)[-max(1, self.beam) :]
        found = sorted({genes for one in best for genes in space.grown(one.genes)})
        return found if len(found) <= ASKED else sorted(rng.sample(found, ASKED))


def _taken(draft: Draft, ordered: Sequence[Genes], size: int) -> list[Genes]:
    """Return the first of them that are new and allowed."""
    for genes in ordered:
        if len(draft.found) >= size:
            break
        draft.add(genes)
    return draft.found
