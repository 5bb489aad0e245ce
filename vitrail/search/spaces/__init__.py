"""The spaces that `vitrail search` knows by name, one file each."""

from __future__ import annotations

from typing import Any

from vitrail.config import nearest
from vitrail.errors import ConfigError
from vitrail.search.spaces.autoformer import AutoFormer
from vitrail.search.spaces.bats import BATS
from vitrail.search.spaces.glit import GLiT
from vitrail.search.spaces.images import Images
from vitrail.search.spaces.pnas import PNAS
from vitrail.search.spaces.space import Space
from vitrail.search.spaces.vitas import ViTAS

SPACES: dict[str, Any] = {kind.name: kind for kind in (ViTAS, AutoFormer, GLiT, PNAS, BATS)}
# Those whose candidates inherit the weights of one network.
SHARED = tuple(name for name, kind in SPACES.items() if hasattr(kind, "rules"))


def known(name: str) -> Any:
    """Return the kind of space that has this name. Raises ConfigError."""
    if name not in SPACES:
        raise ConfigError(f"no search is called {name!r}: {nearest(name, [*SPACES])}")
    return SPACES[name]


def space_of(name: str, images: Images) -> Space:
    """Return a space for images. Raises ConfigError where it does not fit them."""
    return known(name).of(images)
