"""Two stages of a binary training: real weights under binary inputs first, then binary weights.

Martinez et al., ICLR 2020, arXiv 2003.11535; BATS (arXiv 2003.01711) trains its networks so.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vitrail.errors import ConfigError
from vitrail.layers.binary import BinaryConv2d, Real
from vitrail.training.objective import Step


@dataclass(frozen=True)
class BinaryWeights:
    """Lets weights stay real for a share `since` of the steps, and be what the model says after.

    vitrail train --set model=bats_cifar --set methods=binary_weights ...
    """

    since: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.since <= 1:
            raise ConfigError(f"since is {self.since}: give a share of the steps, 0.5 is usual")

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model has binary weights."""
        if not any(conv.binariser.whole for conv in _layers(model)):
            raise ConfigError(
                "binary_weights needs a model whose weights are binary, as bats_cifar: this one "
                "has none"
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Let each layer remember what makes its weights binary; returns the model."""
        for conv in _layers(model):
            conv.binariser = Staged(conv.binariser)
        return model

    def before_step(self, model: nn.Module, step: Step) -> None:
        """Switch to binary weights when it is time."""
        for conv in _layers(model):
            if isinstance(conv.binariser, Staged):
                conv.binariser.real = step.number < self.since * step.total


class Staged(nn.Module):
    """Weights as they are while `real`, and what `inner` makes of them otherwise and at the end."""

    whole = True

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.first, self.real = inner, Real(), False

    def forward(self, weight):
        return (self.first if self.real and self.training else self.inner)(weight)


def _layers(model: nn.Module) -> list[BinaryConv2d]:
    return [module for module in model.modules() if isinstance(module, BinaryConv2d)]
