"""Learning to answer as a larger model does: UP-ViTs, Yu, Wu, arXiv 2111.15127.

What a pruned network is tuned with. The teacher, which is the network before it was cut, sees the
same augmented and mixed images in eval mode, and its divergence is a sum over the batch, not a
mean: with 64 images a weight of 0.2 counts 12.8 times as much as the mean would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.objectives.context import Context
from vitrail.objectives.parts.shares import check_smoothing
from vitrail.training.batch import Batch
from vitrail.training.objective import Frozen, Model, Objective, Step


@dataclass(frozen=True)
class SummedDistillation:
    """Minimises the labels' cross entropy plus `weight` times the sum of KL(teacher || model).

    `teacher` is a run folder, a file of weights or a published variant; the sum is over the images
    of a micro-batch.

        vitrail train --set objective=summed_distillation --set objective.teacher=RUN ...
    """

    teacher: str = ""
    weight: float = 0.2
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ConfigError(f"weight {self.weight} is not 0 or more: 0.2 is usual")
        check_smoothing(self.smoothing)

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Open the teacher and make the module that the loop calls. Raises VitrailError."""
        return SummedDistillationLoss(context.open_model(self.teacher), self)


class SummedDistillationLoss(Objective):
    """Maps logits (b, K), or a pair of them, and a teacher's (b, K) to the loss.

    A model of two heads learns both by their mean.
    """

    def __init__(self, teacher: nn.Module, value: SummedDistillation) -> None:
        super().__init__()
        self.teacher, self.value = Frozen(teacher), value

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss", "labels", "teacher"}`: a mean and a sum over the batch, in float32."""
        outputs = model(batch.images)
        logits = torch.stack(outputs).mean(0) if isinstance(outputs, tuple) else outputs
        logits, taught = (x.to(_wide(x)) for x in (logits, self.teacher(batch.images)))
        own = F.cross_entropy(logits, batch.targets, label_smoothing=self.value.smoothing)
        theirs = F.kl_div(
            logits.log_softmax(1), taught.log_softmax(1), reduction="sum", log_target=True
        )
        return {"loss": own + self.value.weight * theirs, "labels": own, "teacher": theirs}


def _wide(x: Tensor) -> Any:
    """Return the type of x, float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)
