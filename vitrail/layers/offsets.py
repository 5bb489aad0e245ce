"""Attention by relative position alone: scores of offsets, and the theorem that it convolves.

Cordonnier, Loukas, Jaggi, "On the Relationship between Self-Attention and Convolutional
Layers", ICLR 2020, arXiv 1911.03584.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Quadratic(nn.Module):
    """Scores of a Gaussian around each head's centre: of offsets of rows (q, k) and of columns
    (r, l), key minus query, to (heads, q, r, k, l).

    `centers` are (heads, 2), rows first; `spreads` (heads,), whose squares are the precisions,
    or (heads, 2, 2), which times their transposes are.
    """

    def __init__(self, centers: Float[Tensor, "n 2"], spreads: Float[Tensor, "n *d"]) -> None:
        super().__init__()
        self.centers, self.spreads = nn.Parameter(centers), nn.Parameter(spreads)

    def forward(
        self, rows: Float[Tensor, "q k"], columns: Float[Tensor, "r l"]
    ) -> Float[Tensor, "n q r k l"]:
        if self.spreads.ndim == 1:
            a = c = self.spreads.square()
            b = torch.zeros_like(a)
        else:
            precision = self.spreads @ self.spreads.mT
            a, b, c = precision[:, 0, 0], precision[:, 0, 1], precision[:, 1, 1]
        y, x = self.centers.unbind(1)
        down, across = (
            linear[:, None, None] * d - 0.5 * square[:, None, None] * d.square()
            for linear, square, d in ((a * y + b * x, a, rows), (c * x + b * y, c, columns))
        )
        scores = down[:, :, None, :, None] + across[:, None, :, None, :]
        if self.spreads.ndim == 1:
            return scores
        cross = rows[:, None, :, None] * columns[None, :, None, :]
        return scores - b.view(-1, 1, 1, 1, 1) * cross


class Learned(nn.Module):
    """Scores of learned embeddings of offsets, as `Quadratic` gives them; each head has a key
    for the rows' and one for the columns'."""

    def __init__(self, dim: int, heads: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.rows, self.columns = (nn.Parameter(torch.randn(2 * n - 1, dim)) for n in size)
        self.row_keys, self.column_keys = (
            nn.Parameter(torch.empty(heads, dim).uniform_(-(dim**-0.5), dim**-0.5))
            for _ in range(2)
        )

    def forward(
        self, rows: Float[Tensor, "q k"], columns: Float[Tensor, "r l"]
    ) -> Float[Tensor, "n q r k l"]:
        down, across = (
            (keys @ table.mT)[:, (offsets + len(table) // 2).long()]
            for keys, table, offsets in (
                (self.row_keys, self.rows, rows),
                (self.column_keys, self.columns, columns),
            )
        )
        return down[:, :, None, :, None] + across[:, None, :, None, :]


def offsets(size: int, like: Tensor) -> Float[Tensor, "n n"]:
    """Key minus query of all pairs along an axis."""
    at = torch.arange(size, device=like.device, dtype=like.dtype)
    return at - at[:, None]


class ShiftAttention(nn.Module):
    """Multi-head attention whose heads look at one shift each: (B, C, H, W) to (B, C', h, w).

    Keys are the map with zeros around it, queries every `stride`-th pixel from `first` on.
    """

    def __init__(self, conv: nn.Conv2d, precision: float) -> None:
        super().__init__()
        (kh, kw), (dy, dx) = conv.kernel_size, conv.dilation
        self.reach = (dy * (kh // 2), dx * (kw // 2)), (dy * (kh - 1), dx * (kw - 1))
        self.stride, self.margin = conv.stride, conv.padding
        shifts = [(dy * (i - kh // 2), dx * (j - kw // 2)) for i in range(kh) for j in range(kw)]
        like = conv.weight
        centers = torch.tensor(shifts, dtype=like.dtype, device=like.device)
        spreads = torch.full((len(shifts),), (2 * precision) ** 0.5).to(like)
        self.position = Quadratic(centers, spreads)
        weight = like.detach()  # (C', C / groups, kh, kw), made dense over the groups
        full = weight.new_zeros(conv.out_channels, conv.in_channels, kh, kw)
        per = conv.out_channels // conv.groups, conv.in_channels // conv.groups
        for g in range(conv.groups):
            rows = slice(g * per[0], (g + 1) * per[0])
            full[rows, g * per[1] : (g + 1) * per[1]] = weight[rows]
        self.value = nn.Parameter(full.flatten(2).permute(2, 1, 0))  # (heads, C, C')
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        starts, spans = self.reach
        axes, edges = [], []
        for size, start, span, stride, pad in zip(
            x.shape[-2:], starts, spans, self.stride, self.margin, strict=True
        ):
            count = (size + 2 * pad - span - 1) // stride + 1
            queries = torch.arange(count, device=x.device) * stride - pad + start
            keys = torch.arange(-pad, size + pad, device=x.device)
            axes.append((keys - queries[:, None]).to(x.dtype))
            edges = [pad, pad, *edges]
        maps = self.position(*axes).flatten(3).softmax(-1)
        tokens = F.pad(x, edges).flatten(2).mT
        out = torch.einsum("nqrk,bkc,ncd->bdqr", maps, tokens, self.value)
        return out if self.bias is None else out + self.bias[:, None, None]


def convolution_as_attention(conv: nn.Conv2d, precision: float = 50.0) -> ShiftAttention:
    """The attention layer that computes what a convolution does: the paper's theorem, executed.

    One head for each place of the kernel attends to that shift by a Gaussian of `precision`
    (the paper's alpha: from 40 on the rest is rounding in float64) and carries that slice of the
    kernel. The padded zeros are keys. Strides leave out queries, dilation spreads the centres,
    groups are a dense map with zeros. Raises ValueError for padding that is no number of zeros.
    """
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError(
            f"padding is {conv.padding!r} of mode {conv.padding_mode!r}: expected numbers of "
            "zeros; pad the input by itself and give a convolution with padding 0"
        )
    return ShiftAttention(conv, precision)
