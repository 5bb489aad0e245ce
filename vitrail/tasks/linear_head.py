"""A linear model on features, as the head of the network that gave them: fitted in seconds.

Ridge regression to the classes (Hoerl and Kennard, Technometrics 1970), in closed form. Leaving one
image out costs nothing more (Allen's PRESS, Technometrics 1974), and so it chooses the penalty and
the scale that makes of its scores logits: of ten images a class there is none to spare for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.tasks.metrics import cross_entropy, fit_temperature

# Of features with a deviation of 1; from hardly any to one that leaves class means.
PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
SCALES = (1e-3, 20.0)
# The least deviation of a feature, against the mean of all.
FLOOR = 0.1


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Weights float32 (K, D) and a bias (K,) from features to logits, and the penalty chosen.

    `loss` is the cross entropy of images that were each left out of the fit, in nats.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    loss: float

    def logits(self, features: np.ndarray) -> Tensor:
        """Map features float32 (N, D) to logits (N, K)."""
        return nn.functional.linear(torch.from_numpy(features), self.weight, self.bias)

    def fits(self, head: nn.Module) -> bool:
        """Return whether a network's head is one linear layer of this size."""
        weight = getattr(head, "weight", None)
        return (
            isinstance(head, nn.Linear)
            and weight is not None
            and (weight.shape == self.weight.shape and head.bias is not None)
        )

    def into(self, head: nn.Linear) -> None:
        """Give the weights to a network's head."""
        with torch.no_grad():
            head.weight.copy_(self.weight)
            head.bias.copy_(self.bias)


def fit_head(features: np.ndarray, labels: np.ndarray, classes: int) -> LinearHead:
    """Fit a head on features float32 (n, D) and labels int64 (n,) below `classes`.

    Raises ValueError for fewer than two images.

    Examples:
        >>> features = np.float32([[0, 1], [0, 2], [1, 0], [2, 0]])
        >>> fit_head(features, np.array([0, 0, 1, 1]), 2).logits(features).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    n = len(features)
    if n < 2:
        raise ValueError(f"{n} images for a linear head: give two at least")
    x = features.astype(np.float64)
    mean, std = x.mean(0), x.std(0)
    # What hardly varies would get weights that enlarge its rounding errors.
    std = np.maximum(std, max(FLOOR * std.mean(), 1e-6))
    x = (x - mean) / std
    marks = np.eye(classes)[labels]
    shares = marks.mean(0)
    left, values, right = _decomposed(x)
    wanted, truth = left.T @ (marks - shares), torch.from_numpy(labels)
    best: tuple[float, float, float] | None = None
    for penalty in PENALTIES:
        kept = values**2 / (values**2 + penalty)
        leverage = (left**2) @ kept + 1 / n
        wrong = marks - shares - left @ (kept[:, None] * wanted)
        out = torch.from_numpy(marks - wrong / np.maximum(1 - leverage, 1e-3)[:, None])
        scale = fit_temperature(out, truth, bounds=SCALES)
        loss = cross_entropy(out, truth, scale)
        if best is None or loss < best[0]:
            best = loss, penalty, scale
    assert best is not None
    loss, penalty, scale = best
    slopes = right @ ((values / (values**2 + penalty))[:, None] * wanted) / std[:, None]
    bias = shares - mean @ slopes
    weight, bias = (torch.from_numpy((p / scale).astype(np.float32)) for p in (slopes.T, bias))
    return LinearHead(weight, bias, penalty, loss)


def _decomposed(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the singular vectors and values of x (n, D), without those that are nothing, by the
    smaller of its two Gram matrices: (n, r), (r,), (D, r).
    """
    wide = x.shape[0] < x.shape[1]
    squares, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = squares > max(squares[-1], 1.0) * 1e-10
    values, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    if wide:
        return vectors, values, x.T @ vectors / values
    return x @ vectors / values, values, vectors
