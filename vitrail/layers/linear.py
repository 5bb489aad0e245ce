"""Linear layers that keep their weights packed, and one pass for linear and activation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.cache import Packed


class Linear(Packed, nn.Linear):
    """nn.Linear (same parameters, same names) that keeps its weight in oneDNN's own format.

    Without gradients, in float32 on a CPU; otherwise nn.Linear to the letter.
    """

    def forward(self, x: Float[Tensor, "*s c"]) -> Float[Tensor, "*s c2"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._pointwise(x, "none", "") if self._keeps(x) else super().forward(x)

    def then(self, x: Float[Tensor, "*s c"], act: nn.Module) -> Float[Tensor, "*s c2"]:
        """Return act(linear(x)); in one pass over the result where oneDNN knows the activation."""
        name, form = fused(act)
        if name and self._keeps(x):
            return self._pointwise(x, name, form)
        return act(self(x))

    def scaled(self, scale: Float[Tensor, "c2"]) -> Linear:
        """Return a layer without gradients whose outputs are `scale` times this one's."""
        bias = None if self.bias is None else self.bias * scale
        return linear(self.weight * scale[:, None], bias)

    def _pointwise(self, x: Tensor, act: str, form: str) -> Tensor:
        rows = x.numel() // x.shape[-1]
        reorder = torch.ops.mkldnn._reorder_linear_weight
        weight = self._kept_for((rows,), lambda: reorder(self.weight, rows))
        return torch.ops.mkldnn._linear_pointwise(x, weight, self.bias, act, [], form)


def fused(act: nn.Module) -> tuple[str, str]:
    """Return oneDNN's name and form of an activation, or two empty strings."""
    if type(act) is nn.GELU:
        return "gelu", act.approximate
    if type(act) is nn.SiLU:
        return "swish", ""
    if type(act) is nn.ReLU:
        return "relu", ""
    if type(act) is nn.Hardswish:
        return "hardswish", ""
    return "", ""


def linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """Return a Linear of the given weight (C', C) and bias (C',), without gradients."""
    made = Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = frozen(weight)
    if bias is not None:
        made.bias = frozen(bias)
    return made


def frozen(value: Tensor) -> nn.Parameter:
    """Return a parameter that takes no gradient."""
    return nn.Parameter(value.detach().clone(memory_format=torch.preserve_format), False)
