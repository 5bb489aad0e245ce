"""Cells as sets of blocks: which of them are one network, and what grows out of them.

A block adds two operations, each on an earlier state; a cell's blocks may be named in any order
that computes them, and a block's two sides in either. `canonical` picks one of all these forms.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, groupby, permutations, product

# (state read, number of the operation), twice; states 0 and 1 are the cell's inputs.
Side = tuple[int, int]
Block = tuple[Side, Side]
Blocks = tuple[Block, ...]


def canonical(blocks: Blocks) -> Blocks:
    """Return the one form of all cells that compute the same.

    Blocks are sorted by how deep they are and by what they unfold to; those that these do not tell
    apart are tried in every order.

        >>> canonical((((1, 3), (0, 2)), ((0, 1), (0, 0))))
        (((0, 0), (0, 1)), ((0, 2), (1, 3)))
    """
    depths, shapes = [0, 0], ["p", "q"]
    for block in blocks:
        depths.append(1 + max(depths[state] for state, _ in block))
        shapes.append(f"({' '.join(sorted(f'{op}{shapes[state]}' for state, op in block))})")

    def key(place: int) -> tuple[int, str]:
        return depths[place + 2], shapes[place + 2]

    ordered = sorted(range(len(blocks)), key=key)
    ties = [[*permutations(some)] for _, some in groupby(ordered, key=key)]
    return min(
        _named(blocks, [place for some in order for place in some]) for order in product(*ties)
    )


def _named(blocks: Blocks, order: list[int]) -> Blocks:
    """Return the blocks in another order, which each state that they read follows."""
    moved = {0: 0, 1: 1} | {old + 2: new + 2 for new, old in enumerate(order)}

    def sides(block: Block) -> Block:
        one, other = sorted((moved[state], op) for state, op in block)
        return one, other

    return tuple(sides(blocks[old]) for old in order)


def grown(blocks: Blocks, operations: int) -> Iterator[Blocks]:
    """Yield the cells that have one block more, in their canonical form, some more than once."""
    sides = [(state, op) for state in range(len(blocks) + 2) for op in range(operations)]
    for one, other in combinations_with_replacement(sides, 2):
        yield canonical((*blocks, (one, other)))
