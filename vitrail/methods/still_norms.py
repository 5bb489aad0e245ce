"""BatchNorms that keep the statistics that published weights came with, while all else is trained.

A few small batches say less of a map than the millions of images that the weights have seen, and a
network under a linear model on its features then begins with exactly what that model computes.
Scales and shifts are trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vitrail.errors import ConfigError
from vitrail.methods.method import Quiet


@dataclass(frozen=True)
class StillNorms(Quiet):
    """Keeps the running statistics of all BatchNorms, in training as in evaluation.

    vitrail train --set pretrained=mobilenet.pth --set methods=still_norms ...
    """

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model has BatchNorms."""
        if not has_norms(model):
            raise ConfigError("still_norms keeps the statistics of BatchNorms: this model has none")

    def apply(self, model: nn.Module) -> nn.Module:
        """Put BatchNorms of the same weights that stay in eval mode; returns the model."""
        for owner in [*model.modules()]:
            for name, norm in [*owner.named_children()]:
                if type(norm) in _STILL:
                    setattr(owner, name, _stilled(norm))
        return model


def has_norms(model: nn.Module) -> bool:
    """Return whether a model has BatchNorms."""
    return any(type(module) in _STILL for module in model.modules())


class _Still:
    """A BatchNorm that stays in eval mode."""

    def train(self, mode: bool = True):
        return super().train(False)  # pyright: ignore[reportAttributeAccessIssue]


class StillNorm1d(_Still, nn.BatchNorm1d):
    """BatchNorm1d by its running statistics."""


class StillNorm2d(_Still, nn.BatchNorm2d):
    """BatchNorm2d by its running statistics."""


_STILL: dict[type, type] = {nn.BatchNorm1d: StillNorm1d, nn.BatchNorm2d: StillNorm2d}


def _stilled(norm: nn.Module) -> nn.Module:
    """Return the same parameters and buffers in a module that stays still."""
    made = _STILL[type(norm)](norm.num_features, eps=norm.eps, device="meta")
    made._parameters, made._buffers = norm._parameters, norm._buffers
    return made.train(False)
