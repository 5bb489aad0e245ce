"""Which sizes keep a budget: all widths of a model scaled by one share, as large as is allowed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vitrail.compression.choosing import Shape
from vitrail.models.trunk.catalog import skeleton
from vitrail.models.trunk.widths import HEADS, HIDDEN, INNER, heads_of, resized, sizes

# Shares that are looked at: k of so many.
STEPS = 200
# Embeddings from this width on stay multiples of 8, as kernels like them.
WIDE, ROUND = 64, 8


@dataclass(frozen=True)
class Sized:
    """A shape and the Config that it makes."""

    shape: Shape
    config: Any


def scaled(config: Any, share: float, hidden: float | None = None) -> Sized:
    """Return a model's sizes scaled by a share of 0 to 1, MLPs' by `hidden` where it is given.

    At least a head and a neuron stay. Heads keep their width as long as there is more than one;
    then the last becomes narrower.
    """
    channels, heads = {}, {}
    for width, size in sizes(skeleton(config)).items():
        name = width.partition(".")[0]
        if name == INNER:
            count = heads_of(config, width)
            own, heads[width] = size // count, max(1, round(share * count))
            if share * count < 1:
                own = max(1, round(share * size))
            channels[width] = own * heads[width]
        elif name.startswith("dim") and size >= WIDE:
            channels[width] = max(ROUND, ROUND * round(share * size / ROUND))
        elif name != HEADS:
            by = hidden if hidden is not None and name == HIDDEN else share
            channels[width] = max(1, round(by * size))
    return Sized(Shape(channels, heads), resized(config, channels, heads))


def least(config: Any) -> Sized:
    """Return the smallest sizes: one head of one channel, one neuron."""
    return scaled(config, 0.0)


def largest(config: Any, keeps: Callable[[Any], bool]) -> Sized | None:
    """Return the largest sizes whose Config `keeps` the budget, None where not the least do.

    Embeddings and heads come in steps; what these leave of the budget goes to the MLPs. `keeps` is
    asked some fifteen times; it should say yes to whatever is smaller than what it said yes to.
    """
    if not keeps(least(config).config):
        return None

    def most(low: int, made: Callable[[float], Sized]) -> int:
        high = STEPS
        while high - low > 1:
            middle = (low + high) // 2
            if keeps(made(middle / STEPS).config):
                low = middle
            else:
                high = middle
        return low

    share = most(0, lambda share: scaled(config, share))
    hidden = most(share, lambda hidden: scaled(config, share / STEPS, hidden))
    return scaled(config, share / STEPS, hidden / STEPS)
