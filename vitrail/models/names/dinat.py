"""The names that DiNAT's authors, and transformers, give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.models.names.nat import BLOCK


def _names(config: Any) -> list:
    """Return the rows of names; the isotropic network's blocks stand in no level."""
    levels = [("layers.{i}.downsample.", "stages.{i+1}.down."), ("layers.", "stages.")]
    flat = [("layers.", "stages.0.blocks.")]
    return [("patch_embed.", "stem."), *(flat if len(config.depths) == 1 else levels), *BLOCK]


TABLES: dict[str, list | Callable[[Any], list]] = {
    "SHI-Labs/Neighborhood-Attention-Transformer": _names
}
