"""The loss of a detector: what its paper minimises for classes and boxes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.models.trunk.detector import Detector
from vitrail.objectives.context import Context
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Step


@dataclass(frozen=True)
class BoxLoss:
    """Minimises the losses of a detector, each per object: those that its file describes.

    vitrail train --set task=detection --set model.family=retinanet ...
    """

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError for what is not a detector."""
        if not isinstance(model, Detector):
            raise ConfigError(f"{type(model).__name__} finds no boxes: take task=detection")
        return DetectorLoss(model)


class DetectorLoss(Objective):
    """Maps what a detector says of a batch, and targets (b, m, 5), to the terms of its loss."""

    detector: Detector

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        # Not registered: its parameters are the learner's already.
        object.__setattr__(self, "detector", detector)

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return "loss" and its summands, scalars in float32."""
        raw = model(batch.images)
        image = batch.images.shape[-2], batch.images.shape[-1]
        return self.detector.losses(raw, batch.targets.float(), image)
