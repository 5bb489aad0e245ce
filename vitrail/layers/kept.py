"""What is derived from a weight and kept while no gradients flow: oneDNN's own formats."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

ROOM = 4  # input shapes for which a layer keeps its weight: odd last batches must not fill memory


class Kept(nn.Module):
    """A layer that keeps its `weight` in oneDNN's format, one copy an input shape.

    On a CPU torch reorders weights at every call. Changes are seen by the weight's version
    and address. Fused optimizers raise no version: so a forward pass with gradients, and
    `train()` or `eval()`, forget what is kept too. Only a write through `weight.data` goes
    unseen: call `eval()` after one.
    """

    weight: Tensor
    _kept: dict[tuple[int, ...], Tensor] | None = None

    def _keeps(self, x: Tensor) -> bool:
        """Whether oneDNN's formats serve here; forgets what is kept where they do not."""
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

    def _weight_for(self, shape: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
        """The kept weight for an input's shape, made by `make` the first time."""
        key = (self.weight._version, self.weight.data_ptr(), *shape)
        kept = self._kept
        if kept is None or key not in kept:
            if kept is None or len(kept) >= ROOM or next(iter(kept))[:2] != key[:2]:
                kept = self._kept = {}
            kept[key] = make()
        return kept[key]

    def train(self, mode: bool = True) -> Kept:
        """As nn.Module's; forgets what is kept."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict:
        return {k: v for k, v in super().__getstate__().items() if k != "_kept"}
