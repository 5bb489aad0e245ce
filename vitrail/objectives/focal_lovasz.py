"""Focal and Lovász losses together, for points or pixels of lidar scans.

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002; Berman et al.,
"The Lovász-Softmax loss", CVPR 2018, arXiv 1705.08790; together as RangeViT has them (Ando et al.,
CVPR 2023, arXiv 2301.10222): both on probabilities, in equal parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.data.masks import IGNORE
from vitrail.errors import ConfigError
from vitrail.objectives.context import Context
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Step

LEAST = 1e-6  # a probability below which its logarithm is not taken


@dataclass(frozen=True)
class FocalLovasz:
    """Minimises the focal loss of the power `gamma` and the Lovász-softmax of labelled points.

    With `weights` "rare" a class counts by log(1 + 1 / (its share of points + 0.001)), as on
    SemanticKITTI, with "even" all alike, as on nuScenes.

        vitrail train --set task=lidar --set objective.weights=even ...
    """

    gamma: float = 2.0
    weights: Literal["rare", "even"] = "rare"

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 10:
            raise ConfigError(f"gamma is {self.gamma}: expected 0 to 10, 2 is published")

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls."""
        counts = torch.tensor(context.counts, dtype=torch.float32)
        if self.weights == "even" or not counts.sum():
            return FocalLovaszLoss(self.gamma, torch.ones(max(1, len(context.classes))))
        return FocalLovaszLoss(self.gamma, rarity(counts / counts.sum()))


def rarity(shares: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """Return weights of classes from their shares of points, the largest 1."""
    weights = torch.log1p(1 / (shares + 1e-3))
    return weights / weights.max()


class FocalLovaszLoss(Objective):
    """Maps scores (N, K) of points, or (b, K, H, W) of pixels, to the sum of both losses."""

    weights: Tensor

    def __init__(self, gamma: float, weights: Tensor) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss", "focal", "lovasz"}`; 0 where no point is labelled."""
        answer: Any = model
        scores = answer(batch.images, getattr(batch, "points", None)).float()
        if scores.ndim == 4:
            scores = scores.movedim(1, -1).flatten(0, 2)
        targets = batch.targets.flatten()
        there = targets != IGNORE
        shares, targets = scores[there].softmax(1), targets[there]
        terms = {
            "focal": focal(shares, targets, self.weights, self.gamma),
            "lovasz": lovasz_softmax(shares, targets),
        }
        return {"loss": terms["focal"] + terms["lovasz"], **terms}


def focal(
    shares: Float[Tensor, "n k"], targets: Int[Tensor, "n"], weights: Float[Tensor, "k"],
    gamma: float,
) -> Tensor:  # fmt: skip
    """Return the mean of -(1 - p)^gamma log(p) times the weight of the true class.

    Examples:
        >>> import torch
        >>> even = torch.tensor([[0.5, 0.5]])
        >>> float(focal(even, torch.tensor([0]), torch.ones(2), 2.0)) # 0.25 log 2
        0.1732867956161499
    """
    if not len(targets):
        return shares.sum()
    p = shares.gather(1, targets[:, None])[:, 0].clamp(LEAST, 1)
    return ((1 - p) ** gamma * -p.log() * weights[targets]).mean()


def lovasz_softmax(shares: Float[Tensor, "n k"], targets: Int[Tensor, "n"]) -> Tensor:
    """Return the Lovász extension of 1 - intersection over union, the mean of the classes that are
    there.

    Examples:
        >>> import torch
        >>> sure = torch.eye(2)
        >>> float(lovasz_softmax(sure, torch.tensor([0, 1])))
        0.0
        >>> float(lovasz_softmax(sure, torch.tensor([1, 0])))
        1.0
    """
    losses = []
    for label in targets.unique().tolist():
        true = (targets == label).to(shares.dtype)
        errors, order = (true - shares[:, label]).abs().sort(descending=True)
        losses.append(errors @ _slopes(true[order]))
    return torch.stack(losses).mean() if losses else shares.sum()


def _slopes(true: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return by how much each error in turn, the largest first, raises 1
    - intersection over union.
    """
    total = true.sum()
    together = total - true.cumsum(0)
    union = total + (1 - true).cumsum(0)
    jaccard = 1 - together / union
    return torch.cat([jaccard[:1], jaccard.diff()])
