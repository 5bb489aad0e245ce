"""Differences of arms from a baseline, and how sure they are.

Every arm is trained with the same seeds, which decide weights, batches and augmentation: a
two-way layout of arm and seed without repetition. What neither arm nor seed explains is the
noise, pooled over all arms, so that three seeds say more than three seeds of one arm would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Effect:
    """Mean difference from the baseline with its 95 % interval [low, high], None with one seed.

    The intervals of all arms hold together (Bonferroni), so one that leaves out 0 is beyond noise
    although many arms are compared.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Return whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def effects(values: Mapping[str, Sequence[float]], baseline: str) -> dict[str, Effect]:
    """Return the effect of every arm but the baseline; `values` are by arm, in the order of seeds.

    Raises ValueError unless all arms have as many values.
    """
    arms, seeds = len(values), len(values[baseline])
    if any(len(found) != seeds for found in values.values()):
        raise ValueError(
            "arms have different numbers of seeds: compare the seeds that all of them have"
        )
    mean = {name: sum(found) / seeds for name, found in values.items()}
    others = [name for name in values if name != baseline]
    gaps = {name: mean[name] - mean[baseline] for name in others}
    if seeds < 2:
        return {name: Effect(gap) for name, gap in gaps.items()}
    whole = sum(mean.values()) / arms
    by_seed = [sum(found[s] for found in values.values()) / arms for s in range(seeds)]
    noise = sum(
        (found[s] - mean[name] - by_seed[s] + whole) ** 2
        for name, found in values.items()
        for s in range(seeds)
    )
    freedom = (arms - 1) * (seeds - 1)
    error = math.sqrt(2 * noise / freedom / seeds)
    reach = error * student(1 - 0.025 / max(1, len(others)), freedom)
    return {name: Effect(gap, gap - reach, gap + reach) for name, gap in gaps.items()}


def student(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t above 0.5, by bisection on its integrated density."""
    low, high = 0.0, 2.0
    while _below(high, freedom) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _below(t: float, freedom: int) -> float:
    """Return the distribution function at t >= 0, by Simpson's rule over the angle of t."""
    # With t = sqrt(n) tan(a) the density is a power of the cosine, smooth and bounded.
    end, steps = math.atan(t / math.sqrt(freedom)), 400
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    scale /= math.sqrt(math.pi)
    width = end / steps
    weights = [1, *(4 if i % 2 else 2 for i in range(1, steps)), 1]
    total = sum(w * math.cos(i * width) ** (freedom - 1) for i, w in enumerate(weights))
    return 0.5 + scale * total * width / 3
