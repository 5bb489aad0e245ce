"""How good masks are: intersection over union of each class, and the share of right pixels.

All figures come from counts of pixels, image by image, so that a bootstrap over images (Efron,
Annals of Statistics 7, 1979) needs no mask again. The mean is over classes that truth or answer
shows anywhere; of an image it is over those in that image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitrail.data.masks import IGNORE
from vitrail.report.ahead import Interval
from vitrail.report.scores import Score
from vitrail.tasks.task import Outputs

RESAMPLES = 1000
HITS, SAID, TRUE = range(3)


@dataclass(frozen=True)
class Shown:
    """An image of the test with its truth and the answer, all uint8 of one size.

    `image` is (H, W, C), the masks are (H, W); `overlap` is the image's own mean, in [0, 1], and
    `key` its file.
    """

    key: str
    image: np.ndarray
    truth: np.ndarray
    answer: np.ndarray
    overlap: float


@dataclass(frozen=True, eq=False)
class Maps(Outputs):
    """Counts of the pixels of every image, in place of masks that would fill the memory.

    `values` are int64 (N, 3, K): pixels of each class that were answered rightly, that were
    answered, and that are true. `targets` are int64 (N, K), the last of these. `loss` is the mean
    cross entropy of a labelled pixel, `confusion` int64 (K, K) has a row for each true class.
    """

    loss: float
    confusion: Tensor
    shown: Sequence[Shown] = ()


def counted(answers: Tensor, truth: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the counts (B, 3, K) and the confusion (K, K) of masks (B, H, W), in int64.

    Pixels of truth that are `IGNORE` count for nothing.
    """
    pairs = classes * truth.long() + answers.long()
    found = [
        torch.bincount(pair[true != IGNORE], minlength=classes**2)
        for pair, true in zip(pairs, truth, strict=True)
    ]
    tables = torch.stack(found).view(-1, classes, classes)
    hits = tables.diagonal(dim1=1, dim2=2)
    return torch.stack([hits, tables.sum(1), tables.sum(2)], 1), tables.sum(0)


def overlaps(counts: Tensor) -> Tensor:
    """Return intersection over union (..., K) of counts (..., 3, K); NaN where neither has any."""
    hits, said, true = counts.double().unbind(-2)
    return hits / (said + true - hits)


def mean_overlap(counts: Tensor) -> Tensor:
    """Return the mean (...) of counts (..., 3, K) over the classes that are there, in [0, 1]."""
    return overlaps(counts).nanmean(-1)


def pixel_accuracy(counts: Tensor) -> float:
    """Return the share of labelled pixels with the right class."""
    total = counts.reshape(-1, *counts.shape[-2:]).sum(0)
    return float(total[HITS].sum() / total[TRUE].sum().clamp(min=1))


def mostly_right(counts: Tensor) -> list[bool]:
    """Tell for each of counts (N, 3, K) whether nine of ten labelled places are right."""
    return (counts[:, HITS].sum(1) >= 0.9 * counts[:, TRUE].sum(1)).tolist()


def per_class(total: Tensor) -> list[tuple[float, float, float, float]]:
    """Return of each class the share of true pixels, intersection over union, precision, recall."""
    hits, said, true = total.double().unbind(0)
    columns = true / true.sum(), overlaps(total), hits / said, hits / true
    return [tuple(row) for row in torch.stack(columns, 1).tolist()]


class Resampled:
    """Mean overlaps of some models on the same resamples of N images."""

    def __init__(self, n: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        drawn = random.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        self._weights = torch.from_numpy(drawn).double()

    def means(self, counts: Tensor) -> np.ndarray:
        """Return the mean over classes in each resample, (R,), of counts (N, 3, K)."""
        n, three, classes = counts.shape
        total = self._weights @ counts.double().reshape(n, -1)
        return mean_overlap(total.reshape(-1, three, classes)).numpy()


def interval(middle: float, resampled: np.ndarray) -> Interval:
    """Return a figure with the 95 % interval of its resamples."""
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Interval(middle, float(min(low, middle)), float(max(high, middle)))


def overlap_score(told: Maps, *, name: str, figure: str) -> Score:
    """Return the mean overlap of classes under its `name`, with its interval over resampled items.

    `figure` is what the share of places that are right is called.
    """
    main = float(mean_overlap(told.values.sum(0)))
    spread = interval(main, Resampled(len(told)).means(told.values))
    return Score(
        accuracy=main, low=spread.low, high=spread.high, n=len(told), name=name, loss=told.loss,
        figures={figure: pixel_accuracy(told.values)},
    )  # fmt: skip


def of_constant(counts: Tensor, label: int) -> Tensor:
    """Return the counts of the answer `label` everywhere, on the images of `counts`."""
    said = torch.zeros_like(counts)
    said[:, HITS, label] = counts[:, TRUE, label]
    said[:, SAID, label] = counts[:, TRUE].sum(1)
    said[:, TRUE] = counts[:, TRUE]
    return said
