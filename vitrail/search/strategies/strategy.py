"""Which candidates to look at next: a function of all that were looked at so far.

Nothing is kept between two calls, and what is drawn depends on the seed and the number of the
generation alone. So a search that was killed goes on with the same candidates, and none is
evaluated twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vitrail.search.costs import Cost
from vitrail.search.price import Price
from vitrail.search.spaces.space import Genes, Space, drawn

Allowed = Callable[[Genes], bool]
# Draws for one candidate until a space is said to hold no more that is new and allowed.
ATTEMPTS = 2000


@dataclass(frozen=True)
class Found:
    """A candidate that was evaluated: score in [0, 1], loss, cost, and in which generation."""

    genes: Genes
    score: float
    loss: float
    cost: Cost
    generation: int = 0

    @property
    def order(self) -> tuple[float, float]:
        """Return what sorts the best last."""
        return self.score, -self.loss


@dataclass(frozen=True, eq=False)
class Ground:
    """Where a strategy looks: a space, which of its candidates are allowed, and a seed.

    With a `price` an evolution may look beyond the limits, and pays for what is over them.
    """

    space: Space
    allowed: Allowed
    seed: int = 0
    price: Price | None = None


class Strategy(Protocol):
    """Chooses the candidates of each generation."""

    def propose(self, ground: Ground, seen: Sequence[Found], generation: int) -> list[Genes]:
        """Return new, allowed candidates for a generation, by what the earlier ones gave; none at
        the end of the search."""
        ...


class Draft:
    """A generation that is being put together: nobody who was seen, nobody twice."""

    def __init__(self, name: str, ground: Ground, seen: Sequence[Found], generation: int) -> None:
        self.ground = ground
        self.rng = random.Random(f"{name} {ground.seed} {generation}")
        self.known = {one.genes for one in seen}
        self.found: list[Genes] = []

    def add(self, genes: Genes) -> bool:
        """Take a candidate if it is new and allowed."""
        if genes in self.known or not self.ground.allowed(genes):
            return False
        self.known.add(genes)
        self.found.append(genes)
        return True

    def gather(self, draw: Callable[[], Genes], size: int) -> None:
        """Draw until there are `size` candidates, as long as there are new ones."""
        misses = 0
        while len(self.found) < size and misses < ATTEMPTS:
            misses = 0 if self.add(draw()) else misses + 1

    def filled(self, size: int) -> list[Genes]:
        """Return the generation, filled up with random candidates."""
        self.gather(lambda: drawn(self.ground.space, self.rng), size)
        return self.found
