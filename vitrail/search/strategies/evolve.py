"""Evolution: mutants and crossovers of the best that were seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.errors import ConfigError
from vitrail.search.price import Price
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
        best = [one.genes for one in self.bred_from(ground, seen, generation)]
        space, rng = ground.space, draft.rng

        def mutant() -> Genes:
            return mutated(space, rng.choice(best), self.rate, rng)

        def crossover() -> Genes:
            return crossed(space, rng.choice(best), rng.choice(best), rng)

        draft.gather(mutant, min(self.mutants, self.population))
        draft.gather(crossover, min(self.mutants + self.crossovers, self.population))
        return draft.filled(self.population)

    def bred_from(self, ground: Ground, seen: Sequence[Found], generation: int) -> list[Found]:
        """Return the best of all that was seen before a generation, the best last."""
        if ground.price is None:
            return sorted(seen, key=lambda one: one.order)[-self.parents :]
        now = self.multipliers(ground, seen, generation)[-1]
        return self._best(ground.price, [one for one in seen if one.generation < generation], now)

    def multipliers(self, ground: Ground, seen: Sequence[Found], generation: int) -> list[float]:
        """Return the multiplier of each generation up to this one, anew from all that was seen: it
        follows how far those are over the limits that were bred from."""
        price = ground.price
        assert price is not None
        told = [price.multiplier.first]
        for last in range(generation):
            some = [one for one in seen if one.generation <= last]
            best = self._best(price, some, told[-1])
            told.append(price.multiplier.after(told[-1], price.mean([one.genes for one in best])))
        return told

    def _best(self, price: Price, some: Sequence[Found], now: float) -> list[Found]:
        def worth(one: Found) -> tuple[float, float]:
            return price.worth(one.score, one.genes, now), -one.loss

        return sorted(some, key=worth)[-self.parents :]
