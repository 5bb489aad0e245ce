"""Training the end of a network only: a linear probe, or the last blocks.

Frozen parts stay in eval mode, so that their BatchNorms keep the statistics that they came with.
With published weights and few images this is often the best that can be done.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vitrail.errors import ConfigError
from vitrail.methods.adapting import frozen, require_alone
from vitrail.methods.method import Quiet, seams


@dataclass(frozen=True)
class Freeze(Quiet):
    """Freezes all but the head and, with `blocks` above 0, the last so many blocks.

    With 0 blocks this is a linear probe; with k, norm and pool are trained too: "partial-k".

    vitrail train --set methods=freeze --set methods.0.blocks=2 --set pretrained=cat.pth ...
    """

    blocks: int = 0

    def __post_init__(self) -> None:
        if self.blocks < 0:
            raise ConfigError(f"blocks is {self.blocks}: give 0 for the head alone, or more")

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model has a head to train and so many blocks."""
        require_alone("freeze", model)
        head = model.get_submodule("head") if hasattr(model, "head") else None
        if head is None or not any(True for _ in head.parameters()):
            raise ConfigError("freeze leaves the head to be trained, and this model has none")
        depth = getattr(model, "depth", 1) - 1
        if self.blocks > depth:
            raise ConfigError(f"blocks is {self.blocks}: this model has {depth} blocks in all")

    def apply(self, model: nn.Module) -> nn.Module:
        """Switch off the gradients of all that is not trained; returns the model."""
        frozen("freeze", model)
        if self.blocks:
            places = seams(model, "blocks.*", "stages.*.blocks.*")
            for seam in places[len(places) - self.blocks :]:
                seam.module.requires_grad_(True)
            for name in ("norm", "pool"):
                if isinstance(getattr(model, name, None), nn.Module):
                    model.get_submodule(name).requires_grad_(True)
        return model
