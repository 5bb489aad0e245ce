"""What the loop trains: a model and its objective as one module.

Optimizer, clipping, precision, several processes and snapshots see all of it, so that a
projection head of the objective learns as the model does.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from vitrail.training.batch import Batch
from vitrail.training.objective import Objective, Step

Turn = Literal["first", "second"]


class Handed:
    """Carries a batch through wrappers that would copy a dataclass of tensors field by field."""

    __slots__ = ("batch",)

    def __init__(self, batch: Batch) -> None:
        self.batch = batch


class Learner(nn.Module):
    """Maps a batch to named terms, "loss" among them.

    What is frozen stays in eval mode: a BatchNorm whose parameters take no gradient keeps its
    statistics, a frozen block does not drop.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch | Handed, step: Step, turn: Turn = "first") -> dict[str, Tensor]:
        if isinstance(batch, Handed):
            batch = batch.batch
        terms = self.objective if turn == "first" else self.objective.second
        return terms(self.model.head if batch.embedded else self.model, batch, step)  # pyright: ignore

    def train(self, mode: bool = True) -> Learner:
        super().train(mode)
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        return self

    def no_decay(self) -> set[str]:
        """Return the names of parameters that take no weight decay, beside those of one axis."""
        parts = (("model", self.model), ("objective", self.objective))
        named = {f"{part}.{name}" for part, module in parts for name in _names(module)}
        return named | set(self.objective.paces)

    def pace(self, name: str) -> float:
        """Return at which share of the learning rate a parameter learns."""
        return self.objective.paces.get(name, 1.0)

    @property
    def depth(self) -> int:
        """Return the layer-wise depth of the head; an objective's own parameters lie there too."""
        return self.model.depth  # pyright: ignore[reportReturnType]

    def depth_of(self, name: str) -> int:
        """Return how deep the parameter `name` lies, for layer-wise learning rates."""
        part, _, rest = name.partition(".")
        return self.model.depth_of(rest) if part == "model" else self.depth  # pyright: ignore

    @property
    def has_depths(self) -> bool:
        """Return whether the model can tell how deep a parameter lies."""
        return hasattr(self.model, "depth_of")


def _names(module: nn.Module) -> set[str]:
    named: Any = getattr(module, "no_decay", None)
    return named() if named else set()
