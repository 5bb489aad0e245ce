"""Learning from a teacher as DeiT does: Touvron et al., ICML 2021, arXiv 2012.12877.

The teacher sees the same augmented and mixed images, in eval mode. A model of two heads (DeiT's
distillation token, LeViT) learns the labels by the first and the teacher by the second; one of one
head (CaiT, XCiT) learns both by it. In eval mode such models answer with the mean of their heads.

Without another model a network may learn from its own average, as in "Mean teachers are better role
models", Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.objectives.context import Context
from vitrail.training.average import Pairs
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Step, Taught
from vitrail.units import shortened


@dataclass(frozen=True)
class Distillation:
    """Minimises (1 - share) of the labels' cross entropy plus `share` of the teacher's.

    `teacher` is a run folder, a file of weights or a published variant. Of its outputs "hard" takes
    the likeliest class for a label, "soft" the probabilities at a `temperature`, with a divergence
    that is divided by images times classes as in DeiT's code, so that it is smaller than one per
    image by the number of classes. DeiT's paper has temperature 3 and share 0.1 for that.

    With an `average` above 0 there is no other teacher: the network learns from the average of its
    own weights, with so much weight on the past; 0.99 is usual, with "soft" outputs.

        vitrail train --set objective=distillation --set objective.teacher=RUN ...
    """

    teacher: str = ""
    outputs: Literal["hard", "soft"] = "hard"
    share: float = 0.5
    temperature: float = 1.0
    smoothing: float = 0.1
    average: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share {self.share} is not in [0, 1]: 0.5 is usual")
        if not self.temperature > 0:
            raise ConfigError(f"temperature {self.temperature} is not above 0: 1 is usual")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing {self.smoothing} is not in [0, 1): 0.1 is usual")
        if not 0 <= self.average < 1:
            raise ConfigError(f"average {self.average} is not in [0, 1): 0 is off, 0.99 is usual")
        if self.average and self.teacher:
            raise ConfigError(
                f"teacher {self.teacher} and average {self.average} are both given: learn from the "
                "one or the other"
            )

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Open the teacher and make the module that the loop calls. Raises VitrailError."""
        if self.average:
            return DistillationLoss(OwnAverage(model, self.average), self)
        teacher = context.open_model(self.teacher)
        require_classes(self.teacher, teacher, context.classes)
        return DistillationLoss(Taught(teacher), self)


class OwnAverage(nn.Module):
    """The average of a model's weights as its teacher: maps a batch to logits (b, K).

    It is part of the snapshots, and takes no gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.model, self.decay = deepcopy(model).requires_grad_(False), decay
        self.eval()

    def train(self, mode: bool = True) -> OwnAverage:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch.images)

    def follow(self, model: nn.Module, step: int) -> None:
        """Move after the step number `step` of the model."""
        Pairs(self.model, model).follow(self.decay, step)


class DistillationLoss(Objective):
    """Maps logits (b, K), or a pair of them, and a teacher's (b, K) to the distillation loss.

    `teacher` maps a batch to its logits.
    """

    def __init__(self, teacher: Taught | OwnAverage, value: Distillation) -> None:
        super().__init__()
        self.teacher, self.value = teacher, value

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss", "labels", "teacher"}`: means over the batch, in float32."""
        outputs = model(batch.images)
        first, second = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        taught = self.teacher(batch)
        own = F.cross_entropy(_whole(first), batch.targets, label_smoothing=self.value.smoothing)
        theirs = self._from(_whole(second), _whole(taught))
        loss = (1 - self.value.share) * own + self.value.share * theirs
        return {"loss": loss, "labels": own, "teacher": theirs}

    def after_step(self, model: nn.Module, step: Step) -> None:
        """Let the model's own average follow, where that teaches."""
        if isinstance(self.teacher, OwnAverage):
            self.teacher.follow(model, step.number)

    def _from(self, logits: Tensor, taught: Tensor) -> Tensor:
        if self.value.outputs == "hard":
            return F.cross_entropy(logits, taught.argmax(1))
        t = self.value.temperature
        wanted, found = (taught / t).log_softmax(1), (logits / t).log_softmax(1)
        apart = F.kl_div(found, wanted, reduction="sum", log_target=True)
        return apart * t**2 / logits.numel()


def require_classes(spec: str, teacher: nn.Module, classes: Sequence[str]) -> None:
    """Raise ConfigError unless a teacher tells these classes, as far as it says what it tells."""
    theirs, count = getattr(teacher, "classes", ()), getattr(teacher, "count", len(classes))
    if theirs and theirs != tuple(classes):
        told = shortened(", ".join(theirs)), shortened(", ".join(classes))
        raise ConfigError(
            f"teacher {spec} tells {told[0]} apart and this training {told[1]}: give a teacher of "
            "the same classes"
        )
    if count != len(classes):
        raise ConfigError(
            f"teacher {spec} tells {count} classes apart and this training {len(classes)}: give a "
            "teacher of the same classes"
        )


def _whole(logits: Tensor) -> Tensor:
    """Return the logits in float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()
