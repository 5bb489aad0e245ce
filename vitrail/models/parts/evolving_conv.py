"""The augmented convolution of evolving attention, and how TensorFlow pools and resizes maps.

Wang, Yang et al., "Evolving Attention with Residual Convolutions", ICML 2021, arXiv 2102.12895.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d, channels_first, channels_last, rescaled
from vitrail.layers.evolving import Evolution
from vitrail.layers.linear import Linear, linear
from vitrail.layers.relative import Grid, RelativePosition, line_logits


def max_pool_same(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Return the greatest of 3x3 positions, two apart; even sides are padded at the end only."""
    h, w = x.shape[2:]
    return F.max_pool2d(x, 3, 2, (h % 2, w % 2), ceil_mode=True)


def mean_pool_same(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Return the mean of those positions that exist, two apart as `max_pool_same` has them."""
    h, w = x.shape[2:]
    padding = (h % 2, w % 2)
    return F.avg_pool2d(x, 3, 2, padding, ceil_mode=True, count_include_pad=False)


def stretched(x: Float[Tensor, "b h w c"], size: Grid) -> Float[Tensor, "b h2 w2 c"]:
    """Resize a map linearly: place i reads i h / h2, between two neighbours or at the last."""
    rows, columns = (_reading(have, want, x) for have, want in zip(x.shape[1:3], size, strict=True))
    return columns @ (rows @ x.flatten(2)).unflatten(2, x.shape[2:])


def _reading(have: int, want: int, like: Tensor) -> Float[Tensor, "want have"]:
    """Return what each of `want` places takes of each of `have`."""
    place = torch.arange(want, device=like.device) * have
    low, between = place // want, (place % want).to(like.dtype)[:, None] / want
    high = (low + 1).clamp(max=have - 1)
    first, second = (F.one_hot(at, have).to(like.dtype) for at in (low, high))
    return first * (1 - between) + second * between


class Pool(nn.Module):
    """`max_pool_same` as a module."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return max_pool_same(x)


class EvolvingConv(nn.Module):
    """A 3x3 convolution, and attention to the whole map for the last `values` channels:
    (B, C, H, W) views and the logits before to (B, C, h, w) and its own logits.

    `keys` and `values` are channels of all heads; the tables of positions are for maps of `grid`.
    Logits evolve where there is an `evolution`; else those before are not read.
    """

    def __init__(
        self,
        dim: int,
        *,
        keys: int,
        values: int,
        heads: int,
        grid: Grid,
        stride: int = 1,
        halved: bool = False,
        evolution: Evolution | None = None,
    ) -> None:
        super().__init__()
        if keys % heads or values % heads or not 0 < values < dim or not keys:
            raise ValueError(
                f"keys are {keys}, values {values} of {dim} channels: expected multiples of "
                f"{heads} heads, and channels left to the convolution"
            )
        self.heads, self.parts, self.halved = heads, (keys, keys, values), halved
        self.scale, self.stride = (keys // heads) ** -0.5, stride
        self.conv = Conv2d(dim, dim - values, 3, stride, 1, bias=False)
        self.kqv = Conv2d(dim, sum(self.parts), 1)
        self.position = RelativePosition(grid, keys // heads)
        self.evolution = evolution
        self.proj = Linear(values, values)

    def forward(
        self, x: Float[Tensor, "b c h w"], before: Float[Tensor, "b n s s"] | None = None
    ) -> tuple[Float[Tensor, "b c h2 w2"], Float[Tensor, "b n t t"]]:
        near = channels_last(self.conv(x))
        logits, v, grid = self._logits(x, before)
        far = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        far = self.proj(far).unflatten(1, grid)
        if self.halved:
            far = stretched(far, (near.shape[1], near.shape[2]))
        return channels_first(torch.cat([near, far], 3)), logits

    def weights(
        self, x: Float[Tensor, "b c h w"], before: Float[Tensor, "b n s s"] | None = None
    ) -> Float[Tensor, "b n t t"]:
        """Return the attention of every head, rows are queries."""
        return self._logits(x, before)[0].softmax(-1)

    def deployed(self) -> nn.Module:
        """Move the scale of the queries into what makes them."""
        scale = torch.ones(self.kqv.out_channels).to(self.kqv.weight)
        scale[self.parts[0] : 2 * self.parts[0]] = self.scale
        self.kqv, self.scale = rescaled(self.kqv, scale), 1.0
        return self

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels and add to them, for good."""
        n = self.conv.out_channels
        self.conv = rescaled(self.conv, scale[:n], shift[:n])
        bias = self.proj.bias * scale[n:] + shift[n:]
        self.proj = linear(self.proj.weight * scale[n:, None], bias)

    def _logits(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor, Grid]:
        """Return the logits, values (B, heads, n, d), and the map they are of."""
        for step in (self.stride, 1 + self.halved):
            x = mean_pool_same(x) if step == 2 else x
        kqv = channels_last(self.kqv(x))
        grid = (kqv.shape[1], kqv.shape[2])
        k, q, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in kqv.flatten(1, 2).split(self.parts, 2)
        )
        q, k = self._placed(q if self.scale == 1 else q * self.scale, k, grid)
        if self.evolution is None or before is None:
            return q @ k.mT, v, grid
        return self.evolution(q, k, before), v, grid

    def _placed(self, q: Tensor, k: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return queries and keys whose products hold the positions' logits: behind a query's
        channels is what it makes of each row and column, behind a key's which they are.
        """
        h, w = grid
        lines = line_logits(q.unflatten(2, grid), *self.position.tables(grid))
        rows = torch.eye(h, dtype=k.dtype, device=k.device).repeat_interleave(w, 0)
        columns = torch.eye(w, dtype=k.dtype, device=k.device).repeat(h, 1)
        places = torch.cat([rows, columns], 1).expand(*k.shape[:2], -1, -1)
        asked = [line.flatten(2, 3) for line in lines]
        return torch.cat([q, *asked], 3), torch.cat([k, places], 3)
