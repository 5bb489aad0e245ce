"""Sizes that may differ from block to block: one number for all of them, or one for each.

Compression cuts heads, the inner width of attention and the hidden width of MLPs block by block; a
network that was cut is a Config like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PerBlock = int | tuple[int, ...]


class Widths(NamedTuple):
    """What of a block can be cut: its heads, their channels together, its MLP's hidden width."""

    heads: int
    inner: int
    hidden: int


def each(value: PerBlock, count: int, field: str, usual: int = 0) -> tuple[int, ...]:
    """Return `count` numbers, those of `value` or `value` itself for each; 0 stands for `usual`.

    Raises ValueError, which names the Config's `field`, for another count or for numbers below 1.
    """
    found = value if isinstance(value, tuple) else (value or usual,) * count
    if len(found) != count or any(n < 1 for n in found):
        raise ValueError(
            f"{field} is {value}: expected one number from 1 up, or {count} of them, one a block"
        )
    return found


def widths(
    heads: PerBlock, inner: PerBlock, hidden: PerBlock, count: int, usual: tuple[int, int]
) -> list[Widths]:
    """Return the widths of `count` blocks, `usual` being the inner and hidden ones that 0 means."""
    sizes = (
        each(heads, count, "heads"),
        each(inner, count, "inner", usual[0]),
        each(hidden, count, "hidden", usual[1]),
    )
    return [Widths(*of) for of in zip(*sizes, strict=True)]


def by_stage(
    sizes: tuple[Sequence[PerBlock], Sequence[PerBlock], Sequence[PerBlock]],
    counts: Sequence[int],
    usual: Sequence[tuple[int, int]],
) -> list[list[Widths]]:
    """Return the widths of every stage's blocks; `sizes` are heads, inner and hidden widths, each
    with an entry a stage as `widths` takes it, or empty where all are as usual.

    Raises ValueError where a size has more or fewer entries than there are stages.
    """
    whole = []
    for field, values in zip(Widths._fields, sizes, strict=True):
        if values and len(values) != len(counts):
            raise ValueError(
                f"{field} is {values}: expected an entry for each of the {len(counts)} stages"
            )
        whole.append(values or (0,) * len(counts))
    heads, inner, hidden = whole
    stages = zip(heads, inner, hidden, counts, usual, strict=True)
    return [widths(h, i, m, count, own) for h, i, m, count, own in stages]
