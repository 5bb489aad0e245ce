"""Which detector a backbone becomes where boxes are asked for."""

from __future__ import annotations

from typing import Any

from vitrail.config import hints, kind_of, members
from vitrail.errors import ConfigError
from vitrail.models import family_of, mask_rcnn, retinanet
from vitrail.models.trunk.catalog import networks

# Channels of pyramid and head where nothing else is said: enough for a few classes of a small set.
WIDTH = 128
# The same of what looks at proposals, and of what draws outlines.
PROPOSALS, HIDDEN, LAYERS = 200, 512, 2


def is_detector(config: Any) -> bool:
    """Return whether a Config is that of a network that finds boxes."""
    return hasattr(networks()[family_of(config)], "BOXES")


def on_boxes(config: Any, *, outlines: bool = False) -> Any:
    """Return the Config itself where it is a detector's, else the backbone under a RetinaNet, or
    under a Mask R-CNN where `outlines` are asked for.

    Raises ConfigError for a backbone that it cannot stand on.
    """
    if is_detector(config):
        return config
    require_host(config)
    if outlines:
        return mask_rcnn.Config(
            config, width=WIDTH, proposals=PROPOSALS, hidden=HIDDEN, drawing=(WIDTH,) * LAYERS
        )
    return retinanet.Config(config, width=WIDTH)


def under(config: Any, head: str) -> Any:
    """Return a backbone under the detector of a file, as published. Raises ConfigError."""
    require_host(config)
    return networks()[head].Config(config)


def require_host(config: Any) -> None:
    """Raise ConfigError for a backbone that no detector stands on."""
    hosts = members(hints(retinanet.Config)["host"])
    if type(config) in hosts:
        return
    known = sorted({kind_of(one) for one in hosts})
    raise ConfigError(
        f"model {family_of(config)} stands under no detector: take a backbone of {', '.join(known)}"
    )
