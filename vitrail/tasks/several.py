"""How good logits are where an image has any number of labels, and where to cut them.

All functions take logits (N, K) and marks of 0 and 1 (N, K) on the CPU. scikit-learn counts; what
it has not are an average precision of weighted images, for the bootstrap (Efron, Annals of
Statistics 7, 1979), and the thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.report.ahead import Interval

# Resamples of the bootstrap: fewer where there are many images and labels.
RESAMPLES, FEWEST, WORK = 1000, 200, 200_000_000
# A threshold lies where logits leave a gap, so that rounding in another engine changes no answer.
GAP = 1e-3
# Beyond such logits float32 tells no probability from 0 or 1.
FARTHEST = 13.8


@dataclass(frozen=True)
class LabelScore:
    """How one label is found, where `n` images have it; precision and recall at its threshold."""

    n: int
    average_precision: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Found:
    """F1 over all pairs of image and label, its mean over labels, and the share of images whose
    whole set of labels is right."""

    micro_f1: float
    macro_f1: float
    exact: float


def cross_entropy(logits: Tensor, marks: Tensor, temperature: float = 1.0) -> float:
    """Return the mean binary cross entropy over images and labels in nats, in float64."""
    scaled = logits.double() / temperature
    return float(F.binary_cross_entropy_with_logits(scaled, marks.double()))


def average_precisions(logits: Tensor, marks: Tensor) -> list[float | None]:
    """Return the average precision of each label, None for one that no image has."""
    from sklearn.metrics import average_precision_score

    # A network that diverged has a score as well: what is not a number ranks last.
    ranked = torch.nan_to_num(logits, nan=torch.finfo(logits.dtype).min)
    columns = zip(ranked.T.numpy(), marks.long().T.numpy(), strict=True)
    return [
        float(average_precision_score(truth, scores)) if truth.any() else None
        for scores, truth in columns
    ]


def mean_average_precision(logits: Tensor, marks: Tensor) -> float:
    """Return the mean over labels that some image has; 0 where no image has any."""
    known = [value for value in average_precisions(logits, marks) if value is not None]
    return sum(known) / len(known) if known else 0.0


def per_label(logits: Tensor, marks: Tensor, chosen: Tensor) -> tuple[LabelScore, ...]:
    """Return the scores of each label; `chosen` bool (N, K) are the answers."""
    from sklearn.metrics import precision_recall_fscore_support

    truth = marks.long().numpy()
    columns = [
        precision_recall_fscore_support(
            truth[:, k],
            answers,
            pos_label=1,
            average="binary",
            zero_division=0.0,  # pyright: ignore[reportArgumentType]
        )[:3]
        for k, answers in enumerate(chosen.long().T.numpy())
    ]
    precisions = [value or 0.0 for value in average_precisions(logits, marks)]
    counts = marks.sum(0).long().tolist()
    rows = zip(counts, precisions, columns, strict=True)
    return tuple(LabelScore(n, value, *map(float, row)) for n, value, row in rows)


def found(chosen: Tensor, marks: Tensor) -> Found:
    """Return F1 over all pairs and over labels that some image has, and whole sets."""
    truth = marks.bool()
    hits = (chosen & truth).sum(0).double()
    both = chosen.sum(0).double() + truth.sum(0).double()
    having = truth.any(0)
    macro = (2 * hits / both.clamp(min=1))[having]
    return Found(
        float(2 * hits.sum() / both.sum().clamp(min=1)),
        float(macro.mean()) if len(macro) else 0.0,
        float((chosen == truth).all(1).double().mean()),
    )


def thresholds(logits: Tensor, marks: Tensor, temperature: float = 1.0) -> tuple[float, ...]:
    """Return for each label the probability from which on it is told, where F1 is largest.

    Of several that are as good it is the nearest to 0.5, which is also that of a label without any
    image. Probabilities are sigmoid(logits / temperature).
    """
    columns = zip(logits.double().T, marks.T, strict=True)
    cuts = [_cut(values.numpy(), truth.bool().numpy()) / temperature for values, truth in columns]
    bounded = torch.tensor(cuts, dtype=torch.float64).clamp(-FARTHEST, FARTHEST)
    return tuple(bounded.sigmoid().tolist())


def _cut(values: np.ndarray, truth: np.ndarray) -> float:
    """Return the logit at which one label is cut."""
    if not truth.any():
        return 0.0
    order = np.argsort(-values, kind="stable")
    ranked, hits = values[order], np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(values) + 1) + truth.sum())
    after = np.append(ranked[1:], ranked[-1] - 1)
    apart = ranked - after > GAP
    middles = ((ranked + after) / 2)[apart]
    best = f1[apart] >= f1[apart].max() - 1e-12
    # 0 is the middle of no gap, but may lie in one that is as good.
    zero = (ranked > GAP / 2)[apart] & (after < -GAP / 2)[apart] & best
    return 0.0 if zero.any() else float(min(middles[best], key=abs))


class Resampled:
    """Mean average precisions of some models on the same resamples of N images."""

    def __init__(self, marks: Tensor, seed: int = 0) -> None:
        self.marks = marks.numpy().astype(np.float64)
        n, labels = self.marks.shape
        self.count = int(min(RESAMPLES, max(FEWEST, WORK // max(1, n * labels))))
        self._seed = seed

    def means(self, scores: np.ndarray) -> np.ndarray:
        """Return the mean average precision of scores (N, K) in each resample: (R,)."""
        n, labels = self.marks.shape
        ranked = [_Ranked(scores[:, k], self.marks[:, k]) for k in range(labels)]
        random = np.random.default_rng(self._seed)
        means = np.empty(self.count)
        for at in range(self.count):
            weights = np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)
            known = [v for one in ranked if (v := one.average_precision(weights)) is not None]
            means[at] = sum(known) / len(known) if known else 0.0
        return means


class _Ranked:
    """One label's images, the likeliest first."""

    def __init__(self, scores: np.ndarray, marks: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._marks = marks[self._order]
        # Images of one score are found together.
        self._last = np.searchsorted(-ranked, -ranked, side="right") - 1

    def average_precision(self, weights: np.ndarray) -> float | None:
        """Average precision where each image counts `weights` (N,) times."""
        seen = weights[self._order]
        hits = seen * self._marks
        if not (total := hits.sum()):
            return None
        precision = np.cumsum(hits)[self._last] / np.maximum(np.cumsum(seen)[self._last], 1e-300)
        return float((hits * precision).sum() / total)


def interval(middle: float, resampled: Sequence[float] | np.ndarray) -> Interval:
    """Return a figure with the 95 % interval of its resamples."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(middle, float(min(low, middle)), float(max(high, middle)))
