"""Training what a network has few of: its biases, or its LayerNorms.

BitFit, Ben Zaken, Goldberg, Ravfogel, ACL 2022, arXiv 2106.10199, trains biases; Basu et al.,
"Strong Baselines for Parameter-Efficient Few-Shot Fine-Tuning", AAAI 2024, arXiv 2304.01917, the
LayerNorms of a ViT. BatchNorms stay as they are, their biases and statistics too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitrail.errors import ConfigError
from vitrail.methods.adapting import frozen, require_alone
from vitrail.methods.method import Quiet, available


@dataclass(frozen=True)
class BiasTuning(Quiet):
    """Trains all biases but those of BatchNorms, and the head.

    vitrail train --set pretrained=vit.npz --set methods=bias_tuning ...
    """

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model has biases outside its head."""
        _require("bias_tuning", "biases outside its head", _biases(model), model)

    def apply(self, model: nn.Module) -> nn.Module:
        """Switch off the gradients of all that is not trained; returns the model."""
        return _opened("bias_tuning", _biases(model), model)


@dataclass(frozen=True)
class NormTuning(Quiet):
    """Trains scales and shifts of all LayerNorms, and the head.

    vitrail train --set pretrained=vit.npz --set methods=norm_tuning ...
    """

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model has LayerNorms."""
        _require("norm_tuning", "LayerNorms", _norms(model), model)

    def apply(self, model: nn.Module) -> nn.Module:
        """Switch off the gradients of all that is not trained; returns the model."""
        return _opened("norm_tuning", _norms(model), model)


def _biases(model: nn.Module) -> Iterator[nn.Parameter]:
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        outside = not name.startswith("head.") and not isinstance(owner, _BatchNorm)
        if outside and name.endswith("bias"):
            yield parameter


def _norms(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            yield from module.parameters()


def _require(name: str, what: str, found: Iterator[nn.Parameter], model: nn.Module) -> None:
    require_alone(name, model)
    if next(found, None) is None:
        raise ConfigError(
            f"{name} trains {what}, and this model has none: take freeze, or a model such as vit; "
            f"its seams are {', '.join(available(model))}"
        )


def _opened(name: str, found: Iterator[nn.Parameter], model: nn.Module) -> nn.Module:
    frozen(name, model)
    for parameter in found:
        parameter.requires_grad_(True)
    return model
