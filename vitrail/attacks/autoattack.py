"""AutoAttack as its authors publish it: four attacks in a row, each on the images that are left.

Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, arXiv 2003.01690. Its standard version, whose figures are those
that papers and RobustBench give: Auto-PGD up the cross entropy; Auto-PGD and FAB towards each of
the nine likeliest other classes; Square, which asks for answers and no gradients. The package
`pyautoattack` is the authors' code. Here it is asked attack by attack, so that a long evaluation
goes on where it was stopped and nothing of it is printed.

The ratio that leads Auto-PGD to a class holds the fourth largest logit, the other one the third:
models of three classes have the latter in its place, models of two neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vitrail.attacks.ball import Ball
from vitrail.attacks.suite import Answer, Attack
from vitrail.errors import ConfigError, extra

NORMS = {"linf": "Linf", "l2": "L2"}
TARGETS = 9


def library() -> ModuleType:
    """Import the library. Raises ConfigError where it is not installed."""
    try:
        import pyautoattack
    except ImportError as error:
        raise ConfigError(
            f"AutoAttack needs a package that is not installed: {extra('autoattack')}"
        ) from error
    return pyautoattack


def members(ball: Ball, classes: int) -> Mapping[str, Attack]:
    """Return the attacks of AutoAttack by name, in their order, for a model of so many classes."""
    ratio = {2: [], 3: ["APGD-DLR"]}.get(classes, ["APGD-T"])
    names = ["APGD-CE", *ratio, "FAB-T", "Square"]
    targets = min(TARGETS, classes - 1)
    return {name: partial(_attacked, name=name, ball=ball, targets=targets) for name in names}


def _attacked(
    answer: Answer, pixels: Tensor, labels: Tensor, *, name: str, ball: Ball, targets: int
) -> Tensor:
    """Return pixels in the ball; those of images that withstand may be any of them."""
    # It draws from torch's random numbers by a seed of its own, another one for each batch.
    seed = int(torch.randint(2**31, ()))
    whole = library().AutoAttack(
        answer, norm=NORMS[ball.norm], eps=ball.radius, seed=seed, device=pixels.device
    )
    attack = _member(whole, name, targets)
    attack.seed = seed
    # It flattens images by views, which those of another memory format do not allow.
    moved = attack.perturb(pixels.contiguous(), labels)
    return ball.projected(moved.detach().to(pixels), pixels, ball.radius)


def _member(whole: Any, name: str, targets: int) -> Any:
    """Return one attack with the settings of the standard version."""
    if name in ("APGD-CE", "APGD-DLR"):
        whole.apgd.loss = "ce" if name == "APGD-CE" else "dlr"
        return whole.apgd
    if name == "APGD-T":
        whole.apgd_targeted.n_target_classes = targets
        return whole.apgd_targeted
    if name == "FAB-T":
        whole.fab.targeted, whole.fab.n_target_classes = True, targets
        return whole.fab
    return whole.square
