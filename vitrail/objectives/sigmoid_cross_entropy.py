"""Binary cross entropy of each class by itself, where an image has one class or a mixture of two.

Beyer et al., "Are we done with ImageNet?", arXiv 2006.07159, and with it AugReg, MLP-Mixer and
Scaling ViT; ResNet Strikes Back, arXiv 2110.00476, marks every class of a mixture as present.
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
from vitrail.training.objective import Model, Objective, Step


@dataclass(frozen=True)
class SigmoidCrossEntropy:
    """Minimises the binary cross entropy of every class, a share `smoothing` spread over all.

    `present` is the share of a mixture above which a class counts as wholly there, None to keep
    shares. `over` says what becomes of the classes: their "mean" (ResNet Strikes Back) or their
    "sum" (Google). `bias` is where the head's bias starts, its weights at zero; the logarithm of
    the share that a class has of all images is usual, -6.9 for 1000 classes, None leaves the head.

        vitrail train --set objective=sigmoid_cross_entropy --set objective.bias=-2.3 ...
    """

    smoothing: float = 0.0
    present: float | None = None
    over: Literal["mean", "sum"] = "mean"
    bias: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing {self.smoothing} is not in [0, 1): 0.1 is usual")
        if self.present is not None and not 0 <= self.present < 1:
            raise ConfigError(f"present {self.present} is not in [0, 1): 0.2 is usual, or none")

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls; set the head where `bias` is given.

        Raises ConfigError for a model without a linear layer in its head.
        """
        if self.bias is not None:
            start_head(model, self.bias)
        return SigmoidCrossEntropyLoss(self.smoothing, self.present, self.over)


def start_head(model: nn.Module, bias: float) -> None:
    """Set the weights of the last linear layers of a model's head to 0, their biases to `bias`.

    A model with two heads has one in each. Raises ConfigError where there is none with a bias.
    """
    head = getattr(model, "head", nn.Identity())
    linear = [one for one in head.modules() if isinstance(one, nn.Linear) and one.bias is not None]
    last = [one for one in linear if one.out_features == linear[-1].out_features]
    if not last:
        raise ConfigError(
            f"objective.bias {bias} needs a head with a linear layer that has a bias, and "
            f"{type(model).__name__} has none: give objective.bias=none"
        )
    with torch.no_grad():
        for one in last:
            one.weight.zero_()
            one.bias.fill_(bias)


class SigmoidCrossEntropyLoss(Objective):
    """Maps logits (b, K) and classes (b,), or shares of classes (b, K), to binary cross entropy.

    A model that returns several logits in training is trained on the mean of their losses.
    """

    def __init__(
        self, smoothing: float = 0.0, present: float | None = None, over: str = "mean"
    ) -> None:
        super().__init__()
        self.smoothing, self.present, self.over = smoothing, present, over

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss": scalar}`: the mean over images, in float32."""
        outputs = model(batch.images)
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [self._of(logits.float(), batch.targets) for logits in heads]
        return {"loss": torch.stack(losses).mean()}

    def _of(self, logits: Tensor, targets: Tensor) -> Tensor:
        classes = logits.shape[1]
        shares = F.one_hot(targets, classes).float() if targets.ndim == 1 else targets
        if self.present is not None:
            shares = (shares > self.present).float()
        shares = (1 - self.smoothing) * shares + self.smoothing / classes
        loss = F.binary_cross_entropy_with_logits(logits, shares)
        return loss if self.over == "mean" else loss * classes
