"""Cross entropy with label smoothing: Szegedy et al., CVPR 2016, arXiv 1512.00567."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.objectives.context import Context
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Step


@dataclass(frozen=True)
class CrossEntropy:
    """Minimises the cross entropy of labels, a share `smoothing` of each spread over all classes.

    `balance` weighs each class by its rarity to this power: 0 not at all, 1 so that all classes
    count alike, 0.5 between the two. Of a model that gives several logits in training, what the
    others weigh beside the first is `auxiliary`: 1 takes the mean.

        vitrail train --set objective.smoothing=0.05 --set objective.balance=1 ...
    """

    smoothing: float = 0.1
    balance: float = 0.0
    auxiliary: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing {self.smoothing} is not in [0, 1): 0.1 is usual")
        if not 0 <= self.balance <= 1:
            raise ConfigError(f"balance {self.balance} is not in [0, 1]: 0 is off, 1 is full")

        if self.auxiliary < 0:
            raise ConfigError(f"auxiliary {self.auxiliary} is below 0: 1 is usual, 0.4 in PNAS")

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls."""
        weights = None
        if self.balance:
            counts = torch.tensor(context.counts, dtype=torch.float32).clamp(min=1)
            weights = (counts.sum() / counts / len(counts)) ** self.balance
            # The mean weight of an image is 1, so that rates mean what they meant.
            weights = weights * counts.sum() / (weights * counts).sum()
        return CrossEntropyLoss(self.smoothing, weights, self.auxiliary)


class CrossEntropyLoss(Objective):
    """Maps logits (b, K) and classes (b,), or shares of classes (b, K), to their cross entropy.

    A model that returns several logits in training (a distilled one) is trained on the mean
    of their losses, those behind the first multiplied by `auxiliary`. `weights` (K,) multiply the
    loss of each class.
    """

    weights: Tensor | None

    def __init__(
        self, smoothing: float = 0.0, weights: Tensor | None = None, auxiliary: float = 1.0
    ) -> None:
        super().__init__()
        self.smoothing, self.auxiliary = smoothing, auxiliary
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss": scalar}`: the mean over the batch, in float32."""
        outputs = model(batch.images)
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [self._of(logits.float(), batch.targets) for logits in heads]
        if len(losses) == 1:
            return {"loss": losses[0]}
        if self.auxiliary == 1:
            return {"loss": torch.stack(losses).mean()}
        rest = torch.stack(losses[1:]).sum()
        whole = 1 + self.auxiliary * (len(losses) - 1)
        return {"loss": (losses[0] + self.auxiliary * rest) / whole}

    def _of(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        # torch divides by the weights of the batch, which would undo them where a batch has one
        # class; here the mean over images is taken.
        losses = F.cross_entropy(logits, targets, label_smoothing=self.smoothing, reduction="none")
        shares = self.weights[targets] if targets.ndim == 1 else targets @ self.weights
        return (losses * shares).mean()
