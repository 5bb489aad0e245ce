"""A head of several layers on a frozen backbone, which VPT compares with as "MLP-k".

Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119: linear, ReLU, BatchNorm and dropout
of 0.1, k times, as wide as the backbone, and a linear layer to the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vitrail.errors import ConfigError
from vitrail.layers.linear import Linear
from vitrail.methods.adapting import frozen, require_alone
from vitrail.methods.method import Quiet, available, works

DROPOUT = 0.1


@dataclass(frozen=True)
class MlpHead(Quiet):
    """Trains a head of so many hidden `layers` in place of the linear one, and nothing else.

    The paper tries 2, 3, 5, 7 and 9.

    vitrail train --set pretrained=vit.npz --set methods=mlp_head --set methods.0.layers=3 ...
    """

    layers: int = 3

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ConfigError(f"layers is {self.layers}: give 1 or more; freeze has none")

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model has one linear head."""
        require_alone("mlp_head", model)
        if not isinstance(getattr(model, "head", None), nn.Linear) or not works(self, model):
            raise ConfigError(
                "mlp_head needs a model whose head is one linear layer, such as vit or swin have; "
                f"this one has the seams {', '.join(available(model))}"
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and replace its head; returns the model."""
        whole: Any = model
        old = whole.head
        width, parts = old.in_features, []
        for _ in range(self.layers):
            like = {"device": old.weight.device, "dtype": old.weight.dtype}
            parts += [Linear(width, width, **like), nn.ReLU(), nn.BatchNorm1d(width, **like)]
            parts += [nn.Dropout(DROPOUT)]
        whole.head = nn.Sequential(*parts, old)
        return frozen("mlp_head", model)
