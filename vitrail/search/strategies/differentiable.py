"""What a differentiable search has learned, as candidates: the strongest, then others like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from vitrail.search.spaces.space import Genes
from vitrail.search.strategies.strategy import Draft, Found, Ground


@dataclass(frozen=True)
class Differentiable:
    """Looks at `count` candidates: `strongest` first, then draws from `likely`, which has for each
    gene how probable its options are.

    The weights were learned before; whatever is over the limits is passed over, so that the first
    of all is the strongest that is allowed.
    """

    strongest: Genes
    likely: tuple[tuple[float, ...], ...]
    count: int = 16

    def propose(self, ground: Ground, seen: Sequence[Found], generation: int) -> list[Genes]:
        if generation:
            return []
        draft = Draft("differentiable", ground, seen, generation)
        draft.add(self.strongest)

        def like() -> Genes:
            return ground.space.canonical(
                tuple(draft.rng.choices(range(len(one)), one)[0] for one in self.likely)
            )

        draft.gather(like, self.count)
        return draft.found


def probabilities(
    weights: tuple[list[list[float]], list[list[float]]], nodes: int, choices: int
) -> tuple[tuple[float, ...], ...]:
    """Return how likely each gene of two cells has each of its options.

    `weights` are those of the operations on each edge, in the order of nodes and of the states that
    these read, "none" behind the `choices`. A pair of states is as likely as its edges are
    something else than nothing; an operation is as likely as it weighs on the average of the edges.
    """
    found: list[tuple[float, ...]] = []
    for table in weights:
        start = 0
        for node in range(nodes):
            edges = table[start : start + node + 2]
            start += node + 2
            some = [1 - edge[choices] for edge in edges]
            found.append(
                tuple(some[a] * some[b] + 1e-9 for a, b in combinations(range(node + 2), 2))
            )
            means = [sum(edge[k] for edge in edges) for k in range(choices)]
            found += [tuple(mean + 1e-9 for mean in means)] * 2
    return tuple(found)
