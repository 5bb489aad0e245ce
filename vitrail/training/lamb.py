"""LAMB: steps of Adam, each tensor's scaled to the size of the tensor, for large batches.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020,
arXiv 1904.00962. As timm has it, with which ResNet Strikes Back (arXiv 2110.00476) was trained:
moments are corrected for their start, weight decay is part of the step that is scaled, and what
takes no decay is not scaled. timm's clips the gradient to norm 1 as well; here `steps.clip` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitrail.training.stepping import OneByOne, check, check_betas, moments


@dataclass(frozen=True)
class Lamb:
    """LAMB; `lr` is a share of each tensor's own norm, so 5e-3 is usual at any size.

    vitrail train --set optimizer=lamb --set optimizer.lr=5e-3 ...
    """

    lr: float = 5e-3
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 1.0
    head_decay: float | None = None
    parts_hidden: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)
        check_betas(self.betas, "0.9,0.999")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the torch optimizer of parameter groups."""
        return LambSteps(groups, lr=self.lr, betas=self.betas, eps=1e-6)


class LambSteps(OneByOne):
    """Steps of LAMB."""

    def opened(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return a count of steps and the two moments."""
        return moments(parameter)

    def move(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Tensor]
    ) -> None:
        """Move a parameter by a step of Adam that is as long as `lr` times its norm."""
        first, second = group["betas"]
        state["step"] += 1
        done = int(state["step"])
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = state["square"].sqrt().div_((1 - second**done) ** 0.5).add_(group["eps"])
        step = (state["mean"] / (1 - first**done)).div_(size)
        if group["weight_decay"]:
            step.add_(parameter, alpha=group["weight_decay"])
            ours, theirs = parameter.norm(), step.norm()
            # A tensor of zeros would never move, a step of zeros has no direction.
            step.mul_(torch.where((ours > 0) & (theirs > 0), ours / theirs, 1.0))
        parameter.add_(step, alpha=-group["lr"])
