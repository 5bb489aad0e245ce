"""Positions: fixed sinusoids, relative-bias tables, and the ways to resample a learned table.

Papers resample differently, and each way belongs to its paper: a checkpoint moved to
another image size by the wrong one loses accuracy silently.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.cache import Derived, Packed
from vitrail.layers.pi_resize import triangle_resize


def sine_1d(tokens: int, dim: int) -> Float[Tensor, "1 n c"]:
    """Return sin (even channels) and cos (odd) of p / 10000**(2 (i // 2) / dim), p the flat index.

    Angles are rounded to float32 before the sine, as in the released checkpoints of the
    Compact Transformers.
    """
    i = torch.arange(dim, dtype=torch.float64)
    rate = 10000 ** (2 * torch.div(i, 2, rounding_mode="floor") / dim)
    angle = (torch.arange(tokens, dtype=torch.float64)[:, None] / rate).float()
    odd = (torch.arange(dim) % 2).bool()
    return torch.where(odd, angle.cos(), angle.sin())[None].to(torch.get_default_dtype())


def sincos_2d(grid: tuple[int, int], dim: int) -> Float[Tensor, "1 n c"]:
    """Return [sin xw, cos xw, sin yw, cos yw], w = 10000**(-i / (dim/4 - 1)): big_vision's form."""
    if dim % 4:
        raise ValueError(f"dim {dim} must be a multiple of 4 for two-dimensional sinusoids")
    rate = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4 - 1))
    y, x = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64),
        torch.arange(grid[1], dtype=torch.float64),
        indexing="ij",
    )
    x, y = x.reshape(-1, 1) * rate, y.reshape(-1, 1) * rate
    table = torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1)
    return table[None].to(torch.get_default_dtype())


def zoom_grid(
    table: Float[Tensor, "1 n c"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 m c"]:
    """Interpolate linearly with corners that coincide (scipy's zoom of order 1): ViT, AugReg."""
    return _resize(table, old, new, mode="bilinear", align_corners=True)


def bilinear_grid(
    table: Float[Tensor, "1 n c"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 m c"]:
    """Interpolate bilinearly between half pixels: Compact Transformers."""
    return _resize(table, old, new, mode="bilinear", align_corners=False)


def bicubic_grid(
    table: Float[Tensor, "1 n c"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 m c"]:
    """Interpolate bicubically between half pixels: Swin's absolute positions and bias tables."""
    return _resize(table, old, new, mode="bicubic", align_corners=False)


def triangle_grid(
    table: Float[Tensor, "1 n c"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 m c"]:
    """Interpolate bilinearly between half pixels, antialiased where the grid shrinks: FlexiViT."""
    maps = table.view(1, *old, -1).permute(0, 3, 1, 2)
    return triangle_resize(maps, new).permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)


def linear_line(
    table: Float[Tensor, "1 n c"], old: tuple[int, ...], new: tuple[int, ...]
) -> Float[Tensor, "1 m c"]:
    """Interpolate linearly between half pixels along one axis: tables of
    offsets between rows or columns.
    """
    return table if old == new else F.interpolate(table.mT, math.prod(new), mode="linear").mT


def cropped_line(
    table: Float[Tensor, "1 n c"], old: tuple[int, ...], new: tuple[int, ...]
) -> Float[Tensor, "1 m c"]:
    """Return the middle of a table of offsets: attention as convolution.
    ValueError if it must grow.
    """
    before, after = math.prod(old), math.prod(new)
    if after > before:
        raise ValueError(f"they know offsets of up to {before // 2} places, not {after // 2}")
    start = (before - after) // 2
    return table[:, start : start + after]


def _resize(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], *, mode: str, align_corners: bool
) -> Tensor:
    if old == new:
        return table
    x = table.view(1, *old, -1).permute(0, 3, 1, 2)
    x = F.interpolate(x, new, mode=mode, align_corners=align_corners)
    return x.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)


class FourierPosition(Packed):
    """Positions of a map, projected: (h, w) to (1, h, w, C), of XCiT (arXiv 2106.09681).

    Sines and cosines of each coordinate as a share of the side, at 16 rates, 64 features in
    all, go through one linear layer. Without gradients its result is kept.
    """

    def __init__(self, dim: int, features: int = 64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, features))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.uniform_(self.weight, -(features**-0.5), features**-0.5)

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "1 h w c"]:
        if self._keeps(self.weight):
            return self._kept_for(grid, lambda: self._projected(grid)) + self.bias
        return self._projected(grid) + self.bias

    def _projected(self, grid: tuple[int, int]) -> Tensor:
        half = self.weight.shape[1] // 2
        device = self.weight.device
        i = torch.arange(half, dtype=torch.float64, device=device)
        rate = 10000 ** (2 * torch.div(i, 2, rounding_mode="floor") / half)
        axes = []
        for side in grid:
            at = torch.arange(1, side + 1, dtype=torch.float64, device=device)
            angle = (at / (side + 1e-6) * 2 * math.pi)[:, None] / rate
            axes.append(torch.where(i % 2 == 0, angle.sin(), angle.cos()).to(self.weight.dtype))
        y, x = axes  # the projection of both is the sum of theirs
        rows, columns = y @ self.weight[:, :half].mT, x @ self.weight[:, half:].mT
        return (rows[:, None] + columns)[None]


class KeptTable(Derived):
    """A learned `table` whose dense form is kept."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)


class BiasTable(KeptTable):
    """Relative-position biases: a learned (rows, heads) table read through a fixed index.

    `index` (t, s) says which row the pair of query and key takes; forward gives
    (1, heads, t, s), kept without gradients.
    """

    index: Int[Tensor, "t s"]

    def __init__(self, rows: int, heads: int, index: Int[Tensor, "t s"]) -> None:
        super().__init__(torch.zeros(rows, heads))
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> Float[Tensor, "1 heads t s"]:
        return self._kept_or(self._gather)

    def _gather(self) -> Tensor:
        rows = self.table[self.index.flatten().to(self.table.device)]
        return rows.view(*self.index.shape, -1).permute(2, 0, 1).contiguous()[None]


# Blocks of the same grid share their index, which may be larger than their weights. A kept
# tensor must be an ordinary one, wherever it is asked for first.
@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def offset_index(grid: tuple[int, int]) -> Int[Tensor, "n n"]:
    """Return the rows of a ((2h - 1)(2w - 1)) table by *query minus key*, both row-major: Swin."""
    h, w = grid
    y, x = _coordinates(h, w, 1)
    dy, dx = y[:, None] - y[None] + h - 1, x[:, None] - x[None] + w - 1
    return dy * (2 * w - 1) + dx


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def distance_index(grid: tuple[int, int], stride: int = 1) -> Int[Tensor, "t s"]:
    """Return the rows of an (h w) table by |row distance| * w + |column distance|: LeViT.

    Queries are every `stride`-th point of the grid, keys all of them.
    """
    h, w = grid
    y, x = _coordinates(h, w, 1)
    qy, qx = _coordinates(h, w, stride)
    return (qy[:, None] - y[None]).abs() * w + (qx[:, None] - x[None]).abs()


def _coordinates(h: int, w: int, stride: int) -> tuple[Tensor, Tensor]:
    # On the CPU even while a model is built on meta, so that an index always has values.
    rows = torch.arange(0, h, stride, device="cpu")
    columns = torch.arange(0, w, stride, device="cpu")
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return y.flatten(), x.flatten()
