"""found.json: the network that a search found, as a Config that others take, and its genes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail.config import read_json
from vitrail.errors import ConfigError
from vitrail.search.spaces.space import Genes, Space

NAME = "found.json"


@dataclass(frozen=True)
class Searched:
    """How a network was found: its space and genes, and the figures of the search."""

    space: str
    genes: Genes
    images: tuple[int, int]
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FoundFile:
    """`model` is the Config in JSON, as recipes have it."""

    model: dict[str, Any]
    search: Searched


def genes_of(path: Path, space: Space, images: tuple[int, int]) -> Genes:
    """Return the genes of a found file, to begin another search of its space with.

    Raises ConfigError for a file of another space, or of one for other images.
    """
    remedy = "give a found.json that a search wrote"
    told = read_json(path, FoundFile, remedy=remedy, error=ConfigError).search
    if told.space != space.name:
        raise ConfigError(
            f"{path} was found in the space {told.space}, and this search is of {space.name}: "
            "begin with one of its own, or without --start"
        )
    fits = len(told.genes) == len(space.genes) and all(
        0 <= number < len(gene.options)
        for number, gene in zip(told.genes, space.genes, strict=True)
    )
    if told.images != images or not fits:
        (h, w), (height, width) = told.images, images
        raise ConfigError(
            f"{path} is of {space.name} for {h}x{w} images, and this search has {height}x{width}: "
            "begin without --start"
        )
    return space.canonical(told.genes)
