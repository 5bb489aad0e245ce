"""Training on attacked images: PGD and TRADES, with a radius that warms up.

Debenedetti, Sehwag, Mittal, "A Light Recipe to Train Robust Vision Transformers", SaTML 2023, arXiv
2209.07399; Madry et al., ICLR 2018, arXiv 1706.06083; TRADES: Zhang et al., "Theoretically
Principled Trade-off between Robustness and Accuracy", ICML 2019, arXiv 1901.08573.

Batches come normalised, with means and deviations that the objective knows: the attack sees their
pixels in [0, 1], and noise that an augmentation put beyond is cut off. Its labels are the likeliest
classes of mixed ones. The paper counts the warm-up of the radius in epochs, here it is in steps, so
that at the first step of each epoch the radius is the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.attacks.pgd import PGD
from vitrail.errors import ConfigError
from vitrail.layers.normal import Normal
from vitrail.models.trunk.backbone import input_shape
from vitrail.objectives.context import Context
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Step

Growth = Literal["linear", "sine", "constant"]
Mode = Literal["train", "eval"]


def growing(growth: Growth, done: float, warmup: float, zero: float = 0.0) -> float:
    """Return the share of the full radius after `done` of `warmup` steps or epochs, in [0, 1].

    It is 0 before `zero`, which counts within the warm-up. As published, "linear" divides by the
    whole warm-up, so that with `zero` it jumps at the end.
    """
    if done < zero:
        return 0.0
    if growth == "constant" or done >= warmup:
        return 1.0
    share = (done - zero) / warmup
    return share if growth == "linear" else 0.5 * (1 + math.sin(math.pi * (share - 0.5)))


@dataclass(frozen=True)
class Adversarial:
    """Minimises the cross entropy of attacked images: adversarial training.

    The attack's radius grows over the first `warmup` steps as `growth` says, and is 0 for `zero` of
    them; its steps keep the length of the full radius. `mode` is that of the model under attack:
    in "train" mode BatchNorm's statistics follow attacked images as well. A share `smoothing` of
    each label is spread over all classes.

        vitrail train --recipe robust_light --set model=xcit_small_12_p16 --set data=photos/
        vitrail train --set objective=adversarial --set objective.attack.steps=3 ...
    """

    attack: PGD = field(default_factory=PGD)
    warmup: int = 0
    growth: Growth = "linear"
    zero: int = 0
    mode: Mode = "train"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        _check(self)

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError where pixels are not known, or
        the radius leaves their range."""
        _check_radius(self.attack, model)
        return AdversarialLoss(self, context.normal)


