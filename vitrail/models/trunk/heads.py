"""The last layer of a classifier."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from vitrail.layers.linear import Linear


def linear_head(
    width: int, classes: int, kind: Callable[[int, int], nn.Module] = Linear
) -> nn.Module:
    """Return the module that maps (B, width) to (B, classes), `kind` of both sizes.

    Without classes it is the identity, so that a model's logits are its embedding.
    """
    return kind(width, classes) if classes else nn.Identity()
