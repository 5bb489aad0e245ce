"""Labels that may be wrong, and images that are like no other.

A label is suspected where a model that never saw the image thinks of another class: its shares are
out of fold, and each is compared with how sure that model is of a class on average, as confident
learning does (Northcutt, Jiang and Chuang, JAIR 70, 2021, arXiv 1911.00068). The model is a kernel
ridge regression, which is quick and knows all classes at once. An image is an outlier where even
its fifth neighbour is far away (Ramaswamy, Rastogi and Shim, SIGMOD 2000), beyond Tukey's outer
fence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vitrail.tasks.metrics import fit_temperature

FOLDS = 5
# More images to learn from make it slow and the order of the suspects hardly better.
MOST = 2000
NEIGHBOUR = 5
# Tukey's outer fence lies so many interquartile ranges above the upper quartile.
FENCE = 3.0


@dataclass(frozen=True, eq=False)
class View:
    """How images are seen: `name` continues "a kernel model on", `features` are (N, D)."""

    name: str
    features: np.ndarray


@dataclass(frozen=True)
class Suspicion:
    """An image, by its `row`, whose label may be wrong: the class that it looks like, and its
    share in [0, 1]."""

    row: int
    guess: int
    share: float


def scaled(features: np.ndarray) -> np.ndarray:
    """Return features (N, D) in float32 with a mean of 0 and a mean squared length of 1."""
    moved = features.astype(np.float32) - features.mean(0, dtype=np.float64).astype(np.float32)
    spread = moved.std(0)
    moved /= spread + 0.3 * spread.mean() + 1e-6
    return moved / np.sqrt(max(float((moved**2).sum(1).mean()), 1e-12))


def folds(labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the fold of each image, int64 (N,): classes spread evenly, groups kept together."""
    _, first, of = np.unique(groups, return_index=True, return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(len(first))
    order = np.lexsort((drawn, labels[first]))
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[of]


def out_of_fold(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int
) -> np.ndarray:
    """Return what models that did not learn from an image say of it: shares (N, classes).

    `features` (N, D) as `scaled` gives them, `labels` int64 (N,); images of one of the `groups`
    (N,), such as copies of a picture, are never on both sides.
    """
    from sklearn.kernel_ridge import KernelRidge

    marks = np.eye(classes)[labels]
    scores, fold = np.empty((len(labels), classes)), folds(labels, groups)
    for one in range(FOLDS):
        asked, known = np.flatnonzero(fold == one), np.flatnonzero(fold != one)
        if not len(asked):
            continue
        known = spread(known, labels, MOST)
        prior = marks[known].mean(0) if len(known) else np.full(classes, 1 / classes)
        scores[asked] = prior
        if len(known):
            ridge = KernelRidge(kernel="rbf", gamma=1.0).set_params(alpha=0.3)
            ridge.fit(features[known], marks[known] - prior)
            scores[asked] += ridge.predict(features[asked])
    temperature = fit_temperature(torch.from_numpy(scores), torch.from_numpy(labels))
    return (torch.from_numpy(scores) / temperature).softmax(1).numpy()


def spread(rows: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the rows, int64 (n,), evenly over the classes."""
    if len(rows) <= most:
        return rows
    ordered = rows[np.argsort(labels[rows], kind="stable")]
    return ordered[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def suspects(shares: np.ndarray, labels: np.ndarray) -> list[Suspicion]:
    """Return the images that look like another class than theirs, the surest first.

    `shares` (N, K) come from models that did not learn from the images, `labels` int64 (N,).
    Classes of fewer than two images cannot be judged and are left out.
    """
    counts = np.bincount(labels, minlength=shares.shape[1])
    rows = np.arange(len(labels))
    given = shares[rows, labels]
    usual = np.bincount(labels, given, minlength=shares.shape[1]) / np.maximum(counts, 1)
    # A class that no image has is not an answer, and one that is hard to tell needs less to be one.
    beyond = np.where(counts > 0, shares - usual, -np.inf)
    guesses = beyond.argmax(1)
    gap = beyond[rows, guesses] - beyond[rows, labels]
    found = rows[(guesses != labels) & (counts[labels] > 1)]
    ordered = found[np.argsort(-gap[found], kind="stable")]
    return [Suspicion(int(row), int(guesses[row]), float(shares[row, guesses[row]]))
            for row in ordered]  # fmt: skip


def tells(right: float, labels: np.ndarray) -> bool:
    """Tell whether answers that are `right` so often know more than which class is commonest.

    `labels` int64 (N,) are those of the images that were asked about. Chance alone would say so
    once in twenty times.
    """
    common = np.bincount(labels).max() / len(labels)
    return right > common + 1.645 * np.sqrt(common * (1 - common) / len(labels))


def outliers(features: np.ndarray) -> list[tuple[int, float]]:
    """Return the rows of images that lie alone, and how many times as far off as a usual one.

    `features` (N, D) as `scaled` gives them; the farthest come first. Distances are to the fifth
    neighbour among up to `MOST` images; fewer than 20 images have no outlier.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(features) < 4 * NEIGHBOUR:
        return []
    chosen = np.linspace(0, len(features) - 1, min(MOST, len(features))).astype(np.int64)
    near = NearestNeighbors(n_neighbors=NEIGHBOUR + 1, algorithm="brute").fit(features[chosen])
    distances, found = near.kneighbors(features)
    # An image is its own nearest neighbour where it is among those that are compared with.
    itself = (chosen[found] == np.arange(len(features))[:, None]).any(1)
    far = np.where(itself, distances[:, NEIGHBOUR], distances[:, NEIGHBOUR - 1])
    low, middle, high = np.percentile(far, [25, 50, 75])
    alone = np.flatnonzero(far > high + FENCE * (high - low))
    ordered = alone[np.argsort(-far[alone], kind="stable")]
    return [(int(row), float(far[row] / max(middle, 1e-12))) for row in ordered]


def clearest(
    views: Sequence[View], labels: np.ndarray, groups: np.ndarray, *, judged: np.ndarray,
    classes: int,
) -> tuple[View, np.ndarray, float]:  # fmt: skip
    """Return the view in which classes are told apart best, its shares, and how often it is right.

    Only the images in `judged`, bool (N,), count: those that no view learned from. The share of
    them whose label it names is in [0, 1].
    """
    said = []
    for view in views:
        shares = out_of_fold(view.features, labels, groups, classes)
        right = float((shares.argmax(1) == labels)[judged].mean())
        said.append((view, shares, right))
    return max(said, key=lambda one: one[2])
