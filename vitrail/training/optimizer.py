"""Optimizers as values, and the parameter groups that all of them need.

Those that torch lacks have files of their own: `muon`, `lamb`, `lion`, `adafactor`.

Parameters of one axis (biases, norms) and those that `model.no_decay()` names take no weight
decay. With `layer_decay` below 1 the rate falls by that factor with every block away from the
head (Clark et al., ELECTRA, arXiv 2003.10555; BEiT's fine-tuning). With a `head_decay` the head
decays by that, a hundred times as much as the rest in "Scaling Vision Transformers" (Zhai et al.,
arXiv 2106.04560).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import nn

from vitrail.errors import ConfigError
from vitrail.training.adafactor import Adafactor
from vitrail.training.half_adamw import HalfAdamW
from vitrail.training.lamb import Lamb
from vitrail.training.lion import Lion
from vitrail.training.muon import MuonWithAdamW
from vitrail.training.stepping import check, check_betas


@dataclass(frozen=True)
class AdamW:
    """AdamW: Loshchilov and Hutter, arXiv 1711.05101.

    With a `final_decay` the weight decay goes from `weight_decay` to that by a cosine over all
    steps, as DINO's and its kin's does. `half` keeps the first moment in bfloat16.
    """

    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 1.0
    head_decay: float | None = None
    final_decay: float | None = None
    half: bool = False
    parts_hidden: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)
        check_betas(self.betas, "0.9,0.999")
        if self.final_decay is not None and not (self.final_decay >= 0 < self.weight_decay):
            raise ConfigError(
                f"final_decay is {self.final_decay} and weight_decay {self.weight_decay}: a decay "
                "that changes needs both, the first 0 or more and the second above 0"
            )
        if self.final_decay is not None and self.head_decay is not None:
            raise ConfigError(
                f"final_decay {self.final_decay} changes the decay of all and head_decay "
                f"{self.head_decay} keeps that of the head: give one of them"
            )

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the torch optimizer of parameter groups."""
        if self.half:
            return HalfAdamW(groups, lr=self.lr, betas=self.betas)
        # The fused kernels take a third of the time of the foreach ones on a CPU.
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=True)


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = True
    layer_decay: float = 1.0
    head_decay: float | None = None
    parts_hidden: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum {self.momentum} is not in [0, 1): take 0.9")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov needs momentum: give momentum=0.9 or nesterov=false")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the torch optimizer of parameter groups."""
        return torch.optim.SGD(
            groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True
        )


@dataclass(frozen=True)
class Muon:
    """Muon for the matrices of hidden layers, AdamW for the rest: arXiv 2502.16982.

    Steps are as large as those of AdamW, so both go by `lr`. `momentum` is that of Muon, `rounds`
    the iterations that make a step orthogonal and `dtype` that of the numbers they are
    computed; `betas` are those of AdamW.
    """

    lr: float = 2e-3
    weight_decay: float = 0.05
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    rounds: int = 5
    dtype: Literal["float32", "bfloat16"] = "float32"
    layer_decay: float = 1.0
    head_decay: float | None = None
    parts_hidden: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum {self.momentum} is not in [0, 1): take 0.95")
        check_betas(self.betas, "0.9,0.95")
        if self.rounds < 1:
            raise ConfigError(f"rounds {self.rounds} is below 1: take 5")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the torch optimizer of parameter groups."""
        return MuonWithAdamW(
            groups, lr=self.lr, momentum=self.momentum, betas=self.betas, rounds=self.rounds,
            dtype=getattr(torch, self.dtype),
        )  # fmt: skip


Optimizer = AdamW | Sgd | Muon | Lamb | Lion | Adafactor


class Stepper(Protocol):
    """Steps and forgets gradients: a torch optimizer, or Fabric's wrapper of one."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any: ...
    def zero_grad(self) -> None: ...


def build(
    optimizer: Optimizer,
    model: nn.Module,
    wanted: Callable[[str], bool] = lambda name: True,
) -> torch.optim.Optimizer:
    """Make the torch optimizer of the trainable parameters whose names are `wanted`.

    They stay on the device where they are. Each group's `scale` is its part of the learning rate;
    `hidden` groups are the matrices between stem and head, for an optimizer that parts them.
    Raises ConfigError where there is nothing to train, or no depths for a layer-wise decay.
    """
    groups = list(_groups(optimizer, model, wanted))
    if not groups:
        raise ConfigError("the model has no trainable parameter: unfreeze its head at least")
    return optimizer.over(groups)


def adjust(optimizer: Stepper, lr: float, decay: float | None = None) -> None:
    """Set the learning rate, scaled by each group's part of it, and a decay that changes."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]
        if decay is not None and group["weight_decay"] > 0:
            group["weight_decay"] = decay


def decay(optimizer: Optimizer, step: int, total: int) -> float | None:
    """Return the weight decay of a step (from 0) of `total`, None where it stays as it is."""
    end = getattr(optimizer, "final_decay", None)
    if end is None:
        return None
    return end + (optimizer.weight_decay - end) * (1 + math.cos(math.pi * step / total)) / 2


def _groups(
    optimizer: Optimizer, model: nn.Module, wanted: Callable[[str], bool]
) -> Iterator[dict[str, Any]]:
    named = getattr(model, "no_decay", None)
    undecayed = named() if named else set()
    made: dict[tuple[float, float, bool, bool], list[nn.Parameter]] = {}
    in_head = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and wanted(name):
            decayed = parameter.ndim > 1 and name not in undecayed
            hidden = optimizer.parts_hidden and decayed and _hidden(model, name, parameter)
            decay = optimizer.weight_decay if decayed else 0.0
            if decayed and optimizer.head_decay is not None and _of_head(name):
                decay, in_head = optimizer.head_decay, in_head + 1
            key = (_scale(optimizer, model, name), decay, decayed, hidden)
            made.setdefault(key, []).append(parameter)
    if optimizer.head_decay is not None and made and not in_head:
        raise ConfigError(
            f"head_decay {optimizer.head_decay} finds no matrix of a head that is trained: leave "
            "it out"
        )
    for (scale, decay, _, hidden), parameters in made.items():
        yield {"params": parameters, "weight_decay": decay, "scale": scale, "hidden": hidden}


def _of_head(name: str) -> bool:
    """Tell whether a parameter of a model, or of the one in a learner, is the head's."""
    return name.removeprefix("model.").startswith("head.")


def _hidden(model: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Tell whether a parameter is a matrix between the stem and the head; a depthwise kernel is
    not."""
    if parameter.ndim < 2 or (parameter.ndim > 2 and parameter.shape[1] == 1):
        return False
    if not _has_depths(model):
        return True
    depth, depth_of = model.depth, model.depth_of
    return 0 < depth_of(name) < depth  # pyright: ignore


def _has_depths(model: nn.Module) -> bool:
    """Return whether a model, or the one in a learner, can tell how deep a parameter lies."""
    return getattr(model, "has_depths", hasattr(model, "depth_of"))


def _scale(optimizer: Optimizer, model: nn.Module, name: str) -> float:
    pace = getattr(model, "pace", None)
    own = 1.0 if pace is None else pace(name)
    if optimizer.layer_decay == 1:
        return own
    if not _has_depths(model):
        raise ConfigError(
            f"layer_decay {optimizer.layer_decay} needs a model with depth and depth_of, and "
            f"{type(getattr(model, 'model', model)).__name__} has none: give layer_decay=1"
        )
    depth, depth_of = model.depth, model.depth_of
    return own * optimizer.layer_decay ** (depth - depth_of(name))  # pyright: ignore
