"""What modules derive from their own tensors and keep while no gradients flow.

A dense bias gathered from a table, a weight in oneDNN's own format: made once, read by every call.
Changes are seen by a tensor's version and address. Fused optimizers raise no version: so a call
with gradients, and `train()` or `eval()`, forget what is kept too. Only a write through `.data`
goes unseen: call `eval()` after one. A copy of a module starts without what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Derived(nn.Module):
    """A module that keeps what it derives from its own parameters alone.

    `room` says for how many places, e.g. shapes of inputs: odd last batches must not fill memory.
    """

    room = 1
    _kept: tuple[tuple, dict[Hashable, Any]] | None = None  # the sources' state, results by place

    def _sources(self) -> Iterable[Tensor]:
        """Return what the results depend on, beside their places."""
        return self.parameters(recurse=False)

    def _kept_or(self, make: Callable[[], Any], place: Hashable = ()) -> Any:
        """Return what `make` gives, kept while neither the sources nor `place` change."""
        if torch.compiler.is_compiling():
            return make()
        if torch.is_grad_enabled() or any(s.is_inference() for s in self._sources()):
            self._kept = None
            return make()
        return self._kept_for(place, make)

    def _kept_for(self, place: Hashable, make: Callable[[], Any]) -> Any:
        """Return what is kept for `place`, made by `make` the first time:
        where keeping is in order.
        """
        state = tuple([(s._version, s.data_ptr()) for s in self._sources()])
        kept = self._kept
        if kept is None or kept[0] != state:
            kept = self._kept = (state, {})
        found = kept[1]
        if place not in found:
            if len(found) >= self.room:
                found.clear()
            found[place] = make()
        return found[place]

    def train(self, mode: bool = True) -> Derived:
        """Set the mode as nn.Module does, and forget what is kept."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict:
        return {k: v for k, v in super().__getstate__().items() if k != "_kept"}


class Packed(Derived):
    """A layer that keeps its `weight` in oneDNN's format, one copy for a shape of input.

    On a CPU torch reorders weights at every call otherwise.
    """

    room = 4
    weight: Tensor

    def _sources(self) -> Iterable[Tensor]:
        return (self.weight,)

    def _keeps(self, x: Tensor) -> bool:
        """Return whether oneDNN's formats serve here; forget what is kept where they do not."""
        if torch.compiler.is_compiling():
            return False
        if (
            torch.is_grad_enabled()
            or type(x) is not Tensor
            or not x.device.type == self.weight.device.type == "cpu"
            or not x.dtype == self.weight.dtype == torch.float32
            or self.weight.is_inference()
            or torch.is_autocast_enabled("cpu")
            or not torch.backends.mkldnn.is_available()
        ):
            self._kept = None
            return False
        return True
