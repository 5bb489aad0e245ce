"""Logits of two-dimensional positions: what a query makes of where its keys are.

Bello et al., "Attention Augmented Convolutional Networks", ICCV 2019, arXiv 1904.09925: every
head adds q'r of the offset between rows, and of that between columns, to its logits. The two
tables are shared by the heads and indexed by *key minus query*. A position maps queries
(B, heads, h w, d) of a map to (B, heads, h w, h w); who wants its logits scaled gives scaled
queries. At another size of map the tables are interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend
from vitrail.layers.position import linear_line

Grid = tuple[int, int]
TABLES = ("position.rows", "position.columns")  # take no weight decay, and are resampled
PART = 1 << 19  # logits that are computed at a time: they stay in the cache


def attend_by_parts(
    q: Float[Tensor, "b n t d"],
    k: Float[Tensor, "b n s d"],
    v: Float[Tensor, "b n s e"],
    bias: Callable[[Tensor], Tensor],
    *,
    scale: float | None = None,
) -> Float[Tensor, "b n t e"]:
    """Apply `attend` with a bias that depends on the queries: bias(q) for some of them at a time.

    Without gradients the parts of the batch are small enough for the cache, since a bias of all
    is many times as large as queries and keys; with them it is one part.
    """
    count = max(1, PART // (q.shape[1] * q.shape[2] * k.shape[2]))
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or count >= len(q):
        return attend(q, k, v, bias=bias(q), scale=scale)
    parts = zip(q.split(count), k.split(count), v.split(count), strict=True)
    # The kernel's results are (b, t, n, e) in memory, and stay so.
    found = [attend(a, b, c, bias=bias(a), scale=scale).transpose(1, 2) for a, b, c in parts]
    return torch.cat(found).transpose(1, 2)


def relative_logits(
    q: Float[Tensor, "b n h w d"], rows: Float[Tensor, "r d"], columns: Float[Tensor, "c d"]
) -> Float[Tensor, "b n t s"]:
    """Return q'(rows[p - i + H - 1] + columns[r - j + W - 1]) of queries (i, j) and keys (p, r).

    Keys are H x W, tables (2 H - 1, d) and (2 W - 1, d); there are at most as many queries, h x w.
    """
    of_rows, of_columns = line_logits(q, rows, columns)
    both = of_rows.unsqueeze(-1) + of_columns.unsqueeze(-2)
    return both.flatten(4).flatten(2, 3)


def line_logits(
    q: Float[Tensor, "b n h w d"], rows: Float[Tensor, "r d"], columns: Float[Tensor, "c d"]
) -> tuple[Float[Tensor, "b n h w p"], Float[Tensor, "b n h w s"]]:
    """Return the two summands of `relative_logits`: what a query makes of
    the keys' rows and columns.
    """
    h, w = q.shape[2:4]
    parts = []
    for table, count, shape in ((rows, h, (h, 1, -1)), (columns, w, (w, -1))):
        keys = (len(table) + 1) // 2
        used = q @ table[keys - count :].mT  # so many queries see no farther back
        offset = torch.arange(keys, device=q.device) - torch.arange(count, device=q.device)[:, None]
        index = (offset + count - 1).view(shape).expand(*q.shape[:-1], keys)
        parts.append(used.gather(-1, index))
    return parts[0], parts[1]


def resized(table: Float[Tensor, "n d"], size: int) -> Float[Tensor, "m d"]:
    """Return a table of `size` entries, interpolated linearly between
    the middles of the old ones.
    """
    return table if len(table) == size else linear_line(table[None], (len(table),), (size,))[0]


class RelativePosition(nn.Module):
    """Logits of the offsets between positions of a map; tables for maps of (H, W) = `grid`."""

    def __init__(self, grid: Grid, width: int) -> None:
        super().__init__()
        self.rows, self.columns = (
            nn.Parameter(torch.randn(self.entries(side), width) * width**-0.5) for side in grid
        )

    @staticmethod
    def entries(side: int) -> int:
        """Return how many entries a table for maps of this height or width has."""
        return 2 * side - 1

    def forward(self, q: Float[Tensor, "b n t d"], grid: Grid) -> Float[Tensor, "b n t s"]:
        return relative_logits(q.unflatten(2, grid), *self.tables(grid))

    def tables(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return the tables of rows and columns, for a map of (H, W)."""
        h, w = (self.entries(side) for side in grid)
        return resized(self.rows, h), resized(self.columns, w)


class AbsolutePosition(RelativePosition):
    """Logits of where a key is, whatever the query's place; tables (H, d) and (W, d)."""

    @staticmethod
    def entries(side: int) -> int:
        """Return how many entries a table for maps of this height or width has."""
        return side

    def forward(self, q: Float[Tensor, "b n t d"], grid: Grid) -> Float[Tensor, "b n t s"]:
        rows, columns = self.tables(grid)
        return q @ (rows[:, None] + columns).flatten(0, 1).mT
