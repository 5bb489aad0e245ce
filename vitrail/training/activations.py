"""How much a training step keeps for its backward pass, and whether it is worth keeping less."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def kept_bytes(model: nn.Module, shape: Sequence[int]) -> int:
    """Return how many bytes a training step on images of `shape` (B, C, H, W) keeps for its
    backward pass when nothing is left out, counted without computing.
    """
    shadow = copy.deepcopy(model).to("meta").train()
    weights = {one.untyped_storage()._cdata for one in shadow.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in weights:  # nor a view of one
            kept[place] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        shadow(torch.empty(*shape, device="meta"))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def worth(model: nn.Module, shape: Sequence[int], free_bytes: int) -> bool:
    """Return whether a step's activations are more than half of the memory that is free: with less
    there is nothing to gain, and making them again takes up to 8 % longer.
    """
    return kept_bytes(model, shape) > free_bytes / 2
