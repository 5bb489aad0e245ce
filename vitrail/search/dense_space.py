"""The space of a fit for masks: small backbones of some families under the heads that take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vitrail.models import families, segmenter, semantic_fpn, upernet
from vitrail.models.trunk.catalog import skeleton
from vitrail.search.candidate import Candidate
from vitrail.search.space import in_turns, spread

# A mask wants more pixels than a label.
SIDES = (64, 96, 128, 192, 256, 384, 512)
# Families whose levels or patches heads read, and the coarsest stride of their finest map.
PYRAMIDS = ("resnet", "cswin", "swin", "pvt", "nat", "airbench")
ISOTROPIC = ("vit", "deit", "xcit")
FINEST = 8
# Wide enough for small backbones; the published heads are wider.
FPN, UPERNET = 64, 96


def dense_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return training sizes (H, W) for images of the median `size`, none larger than these are.

    Small images keep their size, others become squares.
    """
    if max(size) <= 64:
        return [size]
    short = min(size)
    sides = [side for side in SIDES if side <= short * 1.15]
    return [(side, side) for side in sides[-3:]] or [(short, short)]


def dense_candidates(
    image_size: tuple[int, int], channels: int, classes: int, seed: int
) -> Iterator[Candidate]:
    """Yield small networks of maps at all sizes with their counts, families and heads in turns."""
    queues = []
    for image in dense_sizes(image_size):
        for name in (*PYRAMIDS, *ISOTROPIC):
            space = families()[name].SPACE
            hosts = list(space.configs(image=image, channels=channels, classes=classes))
            for head in _heads(name):
                # Each begins with another size, as there may be no time for a second.
                queues.append([head(host) for host in spread(hosts, seed + len(queues))])
    yield from in_turns(queues, _fine)


def _heads(family: str) -> Sequence[Callable[[Any], Any]]:
    """Return the heads of a family, as functions from a host's Config to that of a network of
    maps."""
    if family in ISOTROPIC:
        return (
            lambda host: segmenter.Config(host, segmenter.LinearDecoder()),
            lambda host: segmenter.Config(host, segmenter.MaskDecoder(depth=1)),
        )
    return (
        lambda host: semantic_fpn.Config(host, width=FPN),
        lambda host: upernet.Config(host, width=UPERNET),
    )


def _fine(config: Any) -> bool:
    """Return whether the finest map is fine enough for masks."""
    stride = min(level.stride for level in skeleton(config).levels)
    return stride <= FINEST
