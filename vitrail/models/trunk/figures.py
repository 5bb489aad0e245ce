"""What is counted once for every variant and kept beside the catalog, as data.

`python -m vitrail.models figures [FAMILY ...]` makes figures.json anew, for some families or for
all; a test compares it with the models.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from vitrail.models.trunk.backbone import Inputs

FILE = Path(__file__).with_name("figures.json")


class Counted(NamedTuple):
    """Of a variant as published: parameters, multiply-adds, values of the state outside of the
    head, and a fingerprint of the state's names."""

    params: int
    macs: int
    body: int
    names: str


@lru_cache(maxsize=1)
def _data() -> Mapping[str, Any]:
    return json.loads(FILE.read_text("utf-8"))


@lru_cache(maxsize=1)
def counted() -> Mapping[str, Counted]:
    """Return the figures of every variant by its name."""
    return MappingProxyType({n: Counted(*f) for n, f in _data()["variants"].items()})


@lru_cache(maxsize=1)
def vocabulary() -> Mapping[str, frozenset[str]]:
    """Return the names of each family's tensors, their numbers left out."""
    return MappingProxyType({f: frozenset(names) for f, names in _data()["names"].items()})


@lru_cache(maxsize=1)
def inputs() -> Mapping[str, Inputs]:
    """Return what weights of timm's take, by their names without the
    owner: swin_tiny_...ms_in1k.
    """
    return MappingProxyType(
        {
            name: Inputs(tuple(mean), tuple(std), crop_pct, interpolation)
            for name, (mean, std, crop_pct, interpolation) in _data()["inputs"].items()
        }
    )


def unnumbered(name: str) -> str:
    """Return a name without its numbers: those of blocks differ in nothing else."""
    return re.sub(r"\d+", "#", name)


def fingerprint(names: Iterable[str]) -> str:
    """Return a short text that two sets of names share only if they are equal."""
    return f"{zlib.crc32(chr(10).join(sorted(names)).encode()):08x}"
