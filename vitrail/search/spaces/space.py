"""What a search chooses from: genes, and how a choice of them becomes a Config.

A candidate is a tuple of whole numbers, one option of each gene. Strategies know nothing else, so
that one evolution serves all papers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from torch import nn

from vitrail.measure.counts import Counts
from vitrail.search.supernets.indices import Rule

Genes = tuple[int, ...]


@dataclass(frozen=True)
class Gene:
    """One choice: how it is called, and what may be chosen.

    `likely` are the probabilities of the options in a random draw, all alike where it is empty;
    `often` is how likely a mutation changes it, None for the strategy's own rate.
    """

    name: str
    options: tuple[Any, ...]
    likely: tuple[float, ...] = ()
    often: float | None = None

    def draw(self, rng: random.Random) -> int:
        """Return the number of an option."""
        if self.likely:
            return rng.choices(range(len(self.options)), self.likely)[0]
        return rng.randrange(len(self.options))


@dataclass(frozen=True)
class Row:
    """A block as a picture shows it: how wide each of its parts is, by name, in units of its own.

    A block that is left out has no parts.
    """

    label: str
    parts: tuple[tuple[str, float], ...] = ()
    note: str = ""


class Space(Protocol):
    """All candidates of a search for images of one size."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]

    @property
    def genes(self) -> tuple[Gene, ...]: ...

    @property
    def ends(self) -> tuple[Genes, Genes]:
        """Return the cheapest and the dearest candidate."""
        ...

    def canonical(self, genes: Genes) -> Genes:
        """Return the one representative of all genes that mean the same network."""
        ...

    def config(self, genes: Genes) -> Any:
        """Return the Config of a candidate. Raises ConfigError for one that cannot be built."""
        ...

    def count(self, config: Any) -> Counts:
        """Return exact counts, by a formula where thousands of candidates are looked at."""
        ...

    def fitted(self, costs: Callable[[Self], float], low: float, high: float) -> Self:
        """Return the space whose random candidates cost between `low` and `high` on average,
        as far as its paper fits that; `costs` measures the mean of a space."""
        ...

    def described(self, config: Any) -> dict[str, str]:
        """Return in words what a candidate has beside its blocks."""
        ...

    def rows(self, config: Any) -> Sequence[Row]:
        """Return the blocks of a candidate in order, for the picture."""
        ...


class SharedSpace(Space, Protocol):
    """A space whose candidates inherit the weights of one network.

    `rules` are by which channels these are trained and judged; `summed` says whether each step
    takes all of them (their logits are added) or draws one.
    """

    @property
    def rules(self) -> tuple[Rule, ...]: ...

    @property
    def summed(self) -> bool: ...

    def supernet(self) -> nn.Module:
        """Return the shared network with random weights."""
        ...


class Levelled(SharedSpace, Protocol):
    """A space that is searched level by level, each with a shared network of its own."""

    def deeper(self, genes: Genes) -> Self | None:
        """Return the next level of the search for what this one chose, None after the last."""
        ...


def drawn(space: Space, rng: random.Random) -> Genes:
    """Return a random candidate."""
    return space.canonical(tuple(gene.draw(rng) for gene in space.genes))


def mutated(space: Space, genes: Genes, rate: float, rng: random.Random) -> Genes:
    """Return a candidate each of whose genes was drawn anew with its own probability, or `rate`."""
    return space.canonical(
        tuple(
            gene.draw(rng) if rng.random() < (rate if gene.often is None else gene.often) else kept
            for gene, kept in zip(space.genes, genes, strict=True)
        )
    )


def crossed(space: Space, one: Genes, other: Genes, rng: random.Random) -> Genes:
    """Return a candidate that has each gene of one of its two parents."""
    return space.canonical(tuple(rng.choice(pair) for pair in zip(one, other, strict=True)))
