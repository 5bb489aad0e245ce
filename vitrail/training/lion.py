"""Lion: every weight moves by the same amount, in the direction of the sign of its momentum.

Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, arXiv 2302.06675. Half
the memory of AdamW; the authors take a learning rate 3 to 10 times smaller and a weight decay as
many times larger, so that their product stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitrail.training.stepping import OneByOne, check, check_betas


@dataclass(frozen=True)
class Lion:
    """Lion; `betas` weigh the past in a step and in the momentum that is kept.

    vitrail train --set optimizer=lion --set optimizer.lr=1e-4 --set optimizer.weight_decay=0.5 ...
    """

    lr: float = 1e-4
    weight_decay: float = 0.5
    betas: tuple[float, float] = (0.9, 0.99)
    layer_decay: float = 1.0
    head_decay: float | None = None
    parts_hidden: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)
        check_betas(self.betas, "0.9,0.99")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the torch optimizer of parameter groups."""
        return LionSteps(groups, lr=self.lr, betas=self.betas)


class LionSteps(OneByOne):
    """Steps of Lion, with decoupled weight decay."""

    def opened(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the momentum."""
        return {"mean": torch.zeros_like(parameter)}

    def move(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Tensor]
    ) -> None:
        """Move each weight by `lr`, towards the sign of past and present."""
        now, kept = group["betas"]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(state["mean"].lerp(gradient, 1 - now).sign_(), alpha=-group["lr"])
        state["mean"].lerp_(gradient, 1 - kept)
