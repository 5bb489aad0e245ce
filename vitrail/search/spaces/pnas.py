"""PNAS's space: a cell of up to five blocks, stacked small to be tried and large to be used.

Liu et al., ECCV 2018, arXiv 1712.00559. A block adds two of eight operations on any two earlier
states; what no block reads is concatenated; normal and reduction cells are one cell. A candidate's
Config is the network that is used in the end, of `widest` sizes; `small` is the one that is
trained to judge its cell, as the paper does (F = 24 and N = 2 there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from vitrail.errors import ConfigError
from vitrail.layers.genotype import Genotype, loose_ends
from vitrail.measure.counts import Counts
from vitrail.models.parts.pnasnet_cells import OPERATIONS
from vitrail.models.pnasnet import Config
from vitrail.search.spaces.blocks import Block, Blocks, canonical, grown
from vitrail.search.spaces.images import Images
from vitrail.search.spaces.pnas_counts import counted
from vitrail.search.spaces.space import Gene, Genes, Row

# Widths of the first cells that a budget chooses from, and that of a network without one.
WIDTHS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 64)
USUAL = 32
# Larger images meet stem cells first, which halve them.
SMALL = 48
MOST_BLOCKS = 5


@dataclass(frozen=True)
class PNAS:
    """Cells of up to `blocks` blocks in networks as `widest`; tried with `small_dim` channels and
    `small_depth` cells a stage."""

    name: ClassVar[str] = "pnas"
    title: ClassVar[str] = "PNAS"
    paper: ClassVar[str] = "arXiv 1712.00559"

    widest: Config
    blocks: int = MOST_BLOCKS
    small_dim: int = 16
    small_depth: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.blocks <= MOST_BLOCKS:
            raise ConfigError(f"blocks {self.blocks} of a cell are not 1 to {MOST_BLOCKS}")
        if self.small_dim < 8 or self.small_depth < 1:
            raise ConfigError(
                f"small_dim {self.small_dim} and small_depth {self.small_depth} make no network "
                "to try cells with: give 8 channels and one cell a stage, or more"
            )

    @classmethod
    def of(cls, images: Images) -> PNAS:
        """Return the space for images; every size fits that has three pixels a side."""
        if min(images.size) < 3:
            raise ConfigError(f"PNAS needs images of 3x3 pixels or more: these have {images.size}")
        stem_cells = 0 if max(images.size) <= SMALL else 2
        widest = Config(
            dim=USUAL, depth=2, stem_dim=USUAL, stem_cells=stem_cells, padding="symmetric",
            image=images.size, channels=images.channels, classes=images.classes,
        )  # fmt: skip
        return cls(widest)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """Return how many blocks (a random cell has all of them), then two states and two
        operations for each."""
        sizes = tuple(range(1, self.blocks + 1))
        sides = [
            gene
            for n in range(self.blocks)
            for side in (1, 2)
            for gene in (
                Gene(f"state {n}.{side}", tuple(range(n + 2))),
                Gene(f"operation {n}.{side}", OPERATIONS),
            )
        ]
        return (Gene("blocks", sizes, likely=(*(0.0,) * (self.blocks - 1), 1.0)), *sides)

    def cell(self, genes: Genes) -> Blocks:
        """Return the blocks of a candidate."""
        found = []
        for n in range(genes[0] + 1):
            i1, o1, i2, o2 = genes[1 + 4 * n : 5 + 4 * n]
            found.append(((i1, o1), (i2, o2)))
        return tuple(found)

    def coded(self, blocks: Blocks) -> Genes:
        """Return the genes of a cell, in the form that it has."""
        flat = [number for block in blocks for side in block for number in side]
        return (len(blocks) - 1, *flat, *(0,) * (4 * self.blocks - len(flat)))

    def begun(self) -> list[Genes]:
        """Return the 136 cells of one block."""
        return [self.coded(blocks) for blocks in sorted({*grown((), len(OPERATIONS))})]

    def grown(self, genes: Genes) -> Iterator[Genes]:
        """Yield the cells that have one block more, some more than once; none at the largest."""
        if genes[0] + 1 < self.blocks:
            for blocks in grown(self.cell(genes), len(OPERATIONS)):
                yield self.coded(blocks)

    @property
    def ends(self) -> tuple[Genes, Genes]:
        pool, dense = OPERATIONS.index("max_3x3"), OPERATIONS.index("1x7_7x1")
        cheap = [self.coded((((i, pool), (j, pool)),)) for i, j in ((0, 0), (0, 1), (1, 1))]
        small = min(cheap, key=lambda genes: self.count(self.config(genes)).macs)
        full: Block = ((0, dense), (1, dense))
        return small, self.coded((full,) * self.blocks)

    def canonical(self, genes: Genes) -> Genes:
        return self.coded(canonical(self.cell(genes)))

    def config(self, genes: Genes) -> Config:
        genotype: Genotype = tuple(
            (OPERATIONS[op], state) for block in self.cell(genes) for state, op in block
        )
        return replace(self.widest, genotype=genotype, concat=loose_ends(genotype))

    def small(self, genes: Genes) -> Config:
        """Return the network by which a cell is judged."""
        dim, depth = self.small_dim, self.small_depth
        return replace(self.config(genes), dim=dim, depth=depth, stem_dim=dim)

    def count(self, config: Config) -> Counts:
        return counted(config)

    def fitted(self, costs: Callable[[PNAS], float], low: float, high: float) -> PNAS:
        """Return the space of the widest networks that cost no more than `high` on average."""
        spaces = [
            replace(self, widest=replace(self.widest, dim=dim, stem_dim=dim)) for dim in WIDTHS
        ]
        found = spaces[0]
        for space in spaces[1:]:
            if costs(space) > high:
                break
            found = space
        return found

    def described(self, config: Config) -> dict[str, str]:
        return {
            "blocks of the cell": str(len(config.genotype) // 2),
            "cells": str(3 * config.depth + config.stem_cells),
            "channels of a block": f"{config.dim}, twice as many after each reduction",
            "concatenated": " ".join(f"block {state - 1}" for state in config.concat),
        }

    def rows(self, config: Config) -> list[Row]:
        found, states = [], ("before-last", "last")
        for n in range(len(config.genotype) // 2):
            sides = config.genotype[2 * n : 2 * n + 2]
            parts = tuple((name, float(config.dim)) for name, _ in sides)
            read = (states[s] if s < 2 else f"block {s - 1}" for _, s in sides)
            found.append(Row(f"block {n + 1}", parts, "of " + " and ".join(read)))
        return found
