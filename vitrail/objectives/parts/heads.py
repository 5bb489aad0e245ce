"""Projection heads of objectives without labels, under the names of their authors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Reconstruction(nn.Module):
    """Maps patches (B, N, D) to pixels (B, channels, H, W): linear layers, then one that grows
    each.

    SiT, Atito et al., arXiv 2104.03602: two hidden layers in the first version, three in the
    second.
    """

    def __init__(self, dim: int, channels: int, patch: int, hidden: int) -> None:
        super().__init__()
        layers = [layer for _ in range(hidden) for layer in (nn.Linear(dim, dim), nn.GELU())]
        self.mlp = nn.Sequential(*layers)
        self.grow = nn.ConvTranspose2d(dim, channels, patch, patch)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.mlp(patches)
        return self.grow(x.mT.unflatten(2, grid))


class PlainMlp(nn.Module):
    """Maps (B, D) to (B, out) by three linear layers without biases, GELU between them."""

    def __init__(self, dim: int, out: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.GELU(),
            nn.Linear(hidden, hidden, bias=False), nn.GELU(),
            nn.Linear(hidden, out, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class NormedMlp(nn.Module):
    """Maps (B, D) to (B, out) with BatchNorms: ReLU after the first, GELU after the second."""

    def __init__(self, dim: int, out: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.GELU(),
            nn.Linear(hidden, out), nn.BatchNorm1d(out, affine=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Prototypes(nn.Module):
    """Maps (..., D) to similarities (..., K) with prototypes: DINO, Caron et al., arXiv 2104.14294.

    Three linear layers, L2 norm, and a last layer without bias whose rows have the norms `scale`;
    these are 1 and stay so unless they `learn`. `held` keeps the last layer as it is for a while.
    """

    def __init__(
        self, dim: int, out: int, *, hidden: int = 2048, neck: int = 256, learn: bool = False
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, neck),
        )  # fmt: skip
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.scale = nn.Parameter(torch.ones(out, 1), requires_grad=learn)
        self.rows = nn.Parameter(torch.empty(out, neck))
        nn.init.trunc_normal_(self.rows, std=0.02)

    def forward(self, x: Tensor, held: bool = False) -> Tensor:
        x = F.normalize(self.mlp(x), dim=-1)
        # Multiplied by 0, so that its gradient is there for every process, and nothing moves.
        rows = self.rows.detach() + 0 * self.rows if held else self.rows
        return F.linear(x, self.scale * F.normalize(rows, dim=-1))
