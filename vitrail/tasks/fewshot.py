"""Labels from frozen features: nearest neighbours and regularised least squares.

The k-NN is that of DINO (Wu et al., CVPR 2018, arXiv 1805.01978): the k most similar features vote
with exp(similarity / temperature). The linear model is a least-squares fit of marks, Zhai et al.,
"Scaling Vision Transformers", arXiv 2106.04560, its penalty chosen by leave-one-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.errors import DataError

NEIGHBOURS, TEMPERATURE = 20, 0.07
# Leave-one-out chooses one of these, in units of the features' mean square.
PENALTIES = tuple(10.0**power for power in range(-4, 4))


@dataclass(frozen=True)
class Shots:
    """How often two models on frozen features are right with `shots` labels of each class.

    Means over `draws` of the labels, with a 95 % interval over draws (Student's), None for one.
    `shots` None is all labels.
    """

    shots: int | None
    draws: int
    knn: float
    linear: float
    knn_interval: tuple[float, float] | None = None
    linear_interval: tuple[float, float] | None = None


def unit(features: np.ndarray) -> np.ndarray:
    """Return features (N, D) of length 1."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norms, 1e-12)


def nearest(
    known: np.ndarray, labels: np.ndarray, asked: np.ndarray, *, k: int = NEIGHBOURS
) -> np.ndarray:
    """Return the classes int64 (M,) of features `asked` (M, D) by their `k` nearest of `known`."""
    k = min(k, len(known))
    similar = unit(asked) @ unit(known).T
    near = np.argpartition(-similar, k - 1, axis=1)[:, :k]
    weights = np.exp((np.take_along_axis(similar, near, 1) - 1) / TEMPERATURE)
    votes = np.zeros((len(asked), int(labels.max()) + 1))
    np.add.at(votes, (np.arange(len(asked))[:, None], labels[near]), weights)
    return votes.argmax(1)


def least_squares(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the classes int64 (M,) of `asked` by a penalised linear fit of marks of -1 and 1."""
    fit = _Fit(known, labels)
    best = min(PENALTIES, key=fit.left_out)
    return fit.classes[fit.scores(asked, best).argmax(1)]


def left_out_error(known: np.ndarray, labels: np.ndarray, penalty: float) -> float:
    """Return the mean squared error of marks, each of a linear fit to all other images."""
    return _Fit(known, labels).left_out(penalty)


class _Fit:
    """A linear fit of marks to features for any penalty, by one singular value decomposition."""

    def __init__(self, known: np.ndarray, labels: np.ndarray) -> None:
        self.mean, self.scale = known.mean(0), known.std() + 1e-12
        self.classes = np.unique(labels)
        marks = np.where(labels[:, None] == self.classes, 1.0, -1.0)
        self.centre = marks.mean(0)
        self.marks = marks - self.centre
        x = ((known - self.mean) / self.scale).astype(np.float64)
        self.u, self.s, self.vt = np.linalg.svd(x, full_matrices=False)
        self.rotated = self.u.T @ self.marks

    def left_out(self, penalty: float) -> float:
        n = len(self.marks)
        shrink = self.s**2 / (self.s**2 + penalty * n)
        leverage = 1 / n + (self.u**2) @ shrink
        wrong = self.marks - self.u @ (shrink[:, None] * self.rotated)
        return float(((wrong / np.maximum(1 - leverage, 1e-9)[:, None]) ** 2).mean())

    def scores(self, asked: np.ndarray, penalty: float) -> np.ndarray:
        weights = self.s / (self.s**2 + penalty * len(self.marks))
        x = (asked - self.mean) / self.scale
        return x @ (self.vt.T @ (weights[:, None] * self.rotated)) + self.centre


def few_shots(
    known: np.ndarray,
    labels: np.ndarray,
    asked: np.ndarray,
    truth: np.ndarray,
    *,
    shots: Sequence[int | None],
    draws: int = 5,
    seed: int = 0,
) -> list[Shots]:
    """Return how often features tell classes, for each number of labels.

    `known` (N, D) with `labels` (N,) are what labels are drawn from, `asked` (M, D) with `truth`
    (M,) what is told. Raises DataError where a class has fewer labels than are asked for.
    """
    found = []
    for n in shots:
        if n is not None:
            _require(labels, n)
        times = draws if n is not None else 1
        rights = []
        for draw in range(times):
            rows = _drawn(labels, n, np.random.default_rng((seed, draw)))
            told = (
                nearest(known[rows], labels[rows], asked),
                least_squares(known[rows], labels[rows], asked),
            )
            rights.append([float((one == truth).mean()) for one in told])
        knn, linear = np.array(rights).T
        means = float(knn.mean()), float(linear.mean())
        found.append(Shots(n, times, *means, _interval(knn), _interval(linear)))
    return found


def _require(labels: np.ndarray, n: int) -> None:
    counts = np.bincount(labels)
    least = int(counts[counts > 0].min())
    if least < n:
        raise DataError(
            f"a class has only {least} labelled images to learn from, and {n} of each are asked "
            f"for: give --shots of up to {least}"
        )


def _drawn(labels: np.ndarray, n: int | None, random: np.random.Generator) -> np.ndarray:
    """Draw rows of n labels of each class, all without n."""
    if n is None:
        return np.arange(len(labels))
    rows = [
        random.choice(np.flatnonzero(labels == label), n, replace=False)
        for label in np.unique(labels)
    ]
    return np.concatenate(rows)


def _interval(rights: np.ndarray) -> tuple[float, float] | None:
    from scipy import stats

    n = len(rights)
    if n < 2:
        return None
    half = float(stats.t.ppf(0.975, n - 1) * rights.std(ddof=1) / np.sqrt(n))
    return max(0.0, float(rights.mean()) - half), min(1.0, float(rights.mean()) + half)
