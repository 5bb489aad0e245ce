"""What a mixture of operations will cost: counts of the cells it stands for, with a gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.run.budget import Budget
from vitrail.search.spaces.bats import BATS
from vitrail.search.supernets.bats import CHOICES, EDGES, NODES, Super

# An operation that costs nothing on an edge of either cell.
FREE = "max_pool_3x3"
KINDS = ("normal", "reduce")


@dataclass(frozen=True, eq=False)
class MixtureCost:
    """Shares of each limit: of what does not change, and of each operation on each edge of both
    cells."""

    space: BATS
    rest: Float[Tensor, "limits"]
    edges: Float[Tensor, "limits kinds edges ops"]

    def excess(self, model: Super) -> Float[Tensor, ""]:
        """Return how far the strongest cells are over the tightest limit, in shares of it.

        The value is exact. Its gradient is that of the mean of cells drawn from the mixture: of
        each node two edges, as likely as they are something, and on each an operation.
        """
        both = torch.stack(model.mixture())
        tables: Any = [one.tolist() for one in both.detach()]
        chosen = self._chosen(self.space.strongest((tables[0], tables[1])))
        shares = self.rest + torch.tensor(chosen, device=both.device)
        soft = self.rest.new_zeros(len(self.rest))
        for node in range(NODES):
            at = [i for i, (owner, _) in enumerate(EDGES) if owner == node]
            some = both[:, at, : len(CHOICES)]
            cost = (self.edges[:, :, at].to(some) * some).sum((2, 3))
            soft = soft.to(cost) + (2 * cost / some.sum((1, 2))).sum(1)
        return (shares.to(soft) + soft - soft.detach()).max() - 1

    def _chosen(self, genes: tuple[int, ...]) -> list[float]:
        config = self.space.config(genes)
        return [
            sum(
                float(table[kind, EDGES.index((k // 2, state)), CHOICES.index(operation)])
                for kind, genotype in enumerate((config.normal, config.reduce))
                for k, (operation, state) in enumerate(genotype)
            )
            for table in self.edges
        ]


def mixture_cost(space: BATS, budget: Budget) -> MixtureCost:
    """Return what mixtures of a space cost, in shares of the limits that can be counted.

    One of them at least must be set.
    """
    limits = [one for one in (budget.macs, budget.params) if one is not None]
    base = ((FREE, 0), (FREE, 1)) * NODES
    plain = _counts(space, replace(space.found, normal=base, reduce=base), budget)
    edges = torch.zeros(len(limits), len(KINDS), len(EDGES), len(CHOICES))
    for number, kind in enumerate(KINDS):
        for at, (node, state) in enumerate(EDGES):
            if (node, state) not in ((0, 0), (1, 2)):
                # Inputs of a cell are alike, and so are its nodes.
                like = (0, 0) if state < 2 else (1, 2)
                edges[:, number, at] = edges[:, number, EDGES.index(like)]
                continue
            for k, operation in enumerate(CHOICES):
                own = list(base)
                own[2 * node] = (operation, state)
                config = replace(space.found, **{"normal": base, "reduce": base, kind: tuple(own)})
                edges[:, number, at, k] = _counts(space, config, budget) - plain
    return MixtureCost(space, plain, edges)


def _counts(space: BATS, config: Any, budget: Budget) -> Tensor:
    counts = space.count(config)
    pairs = ((counts.macs, budget.macs), (counts.params, budget.params))
    return torch.tensor([have / limit for have, limit in pairs if limit is not None])
