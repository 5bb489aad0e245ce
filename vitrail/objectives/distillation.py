"""Learning from a teacher as DeiT does: Touvron et al., ICML 2021, arXiv 2012.12877.

The teacher sees the same augmented and mixed images, in eval mode. A model of two heads (DeiT's
distillation token, LeViT) learns the labels by the first and the teacher by the second; one of one
head (CaiT, XCiT) learns both by it. In eval mode such models answer with the mean of their heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.objectives.context import Context
from vitrail.training.batch import Batch
from vitrail.training.objective import Frozen, Model, Objective, Step


@dataclass(frozen=True)
class Distillation:
    """Minimises (1 - share) of the labels' cross entropy plus `share` of the teacher's.

    `teacher` is a run folder, a file of weights or a published variant. Of its outputs "hard" takes
    the likeliest class for a label, "soft" the probabilities at a `temperature`, with a divergence
    that is divided by images times classes as in DeiT's code, so that it is smaller than one per
    image by the number of classes. DeiT's paper has temperature 3 and share 0.1 for that.

        vitrail train --set objective=distillation --set objective.teacher=RUN ...
    """

    teacher: str = ""
    outputs: Literal["hard", "soft"] = "hard"
    share: float = 0.5
    temperature: float = 1.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share {self.share} is not in [0, 1]: 0.5 is usual")
        if not self.temperature > 0:
            raise ConfigError(f"temperature {self.temperature} is not above 0: 1 is usual")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing {self.smoothing} is not in [0, 1): 0.1 is usual")

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Open the teacher and make the module that the loop calls. Raises VitrailError."""
        return DistillationLoss(context.open_model(self.teacher), self)


class DistillationLoss(Objective):
    """Maps logits (b, K), or a pair of them, and a teacher's (b, K) to the distillation loss."""

    def __init__(self, teacher: nn.Module, value: Distillation) -> None:
        super().__init__()
        self.teacher, self.value = Frozen(teacher), value

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss", "labels", "teacher"}`: means over the batch, in float32."""
        outputs = model(batch.images)
        first, second = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        taught = self.teacher(batch.images)
        own = F.cross_entropy(_whole(first), batch.targets, label_smoothing=self.value.smoothing)
        theirs = self._from(_whole(second), _whole(taught))
        loss = (1 - self.value.share) * own + self.value.share * theirs
        return {"loss": loss, "labels": own, "teacher": theirs}

    def _from(self, logits: Tensor, taught: Tensor) -> Tensor:
        if self.value.outputs == "hard":
            return F.cross_entropy(logits, taught.argmax(1))
        t = self.value.temperature
        wanted, found = (taught / t).log_softmax(1), (logits / t).log_softmax(1)
        apart = F.kl_div(found, wanted, reduction="sum", log_target=True)
        return apart * t**2 / logits.numel()


def _whole(logits: Tensor) -> Tensor:
    """Logits in float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()
