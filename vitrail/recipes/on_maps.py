"""Which network of maps a backbone becomes where a class for every pixel is asked for."""

from __future__ import annotations

from typing import Any

from vitrail.config import hints, kind_of, members
from vitrail.errors import ConfigError
from vitrail.models import family_of, segmenter, semantic_fpn
from vitrail.models.trunk.catalog import networks


def is_dense(config: Any) -> bool:
    """Return whether a Config is that of a network that answers for every pixel."""
    return hasattr(networks()[family_of(config)], "DENSE")


def on_maps(config: Any) -> Any:
    """Return the Config itself where it is one of maps, else the backbone under the lightest head.

    A pyramid gets a light FPN, a backbone of one resolution a linear layer for each patch. Raises
    ConfigError for a backbone that neither takes.
    """
    if is_dense(config):
        return config
    if type(config) in members(hints(semantic_fpn.Config)["host"]):
        return semantic_fpn.Config(config)
    isotropic = members(hints(segmenter.Config)["host"])
    if type(config) in isotropic:
        return segmenter.Config(config, segmenter.LinearDecoder())
    known = [kind_of(one) for one in (*members(hints(semantic_fpn.Config)["host"]), *isotropic)]
    raise ConfigError(
        f"model {family_of(config)} has no head of maps: take a network of `vitrail list --dense`, "
        f"or a backbone of {', '.join(sorted(set(known) - {'encoder'}))}"
    )
