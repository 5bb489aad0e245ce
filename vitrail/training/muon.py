"""Muon: steps of hidden layers are made orthogonal, so that all their directions move alike.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; in the form of
Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv 2502.16982: a step has the size of
one of AdamW, so that both go by one learning rate, and weight decay is decoupled. All but
the matrices of hidden layers (norms, biases, tables, the stem, the head) is trained by AdamW.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitrail.training.stepping import OneByOne, moments

# Coefficients of the odd polynomial whose repetition drives singular values towards 1.
A, B, C = 3.4445, -4.7750, 2.0315
# The root mean square of a step of AdamW.
RMS = 0.2
TINY = 1e-7


def orthogonal(update: Tensor, rounds: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return the matrix (O, I) with the singular vectors of `update` and values near 1.

    `rounds` of a Newton-Schulz iteration of the fifth order: after five, values above 0.3 % of
    the norm of `update` have become 0.68 to 1.21, and smaller ones have grown towards that. They
    are computed, and returned, in `dtype`, that of `update` unless given.
    """
    x = (update / (update.norm() + TINY)).to(dtype or update.dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(rounds):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    return x.T if tall else x


class MuonWithAdamW(OneByOne):
    """Steps of Muon for groups that are `hidden`, of AdamW for the others.

    The `lr` of a group is set before every step. Steps are made orthogonal in `dtype`. `mean` is
    the momentum of Muon and the first moment of AdamW; a hidden matrix has a `square` as well,
    which stays 0, since a snapshot asks of all parameters for the same entries. It costs a copy of
    the matrix.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        rounds: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            groups, lr=lr, momentum=momentum, betas=betas, rounds=rounds, eps=1e-8, hidden=False
        )
        self.dtype = dtype

    def opened(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return a count of steps and two moments, of which Muon leaves the second at 0."""
        return moments(parameter)

    def move(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Tensor]
    ) -> None:
        """Let a parameter decay, then move it by Muon or AdamW."""
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        if group["hidden"]:
            _muon(parameter, gradient, group, state, self.dtype)
        else:
            _adamw(parameter, gradient, group, state)


def _muon(
    parameter: Tensor,
    gradient: Tensor,
    group: dict[str, Any],
    state: dict[str, Tensor],
    dtype: torch.dtype,
) -> None:
    past = state["mean"].mul_(group["momentum"]).add_(gradient)
    ahead = gradient.add(past, alpha=group["momentum"]).flatten(1)
    rate = group["lr"] * RMS * max(ahead.shape) ** 0.5
    step = orthogonal(ahead, group["rounds"], dtype)
    parameter.add_(step.view(parameter.shape), alpha=-rate)


def _adamw(
    parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Tensor]
) -> None:
    state["step"] += 1
    first, second = group["betas"]
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    done = int(state["step"])
    size = state["square"].sqrt().div_((1 - second**done) ** 0.5).add_(group["eps"])
    parameter.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - first**done))
