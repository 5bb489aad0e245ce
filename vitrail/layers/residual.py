"""Residual blocks: what surrounds a mixer and an ffn, stochastic depth, LayerScale.

Stochastic depth: Huang et al., ECCV 2016, arXiv 1603.09382.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrail.layers.protocols import Absorbs


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


class LayerScale(nn.Module):
    """Multiplies each channel by a learned weight that starts small: (B, *S, C) to the same.

    CaiT, Touvron et al., ICCV 2021, arXiv 2103.17239.
    """

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm block: x + mixer(norm1(x)), then x + ffn(norm2(x)); (B, *S, C) to the same.

    `mixer` and `ffn` are modules of that shape; `norm` builds one from `dim`; `scale` is
    where the LayerScale of both branches starts, None for none.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        ffn: nn.Module,
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.mixer = mixer
        self.norm2 = norm(dim)
        self.ffn = ffn
        self.scale1, self.scale2 = (
            nn.Identity() if scale is None else LayerScale(dim, scale) for _ in range(2)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        x = x + self.drop_path(self.scale1(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.ffn(self.norm2(x))))

    def deployed(self) -> Block:
        """Move LayerScale into the last linear layer of its branch."""
        self.scale1 = absorbed(self.scale1, self.mixer)
        self.scale2 = absorbed(self.scale2, self.ffn)
        return self


def absorbed(scale: nn.Module, branch: nn.Module) -> nn.Module:
    """Return what stays of a scale after `branch`: nothing where the
    branch can `absorb(gamma)` it.
    """
    if not isinstance(scale, LayerScale) or not isinstance(branch, Absorbs):
        return scale
    branch.absorb(scale.gamma)
    return nn.Identity()


class Blocks(nn.ModuleList):
    """Modules run one after another; with `recompute`, each is checkpointed in training.

    Gradient checkpointing keeps only what goes into a block and computes the rest again in
    the backward pass (Chen et al., 2016, arXiv 1604.06174): less memory for a third more time.
    """

    recompute = False

    def run(self, block: Callable, *args: Any) -> Any:
        """Run one block, or a method of one, on its inputs."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)  # pyright: ignore
        return block(*args)

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = self.run(block, x)
        return x


def rising(rate: float, depth: int) -> list[float]:
    """Drop rates from 0 at the first of `depth` blocks to `rate` at the last."""
    return [rate * j / max(depth - 1, 1) for j in range(depth)]
