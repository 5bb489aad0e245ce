"""Pooling attention of MViT: strided depthwise convolutions before attention.

Fan et al., ICCV 2021, arXiv 2104.11227; Li et al., CVPR 2022, arXiv 2112.01526.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear, frozen
from vitrail.layers.residual import DropPath
from vitrail.layers.windows import pad, partition, reverse
from vitrail.models.parts.mvit_positions import Grid, Logits, RelativePosition


class Pool(nn.Module):
    """A depthwise convolution with the same kernel for all heads, then a norm of each head:
    tokens (B, prefix + n, C) to (B, prefix + m, heads, d). The prefix is normed only."""

    def __init__(self, dim: int, heads: int, kernel: Grid, stride: Grid) -> None:
        super().__init__()
        self.dim, self.heads, self.stride = dim, heads, stride
        self.weight = nn.Parameter(torch.empty(dim, 1, *kernel))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> tuple[Tensor, Grid]:
        weight, padding = self._of_all_heads(), [k // 2 for k in self.weight.shape[2:]]
        prefix = x[:, : x.shape[1] - math.prod(grid)]
        image = x[:, prefix.shape[1] :].unflatten(1, grid).movedim(-1, 1)
        convolve = F.conv2d if len(grid) == 2 else F.conv3d
        out = convolve(image, weight, None, self.stride, padding, 1, len(weight))
        grid = tuple(out.shape[2:])
        out = out.movedim(1, -1).flatten(1, -2)
        if prefix.shape[1]:
            out = torch.cat([prefix, out], 1)
        return self.norm(out.unflatten(2, (-1, self.dim))), grid

    def deployed(self) -> Pool:
        """Repeat the kernel once and for all."""
        self.weight = frozen(self._of_all_heads())
        return self

    def _of_all_heads(self) -> Tensor:
        times = self.dim * self.heads // len(self.weight)
        return self.weight if times == 1 else torch.cat((self.weight,) * times)


class PoolingAttention(nn.Module):
    """Attention between pooled queries, keys and values: tokens (B, prefix + n, C) of a grid to
    (B, prefix + m, C') and the grid of the queries.

    `pools` are those of queries, keys and values, None where there is none; `residual` adds the
    pooled queries, other than the prefix's, to what they found.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        heads: int,
        *,
        pools: Sequence[Pool | None],
        position: RelativePosition | None,
        residual: bool,
    ) -> None:
        super().__init__()
        self.heads, self.residual = heads, residual
        self.q, self.k, self.v = (Linear(dim, dim_out) for _ in range(3))
        self.pool_q, self.pool_k, self.pool_v = pools
        self.position = position
        self.proj = Linear(dim_out, dim_out)

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> tuple[Tensor, Grid]:
        q, asked = self._pooled(self.q(x), self.pool_q, grid)
        k, seen = self._pooled(self.k(x), self.pool_k, grid)
        v, _ = self._pooled(self.v(x), self.pool_v, grid)
        out = self._attended(q, k, v, asked, seen)
        if self.residual:
            prefix = q.shape[1] - math.prod(asked)
            if prefix:
                q = torch.cat([torch.zeros_like(q[:, :prefix]), q[:, prefix:]], 1)
            out = out + q
        return self.proj(out.flatten(2)), asked

    def weights(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "bn heads m k"]:
        """Return the attention of every head, and window if any: rows are
        queries, columns pooled keys.
        """
        q, asked = self._pooled(self.q(x), self.pool_q, grid)
        k, seen = self._pooled(self.k(x), self.pool_k, grid)
        return self._shares(q, k, asked, seen)

    def _pooled(self, x: Tensor, pool: Pool | None, grid: Grid) -> tuple[Tensor, Grid]:
        return (x.unflatten(2, (self.heads, -1)), grid) if pool is None else pool(x, grid)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, asked: Grid, seen: Grid) -> Tensor:
        """Return what each query found, (B, n, heads, d)."""
        v = v.transpose(1, 2)
        q, k, bias, scale = self._logits(q, k, asked, seen)
        more = q.shape[-1] - v.shape[-1]
        out = attend(q, k, F.pad(v, (0, more)) if more else v, bias=bias, scale=scale)
        return (out[..., : v.shape[-1]] if more else out).transpose(1, 2)

    def _shares(self, q: Tensor, k: Tensor, asked: Grid, seen: Grid) -> Tensor:
        q, k, bias, scale = self._logits(q, k, asked, seen)
        return attention_weights(q, k, bias=bias, scale=scale)

    def _logits(self, q: Tensor, k: Tensor, asked: Grid, seen: Grid) -> Logits:
        if self.position is not None:
            return self.position.logits(q, k, asked, seen)
        return q.transpose(1, 2), k.transpose(1, 2), None, q.shape[-1] ** -0.5


