"""Which channels stay: those of the largest scores, heads made of those that stay in a group.

Yu, Wu, "A Unified Pruning Framework for Vision Transformers" (UP-ViTs), arXiv 2111.15127: the
channels of attention are divided into as many consecutive groups as there will be heads, and the
best of a group are a new head, whichever old heads they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.models.trunk.backbone import Backbone
from vitrail.models.trunk.widths import INNER, Cut, places, sizes

Scores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """The sizes that a model is cut to: channels by the name of a width, heads by that of an inner
    one. A width that is left out keeps its size."""

    channels: Mapping[str, int]
    heads: Mapping[str, int]


def best(scores: Tensor, count: int) -> list[int]:
    """Return the `count` channels of the largest scores (n,), ascending; of equal ones the first
    goes first."""
    if not 1 <= count <= len(scores):
        raise ConfigError(f"{count} of {len(scores)} channels cannot stay: give 1 or more of them")
    gone = torch.argsort(scores, stable=True)[: len(scores) - count]
    stays = torch.ones(len(scores), dtype=torch.bool)
    stays[gone.cpu()] = False
    return stays.nonzero().flatten().tolist()


def grouped(scores: Tensor, heads: int, width: int) -> list[int]:
    """Return the channels of `heads` new heads of `width`, head by head.

    The scores (n,) are those of all old channels, in `heads` consecutive groups of about the same
    size; the best `width` of each, ascending, make a head.
    """
    found, start = [], 0
    for group in torch.tensor_split(scores, heads):
        found += [start + channel for channel in best(group, width)]
        start += len(group)
    return found


def chosen(scores: Scores, shape: Shape) -> Cut:
    """Return the cut that keeps the best channels of every width at its size."""
    kept, heads = {}, {}
    for width, count in shape.channels.items():
        if width.startswith(INNER + "."):
            heads[width] = shape.heads[width]
            channels = grouped(scores[width], heads[width], count // heads[width])
        else:
            channels = best(scores[width], count)
        kept[width] = tuple(channels)
    return Cut(kept, heads)


def magnitudes(model: Backbone) -> dict[str, Tensor]:
    """Return for every width the sum of squares of each channel's weights, in float64.

    Only matrices and kernels count: what a norm multiplies by says nothing of a channel's use.
    """
    state = model.state_dict()
    found = {w: torch.zeros(n, dtype=torch.float64) for w, n in sizes(model).items()}
    for place in places(model):
        value = state[place.tensor]
        if value.ndim > 1:
            part = value.narrow(place.axis, place.start, place.size).double().square()
            axes = [axis for axis in range(value.ndim) if axis != place.axis]
            found[place.width] += part.sum(axes).cpu()
    return found


def at_random(model: Backbone, seed: int) -> dict[str, Tensor]:
    """Return a random score for every channel of every width."""
    drawn = torch.Generator().manual_seed(seed)
    return {w: torch.rand(n, generator=drawn) for w, n in sizes(model).items()}
