"""How many multiply-adds of a network are of signs, and how many of real numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.layers.binary import BinaryConv2d
from vitrail.measure.counts import counts
from vitrail.models.trunk.backbone import input_shape
from vitrail.models.trunk.catalog import skeleton


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of one image: of signs in `binary` ones, else of numbers in `real` ones.

    On hardware that has bits for them 64 of the first take the time of one of the second, as papers
    on binary networks count (Rastegari et al., ECCV 2016, arXiv 1603.05279).
    """

    binary: int
    real: int

    @property
    def weighed(self) -> float:
        """Return the multiply-adds of real numbers that take as long where there are such bits."""
        return self.real + self.binary / 64


def operations(config: Any) -> Operations:
    """Count both kinds in a network of a config, built on `meta`.

    from vitrail.search.spaces.binary_counts import operations
    operations(vitrail.models.bats.Config()).weighed
    """
    model, found = skeleton(config), [0]

    def note(module: nn.Module, given: Any, made: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        found[0] += made[0].numel() * weight[0].numel()

    hooks = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, BinaryConv2d)
    ]
    first, *rest = input_shape(config)
    try:
        with torch.no_grad():
            total = counts(model, tuple(rest), first).macs
    finally:
        for hook in hooks:
            hook.remove()
    return Operations(found[0], total - found[0])
