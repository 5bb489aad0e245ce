"""What methods share that adapt a trained backbone: the rest is frozen, and there is one of them.

A frozen backbone takes no gradients of its weights, and a training keeps it in eval mode: its
BatchNorms keep their statistics, and it drops nothing.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vitrail.errors import ConfigError


def frozen(name: str, model: nn.Module) -> nn.Module:
    """Switch off the gradients of all but the head, and note that `name` adapts the model."""
    model.requires_grad_(False)
    head = getattr(model, "head", None)
    if isinstance(head, nn.Module):
        head.requires_grad_(True)
    noted: Any = model
    noted.adapted = name
    return model


def adapted_by(model: nn.Module) -> str:
    """Return the name of the method that adapts the model already, or an empty text."""
    return getattr(model, "adapted", "")


def require_alone(name: str, model: nn.Module) -> None:
    """Raise ConfigError where another method says already what of the model is trained."""
    if other := adapted_by(model):
        raise ConfigError(
            f"{name} comes after {other}, and each of the two freezes what the other trains: take "
            "one of them"
        )
