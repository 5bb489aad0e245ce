"""Positions of MViT: tables of offsets along each axis in every block, of places behind the stem.

Fan et al., ICCV 2021, arXiv 2104.11227; Li et al., CVPR 2022, arXiv 2112.01526.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.position import Derived, bicubic_grid, bilinear_grid, linear_line
from vitrail.layers.relative import resized
from vitrail.models.trunk.positions import Table, offsets

Grid = tuple[int, ...]  # (h, w) of an image, (t, h, w) of a clip
# queries and keys (B, heads, n, d), a bias or None, a scale: all that softmax is taken of
Logits = tuple[Tensor, Tensor, Tensor | None, float]


class Places(NamedTuple):
    """Where positions are known: in tables of every block, and in one behind the stem, which moves
    to other maps by `absolute`."""

    relative: bool
    absolute: Callable[[Tensor, Any, Any], Tensor] | None


PLACES = {
    "relative": Places(True, None),
    "absolute": Places(False, bilinear_grid),
    "both": Places(True, bicubic_grid),
}


def tokens_grid(config: Any) -> Grid:
    """Return the map of the config's own images that tables are made for:
    sides divided, rounded down.
    """
    side = tuple(s // config.patch for s in config.image)
    return side if config.frames == 1 else (max(config.frames // 2, 1), *side)


def query_stride(stage: int, block: int) -> int:
    """Return by how much queries shrink a block's map: that which
    begins a later stage halves it.
    """
    return 2 if stage and not block else 1


def key_stride(config: Any, stage: int, block: int) -> int:
    """Return the stride of a block's keys, doubled where whole maps follow
    windows in an inner stage.
    """
    c = config
    whole = c.window and block == c.depths[stage] - 1 and 0 < stage < len(c.depths) - 1
    return max(c.reduction // 2**stage, 1) * (2 if whole else 1)


def lengths(config: Any, stage: int, block: int) -> Grid:
    """Return how long the tables of a block are along each axis: the offsets between the places of
    its larger map, that of queries or that of keys.
    """
    stride = query_stride(stage, block)
    before, keys = 2**stage // stride, key_stride(config, stage, block)
    *time, h, w = tokens_grid(config)
    sides = (side // before for side in (h, w))
    return offsets((*time, *(max(side // stride, side // keys) for side in sides)))


def positions(config: Any) -> tuple[Table, ...]:
    """Return the tables of every block, one an axis, and those that are added behind the stem."""
    axes, across = "thw"[-len(tokens_grid(config)) :], PLACES[config.position].absolute

    def only(grid: Grid, *kept: str) -> Grid:
        return tuple(n if axis in kept else 1 for axis, n in zip(axes, grid, strict=True))

    def of_blocks(axis: str) -> Table:
        name = f"stages.{{i}}.blocks.{{j}}.mixer.position.{axis}"
        return Table(name, lambda c, *at: only(lengths(c, *at), axis), linear_line, axes=(0,))

    found = [of_blocks(axis) for axis in axes]
    if across is not None:

        def moved(table: Tensor, old: Grid, new: Grid) -> Tensor:
            return across(table, old[-2:], new[-2:])

        found.append(Table("stem.space", lambda c: only(tokens_grid(c), "h", "w"), moved))
        found.append(Table("stem.time", lambda c: only(tokens_grid(c), "t"), linear_line))
    return tuple(found)


class RelativePosition(Derived):
    """What a query adds to its logits, one term for each axis: its product, unscaled, with the
    row of a table that says how far the key is. Prefix tokens have no place and no terms.

    Tables `h` and `w`, of clips `t` too, are shared by heads.
    """

    def __init__(self, dim: int, lengths: Sequence[int]) -> None:
        super().__init__()
        self.axes = "thw"[-len(lengths) :]
        for axis, length in zip(self.axes, lengths, strict=True):
            self.register_parameter(axis, nn.Parameter(torch.empty(length, dim)))
            nn.init.trunc_normal_(self.get_parameter(axis), std=0.02)

    def logits(self, q: Tensor, k: Tensor, asked: Grid, seen: Grid) -> Logits:
        """Return softmax's argument, from q and k (B, prefix + n, heads,
        d): a bias for each pair.
        """
        rows, columns = self._terms(q, asked, seen)
        bias = (rows[..., :, None] + columns[..., None, :]).flatten(-2).flatten(2, 3)
        prefix = q.shape[1] - math.prod(asked)
        bias = F.pad(bias, (prefix, 0, prefix, 0)) if prefix else bias
        return q.transpose(1, 2), k.transpose(1, 2), bias, q.shape[-1] ** -0.5

    def _terms(self, q: Tensor, asked: Grid, seen: Grid) -> list[Tensor]:
        """Return the terms for every row, every column (and frame) of the
        keys: (B, heads, *asked, side).
        """
        q = q[:, q.shape[1] - math.prod(asked) :].unflatten(1, asked)
        found = self._kept_or(lambda: self._rows(asked, seen), (asked, seen))
        return [
            torch.einsum(f"b{self.axes}nc,{axis}kc->bn{self.axes}k", q, rows)
            for axis, rows in zip(self.axes, found, strict=True)
        ]

    def _rows(self, asked: Grid, seen: Grid) -> list[Tensor]:
        """Return the rows of each table by query and key, (q, k, d)."""
        found = []
        for axis, q, k in zip(self.axes, asked, seen, strict=True):
            table = resized(self.get_parameter(axis), 2 * max(q, k) - 1)
            at, of = (torch.arange(n, device=table.device) for n in (q, k))
            far = at[:, None] * max(k / q, 1.0) - of * max(q / k, 1.0) + (k - 1) * max(q / k, 1.0)
            found.append(table[far.long()])
        return found


class ClipPosition(RelativePosition):
    """Relative positions of clips, whose pairs of queries and keys are too many for a bias: they
    are further channels, terms in q, ones and zeros in k, and no attention kernel notices."""

    def logits(self, q: Tensor, k: Tensor, asked: Grid, seen: Grid) -> Logits:
        prefix, scale = q.shape[1] - math.prod(asked), q.shape[-1] ** -0.5
        terms = torch.cat(self._terms(q, asked, seen), -1).flatten(2, 4)
        if prefix:
            terms = F.pad(terms, (0, 0, prefix, 0))
        places = _places(seen, prefix, k).expand(k.shape[0], k.shape[2], -1, -1)
        q = torch.cat([q.transpose(1, 2) * scale, terms], -1)
        return q, torch.cat([k.transpose(1, 2), places], -1), None, 1.0


def _places(seen: Grid, prefix: int, like: Tensor) -> Tensor:
    """Return frame, row and column of each key as ones and zeros, (prefix + n, sum of `seen`)."""
    axes = torch.meshgrid(*[torch.arange(n, device=like.device) for n in seen], indexing="ij")
    ones = [
        torch.eye(n, dtype=like.dtype, device=like.device)[axis.flatten()]
        for n, axis in zip(seen, axes, strict=True)
    ]
    return F.pad(torch.cat(ones, 1), (0, 0, prefix, 0))
