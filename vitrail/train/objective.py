"""What is minimised: from a model and a batch to a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.train.batch import Batch

Model = Callable[[Tensor], Tensor | tuple[Tensor, ...]]


class Step(NamedTuple):
    """Where a training is: steps done before this one, of how many, and epochs (fractional)."""

    number: int
    total: int
    epoch: float


class Objective(nn.Module):
    """A module, so that it may own what it needs: a teacher, an attack, a projection head.

    The loop keeps its state with the model's, and computes on the model as it wraps it.
    """

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Of each micro-batch: a mapping that holds the scalar "loss"."""
        raise NotImplementedError

    def after_step(self, model: nn.Module, step: Step) -> None:
        """Of each step, when the weights have moved; nothing by default."""


class CrossEntropy(Objective):
    """Cross entropy with label smoothing: Szegedy et al., arXiv 1512.00567.

    A model that returns several logits in training (a distilled one) is trained on the mean
    of their losses.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ConfigError(f"smoothing {smoothing} is not in [0, 1): 0.1 is usual")
        self.smoothing = smoothing

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """`{"loss": scalar}`: the mean over the batch, in float32."""
        outputs = model(batch.images)
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [
            F.cross_entropy(logits.float(), batch.targets, label_smoothing=self.smoothing)
            for logits in heads
        ]
        return {"loss": torch.stack(losses).mean() if len(losses) > 1 else losses[0]}
