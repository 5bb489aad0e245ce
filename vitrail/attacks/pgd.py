"""Projected gradient descent, and with one step the fast gradient sign from a random start.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv
1706.06083; one step from a random start: Wong, Rice, Kolter, "Fast is better than free", ICLR 2020,
arXiv 2001.03994. Details are those of Debenedetti, Sehwag, Mittal, "A Light Recipe to Train Robust
Vision Transformers", SaTML 2023, arXiv 2209.07399, and its code.

Two quirks of that code: 1e-5 is added to every random start, and the start of "l2" is normal with
the *mean* -radius, a slip in the order of arguments, which the projection shortens to the radius.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.attacks.ball import Ball
from vitrail.errors import ConfigError

# Maps pixels (B, C, H, W) in [0, 1] to the sum of the images' losses.
Summed = Callable[[Tensor], Tensor]
SHIFT = 1e-5


@dataclass(frozen=True)
class PGD(Ball):
    """Takes `steps` steps of length `step` up a loss, from a random place in the ball.

    `step` None is 1.5 radius / steps. The fields of `Ball` come first.

        vitrail train --set objective=adversarial --set objective.attack.radius=0.0314 ...
    """

    steps: int = 1
    step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}: give 1 or more")
        if self.step is not None and not 0 < self.step < math.inf:
            raise ConfigError(
                f"step {self.step:g} is not above 0: leave it out for 1.5 radius / steps"
            )

    @property
    def length(self) -> float:
        """Return how far a step goes."""
        return 1.5 * self.radius / self.steps if self.step is None else self.step

    def start(self, pixels: Float[Tensor, "b c h w"], radius: float) -> Float[Tensor, "b c h w"]:
        """Draw what is added to the pixels at first, from torch's random numbers."""
        if self.norm == "linf":
            return torch.empty_like(pixels).uniform_(-radius, radius) + SHIFT
        return torch.empty_like(pixels).normal_(-radius, radius) + SHIFT

    def attacked(
        self,
        summed: Summed,
        pixels: Float[Tensor, "b c h w"],
        *,
        radius: float | None = None,
        start: Float[Tensor, "b c h w"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return pixels in [0, 1] that raise `summed`, without a graph.

        `radius` is smaller while a training warms up, the steps keep their length; `start` takes
        the place of the random one.
        """
        bound = self.radius if radius is None else radius
        pixels = pixels.detach()
        with torch.no_grad():
            start = self.start(pixels, bound) if start is None else start
            moved = self.projected(pixels + start, pixels, bound)
        for _ in range(self.steps):
            _, slope = gradient(summed, moved)
            with torch.no_grad():
                ahead = moved + self.length * self.direction(slope)
                moved = self.projected(ahead, pixels, bound)
        return moved


def gradient(
    summed: Summed, pixels: Float[Tensor, "b c h w"]
) -> tuple[Tensor, Float[Tensor, "b c h w"]]:
    """Return what `summed` gives and its gradient with respect to the pixels alone.

    Parameters neither get a gradient nor is one computed for them.
    """
    with torch.enable_grad():
        asked = pixels.detach().requires_grad_(True)
        value = summed(asked)
        (slope,) = torch.autograd.grad(value, asked)
    return value.detach(), slope
