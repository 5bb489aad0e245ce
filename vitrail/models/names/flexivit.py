"""Name tables of FlexiViT: those of ViT whose position table has no row for the class token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.models.names import vit

_BIG_VISION = vit.TABLES["google-research/big_vision"]
TABLES: dict[str, list | Callable[[Any], list]] = {
    "google-research/big_vision": _BIG_VISION,
    "npz": vit.TABLES["npz"],
    "timm": _BIG_VISION,
}
