"""BATS's space: two cells of four nodes, each the sum of two operations that bear being binary.

Bulat et al., ECCV 2020, arXiv 2003.01711. Grouped and dilated grouped convolutions of 3x3 and 5x5,
pools and identities, on two of the states before. The shared network of `shared` sizes learns with
signs as inputs and real weights, the paper's best; a candidate's Config is the network that is used
in the end, binary in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import ClassVar, Literal

from vitrail.errors import ConfigError
from vitrail.layers.genotype import Genotype
from vitrail.measure.counts import Counts
from vitrail.models.bats import Config
from vitrail.run.subject import counted
from vitrail.search.spaces.binary_counts import operations
from vitrail.search.spaces.images import Images
from vitrail.search.spaces.space import Gene, Genes, Row
from vitrail.search.supernets.bats import CHOICES, EDGES, NODES, Super
from vitrail.search.supernets.indices import Prefix, Rule
from vitrail.units import count

SMALL = 48


@dataclass(frozen=True)
class BATS:
    """Cells in networks as `found`; the shared one has `shared_dim` channels and `shared_cells`
    (the paper's are 16 and 8, on accelerators; a step of these takes ten seconds of a core).

    `temperature` divides the architecture weights, 1 is DARTS; `entropy` is what their entropy
    weighs in what is minimised for them; `searched` says what is binary during the search:
    "inputs", "none" or "sign" for inputs and weights.
    """

    name: ClassVar[str] = "bats"
    title: ClassVar[str] = "BATS"
    paper: ClassVar[str] = "arXiv 2003.01711"

    found: Config
    shared_dim: int = 8
    shared_cells: int = 3
    temperature: float = 0.2
    entropy: float = 0.0
    searched: Literal["inputs", "none", "sign"] = "inputs"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature {self.temperature} is not above 0: 0.2 is BATS's")
        if self.entropy < 0:
            raise ConfigError(f"entropy {self.entropy} is below 0: 0 is off")
        if self.shared_cells < 3 or self.shared_dim < 4 or self.shared_dim % self.found.groups:
            raise ConfigError(
                f"shared_dim {self.shared_dim} and shared_cells {self.shared_cells} make no "
                f"network: give three cells or more, and a multiple of {self.found.groups} channels"
            )

    @classmethod
    def of(cls, images: Images) -> BATS:
        """Return the space for images of any size."""
        stem = "cifar" if max(images.size) <= SMALL else "imagenet"
        found = Config(
            dim=24, cells=5, groups=4, stem=stem, image=images.size, channels=images.channels,
            classes=images.classes,
        )  # fmt: skip
        return cls(found)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """Return for each node of both cells which two states it reads, and an operation for
        each."""
        return tuple(
            gene
            for kind in ("normal", "reduce")
            for node in range(NODES)
            for gene in (
                Gene(f"{kind} states {node}", tuple(combinations(range(node + 2), 2))),
                Gene(f"{kind} operation {node}.1", CHOICES),
                Gene(f"{kind} operation {node}.2", CHOICES),
            )
        )

    @property
    def rules(self) -> tuple[Rule, ...]:
        return (Prefix(),)

    @property
    def summed(self) -> bool:
        return False

    @property
    def ends(self) -> tuple[Genes, Genes]:
        # In a reduction an identity of an input is a convolution, a pool never is.
        pool, wide = CHOICES.index("max_pool_3x3"), CHOICES.index("sep_conv_5x5")
        return (0, pool, pool) * (2 * NODES), (0, wide, wide) * (2 * NODES)

    def canonical(self, genes: Genes) -> Genes:
        """Return the genes: the states of a node are in order already."""
        return genes

    def config(self, genes: Genes) -> Config:
        half = 3 * NODES
        normal, reduce = self._genotype(genes[:half]), self._genotype(genes[half:])
        return replace(self.found, normal=normal, reduce=reduce)

    def _genotype(self, genes: Genes) -> Genotype:
        found = []
        for node in range(NODES):
            pair, one, other = genes[3 * node : 3 * node + 3]
            states = [*combinations(range(node + 2), 2)][pair]
            found += [(CHOICES[op], state) for op, state in zip((one, other), states, strict=True)]
        return tuple(found)

    def strongest(self, weights: tuple[list[list[float]], list[list[float]]]) -> Genes:
        """Return the cells of the strongest edges: of each node the two on which an operation
        other than none weighs most, with that operation."""
        found: list[int] = []
        for table in weights:
            for node in range(NODES):
                edges = [at for at, (owner, _) in enumerate(EDGES) if owner == node]
                best = {at: max(range(len(CHOICES)), key=table[at].__getitem__) for at in edges}
                two = sorted(sorted(edges, key=lambda at: -table[at][best[at]])[:2])
                first, second = (EDGES[at][1] for at in two)
                pairs = [*combinations(range(node + 2), 2)]
                found += [pairs.index((first, second)), *(best[at] for at in two)]
        return tuple(found)

    def count(self, config: Config) -> Counts:
        counts = counted(config)
        assert counts is not None  # every cell of the space can be built
        return counts

    def supernet(self) -> Super:
        config = replace(
            self.found, dim=self.shared_dim, cells=self.shared_cells, binary=self.searched,
            auxiliary=False, drop_path=0.0,
        )  # fmt: skip
        return Super(config, self.temperature)

    def fitted(self, costs: Callable[[BATS], float], low: float, high: float) -> BATS:
        """Return the space itself: what is over a limit is rejected."""
        return self

    def described(self, config: Config) -> dict[str, str]:
        def said(genotype: Genotype) -> str:
            nodes = [genotype[i : i + 2] for i in range(0, len(genotype), 2)]
            return "; ".join(
                " + ".join(f"{op} of {_state(state)}" for op, state in node) for node in nodes
            )

        done = operations(config)
        return {
            "multiply-adds": f"{count(done.binary)} of signs, {count(done.real)} of real numbers",
            "cells": f"{config.cells}, two of them reductions",
            "channels of a node": f"{config.dim}, twice as many after each reduction",
            "normal cell": said(config.normal),
            "reduction": said(config.reduce),
        }

    def rows(self, config: Config) -> list[Row]:
        found = []
        for kind, genotype in (("normal", config.normal), ("reduction", config.reduce)):
            for node in range(len(genotype) // 2):
                sides = genotype[2 * node : 2 * node + 2]
                parts = tuple((name, float(config.dim)) for name, _ in sides)
                read = (_state(state) for _, state in sides)
                found.append(Row(f"{kind} {node + 1}", parts, "of " + " and ".join(read)))
        return found


def _state(state: int) -> str:
    return ("before-last", "last")[state] if state < 2 else f"node {state - 1}"
