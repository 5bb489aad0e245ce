"""What a method is, and the places of a model that it may replace.

A method is a frozen dataclass, so that a recipe can hold it as JSON and a saved run can be built
again. It replaces modules of a finished model at named places, its seams, and no model knows
of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from vitrail.errors import ConfigError
from vitrail.models.trunk.backbone import input_shape
from vitrail.training.objective import Step

# Places that the trunks promise; a family that has its own trunk may lack some.
PLACES = (
    "embed", "stem", "blocks.*", "blocks.*.mixer", "blocks.*.ffn", "stages.*", "stages.*.down",
    "stages.*.blocks.*", "stages.*.blocks.*.mixer", "stages.*.blocks.*.ffn", "norm", "pool", "head",
)  # fmt: skip


class Method(Protocol):
    """Changes a finished model from outside."""

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError, in one sentence, unless the method fits the model."""
        ...

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace seams of the model, in place; returns the model."""
        ...

    def before_step(self, model: nn.Module, step: Step) -> None:
        """Do what is due before a training step; called before every one."""
        ...


class Quiet:
    """Gives a method that has no say in single steps its `before_step`."""

    def before_step(self, model: nn.Module, step: Step) -> None:
        """Do nothing."""


class Seam(NamedTuple):
    """A named place of a model, and the module that stands there."""

    owner: nn.Module
    key: str
    name: str

    @property
    def module(self) -> nn.Module:
        return self.owner.get_submodule(self.key)

    def replace(self, module: nn.Module) -> None:
        """Put another module there."""
        setattr(self.owner, self.key, module)


def seams(model: nn.Module, *patterns: str) -> list[Seam]:
    """Find the places of a model whose names match a pattern: `seams(model, "blocks.*.mixer")`.

    A star stands for one part of a name. Raises ConfigError, naming the seams that the model
    has, where there is none.
    """
    found = [seam for seam in _all(model) if any(_fits(seam.name, pattern) for pattern in patterns)]
    if not found:
        raise ConfigError(
            f"{_called(model)} has no {' or '.join(patterns)} to change: its seams are "
            f"{', '.join(available(model))}"
        )
    return found


def available(model: nn.Module) -> list[str]:
    """Return which of the promised places a model has."""
    names = [seam.name for seam in _all(model)]
    return [place for place in PLACES if any(_fits(name, place) for name in names)]


def wrap(model: nn.Module, pattern: str, around: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace every module at a seam by what `around` makes of it; returns the model."""
    for seam in seams(model, pattern):
        seam.replace(around(seam.module))
    return model


def works(method: Method, model: Any) -> bool:
    """Try a method on a copy of a backbone that has no weights: does a training step go through?

    The copy computes shapes alone, so this takes milliseconds.
    """
    return trial(method, deepcopy(model))


def trial(method: Method, copy: Any) -> bool:
    """Apply a method to `copy`, without its weights, and tell whether a training step goes through.

    Parameters that the step reached have gradients then, of shapes alone.
    """
    copy.to("meta").train()
    try:
        dtype = next(copy.parameters()).dtype
        image = torch.zeros(2, *input_shape(copy.config), device="meta", dtype=dtype)
        outputs = method.apply(copy)(image)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        first.sum().backward()
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True


def _all(model: nn.Module) -> Iterator[Seam]:
    for name, _ in model.named_modules():
        if name:
            path, _, key = name.rpartition(".")
            yield Seam(model.get_submodule(path), key, name)


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _called(model: nn.Module) -> str:
    """Return how a user knows the model: its family, else its class."""
    config = getattr(model, "config", None)
    return type(model if config is None else config).__module__.rpartition(".")[2] or "the model"
