"""Scheduled drop path: Zoph et al., CVPR 2018, arXiv 1707.07012 (NASNet), and PNAS after it.

Operations of cells are left out with a probability that rises with the depth, which the model's own
rates say, and with the training step, from nothing at the first to all of it at the last.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vitrail.errors import ConfigError
from vitrail.layers.residual import DropPath
from vitrail.training.objective import Step


@dataclass(frozen=True)
class ScheduledDropPath:
    """Lets the probability of dropping a path rise from 0 to `rate` in the last of the places, and
    in each place before it in proportion to how deep it is.

    vitrail train --set model=pnasnet5_mobile --set methods=scheduled_drop_path ...
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ConfigError(f"rate is {self.rate}: give a probability in [0, 1), 0.1 is usual")

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model has paths to drop."""
        if not _paths(model):
            raise ConfigError("scheduled_drop_path needs paths that may be dropped: there are none")

    def apply(self, model: nn.Module) -> nn.Module:
        """Begin with no path dropped; returns the model."""
        for path in _paths(model):
            path.rate = 0.0
        return model

    def before_step(self, model: nn.Module, step: Step) -> None:
        """Set each place's probability for this step."""
        paths = _paths(model)
        done = min(1.0, step.number / max(1, step.total))
        for depth, path in enumerate(paths, 1):
            path.rate = self.rate * done * depth / len(paths)


def _paths(model: nn.Module) -> list[DropPath]:
    return [module for module in model.modules() if isinstance(module, DropPath)]
