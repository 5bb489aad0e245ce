"""Adafactor as Scaling ViT changed it: some two bytes of state for each weight of a large matrix.

Zhai et al., "Scaling Vision Transformers", CVPR 2022, arXiv 2106.04560, after Shazeer and Stern,
arXiv 1804.04235; as big_vision has it. Of the squared gradients of a matrix only the means of rows
and columns are kept, and the momentum in bfloat16. Unlike the original it has a momentum, a
learning rate as given, no scaling by the size of the weights, and no clipping of its own.

The two largest axes are the factored ones, where the smaller of them has 32 or more; all other
axes keep statistics of their own. flax stores the heads of an attention as an axis, torch fuses
them with the channels: such a matrix is factored here as it is stored, over all heads together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.training.stepping import OneByOne, check

SMALLEST = 32  # of the second largest axis; below that, all squares are kept
TINY = 1e-30


@dataclass(frozen=True)
class Adafactor:
    """Adafactor with momentum and factored second moments.

    `decay` is the power by which the average of squares comes to look further back, up to a
    weight of `cap` on the past; 0.95 is the authors' remedy where a training is unstable. `half`
    keeps the momentum in bfloat16.

        vitrail train --set optimizer=adafactor --set optimizer.lr=8e-4 ...
    """

    lr: float = 8e-4
    weight_decay: float = 0.03
    momentum: float = 0.9
    decay: float = 0.8
    cap: float = 0.999
    half: bool = True
    layer_decay: float = 1.0
    head_decay: float | None = None
    parts_hidden: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum {self.momentum} is not in [0, 1): take 0.9")
        if not self.decay > 0:
            raise ConfigError(f"decay {self.decay} is not above 0: take 0.8")
        if not 0 <= self.cap < 1:
            raise ConfigError(f"cap {self.cap} is not in [0, 1): take 0.999")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the torch optimizer of parameter groups."""
        return AdafactorSteps(
            groups, lr=self.lr, momentum=self.momentum, decay=self.decay, cap=self.cap,
            half=self.half,
        )  # fmt: skip


def factored(shape: torch.Size) -> tuple[int, int] | None:
    """Return the largest and the second largest axis, None where squares are all kept."""
    if len(shape) < 2:
        return None
    *_, second, largest = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return (largest, second) if shape[second] >= SMALLEST else None


class AdafactorSteps(OneByOne):
    """Steps of Adafactor, with decoupled weight decay.

    `rows` and `columns` are the means of squares over the largest and the second largest axis; of
    a tensor that is not factored `rows` has all squares and `columns` is a single zero.
    """

    def shapes(self, parameter: Tensor) -> dict[str, torch.Size]:
        """Return the shape of each entry of a parameter's state, for snapshots."""
        whole = parameter.shape
        axes = factored(whole)
        rows, columns = (
            (whole, torch.Size(())) if axes is None else [_without(whole, axis) for axis in axes]
        )
        return {"step": torch.Size(()), "mean": whole, "rows": rows, "columns": columns}

    def opened(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return zeros of the shapes that `shapes` tells."""
        state = {name: parameter.new_zeros(shape) for name, shape in self.shapes(parameter).items()}
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["mean"] = self._kept(torch.zeros_like(parameter), group)
        return state

    def move(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Tensor]
    ) -> None:
        """Move a parameter by its momentum."""
        state["step"] += 1
        weight = 1 - min(group["cap"], 1 - int(state["step"]) ** -group["decay"])
        square = gradient.square().add_(TINY)
        axes = factored(parameter.shape)
        if axes is None:
            size = state["rows"].lerp_(square, weight).sqrt()
        else:
            largest, second = axes
            rows = state["rows"].lerp_(square.mean(largest), weight).unsqueeze(largest)
            columns = state["columns"].lerp_(square.mean(second), weight).unsqueeze(second)
            size = (rows / rows.mean(second, keepdim=True)).sqrt() * columns.sqrt()
        past = state["mean"].to(gradient.dtype)
        step = past.lerp(gradient / size, 1 - group["momentum"])
        # A snapshot gives it back in the parameter's precision, which holds the same values.
        state["mean"] = self._kept(step, group)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-group["lr"])

    @staticmethod
    def _kept(momentum: Tensor, group: dict[str, Any]) -> Tensor:
        return momentum.bfloat16() if group["half"] else momentum


def _without(shape: torch.Size, axis: int) -> torch.Size:
    return torch.Size([*shape[:axis], *shape[axis + 1 :]])
