"""AdamW whose first moment is kept in bfloat16: 6 bytes of state a weight instead of 8.

Zhai et al., "Scaling Vision Transformers", CVPR 2022, arXiv 2106.04560, found no accuracy lost by
it. The second moment stays in the parameter's precision.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vitrail.training.stepping import OneByOne, moments

EPS = 1e-8


class HalfAdamW(OneByOne):
    """Steps of AdamW, with decoupled weight decay."""

    def opened(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return a count of steps and both moments."""
        state = moments(parameter)
        return state | {"mean": state["mean"].bfloat16()}

    def move(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], state: dict[str, Tensor]
    ) -> None:
        """Move a parameter by its moments, the first before it is rounded."""
        state["step"] += 1
        steps, (first, second) = int(state["step"]), group["betas"]
        mean = state["mean"].to(gradient.dtype).lerp(gradient, 1 - first)
        # A snapshot gives it back in the parameter's precision, which holds the same values.
        state["mean"] = mean.bfloat16()
        square = state["square"].lerp_(gradient.square(), 1 - second)
        size = (square / (1 - second**steps)).sqrt_().add_(EPS)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, size, value=-group["lr"] / (1 - first**steps))
