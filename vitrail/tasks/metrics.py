"""How good logits are: accuracy with its interval, per class, confusion, calibration.

All functions take logits (N, K) and labels (N,) on the CPU. scikit-learn counts; what it has
not are the bins of a reliability diagram with their error (Naeini et al., AAAI 2015), and the
temperature (Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.proportions import Proportion, wilson

BINS = 15


@dataclass(frozen=True)
class ClassScore:
    """How one class is recognised; `n` is how many samples have its label."""

    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Bin:
    """Samples whose confidence lies in (low, high]: how many, how sure, how often right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, in [0, 1], and the bins that it is made of."""

    error: float
    bins: tuple[Bin, ...]


def accuracy(logits: Tensor, labels: Tensor, *, top: int = 1) -> Proportion:
    """Return the share of samples whose label is among the `top` largest logits."""
    ranked = logits.topk(min(top, logits.shape[1]), dim=1).indices
    return wilson(int((ranked == labels[:, None]).any(1).sum()), len(labels))


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean recall of the classes that have samples."""
    scores = [score.recall for score in per_class(logits, labels) if score.n]
    return sum(scores) / len(scores)


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the counts (K, K): rows are labels, columns are predictions."""
    from sklearn.metrics import confusion_matrix

    guesses, classes = logits.argmax(1), range(logits.shape[1])
    return torch.from_numpy(confusion_matrix(labels, guesses, labels=list(classes)))


def per_class(logits: Tensor, labels: Tensor) -> tuple[ClassScore, ...]:
    """Return precision, recall and F1 of each class, 0 where they are undefined."""
    from sklearn.metrics import precision_recall_fscore_support

    scores = precision_recall_fscore_support(
        labels,
        logits.argmax(1),
        labels=list(range(logits.shape[1])),
        zero_division=0.0,  # pyright: ignore[reportArgumentType]
    )
    *columns, counts = (column.tolist() for column in scores)  # pyright: ignore
    return tuple(ClassScore(*row) for row in zip(counts, *columns, strict=True))


def calibration(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Calibration:
    """Return the calibration of softmax(logits / temperature) in 15 equal bins of confidence."""
    shares = (logits.double() / temperature).softmax(1)
    sure, guesses = shares.max(1)
    right = (guesses == labels).double()
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    places = (torch.bucketize(sure, edges, right=True) - 1).clamp(0, BINS - 1)
    counts = torch.bincount(places, minlength=BINS)
    confidence = torch.bincount(places, sure, minlength=BINS) / counts.clamp(min=1)
    hits = torch.bincount(places, right, minlength=BINS) / counts.clamp(min=1)
    error = (counts * (confidence - hits).abs()).sum() / len(labels)
    columns = (edges[:-1], edges[1:], counts, confidence, hits)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return Calibration(float(error), tuple(Bin(*row) for row in rows))


def cross_entropy(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Return the mean negative log likelihood of the labels, in nats, computed in float64."""
    return float(F.cross_entropy(logits.double() / temperature, labels))


def fit_temperature(
    logits: Tensor,
    labels: Tensor,
    *,
    bounds: tuple[float, float] = (0.05, 20.0),
    loss: Callable[[Tensor, Tensor, float], float] = cross_entropy,
) -> float:
    """Return the temperature T that makes the loss of logits / T least, never worse than T = 1.

    The likelihood has one peak along log T, which a golden-section search finds to 1e-7.
    """
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(bounds[0]), math.log(bounds[1])
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = (loss(logits, labels, math.exp(t)) for t in (left, right))
    while high - low > 1e-7:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(logits, labels, math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(logits, labels, math.exp(right))
    found = math.exp((low + high) / 2)
    return found if loss(logits, labels, found) < loss(logits, labels, 1.0) else 1.0
