"""Cells as data: a genotype lists the operations of a cell and the states that they read.

A cell has two inputs, states 0 (the output of the cell before the previous one) and 1 (that of
the previous cell). Each node adds two operations and becomes the next state: node n is state
n + 2. An edge is (operation, state read); edges 2n and 2n + 1 belong to node n.
"""

from collections.abc import Collection
from typing import TypeAlias

Edge: TypeAlias = tuple[str, int]
Genotype: TypeAlias = tuple[Edge, ...]


def nodes(genotype: Genotype) -> tuple[tuple[Edge, Edge], ...]:
    """Return the edges in pairs, one pair a node."""
    return tuple(zip(genotype[::2], genotype[1::2], strict=True))


def check(genotype: Genotype, operations: Collection[str]) -> None:
    """Raise ValueError when the genotype names no node, an operation that is not one of
    `operations`, or a state that does not exist when its node is computed."""
    if not genotype or len(genotype) % 2:
        raise ValueError(
            f"a genotype of {len(genotype)} edges; a node adds two operations: "
            "give an even number, at least two"
        )
    for place, (operation, state) in enumerate(genotype):
        node = place // 2
        if operation not in operations:
            raise ValueError(
                f"edge {place} of the genotype names the operation {operation!r}; "
                f"there are {', '.join(sorted(operations))}"
            )
        if not 0 <= state < node + 2:
            raise ValueError(
                f"edge {place} of the genotype reads state {state}; "
                f"node {node} can read 0 to {node + 1}, the states before it"
            )


def loose_ends(genotype: Genotype) -> tuple[int, ...]:
    """Return the states of the nodes that no other node reads: what a
    cell concatenates by default.
    """
    read = {state for _, state in genotype}
    return tuple(n + 2 for n in range(len(genotype) // 2) if n + 2 not in read)
