"""The space of a fit for boxes: small backbones of some families under detectors."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from vitrail.models import families, faster_rcnn, fcos, mask_rcnn, retinanet
from vitrail.models.trunk.catalog import skeleton
from vitrail.run.subject import counted
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.dense_space import ISOTROPIC, PYRAMIDS, dense_sizes

# Wide enough for small backbones; the published heads are wider.
WIDTH = 64
# Enough proposals for the few objects of a small image, and layers for their outlines.
PROPOSALS, HIDDEN, LAYERS = 100, 256, 2
# A map must be so fine, in pixels of the image, for objects to be told apart on it.
FINEST = 16

_HEADS: tuple[Callable[[Any], Any], ...] = (
    lambda host: retinanet.Config(host, width=WIDTH),
    lambda host: fcos.Config(host, width=WIDTH),
    lambda host: faster_rcnn.Config(host, width=WIDTH, proposals=PROPOSALS, hidden=HIDDEN),
)


def _drawing(host: Any) -> Any:
    drawing = (WIDTH,) * LAYERS
    return mask_rcnn.Config(host, width=WIDTH, proposals=PROPOSALS, hidden=HIDDEN, drawing=drawing)


def box_candidates(
    image_size: tuple[int, int], channels: int, classes: int, seed: int, *, outlines: bool = False
) -> Iterator[Candidate]:
    """Small detectors at all sizes with their counts, families and heads in turns; where `outlines`
    are asked for those that draw them."""
    heads = (_drawing,) if outlines else _HEADS
    queues = []
    for image in dense_sizes(image_size):
        for name in (*PYRAMIDS, *ISOTROPIC):
            space = families()[name].SPACE
            hosts = list(space.configs(image=image, channels=channels, classes=classes))
            random.Random(f"{seed} {name}").shuffle(hosts)
            queues += [[head(host) for host in hosts] for head in heads]
    while any(queues):
        for configs in queues:
            while configs:
                config = configs.pop()
                figures = counted(config)
                if figures is not None and _fine(config):
                    yield candidate(config, params=figures.params, macs=figures.macs)
                    break


def _fine(config: Any) -> bool:
    """Return whether the finest map is fine enough for boxes."""
    return min(level.stride for level in skeleton(config).levels) <= FINEST
