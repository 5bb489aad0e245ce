"""How much a training step keeps for its backward pass, and whether it is worth keeping less.

Making activations again takes up to 8 % longer, and is of use only where memory is short.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from vitrail.measure.memory import free_bytes
from vitrail.training.lean import Lean

Saving = Callable[[], AbstractContextManager[None]]


def saving(
    wish: bool | None, model: nn.Module, shape: Sequence[int], device: torch.device, share: int = 1
) -> Saving:
    """Return what to put around a forward pass on images of `shape` (B, C, H, W): `Lean`, or
    nothing.

    `wish` decides; where it is None, the memory that is free on the device does, of which a
    `share`-th is this training's.
    """
    if wish is None:
        wish = worth(model, shape, free_bytes(device) // share)
    return Lean(model) if wish else nullcontext


def kept_bytes(model: nn.Module, shape: Sequence[int]) -> int:
    """Return how many bytes a training step on images of `shape` (B, C, H, W) keeps for its
    backward pass when nothing is left out, counted without computing.
    """
    shadow = _shadow(model)
    weights = {one.untyped_storage()._cdata for one in shadow.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in weights:  # nor a view of one
            kept[place] = tensor
        return tensor

    # Layers that drop may draw on the CPU, and a training must not notice.
    with (
        torch.random.fork_rng([]),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
    ):
        shadow(torch.empty(*shape, device="meta"))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def worth(model: nn.Module, shape: Sequence[int], free: int) -> bool:
    """Return whether a step's activations, in float32, are more than half of the `free` bytes.

    They are counted once for all models alike, and attention with its weights, which a fused
    kernel does not keep. Of a model that cannot be counted without computing it is True.
    """
    shapes = tuple(tuple(one.shape) for one in model.parameters())
    key = str(model), shapes, tuple(shape)
    if key not in _COUNTED:
        try:
            _COUNTED[key] = kept_bytes(model, shape)
        except Exception:
            # Whatever a layer raises that looks at values, or has a kernel for one device only.
            _COUNTED[key] = math.inf
    return _COUNTED[key] > free / 2


_COUNTED: dict[tuple[str, tuple[tuple[int, ...], ...], tuple[int, ...]], float] = {}


def _shadow(model: nn.Module) -> nn.Module:
    """Return the model as it is, without its values: nothing of them is copied."""
    known: dict[int, Tensor] = {}
    for one in model.parameters():
        empty = torch.empty_like(one, device="meta")
        known[id(one)] = nn.Parameter(empty, requires_grad=one.requires_grad)
    for one in model.buffers():
        known[id(one)] = torch.empty_like(one, device="meta")
    return copy.deepcopy(model, known)
