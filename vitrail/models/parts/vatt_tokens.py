"""VATT's tokens: patches of clips, sounds and pictures, positions by axis, DropToken.

Akbari et al., NeurIPS 2021, arXiv 2104.11178.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.linear import Linear


class Axes(nn.Module):
    """One learned table an axis, the rows of a place added and then normed: a grid to (n, C).

    The norm is over the sum, not over tokens. A grid of other sides has its tables resampled, axis
    by axis.
    """

    def __init__(self, sides: Sequence[int], dim: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList(torch.empty(side, dim) for side in sides)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for table in self.tables:
            nn.init.trunc_normal_(table, std=dim**-0.5)

    def forward(self, grid: Sequence[int]) -> Float[Tensor, "n c"]:
        total, axes = None, len(grid)
        for axis, (table, side) in enumerate(zip(self.tables, grid, strict=True)):
            rows = resampled(table, side)
            if axes > 1:
                rows = rows.view(*[1] * axis, side, *[1] * (axes - axis - 1), -1)
            total = rows if total is None else total + rows
        assert total is not None
        return self.norm(total.flatten(0, -2))


def resampled(table: Float[Tensor, "n c"], side: int) -> Float[Tensor, "m c"]:
    """Return a table of positions at i / n for `side` of them at i / side, by a cubic spline."""
    if len(table) == side:
        return table
    return torch.tensor(_spline(len(table), side), dtype=table.dtype, device=table.device) @ table


@lru_cache(maxsize=64)
def _spline(known: int, wanted: int) -> np.ndarray:
    """Return the matrix (wanted, known) of a polyharmonic spline of order 3 with a linear term."""
    if known == 1:
        return np.ones((wanted, 1))
    at, asked = np.arange(known) / known, np.arange(wanted) / wanted
    line = np.stack([at, np.ones(known)], 1)
    left = np.block([[_cubes(at, at), line], [line.T, np.zeros((2, 2))]])
    right = np.concatenate([np.eye(known), np.zeros((2, known))])
    terms = np.concatenate([_cubes(asked, at), asked[:, None], np.ones((wanted, 1))], 1)
    return terms @ np.linalg.solve(left, right)


def _cubes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a[:, None] - b) ** 3


class Patches(nn.Module):
    """Patches that do not overlap, each through one linear layer: (B, channels, *S) to tokens.

    `places` (k,) are the only ones to be cut and projected, the same of the whole batch. What does
    not fill a patch at an end is left out.
    """

    def __init__(self, channels: int, patch: Sequence[int], dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.patch = tuple(patch)
        self.proj = Linear(channels * math.prod(patch), dim, bias=bias)

    def grid(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Return the patches along each axis. Raises ValueError where there is none."""
        grid = tuple(side // p for side, p in zip(sides, self.patch, strict=True))
        if not all(grid):
            raise ValueError(
                f"input is {'x'.join(map(str, sides))}; patches are "
                f"{'x'.join(map(str, self.patch))}: give at least one patch along each axis"
            )
        return grid

    def forward(
        self, x: Float[Tensor, "b channels *s"], places: Int[Tensor, "k"] | None = None
    ) -> Float[Tensor, "b n c"]:
        grid, axes = self.grid(x.shape[2:]), len(self.patch)
        for axis, (n, p) in enumerate(zip(grid, self.patch, strict=True)):
            x = x.narrow(2 + 2 * axis, 0, n * p).unflatten(2 + 2 * axis, (n, p))
        rows, inner = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        x = x.permute(0, *rows, 1, *inner)
        if places is None:
            return self.proj(x.flatten(1 + axes).flatten(1, axes))
        at = np.array(grid)
        steps = [int(at[axis + 1 :].prod()) for axis in range(axes)]
        index = tuple(places // step % n for step, n in zip(steps, grid, strict=True))
        return self.proj(x[(slice(None), *index)].flatten(2))


class DropToken(nn.Module):
    """Which tokens stay: in training a random share of them, the same for the whole batch.

    `keep` of `most` tokens stay, or all of a shorter input; in eval mode all do.
    """

    def __init__(self, keep: float, most: int) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"keep is {keep}: give a share of the tokens in (0, 1]")
        self.kept, self.most = max(1, int(keep * most)), most

    def forward(self, count: int, device: torch.device) -> Int[Tensor, "k"] | None:
        if not self.training or count <= self.kept:
            return None
        return torch.randperm(count, device=device)[: self.kept]


def with_first(token: Float[Tensor, "c"], x: Float[Tensor, "b n c"]) -> Float[Tensor, "b m c"]:
    """Return tokens behind a learned one, which has no position and is never dropped."""
    return torch.cat([token.expand(x.shape[0], 1, -1), x], 1)


def aggregate(dim: int) -> nn.Parameter:
    """Return the vector of an aggregating token, Glorot normal."""
    return nn.Parameter(torch.randn(dim) * (2 / (1 + dim)) ** 0.5)
