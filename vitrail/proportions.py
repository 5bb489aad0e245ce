"""Shares of samples with Wilson's score interval (JASA 22, 1927)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitrail.errors import DataError

# the normal deviate of 95 %
Z = 1.959963984540054


@dataclass(frozen=True)
class Proportion:
    """A share `value` of `n` samples with its 95 % interval [low, high]."""

    value: float
    low: float
    high: float
    n: int


def wilson(hits: float, n: int, z: float = Z) -> Proportion:
    """Return a proportion with Wilson's score interval, 95 % by default; it stays within [0, 1],
    and holds the proportion, which rounding would leave out where it is 0 or 1."""
    if n < 1:
        raise DataError("there are no samples to judge: give at least one")
    p, spread = hits / n, z * z / n
    centre = (p + spread / 2) / (1 + spread)
    half = z * math.sqrt(p * (1 - p) / n + spread / (4 * n)) / (1 + spread)
    return Proportion(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)
