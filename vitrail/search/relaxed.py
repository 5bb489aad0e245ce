"""What trains a mixture of all operations: its weights and its architecture, by turns.

Liu et al., "DARTS", ICLR 2019, arXiv 1806.09055, first order: before each step on the weights the
architecture takes one on images of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vitrail.search.mixture_cost import MixtureCost
from vitrail.search.price import Multiplier
from vitrail.search.spaces.bats import BATS
from vitrail.search.supernets.bats import Super
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Second, Step
from vitrail.training.optimizer import AdamW

# Ten times DARTS's, since a search here takes some hundred steps and not ten thousand.
RATE, DECAY = 3e-3, 1e-3
# Names of the weights of operations in a mixture.
ARCHITECTURE = "architecture_*"


@dataclass(frozen=True, eq=False)
class Priced:
    """A multiplier, and what it multiplies: how far the cells of a mixture are over a limit."""

    multiplier: Multiplier
    cost: MixtureCost


class Relaxed(Objective):
    """Minimises what `inner` does, on one half of the images for the weights and on the other for
    the architecture, whose entropy weighs as much as the space says.

    With a price the architecture also pays for what its strongest cells are over the limits. The
    multiplier is a buffer, so that a training which goes on has it.
    """

    two: ClassVar[Second | None] = Second(
        AdamW(lr=RATE, weight_decay=DECAY), (f"model.{ARCHITECTURE}",)
    )
    multiplier: Tensor

    def __init__(self, inner: Objective, space: Any, price: Priced | None = None) -> None:
        super().__init__()
        self.inner, self.space, self.price = inner, cast(BATS, space), price
        if price is not None:
            first = torch.tensor(price.multiplier.first, dtype=torch.float64)
            self.register_buffer("multiplier", first)

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        return self.inner(model, batch, step)

    def second(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        mixed = cast(Super, model)
        with _without_weights(mixed):
            terms = self.inner(model, batch, step)
        entropy = mixed.entropy()
        loss, told = terms["loss"] + self.space.entropy * entropy, {"entropy": entropy}
        if self.price is not None:
            excess = self.price.cost.excess(mixed)
            charged = self.price.multiplier.charged(excess)
            loss = loss + self.multiplier.to(loss.dtype) * charged
            told |= {"excess": excess, "multiplier": self.multiplier}
        return terms | {"loss": loss} | told

    def after_step(self, model: nn.Module, step: Step) -> None:
        """Move the multiplier by how far the strongest cells are over the limits."""
        self.inner.after_step(model, step)
        if self.price is not None:
            excess = float(self.price.cost.excess(cast(Super, model)).detach())
            self.multiplier.fill_(self.price.multiplier.after(float(self.multiplier), excess))


@contextmanager
def _without_weights(model: Super) -> Iterator[None]:
    """Let what is computed inside have gradients by the architecture alone: those by the weights
    would be thrown away, and take a third of the step."""
    weights = [one for name, one in model.named_parameters() if not fnmatch(name, ARCHITECTURE)]
    weights = [one for one in weights if one.requires_grad]
    for one in weights:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in weights:
            one.requires_grad_(True)
