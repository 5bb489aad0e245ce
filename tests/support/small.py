"""Small models: the shallowest that a family's search space has for some images."""

from __future__ import annotations

from functools import cache
from typing import Any

from vitrail.errors import ConfigError
from vitrail.models import families
from vitrail.models.trunk.catalog import skeleton


@cache
def shallowest(family: str, side: int) -> Any:
    """Return the config for square images of three channels and five classes; of those that are
    as deep it is the one of the largest patches. Only what is tried is built."""
    space = families()[family].SPACE.configs(image=(side, side), channels=3, classes=5)
    for config in sorted(space, key=_depth):
        try:
            skeleton(config)
        except ConfigError:
            continue
        return config
    raise AssertionError(f"no small {family} takes {side}x{side} images")


def _depth(config: Any) -> tuple[int, int]:
    return getattr(config, "depth", 1), -getattr(config, "patch", 1)
