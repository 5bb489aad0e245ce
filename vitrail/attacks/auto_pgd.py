"""Auto-PGD: an attack without a step size to choose.

Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, arXiv 2003.01690. Steps are twice the radius at first, with
momentum, and are halved at checkpoints, image by image, where a loss no longer rises; the search
goes on from the best place then.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitrail.attacks.ball import Ball
from vitrail.attacks.pgd import gradient
from vitrail.errors import ConfigError

# Maps logits (B, K) and classes (B,) to a value (B,), larger for worse answers.
Loss = Callable[[Tensor, Tensor], Tensor]
MOMENTUM, RISING = 0.75, 0.75
ITERATIONS = 100


def checkpoints(iterations: int) -> list[int]:
    """Return after how many iterations steps may be halved: 22, 41, 57, 70 ... of 100."""
    before, here, found = 0.0, 0.22, []
    while (at := math.ceil(round(here * iterations, 6))) < iterations:
        if at > 0 and at not in found:
            found.append(at)
        before, here = here, here + max(here - before - 0.03, 0.06)
    return found


def auto_pgd(
    model: Callable[[Tensor], Tensor],
    pixels: Float[Tensor, "b c h w"],
    labels: Int[Tensor, "b"],
    ball: Ball,
    loss: Loss,
    iterations: int = ITERATIONS,
) -> Float[Tensor, "b c h w"]:
    """Return, for every image, pixels in the ball that `model` answers wrongly, where some are
    found, else those of the largest loss.

    `model` maps pixels in [0, 1] to logits (B, K). The start is random. Raises ConfigError for
    fewer than 1 iteration.
    """
    if iterations < 1:
        raise ConfigError(f"iterations is {iterations}: give 1 or more, 100 are usual")
    return _Search(model, pixels.detach(), labels, ball, loss).run(iterations)


class _Search:
    """The state of all images' searches, each of which has a step of its own."""

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        pixels: Tensor,
        labels: Tensor,
        ball: Ball,
        loss: Loss,
    ) -> None:
        self.model, self.pixels, self.labels, self.ball, self.loss = (
            model, pixels, labels, ball, loss,
        )  # fmt: skip
        many = len(pixels)
        self.here = self._projected(pixels + _start(ball, pixels))
        self.before = self.here.clone()
        self.step = pixels.new_full((many,), 2 * ball.radius)
        self.found = self.here.clone()
        self.wrong = torch.zeros(many, dtype=torch.bool, device=pixels.device)
        self.value, self.slope = self._asked(self.here)
        self.best, self.best_at, self.best_slope = self.value, self.here, self.slope
        # What was so at the last checkpoint.
        self.rises = torch.zeros(many, device=pixels.device)
        self.step_then, self.best_then = self.step, self.best

    def run(self, iterations: int) -> Tensor:
        marks, last = checkpoints(iterations), 0
        for number in range(iterations):
            self._move(momentum=1.0 if number == 0 else MOMENTUM)
            if number + 1 in marks:
                self._halve(number + 1 - last)
                last = number + 1
        return torch.where(self._each(self.wrong), self.found, self.best_at)

    def _move(self, momentum: float) -> None:
        """Take a step with all images."""
        ahead = self.here + self._each(self.step) * self.ball.direction(self.slope)
        ahead = self._projected(ahead)
        moved = self.here + momentum * (ahead - self.here)
        moved = moved + (1 - momentum) * (self.here - self.before)
        self.before, self.here = self.here, self._projected(moved)
        value, self.slope = self._asked(self.here)
        self.rises = self.rises + (value > self.value)
        self.value = value
        better = value > self.best
        self.best = torch.where(better, value, self.best)
        wide = self._each(better)
        self.best_at = torch.where(wide, self.here, self.best_at)
        self.best_slope = torch.where(wide, self.slope, self.best_slope)

    def _halve(self, since: int) -> None:
        """Halve the steps of images that stand still, and go on from their best places."""
        seldom = self.rises < RISING * since
        stuck = (self.step == self.step_then) & (self.best == self.best_then)
        halved = seldom | stuck
        self.step_then, self.best_then = self.step, self.best
        self.step = torch.where(halved, self.step / 2, self.step)
        wide = self._each(halved)
        self.here = torch.where(wide, self.best_at, self.here)
        self.slope = torch.where(wide, self.best_slope, self.slope)
        self.value = torch.where(halved, self.best, self.value)
        self.rises = torch.zeros_like(self.rises)

    def _asked(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each image and its slope; keep what is answered wrongly."""
        values: list[Tensor] = []

        def summed(asked: Tensor) -> Tensor:
            logits = self.model(asked)
            each = self.loss(logits, self.labels)
            values.extend((each.detach(), logits.detach()))
            return each.sum()

        _, slope = gradient(summed, pixels)
        each, logits = values
        fresh: Bool[Tensor, "b"] = (logits.argmax(1) != self.labels) & ~self.wrong
        self.found = torch.where(self._each(fresh), pixels, self.found)
        self.wrong = self.wrong | fresh
        return each, slope

    def _projected(self, moved: Tensor) -> Tensor:
        return self.ball.projected(moved, self.pixels, self.ball.radius)

    def _each(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)


def _start(ball: Ball, pixels: Tensor) -> Tensor:
    """Draw a place in the ball: uniform for "linf", on the surface for "l2"."""
    if ball.norm == "linf":
        return torch.empty_like(pixels).uniform_(-ball.radius, ball.radius)
    return ball.radius * ball.direction(torch.randn_like(pixels))
