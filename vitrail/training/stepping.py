"""What the optimizers that torch lacks have in common: they move one parameter after the other."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from vitrail.errors import ConfigError


class Rates(Protocol):
    """Has the fields that every optimizer has."""

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def layer_decay(self) -> float: ...
    @property
    def head_decay(self) -> float | None: ...


def check(optimizer: Rates) -> None:
    """Raise ConfigError for a learning rate or a decay that trains nothing."""
    if not optimizer.lr > 0:
        raise ConfigError(f"lr {optimizer.lr} is not above 0: give a learning rate such as 1e-3")
    if optimizer.weight_decay < 0:
        raise ConfigError(f"weight_decay {optimizer.weight_decay} is below 0: give 0 or more")
    if optimizer.head_decay is not None and optimizer.head_decay < 0:
        raise ConfigError(f"head_decay {optimizer.head_decay} is below 0: give 0 or more")
    if not 0 < optimizer.layer_decay <= 1:
        raise ConfigError(f"layer_decay {optimizer.layer_decay} is not in (0, 1]: 1 is none")


def check_betas(betas: tuple[float, float], usual: str) -> None:
    """Raise ConfigError for the weight of a past that never fades."""
    if not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"betas {betas} are not in [0, 1): take {usual}")


def moments(parameter: Tensor) -> dict[str, Tensor]:
    """Return a count of steps and two moments of a parameter, all of them 0."""
    return {
        "step": torch.zeros((), dtype=torch.float32),
        "mean": torch.zeros_like(parameter),
        "square": torch.zeros_like(parameter),
    }


class OneByOne(Optimizer):
    """Moves parameter after parameter; the `lr` of a group is set before every step.

    All parameters have the same entries in their state, since a snapshot asks for that.
    """

    def __init__(self, groups: list[dict[str, Any]], **defaults: Any) -> None:
        super().__init__(groups, {"weight_decay": 0.0, **defaults})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; returns the loss of `closure` where there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state |= self.opened(parameter, group)
                    self.move(parameter, parameter.grad, group, state)
        return loss

    def opened(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the state of a parameter before its first step."""
        raise NotImplementedError

    def move(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Tensor]
    ) -> None:
        """Change a parameter, and its state, in place."""
        raise NotImplementedError
