"""What trains a mixture of all operations: its weights and its architecture, by turns.

Liu et al., "DARTS", ICLR 2019, arXiv 1806.09055, first order: before each step on the weights the
architecture takes one on images of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from vitrail.search.spaces.bats import BATS
from vitrail.search.supernets.bats import Super
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Second, Step
from vitrail.training.optimizer import AdamW

# Ten times DARTS's, since a search here takes some hundred steps and not ten thousand.
RATE, DECAY = 3e-3, 1e-3


class Relaxed(Objective):
    """Minimises what `inner` does, on one half of the images for the weights and on the other for
    the architecture, whose entropy weighs as much as the space says."""

    two: ClassVar[Second | None] = Second(
        AdamW(lr=RATE, weight_decay=DECAY), ("model.architecture_*",)
    )

    def __init__(self, inner: Objective, space: Any) -> None:
        super().__init__()
        self.inner, self.space = inner, cast(BATS, space)

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        return self.inner(model, batch, step)

    def second(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        terms = self.inner(model, batch, step)
        entropy = cast(Super, model).entropy()
        return terms | {"loss": terms["loss"] + self.space.entropy * entropy, "entropy": entropy}
