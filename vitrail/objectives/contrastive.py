"""Images and sentences that belong together are drawn close, all others of a batch apart.

With the image tower locked this is LiT: Zhai et al., CVPR 2022, arXiv 2111.07991. Without, it is
CLIP's training: Radford et al., ICML 2021, arXiv 2103.00020; the sigmoid loss: arXiv 2303.15343.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.pairs import sigmoid_loss, softmax_loss
from vitrail.models.lit import LiT
from vitrail.objectives.context import Context
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Step


@dataclass(frozen=True)
class Contrastive:
    """Minimises how badly sentences of a batch are told by their images, and the other way round.

    With `locked` the image tower stays as it came, and only the sentences learn.

    vitrail train --set task=image_text --set objective.locked=false ...
    """

    locked: bool = True
    loss: Literal["softmax", "sigmoid"] = "softmax"

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError for a model of no pairs."""
        if not isinstance(model, LiT):
            raise ConfigError(
                f"objective contrastive needs two towers, and {type(model).__name__} has one: set "
                "task=image_text"
            )
        if (self.loss == "sigmoid") != (model.b is not None):
            wanted = "true" if self.loss == "sigmoid" else "false"
            raise ConfigError(f"objective.loss is {self.loss}: set model.bias={wanted} for it")
        if self.locked:
            model.locked()
        return ContrastiveLoss(self.loss)


class ContrastiveLoss(Objective):
    """Maps images (b, C, H, W) and ids of their sentences (b, length) to the loss of the batch of
    all processes, and the temperature."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss": scalar, "temperature": scalar}`, in float32."""
        towers = cast(LiT, model)
        images, texts = (x.float() for x in towers(batch.images, batch.targets))
        if self.loss == "sigmoid":
            loss = sigmoid_loss(images, texts, towers.temperature, cast(Tensor, towers.b))
        else:
            loss = softmax_loss(images, texts, towers.temperature)
        return {"loss": loss, "temperature": towers.temperature.squeeze()}
