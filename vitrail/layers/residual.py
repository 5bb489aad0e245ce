"""Residual blocks: what surrounds a mixer and an ffn, and stochastic depth.

Stochastic depth: Huang et al., ECCV 2016, arXiv 1603.09382.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zeroes whole samples with probability `rate` in training and divides by the rest."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "b *s"]) -> Float[Tensor, "b *s"]:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device, dtype=x.dtype)
        return x * ((mask < keep).to(x.dtype) / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class Block(nn.Module):
    """Pre-norm block: x + mixer(norm1(x)), then x + ffn(norm2(x)); (B, *S, C) to the same.

    `mixer` and `ffn` are modules of that shape; `norm` builds one from `dim`.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        ffn: nn.Module,
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.mixer = mixer
        self.norm2 = norm(dim)
        self.ffn = ffn
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


def rising(rate: float, depth: int) -> list[float]:
    """Drop rates from 0 at the first of `depth` blocks to `rate` at the last."""
    return [rate * j / max(depth - 1, 1) for j in range(depth)]
