"""The attacks that a model is judged by: PGD of twenty steps, and Auto-PGD with two losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.attacks.auto_pgd import ITERATIONS, auto_pgd
from vitrail.attacks.ball import Ball
from vitrail.attacks.losses import cross_entropy, difference_of_logits
from vitrail.attacks.pgd import PGD
from vitrail.errors import ConfigError

# Maps pixels (B, C, H, W) in [0, 1] to logits (B, K).
Answer = Callable[[Tensor], Tensor]
# Maps a model, pixels and classes to attacked pixels.
Attack = Callable[[Answer, Tensor, Tensor], Tensor]
STEPS, BATCH = 20, 64
# The ratio of differences of logits has the third largest one in it.
LEAST_CLASSES = 3


def ball_of(text: str) -> Ball:
    """Read "linf:4/255" or "l2:0.5". Raises ConfigError for what is written otherwise.

    Examples:
        >>> from vitrail.attacks.suite import ball_of
        >>> ball_of("linf:4/255").norm
        'linf'
    """
    norm, colon, radius = text.strip().lower().partition(":")
    try:
        value = float(Fraction(radius.strip()))
    except (ValueError, ZeroDivisionError, OverflowError):
        colon, value = "", 0.0
    if not colon:
        raise ConfigError(f"attack {text!r} is not a norm and a radius: give linf:4/255, or l2:0.5")
    return Ball(norm.strip(), value)  # pyright: ignore[reportArgumentType]


def suite(ball: Ball, classes: int, iterations: int = ITERATIONS) -> Mapping[str, Attack]:
    """Return the attacks within a ball by their names, the weakest first.

    Models of two classes are spared the ratio of differences of logits, which needs three.
    """
    step = PGD(ball.norm, ball.radius, STEPS)
    losses = {"cross entropy": cross_entropy}
    if classes >= LEAST_CLASSES:
        losses["logit ratio"] = difference_of_logits
    automatic = {
        f"Auto-PGD, {name}": partial(_automatic, ball=ball, loss=loss, iterations=iterations)
        for name, loss in losses.items()
    }
    return {f"PGD-{STEPS}": partial(_by_steps, step=step), **automatic}


def attacked(
    answer: Answer,
    pixels: Float[Tensor, "n c h w"],
    labels: Int[Tensor, "n"],
    attack: Attack,
    *,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[np.ndarray, Float[Tensor, "n c h w"]]:
    """Attack the images that are answered rightly; returns bool (N,), right even so, and pixels.

    An image that was wrong before stays as it is. Random starts depend on the seed alone;
    `advance` hears of every image.
    """
    right, found = np.zeros(len(pixels), bool), pixels.clone()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for at in range(0, len(pixels), BATCH):
            rows = torch.arange(at, min(at + BATCH, len(pixels)))
            kept = rows[_right(answer, pixels[rows], labels[rows])]
            if len(kept):
                found[kept] = attack(answer, pixels[kept], labels[kept])
                right[kept.numpy()] = _right(answer, found[kept], labels[kept]).numpy()
            advance(len(rows))
    return right, found


@torch.no_grad()
def _right(answer: Answer, pixels: Tensor, labels: Tensor) -> Tensor:
    return answer(pixels).argmax(1) == labels


def _by_steps(answer: Answer, pixels: Tensor, labels: Tensor, *, step: PGD) -> Tensor:
    return step.attacked(lambda moved: cross_entropy(answer(moved), labels).sum(), pixels)


def _automatic(
    answer: Answer, pixels: Tensor, labels: Tensor, *, ball: Ball, loss: Callable, iterations: int
) -> Tensor:
    return auto_pgd(answer, pixels, labels, ball, loss, iterations)
