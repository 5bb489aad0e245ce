"""Attention of learned queries: to the positions around each one, or to a whole map. See `qna`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.checks import head_width
from vitrail.layers.conv import Conv, channels_first, channels_last
from vitrail.layers.linear import Linear, frozen, linear
from vitrail.layers.mbconv import same
from vitrail.layers.position import Derived, bicubic_grid

FLOOR = -40.0


def lecun_normal(weight: Tensor) -> None:
    """Initialise as Flax does by default: variance 1 / fan-in, cut at two standard deviations."""
    std = weight[0].numel() ** -0.5 / 0.8796256610342398  # what the cut takes from a normal's
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def read(
    scores: Float[Tensor, "b h w m"],
    values: Float[Tensor, "b h w c"],
    queries: int,
    total: Callable[[Tensor], Tensor],
    shared: Callable[[Tensor], Tensor],
) -> Float[Tensor, "b h2 w2 c"]:
    """Return what learned queries read from each window, summed over them: the ratio of two sums.

    Scores are by query and head; `total` and `shared` are the depthwise sums over a window of
    maps (B, h, w, m) and (B, h, w, queries C).
    """
    below = scores - scores.detach().amax((1, 2), keepdim=True)
    e = below.clamp(min=FLOOR).exp()
    heads = e.shape[3] // queries
    each = e.unflatten(3, (queries, heads, 1)) * values.unflatten(3, (1, heads, -1))
    top = shared(each.flatten(3)).unflatten(3, (queries, heads, -1))
    return (top / total(e).unflatten(3, (queries, heads, 1))).sum(3).flatten(3)


class QnA(Derived):
    """Attention of learned queries to the k x k positions around each `stride`-th one.

    (B, h, w, dim_in) to (B, h / stride, w / stride, dim), rounded up. `position` is added to
    the scores, `share` multiplies the attention; both are (k^2, queries * heads), the offset
    inside of the window row by row. ValueError for an even kernel and sizes that do not divide.
    """

    def __init__(
        self,
        dim_in: int,
        dim: int,
        heads: int,
        *,
        kernel: int = 3,
        queries: int = 2,
        stride: int = 1,
    ) -> None:
        super().__init__()
        head_width(dim, heads)
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: expected an odd number, it has a centre")
        if queries < 1:
            raise ValueError(f"queries is {queries}: expected 1 or more, nothing else asks")
        self.heads, self.kernel, self.queries, self.stride = heads, kernel, queries, stride
        self.query = nn.Parameter(torch.empty(queries, dim))
        self.key = nn.Parameter(torch.empty(dim, dim_in))
        self.position = nn.Parameter(torch.zeros(kernel**2, queries * heads))
        self.share = nn.Parameter(torch.empty(kernel**2, queries * heads))
        self.value = Linear(dim_in, dim, bias=False)
        self.proj = Linear(dim, dim, bias=False)
        std = (heads / dim) ** 0.5
        nn.init.trunc_normal_(self.query, std=std, a=-2 * std, b=2 * std)
        nn.init.normal_(self.share, std=0.02)
        lecun_normal(self.key)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        score, *kernels = self._kept_or(self._folded)
        sums = [partial(self._sum, kernel) for kernel in kernels]
        return self.proj(read(F.linear(x, score), self.value(x), self.queries, *sums))

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b m t k2"]:
        """Return the attention of every query and head to the k^2 positions around each, before
        `share`: rows sum to one, and what is beyond the map has none.
        """
        margin = self.kernel // 2
        scores = F.pad(F.linear(x, self._scores()), (0, 0, *(margin,) * 4), value=float("-inf"))
        for axis in (1, 2):
            scores = scores.unfold(axis, self.kernel, self.stride)
        logits = scores.flatten(4) + self.position.mT
        return logits.softmax(-1).flatten(1, 2).transpose(1, 2)

    def deployed(self) -> nn.Module:
        """Return one linear layer for scores and values, and the kernels as convolutions."""
        return FoldedQnA(self, *self._folded())

    def _scores(self) -> Float[Tensor, "m c"]:
        """Return what gives an input's score: normalised queries, through the keys' weights."""
        q = self.query.unflatten(1, (self.heads, -1))
        q = q / (q.norm(dim=2, keepdim=True) + 1e-6) * q.shape[2] ** -0.5
        return (q.unsqueeze(3) * self.key.unflatten(0, (self.heads, -1))).sum(2).flatten(0, 1)

    def _folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights of the scores, and the kernels of both sums, (channels, 1, k, k)."""
        near = self.position - self.position.detach().amax(0)
        near = near.clamp(min=FLOOR).exp()
        each = (near * self.share).mT.repeat_interleave(self.query.shape[1] // self.heads, 0)
        square = (1, self.kernel, self.kernel)
        return self._scores(), near.mT.unflatten(1, square), each.unflatten(1, square)

    def _sum(self, kernel: Tensor, x: Float[Tensor, "b h w m"]) -> Float[Tensor, "b h2 w2 m"]:
        x = channels_first(x)
        margin, groups = self.kernel // 2, x.shape[1]
        return channels_last(F.conv2d(x, kernel, None, self.stride, margin, 1, groups))


class FoldedQnA(nn.Module):
    """A `QnA` whose parameters will not change: (B, h, w, C) to (B, h', w', C')."""

    def __init__(self, qna: QnA, score: Tensor, total: Tensor, shared: Tensor) -> None:
        super().__init__()
        self.queries, self.dim = qna.queries, qna.value.out_features
        self.both = linear(torch.cat([qna.value.weight, score]), None)
        self.total, self.shared = (_depthwise(k, qna.stride) for k in (total, shared))
        self.proj = qna.proj

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        both = self.both(x)
        values, scores = both[..., : self.dim], both[..., self.dim :]
        return self.proj(read(scores, values, self.queries, self.total, self.shared))


def _depthwise(kernel: Tensor, stride: int) -> Conv:
    dim, side = len(kernel), kernel.shape[2]
    made = Conv(dim, dim, side, stride, side // 2, groups=dim, bias=False, device="meta")
    made.weight = frozen(kernel.contiguous(memory_format=torch.channels_last))
    return made


class Reader(QnA):
    """What two learned queries read of a whole map (B, h, w, C), and its mean if `added`: (B, C).

    Tables are for maps of `side` x `side`; one of another size reads them resampled.
    """

    def __init__(self, dim: int, heads: int, side: int, *, added: bool) -> None:
        super().__init__(dim, dim, heads, kernel=1)
        self.side, self.added = side, added
        shape = (side**2, self.queries * heads)
        self.position = nn.Parameter(torch.zeros(shape))
        self.share = nn.Parameter(0.02 * torch.randn(shape))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c"]:
        share = moved(self.share, self.side, (x.shape[1], x.shape[2]))
        maps = (self._maps(x) * share).unflatten(2, (self.queries, self.heads))
        values = self.value(x).flatten(1, 2).unflatten(2, (self.heads, -1))
        read = self.proj(torch.einsum("bsnh,bshd->bhd", maps, values).flatten(1))
        return read + x.mean((1, 2)) if self.added else read

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b m 1 n"]:
        """Return the attention of every query and head to all positions, before `share`."""
        return self._maps(x).transpose(1, 2).unsqueeze(2)

    def deployed(self) -> nn.Module:
        """Return itself: nothing of it is cheaper."""
        return self

    def _maps(self, x: Tensor) -> Float[Tensor, "b n m"]:
        position = moved(self.position, self.side, (x.shape[1], x.shape[2]))
        return (F.linear(x, self._scores()).flatten(1, 2) + position).softmax(1)


def moved(table: Float[Tensor, "n m"], side: int, grid: tuple[int, int]) -> Float[Tensor, "k m"]:
    """Turn a table of the positions of a square map into one for another: half-pixel bicubic."""
    return bicubic_grid(table[None], (side, side), grid)[0]


class PooledConv(Conv):
    """Means of kernel x kernel positions at every second one, zeros beyond the border counted,
    then a 1x1 convolution: (B, h, w, C) to half the map, rounded up, and C'. The odd one of the
    zeros comes last."""

    def __init__(self, dim_in: int, dim: int, kernel: int) -> None:
        super().__init__(dim_in, dim, 1, bias=False)
        self.side = kernel

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        (top, below), (left, right) = (same(side, self.side, 2) for side in x.shape[1:3])
        x = F.pad(channels_first(x), (left, right, top, below))
        return super().forward(channels_last(F.avg_pool2d(x, self.side, 2)))
