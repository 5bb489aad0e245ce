"""Cross entropy of the class of every pixel, for networks that answer with maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.masks import IGNORE
from vitrail.objectives.context import Context
from vitrail.objectives.parts.shares import check_balance, check_smoothing
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Step


@dataclass(frozen=True)
class PixelCrossEntropy:
    """Minimises the mean cross entropy of the labelled pixels of a batch.

    Pixels of class 255 count for nothing. `smoothing` is the share of each label that is spread
    over all classes. `balance` weighs each class by the rarity of images that show it to this
    power: 0 not at all, 1 so that all classes count alike.

        vitrail train --set task=segmentation --set objective.balance=0.5 ...
    """

    smoothing: float = 0.0
    balance: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.smoothing)
        check_balance(self.balance)

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls."""
        weights = None
        if self.balance:
            counts = torch.tensor(context.counts, dtype=torch.float32).clamp(min=1)
            weights = (counts.max() / counts) ** self.balance
        return PixelCrossEntropyLoss(self.smoothing, weights)


class PixelCrossEntropyLoss(Objective):
    """Maps scores (b, K, H, W) and classes (b, H, W) to their cross entropy.

    `weights` (K,) multiply the loss of each class's pixels, and the mean is over weights.
    """

    weights: Tensor | None

    def __init__(self, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss": scalar}`: the mean over labelled pixels, in float32; 0 where there are
        none."""
        scores = model(batch.images)
        assert isinstance(scores, Tensor)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        weights = None if self.weights is None else self.weights.to(scores.dtype)
        total = F.cross_entropy(
            scores, batch.targets, weights, ignore_index=IGNORE, reduction="sum",
            label_smoothing=self.smoothing,
        )  # fmt: skip
        labelled = batch.targets != IGNORE
        count = labelled.sum() if weights is None else weights[batch.targets[labelled]].sum()
        return {"loss": total / count.clamp(min=1)}
