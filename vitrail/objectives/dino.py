"""DINO: views of an image are to be told apart from other images as a slow average tells them.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv
2104.14294. No labels are read, and any backbone learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vitrail.objectives.context import Context
from vitrail.objectives.parts.crops import Crops
from vitrail.objectives.parts.distilled import SelfDistillation, Teaching
from vitrail.training.objective import Objective


@dataclass(frozen=True)
class Dino:
    """Minimises the cross entropy between a teacher's and the student's prototypes of other views.

    vitrail pretrain photos/ --method dino --set objective.crops.number=4
    """

    crops: Crops = field(default_factory=Crops)
    teaching: Teaching = field(default_factory=Teaching)

    def build(self, model: Any, context: Context) -> Objective:
        """Make the module that the loop calls, with head and teacher. Raises ConfigError."""
        return SelfDistillation(model, self.crops, self.teaching, context.normal)
