"""From which probability on an answer is one: measured on classes that may not be named.

Each held-back image is asked about twice: as it is, and with its own class taken from the answers,
which is how an image of a class that the network does not know may come out. The network did learn
from that class, so one that it has never seen may be told less well; and an image of another kind
may get any probability (`data.likeness`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Of the images of known classes so many keep their answer, and so many of the others must lose it
# for a threshold to be worth anything.
KEPT, WORTH = 0.99, 0.1


@dataclass(frozen=True)
class Refused:
    """Of `n` images the shares that are "none of these": of known classes, and of unnamed ones."""

    known: float
    unknown: float
    n: int


def surest(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the likeliest class's probability, as it is and with the own class taken away.

    Both are float64 (N,), of logits (N, K), K at least 2, and labels (N,).
    """
    scaled = logits.double() / temperature
    without = scaled.scatter(1, labels[:, None], -torch.inf)
    return scaled.softmax(1).amax(1), without.softmax(1).amax(1)


def threshold(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float | None:
    """Return the probability below which an answer is "none of these", or None.

    99 % of the images keep their answers. None where fewer than 10 % of those whose class is taken
    away would lose theirs, and for two classes, of which only one would be left.
    """
    if logits.shape[1] < 3 or not len(labels):
        return None
    as_it_is, unnamed = surest(logits, labels, temperature)
    # Down to four digits, so that rounding takes nobody's answer.
    cut = math.floor(1e4 * float(as_it_is.quantile(1 - KEPT, interpolation="lower"))) / 1e4
    return cut if float((unnamed < cut).double().mean()) >= WORTH else None


def refused(logits: Tensor, labels: Tensor, temperature: float, cut: float) -> Refused:
    """Return what a threshold does to images of known classes and of classes taken away."""
    as_it_is, unnamed = surest(logits, labels, temperature)
    known, unknown = (float((shares < cut).double().mean()) for shares in (as_it_is, unnamed))
    return Refused(known, unknown, len(labels))
