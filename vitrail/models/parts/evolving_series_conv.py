"""The augmented convolution of time series: causal, with attention that evolves beside it.

Wang, Yang et al., "Convolution-enhanced Evolving Attention Networks", TPAMI 2023,
arXiv 2212.08330.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.evolving import Evolution
from vitrail.layers.linear import Linear, frozen


class CausalConv(nn.Module):
    """A convolution over the steps up to its own, (B, T, C) to (B, T, C'), whose kernel has a
    learned norm and a learned direction for every output."""

    def __init__(self, dim_in: int, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.dilation, self.before = dilation, (kernel - 1) * dilation
        conv = nn.Conv1d(dim_in, dim, kernel)
        self.direction, self.bias = nn.Parameter(conv.weight.detach()), conv.bias
        norm = self.direction.detach().norm(dim=(1, 2), keepdim=True)
        self.gain: nn.Parameter | None = nn.Parameter(norm)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c2"]:
        x = F.pad(x.mT, (self.before, 0))
        return F.conv1d(x, self._kernel(), self.bias, dilation=self.dilation).mT

    def deployed(self) -> nn.Module:
        """Fold the norm into the kernel."""
        self.direction, self.gain = frozen(self._kernel()), None
        return self

    def _kernel(self) -> Tensor:
        if self.gain is None:
            return self.direction
        return self.direction * (self.gain / self.direction.norm(dim=(1, 2), keepdim=True))


class AugmentedConv(nn.Module):
    """A causal convolution, and attention for the last `values` channels: (B, T, C) and the
    logits before to (B, T, C') and its own logits, None without attention."""

    def __init__(
        self,
        dim_in: int,
        dim: int,
        *,
        keys: int,
        values: int,
        heads: int,
        kernel: int = 3,
        dilation: int = 1,
        evolution: Evolution | None = None,
    ) -> None:
        super().__init__()
        if keys % heads or values % heads or bool(keys) != bool(values) or values > dim:
            raise ValueError(
                f"keys are {keys}, values {values} of {dim} channels: expected multiples of "
                f"{heads} heads, or none of both"
            )
        self.heads, self.parts = heads, (keys, keys, values)
        self.scale = (keys // heads) ** -0.5 if keys else 1.0
        self.conv = CausalConv(dim_in, dim - values, kernel, dilation) if values < dim else None
        self.qkv = Linear(dim_in, sum(self.parts)) if values else None
        self.evolution = evolution

    def forward(
        self, x: Float[Tensor, "b t c"], before: Float[Tensor, "b n t t"] | None = None
    ) -> tuple[Float[Tensor, "b t c2"], Float[Tensor, "b n t t"] | None]:
        near = [] if self.conv is None else [self.conv(x)]
        if self.qkv is None:
            return near[0], None
        logits, v = self._logits(x, before)
        # Not transposed: trained weights rely on it, see `evolving_series`.
        far = (logits.softmax(-1) @ v).reshape(x.shape[0], -1, x.shape[1]).mT
        return torch.cat([*near, far], 2), logits

    def weights(
        self, x: Float[Tensor, "b t c"], before: Float[Tensor, "b n t t"] | None = None
    ) -> Float[Tensor, "b n t t"]:
        """Return the attention of every head, rows are queries; ValueError where there is none."""
        if self.qkv is None:
            raise ValueError("this convolution has no attention: build it with keys and values")
        return self._logits(x, before)[0].softmax(-1)

    def deployed(self) -> nn.Module:
        """Move the scale of the queries into what makes them."""
        if self.qkv is not None:
            scale = torch.ones(self.qkv.out_features).to(self.qkv.weight)
            scale[: self.parts[0]] = self.scale
            self.qkv, self.scale = self.qkv.scaled(scale), 1.0
        return self

    def _logits(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return logits and values, (B, heads, T, ...)."""
        assert self.qkv is not None
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).split(self.parts, 2)
        )
        q = q if self.scale == 1 else q * self.scale
        if self.evolution is None or before is None:
            return q @ k.mT, v
        return self.evolution(q, k, before), v
