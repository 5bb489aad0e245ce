"""What it costs to be over a limit: a multiplier that a search moves until the limit is kept.

A search that rejects whatever is over the limit sees only one side of it. One with a multiplier
looks at both: a candidate counts its score less the multiplier times what it is charged for, which
is how far it is over the limit, in shares of it. The multiplier's next value follows from how far
those are over the limit on average that the search breeds from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

# How far a candidate or a mixture is over the tightest limit, in shares of it; below 0 is room.
Excess = Callable[[tuple[int, ...]], float]

Amount = TypeVar("Amount", float, Tensor)


class Multiplier(Protocol):
    """Begins at `first`, and says what comes after a step that was so far over the limit."""

    @property
    def first(self) -> float: ...

    def after(self, now: float, excess: float) -> float:
        """Return the next value."""
        ...

    def charged(self, excess: Amount) -> Amount:
        """Return what is multiplied."""
        ...


@dataclass(frozen=True)
class Raised:
    """Grows by a factor as long as the limit is missed, and stays when it is met; room is free.

    Dhyani et al., "PriViT", TMLR 2024, arXiv 2310.04604, whose factor of 1.1 is for hundreds of
    epochs.
    """

    first: float = 0.01
    growth: float = 1.5

    def after(self, now: float, excess: float) -> float:
        """Return what is larger by the factor where the limit is missed, else the same."""
        return now * self.growth if excess > 0 else now

    def charged(self, excess: Amount) -> Amount:
        """Return how far the limit is missed, 0 where it is met."""
        return excess * (excess > 0)


@dataclass(frozen=True)
class Dual:
    """Rises by how far the limit is missed and falls by how much room there is, down to 0.

    Dual ascent, as in Yu et al., "Unified Visual Transformer Compression", ICLR 2022, arXiv
    2203.08243: a limit that nothing touches costs nothing.
    """

    rate: float = 0.1
    first: float = 0.0

    def after(self, now: float, excess: float) -> float:
        """Return the multiplier after a step of gradient ascent, not below 0."""
        return max(0.0, now + self.rate * excess)

    def charged(self, excess: Amount) -> Amount:
        """Return the excess: room is worth as much as what is over the limit costs."""
        return excess


@dataclass(frozen=True, eq=False)
class Price:
    """A multiplier, and how far candidates are over the limits that it enforces."""

    multiplier: Multiplier
    excess: Excess

    def worth(self, score: float, genes: tuple[int, ...], now: float) -> float:
        """Return a candidate's score less what it pays."""
        return score - now * self.multiplier.charged(self.excess(genes))

    def mean(self, some: Sequence[tuple[int, ...]]) -> float:
        """Return how far candidates are over the limits on average."""
        return sum(map(self.excess, some)) / len(some)