@dataclass(frozen=True)
class Trades:
    """Minimises the cross entropy of clean images plus `beta` times how far attacks move answers.

    The attack raises the divergence of the attacked answers from the clean ones, which is what
    `beta` weighs, per image. The fields of Adversarial are the same; the paper takes 10 steps.

        vitrail train --set objective=trades --set objective.beta=6 ...
    """

    attack: PGD = field(default_factory=lambda: PGD(radius=8 / 255, steps=10))
    beta: float = 6.0
    warmup: int = 0
    growth: Growth = "linear"
    zero: int = 0
    mode: Mode = "train"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        if self.beta < 0:
            raise ConfigError(f"beta {self.beta} is below 0: 6 is usual")

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError where pixels are not known, or
        the radius leaves their range."""
        _check_radius(self.attack, model)
        return TradesLoss(self, context.normal)


def _check(value: Adversarial | Trades) -> None:
    if not 0 <= value.smoothing < 1:
        raise ConfigError(f"smoothing {value.smoothing} is not in [0, 1): 0.1 is usual")
    if value.warmup < 0 or not 0 <= value.zero <= value.warmup:
        raise ConfigError(
            f"a radius that is 0 for {value.zero} of {value.warmup} steps of warm-up does not "
            "exist: give numbers from 0, zero at most warmup"
        )


def _check_radius(attack: PGD, model: nn.Module) -> None:
    """Raise ConfigError where the ball holds every image that a model of ours takes."""
    config: Any = getattr(model, "config", None)
    if config is not None:
        attack.check(math.prod(input_shape(config)))


class _Attacked(Objective):
    """What both losses share: normalisation, radius of a step, and the mode under attack."""

    def __init__(self, value: Adversarial | Trades, normal: Normal) -> None:
        super().__init__()
        self.value, self.normal = value, normal

    def radius(self, step: Step) -> float:
        """Return the radius of a step, in units of 0 to 1."""
        one = self.value
        return one.attack.radius * growing(one.growth, step.number, one.warmup, one.zero)

    def start(self, pixels: Tensor, radius: float) -> Tensor:
        """Draw where the attack begins."""
        return self.value.attack.start(pixels, radius)

    def _attack(self, model: Model, pixels: Tensor, summed: Any, step: Step) -> Tensor:
        radius = self.radius(step)
        if not radius:
            return pixels
        with _mode(model, self.value.mode):
            return self.value.attack.attacked(
                lambda asked: summed(model(self.normal.apply(asked))),
                pixels,
                radius=radius,
                start=self.start(pixels, radius),
            )


class AdversarialLoss(_Attacked):
    """Maps logits (b, K) of attacked images and classes (b,), or shares (b, K), to their loss.

    A model that returns several logits in training is attacked and trained on the mean of their
    losses.
    """

    value: Adversarial

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss", "radius"}`: the mean over the batch, in float32, and the radius."""
        hard = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(1)

        def summed(outputs: Any) -> Tensor:
            return sum_over(outputs, lambda z: F.cross_entropy(z, hard, reduction="sum"))

        attacked = self._attack(model, self.normal.undo(batch.images), summed, step)
        smoothing = self.value.smoothing
        loss = sum_over(
            model(self.normal.apply(attacked)),
            lambda z: F.cross_entropy(z, batch.targets, label_smoothing=smoothing),
        )
        return {"loss": loss, "radius": loss.new_tensor(self.radius(step))}


class TradesLoss(_Attacked):
    """Maps clean and attacked logits (b, K) and classes, or shares of them, to TRADES' loss."""

    value: Trades

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss", "clean", "moved", "radius"}`: cross entropy of the clean images, the
        divergence of the attacked answers from theirs, both per image in float32."""
        pixels = self.normal.undo(batch.images)
        outputs = model(self.normal.apply(pixels))
        before = wanted(outputs).detach()
        if self.value.mode == "eval":
            with torch.no_grad(), _mode(model, "eval"):
                before = wanted(model(self.normal.apply(pixels)))
        attacked = self._attack(model, pixels, lambda z: divergence(z, before), step)
        smoothing = self.value.smoothing
        clean = sum_over(
            outputs, lambda z: F.cross_entropy(z, batch.targets, label_smoothing=smoothing)
        )
        moved = divergence(model(self.normal.apply(attacked)), wanted(outputs)) / len(pixels)
        loss = clean + self.value.beta * moved
        return {
            "loss": loss, "clean": clean, "moved": moved,
            "radius": loss.new_tensor(self.radius(step)),
        }  # fmt: skip


def wanted(outputs: Any) -> Tensor:
    """Return the logarithms of a model's probabilities; of several heads those of the mean."""
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.stack([_whole(logits) for logits in heads]).mean(0).log_softmax(1)


def divergence(outputs: Any, before: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of answers from those `before`, summed over images."""
    return F.kl_div(wanted(outputs), before, reduction="sum", log_target=True)


def sum_over(outputs: Any, loss: Any) -> Tensor:
    """Return a loss of logits in float32, or the mean of those of several heads."""
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    losses = [loss(_whole(logits)) for logits in heads]
    return torch.stack(losses).mean() if len(losses) > 1 else losses[0]


def _whole(logits: Tensor) -> Tensor:
    """Return the logits in float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()


@contextmanager
def _mode(model: Any, mode: Mode) -> Iterator[None]:
    """Keep a model in eval mode for a while, where that is asked for."""
    if mode == "train" or not isinstance(model, nn.Module):
        yield
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
