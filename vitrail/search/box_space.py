"""The space of a fit for boxes: small backbones of some families under detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vitrail.models import families, faster_rcnn, fcos, mask_rcnn, retinanet
from vitrail.models.trunk.catalog import skeleton
from vitrail.search.candidate import Candidate
from vitrail.search.dense_space import ISOTROPIC, PYRAMIDS, dense_sizes
from vitrail.search.space import in_turns, spread

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
    """Yield small detectors at all sizes with their counts, families and heads in turns; where
    `outlines` are asked for those that draw them."""
    heads = (_drawing,) if outlines else _HEADS
    queues = []
    for image in dense_sizes(image_size):
        for name in (*PYRAMIDS, *ISOTROPIC):
            space = families()[name].SPACE
            hosts = list(space.configs(image=image, channels=channels, classes=classes))
            for head in heads:
                # Each begins with another size, as there may be no time for a second.
                queues.append([head(host) for host in spread(hosts, seed + len(queues))])
    yield from in_turns(queues, _fine)


def _fine(config: Any) -> bool:
    """Return whether the finest map is fine enough for boxes."""
    return min(level.stride for level in skeleton(config).levels) <= FINEST
