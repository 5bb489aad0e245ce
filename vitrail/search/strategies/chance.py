"""Candidates that nothing chose: random ones, and those of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.search.spaces.space import Genes
from vitrail.search.strategies.strategy import Draft, Found, Ground


@dataclass(frozen=True)
class Random:
    """Looks at `count` random candidates, in generations of `portion`: what others are compared
    with."""

    count: int
    portion: int = 25

    def propose(self, ground: Ground, seen: Sequence[Found], generation: int) -> list[Genes]:
        left = min(self.portion, self.count - generation * self.portion)
        return Draft("random", ground, seen, generation).filled(left)


@dataclass(frozen=True)
class Listed:
    """Looks at `candidates`, which are known already, in their order."""

    candidates: tuple[Genes, ...]

    def propose(self, ground: Ground, seen: Sequence[Found], generation: int) -> list[Genes]:
        return [] if generation else [*self.candidates]
