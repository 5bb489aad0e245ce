"""Binary cross entropy of each label by itself, for images with any number of labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.objectives.context import Context
from vitrail.objectives.parts.shares import check_balance, check_smoothing
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Step


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Minimises the binary cross entropy of every label, a share `smoothing` of each made even.

    `balance` weighs an image that has a label against one that has not by the label's rarity to
    this power: 0 not at all, 1 so that both sides count alike. It makes rare labels likelier than
    they are; thresholds are chosen after it either way.

        vitrail train --set task=multilabel --set objective.balance=0.5 ...
    """

    smoothing: float = 0.0
    balance: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.smoothing)
        check_balance(self.balance)

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls."""
        if not self.balance:
            return BinaryCrossEntropyLoss(self.smoothing)
        having = torch.tensor(context.counts, dtype=torch.float32).clamp(min=1)
        lacking = (context.images - having).clamp(min=1)
        weights = (lacking / having) ** self.balance
        # The mean weight of an image is 1 in each label, so that rates mean what they meant.
        scale = (having + lacking) / (having * weights + lacking)
        return BinaryCrossEntropyLoss(self.smoothing, weights * scale, scale)


class BinaryCrossEntropyLoss(Objective):
    """Maps logits (b, K) and shares of labels (b, K) in [0, 1] to their binary cross entropy.

    A model that returns several logits in training is trained on the mean of their losses.
    `having` and `lacking` (K,) multiply the loss of images with and without each label.
    """

    having: Tensor | None
    lacking: Tensor | None

    def __init__(
        self,
        smoothing: float = 0.0,
        having: Tensor | None = None,
        lacking: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("having", having, persistent=False)
        self.register_buffer("lacking", lacking, persistent=False)

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss": scalar}`: the mean over images and labels, in float32."""
        outputs = model(batch.images)
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [self._of(logits.float(), batch.targets) for logits in heads]
        return {"loss": torch.stack(losses).mean() if len(losses) > 1 else losses[0]}

    def _of(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights = None
        if self.having is not None and self.lacking is not None:
            weights = targets * self.having + (1 - targets) * self.lacking
        smoothed = targets * (1 - self.smoothing) + self.smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smoothed, weights)
