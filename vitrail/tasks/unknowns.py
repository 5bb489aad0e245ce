"""From which probability on an answer is one, and how many images of unknown classes are told so.

The threshold keeps the answers of 99 of 100 validation images. What it does to images of a class
that was never seen no such image can say. So each class in turn is left out of a quick model, a
kernel ridge regression on the network's features, and its images are asked about. Those features
did learn from the class, so the share is an estimate: eight digits were learned, of the others 28
and 43 % were told, where the estimate was 41 %. An image of another kind altogether may get any
probability (`data.likeness`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitrail.tasks.metrics import fit_temperature
from vitrail.tasks.suspects import scaled, spread

KEPT = 0.99
# Fewer images say nothing of one in a hundred.
FEWEST = 100
# Images to learn from and classes to leave out: more make the estimate slow and hardly better.
MOST, CLASSES = 1000, 10
# A network that is so much less often right than the quick models is not told of by them.
WORSE = 0.05


@dataclass(frozen=True)
class LeftOut:
    """What quick models do that do not know a class: the share `told` of its images that they are
    too unsure about, and the share `right` of the other images that they name rightly."""

    told: float
    right: float

    def speaks_of(self, accuracy: float) -> bool:
        """Tell whether a network of such an accuracy is as good, so that this may hold for it."""
        return accuracy >= self.right - WORSE


def surest(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the likeliest class's probability, float64 (N,), of logits (N, K)."""
    return (logits.double() / temperature).softmax(1).amax(1)


def threshold(logits: Tensor, temperature: float = 1.0) -> float | None:
    """Return the probability below which an answer is "none of these", or None.

    Of images with logits (N, K) 99 % keep their answers. None for fewer than 100 images, and for
    two classes, where what a third would get cannot be measured.
    """
    if logits.shape[1] < 3 or len(logits) < FEWEST:
        return None
    return _cut(surest(logits, temperature))


def _cut(known: Tensor) -> float:
    # Down to four digits, so that rounding takes nobody's answer.
    return math.floor(1e4 * float(known.quantile(1 - KEPT, interpolation="lower"))) / 1e4


def left_out(
    train: np.ndarray, labels: np.ndarray, asked: np.ndarray, truth: np.ndarray
) -> LeftOut | None:
    """Return how many images of a class that was left out a threshold tells.

    `train` (n, D) are features with their `labels` (n,), `asked` (N, D) those of held-back images
    of the classes `truth` (N,). Shares are means over up to ten classes; None where fewer than
    three have images in both.
    """
    whole = scaled(np.concatenate([train, asked]))
    train, asked = whole[: len(train)], whole[len(train) :]
    classes = np.intersect1d(labels, truth)
    if len(classes) < 3:
        return None
    chosen = classes[np.linspace(0, len(classes) - 1, min(CLASSES, len(classes))).astype(int)]
    found = [_without(train, labels, asked, truth, int(one), classes) for one in chosen]
    told, right = np.mean(found, axis=0).tolist()
    return LeftOut(told, right)


def _without(
    train: np.ndarray, labels: np.ndarray, asked: np.ndarray, truth: np.ndarray, out: int,
    classes: np.ndarray,
) -> tuple[float, float]:  # fmt: skip
    """Tell of a model without one class how many of its images it tells,
    how many others it knows.
    """
    from sklearn.kernel_ridge import KernelRidge

    named = classes[classes != out]
    rows = spread(np.flatnonzero(np.isin(labels, named)), labels, MOST)
    marks = (labels[rows, None] == named).astype(np.float64)
    prior = marks.mean(0)
    ridge = KernelRidge(kernel="rbf", gamma=1.0).set_params(alpha=0.3)
    ridge.fit(train[rows], marks - prior)
    scores = torch.from_numpy(ridge.predict(asked) + prior)
    known, unknown = (torch.from_numpy(some) for some in (np.isin(truth, named), truth == out))
    answers = torch.from_numpy(np.searchsorted(named, truth))[known]
    temperature = fit_temperature(scores[known], answers)
    shares = surest(scores, temperature)
    told = float((shares[unknown] < _cut(shares[known])).double().mean())
    return told, float((scores[known].argmax(1) == answers).double().mean())
