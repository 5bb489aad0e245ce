"""How well a size suits the time: passes over the images, against how many are best."""

from __future__ import annotations

import math

from vitrail.run.budget import Budget
from vitrail.search.candidate import Candidate
from vitrail.search.prior import haste

# What a size that is off by a factor of e in passes over the images is thought to cost.
MISFIT = 0.02
# What it brings to answer by an image and its mirror image: 0.7 to 1.0 points on CIFAR-10.
BOTH_SIDES = 0.008


def passes(images: int, family: str = "") -> float:
    """Return over how many passes small models learn best in a limited time.

    Fewer leave a model undertrained, more would be better spent on a larger one: 25 for 5,000
    images, 12 for 50,000; less in families that learn an image in fewer passes.
    """
    return haste(family) * min(60.0, max(6.0, 25 * (5000 / images) ** 0.3))


def epochs_seen(one: Candidate, images: int, seconds: float) -> float:
    """Return how many passes over the training images the candidate makes in that time."""
    return (one.rate or 0.0) * seconds / images


def fitness(one: Candidate, images: int, seconds: float) -> float:
    """Rate how well a size suits the time: 0 at the best number of passes, less on either side.

    Pretrained weights need a fifth of the passes. Too few passes cost twice as much as too
    many.
    """
    goal = passes(images, one.family) / (5 if one.pretrained else 1)
    off = math.log(max(epochs_seen(one, images, seconds), 1e-9) / goal)
    return -off if off > 0 else 2 * off


def worth(one: Candidate, images: int, seconds: float, sides: Budget | None = None) -> float:
    """Return what a size is worth in accuracy, beside other sizes of its family; `sides` is as in
    `both_sides`."""
    return MISFIT * fitness(one, images, seconds) + both_sides(one, sides)


def both_sides(one: Candidate, sides: Budget | None) -> float:
    """Return what it is worth that a network may answer by both sides of an image in the end.

    `sides` are the limits, which must allow twice its multiply-adds; None where it may not.
    """
    allowed = sides is not None and sides.allows(params=one.params, macs=2 * one.macs)
    return BOTH_SIDES if allowed else 0.0
