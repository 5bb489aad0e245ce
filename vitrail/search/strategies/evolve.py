"""Evolution: mutants and crossovers of the best that were seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.errors import ConfigError
from vitrail.search.spaces.space import Genes, crossed, mutated
from vitrail.search.strategies.strategy import Draft, Found, Ground


@dataclass(frozen=True)
class Evolve:
    """Keeps the best of everything seen and goes on from them by mutation and crossover.

    A generation is `mutants` and `crossovers` of the best `parents`, filled up with random ones to
    `population`; `rate` is how likely a gene is drawn anew. The defaults are AutoFormer's (arXiv
    2107.00651), with a rate that suits short codes.
    """

    population: int = 50
    parents: int = 10
    mutants: int = 25
    crossovers: int = 25
    generations: int = 20
    rate: float = 0.15
    start: tuple[Genes, ...] = ()

    def __post_init__(self) -> None:
        if min(self.population, self.parents, self.generations) < 1:
            raise ConfigError(
                f"population {self.population}, parents {self.parents} and generations "
                f"{self.generations} must each be 1 or more"
            )
        if not 0 < self.rate <= 1:
            raise ConfigError(f"rate {self.rate} is not above 0 and up to 1: 0.15 is usual")

    def propose(self, ground: Ground, seen: Sequence[Found], generation: int) -> list[Genes]:
        if generation >= self.generations:
            return []
        draft = Draft("evolve", ground, seen, generation)
        if not generation:
            for genes in self.start:
                draft.add(genes)
            return draft.filled(self.population)
        best = [one.genes for one in sorted(seen, key=lambda one: one.order)[-self.parents :]]
        space, rng = ground.space, draft.rng

        def mutant() -> Genes:
            return mutated(space, rng.choice(best), self.rate, rng)

        def crossover() -> Genes:
            return crossed(space, rng.choice(best), rng.choice(best), rng)

        draft.gather(mutant, min(self.mutants, self.population))
        draft.gather(crossover, min(self.mutants + self.crossovers, self.population))
        return draft.filled(self.population)