class WindowPoolingAttention(PoolingAttention):
    """Pooling attention of maps (h, w), without a prefix, within windows that are cut after
    pooling: `sides` are those of queries and of keys."""

    def __init__(self, *args, sides: tuple[int, int], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.sides = sides

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, asked: Grid, seen: Grid) -> Tensor:
        side, around = self.sides
        h, w = asked
        parts = self._cut(q, asked, side), self._cut(k, seen, around), self._cut(v, seen, around)
        out = super()._attended(*parts, (side, side), (around, around)).flatten(2)
        whole = (h + -h % side, w + -w % side)
        out = reverse(out, side, whole)[:, :h, :w]
        return out.reshape(*q.shape)

    def _shares(self, q: Tensor, k: Tensor, asked: Grid, seen: Grid) -> Tensor:
        side, around = self.sides
        parts = self._cut(q, asked, side), self._cut(k, seen, around)
        return super()._shares(*parts, (side, side), (around, around))

    def _cut(self, x: Tensor, grid: Grid, side: int) -> Tensor:
        """Cut (B, h w, heads, d) into (B windows, side^2, heads, d)."""
        x = pad(x.flatten(2).unflatten(1, grid), side)
        return partition(x, side).unflatten(2, (self.heads, -1))


class WideningMlp(Mlp):
    """An Mlp, four times as wide inside, to another width: (B, n, C) to (B, n, C')."""

    def __init__(self, dim: int, behind: int) -> None:
        super().__init__(dim, 4 * dim)
        self.fc2 = Linear(4 * dim, behind)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c2"]:
        return self.fc2(self.fc1.then(x, self.act))


class PoolingBlock(nn.Module):
    """The pre-norm block of tokens that may become fewer and wider: (B, prefix + n, C) and their
    grid to (B, prefix + m, C') and theirs. `dims` are widths before, between and behind."""

    def __init__(
        self, dims: tuple[int, int, int], mixer: nn.Module, stride: int, drop_path: float
    ) -> None:
        super().__init__()
        before, between, behind = dims
        self.norm1, self.norm2 = (nn.LayerNorm(d, eps=1e-6) for d in (before, between))
        self.mixer, self.stride = mixer, stride
        self.ffn = WideningMlp(between, behind)
        self.widen1 = Linear(before, between) if before != between else None
        self.widen2 = Linear(between, behind) if between != behind else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> tuple[Tensor, Grid]:
        y = self.norm1(x)
        found, asked = self.mixer(y, grid)
        x = x if self.widen1 is None else self.widen1(y)
        x = (x if self.stride == 1 else pooled(x, grid)) + self.drop_path(found)
        y = self.norm2(x)
        x = x if self.widen2 is None else self.widen2(y)
        return x + self.drop_path(self.ffn(y)), asked


def pooled(x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b m c"]:
    """Return the largest of 3x3 positions at every second row and column; the prefix passes by."""
    prefix, (h, w) = x[:, : x.shape[1] - math.prod(grid)], grid[-2:]
    frames = x[:, prefix.shape[1] :].reshape(-1, h, w, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.max_pool2d(frames, 3, 2, 1).permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[-1])
    return torch.cat([prefix, out], 1) if prefix.shape[1] else out
