"""Checks of sizes that many layers share."""

from __future__ import annotations


def head_width(dim: int, heads: int) -> int:
    """Return the channels of a head, dim / heads. Raises ValueError unless that is whole."""
    if heads < 1 or dim < 1 or dim % heads:
        raise ValueError(f"dim {dim} does not divide into {heads} heads: choose a divisor")
    return dim // heads
