"""Attention by relative position alone: heads that look at offsets, and the theorem that they
convolve.

Cordonnier, Loukas, Jaggi, "On the Relationship between Self-Attention and Convolutional
Layers", ICLR 2020, arXiv 1911.03584.

Where no content plays a part, weights are a table that does not depend on the image. Where
scores of rows and of columns add up, the softmax over all pixels is the product of one over
rows and one over columns, exactly, so that a head is two short passes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.position import Derived


class Offsets(Derived):
    """What heads see that look where offsets tell them: (B, h, w, C) to (B, h, w, heads, C).

    A subclass says `scores`, from offsets of rows (q, k) and of columns (r, l), key minus query.
    """

    def scores(
        self, rows: Float[Tensor, "q k"], columns: Float[Tensor, "r l"]
    ) -> Float[Tensor, "n q r k l"]:
        """Return the logits of the heads for queries at (q, r) and keys at (k, l)."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "b h w c"], dropout: float = 0.0) -> Tensor:
        """Attend by offsets alone; `dropout` acts on the weights."""
        b, h, w, c = x.shape
        maps = self._kept_or(lambda: self._maps(h, w), (h, w))
        seen = F.dropout(maps, dropout, dropout > 0) @ x.flatten(1, 2)
        return seen.view(b, h, w, -1, c)

    def bias(self, h: int, w: int) -> Float[Tensor, "1 n t s"]:
        """Return the scores of all pairs of pixels, to be added to those of content."""
        return self._kept_or(lambda: self._scores(h, w), (h, w))

    def table(self, h: int, w: int) -> Float[Tensor, "1 n t s"]:
        """Return who looks at whom; rows are queries."""
        return self._scores(h, w).softmax(-1)

    def _scores(self, h: int, w: int) -> Tensor:
        return self.scores(*self._offsets(h, w)).flatten(3).flatten(1, 2)[None]

    def _maps(self, h: int, w: int) -> Float[Tensor, "tn s"]:
        return self.table(h, w)[0].transpose(0, 1).flatten(0, 1)

    def _offsets(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        like = next(self.parameters())
        return between(h, like), between(w, like)


class AxisOffsets(Offsets):
    """Offsets whose scores are one of the rows plus one of the columns, from `axes`."""

    def axes(
        self, rows: Float[Tensor, "q k"], columns: Float[Tensor, "r l"]
    ) -> tuple[Float[Tensor, "n q k"], Float[Tensor, "n r l"]]:
        """Return the two summands of `scores`."""
        raise NotImplementedError

    def scores(
        self, rows: Float[Tensor, "q k"], columns: Float[Tensor, "r l"]
    ) -> Float[Tensor, "n q r k l"]:
        down, across = self.axes(rows, columns)
        return down[:, :, None, :, None] + across[:, None, :, None, :]

    def forward(self, x: Float[Tensor, "b h w c"], dropout: float = 0.0) -> Tensor:
        """Attend by offsets alone, along one axis after the other;
        `dropout` acts on the weights.
        """
        if dropout > 0:  # on those of pairs of pixels, of which two passes know nothing
            return super().forward(x, dropout)
        h, w = x.shape[1:3]
        down, across = self._kept_or(lambda: self.factors(*self._offsets(h, w)), (h, w))
        return two_passes(x, down, across)

    def factors(
        self, rows: Float[Tensor, "q k"], columns: Float[Tensor, "r l"]
    ) -> tuple[Float[Tensor, "n q k"], Float[Tensor, "n r l"]]:
        """Return weights along the rows and along the columns; those of a
        pixel are their product.
        """
        down, across = self.axes(rows, columns)
        return down.softmax(-1), across.softmax(-1)


class Quadratic(AxisOffsets):
    """A Gaussian around each head's centre: `centers` (heads, 2), rows first, and `spreads`
    (heads,), whose squares are the precisions."""

    def __init__(self, centers: Float[Tensor, "n 2"], spreads: Float[Tensor, "n"]) -> None:
        super().__init__()
        self.centers, self.spreads = nn.Parameter(centers), nn.Parameter(spreads)

    def axes(
        self, rows: Float[Tensor, "q k"], columns: Float[Tensor, "r l"]
    ) -> tuple[Float[Tensor, "n q k"], Float[Tensor, "n r l"]]:
        precision = self.spreads.square()[:, None, None]
        y, x = self.centers[:, :, None, None].unbind(1)
        return tuple(  # pyright: ignore[reportReturnType]
            precision * (at - 0.5 * d) * d for at, d in ((y, rows), (x, columns))
        )


class General(Offsets):
    """A Gaussian of any shape around each head's centre: `centers` (heads, 2), rows first, and
    `spreads` (heads, 2, 2), which times their transposes are the precisions."""

    def __init__(self, centers: Float[Tensor, "n 2"], spreads: Float[Tensor, "n 2 2"]) -> None:
        super().__init__()
        self.centers, self.spreads = nn.Parameter(centers), nn.Parameter(spreads)

    def scores(
        self, rows: Float[Tensor, "q k"], columns: Float[Tensor, "r l"]
    ) -> Float[Tensor, "n q r k l"]:
        y, x = (at[:, None, None, None, None] for at in self.centers.unbind(1))
        a, b, _, c = (self.spreads @ self.spreads.mT).flatten(1).unbind(1)
        a, b, c = (entry[:, None, None, None, None] for entry in (a, b, c))
        down, across = rows[:, None, :, None], columns[None, :, None, :]
        linear = (a * y + b * x) * down + (c * x + b * y) * across
        return linear - 0.5 * (a * down.square() + c * across.square()) - b * down * across


class Learned(AxisOffsets):
    """Embeddings of the offsets of rows and of columns, with a key of each head for either."""

    def __init__(self, dim: int, heads: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.rows, self.columns = (nn.Parameter(torch.randn(2 * n - 1, dim)) for n in size)
        self.row_keys, self.column_keys = (
            nn.Parameter(torch.empty(heads, dim).uniform_(-(dim**-0.5), dim**-0.5))
            for _ in range(2)
        )

    def axes(
        self, rows: Float[Tensor, "q k"], columns: Float[Tensor, "r l"]
    ) -> tuple[Float[Tensor, "n q k"], Float[Tensor, "n r l"]]:
        return tuple(  # pyright: ignore[reportReturnType]
            (keys @ table.mT)[:, (d + len(table) // 2).long()]
            for keys, table, d in (
                (self.row_keys, self.rows, rows),
                (self.column_keys, self.columns, columns),
            )
        )


def between(size: int, like: Tensor) -> Float[Tensor, "n n"]:
    """Return key minus query of all pairs along an axis."""
    at = torch.arange(size, device=like.device, dtype=like.dtype)
    return at - at[:, None]


def two_passes(
    x: Float[Tensor, "b k l c"], down: Float[Tensor, "n q k"], across: Float[Tensor, "n r l"]
) -> Float[Tensor, "b q r n c"]:
    """Return what heads see whose weights are products: first along the rows, then the columns."""
    (heads, tall, _), (_, _, wide, channels) = down.shape, x.shape
    seen = down.transpose(0, 1).flatten(0, 1) @ x.flatten(2)
    seen = across @ seen.view(-1, heads, wide, channels)
    return seen.transpose(1, 2).unflatten(0, (-1, tall))


class ShiftAttention(nn.Module):
    """Multi-head attention whose heads look at one shift each: (B, C, H, W) to (B, C', h, w).

    Keys are the map with zeros around it, queries every `stride`-th pixel from a first one on.
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
        self.value = nn.Parameter(full.flatten(2).transpose(1, 2).flatten(1))  # (C', heads C)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        (top, left), keys = self.margin, x.permute(0, 2, 3, 1)
        keys = F.pad(keys, (0, 0, left, left, top, top))  # pyright: ignore[reportArgumentType]
        seen = two_passes(keys, *self.position.factors(*self._offsets(x)))
        return F.linear(seen.flatten(3), self.value, self.bias).permute(0, 3, 1, 2)

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b heads t s"]:
        """Return who looks at whom, the same for every image; keys are
        the padded map, row-major.
        """
        down, across = self.position.factors(*self._offsets(x))
        maps = down[:, :, None, :, None] * across[:, None, :, None, :]
        return maps.flatten(3).flatten(1, 2).expand(x.shape[0], -1, -1, -1)

    def _offsets(self, x: Tensor) -> list[Tensor]:
        """Return key minus query, of rows and of columns."""
        found = []
        for size, start, span, stride, pad in zip(
            x.shape[-2:], *self.reach, self.stride, self.margin, strict=True
        ):
            count = (size + 2 * pad - span - 1) // stride + 1  # pyright: ignore[reportOperatorIssue]
            if count < 1:
                raise ValueError(
                    f"input has {size} pixels along an axis, padded by {pad}; the kernel spans "
                    f"{span + 1}: give a larger input"
                )
            queries = torch.arange(count, device=x.device) * stride - pad + start  # pyright: ignore[reportOperatorIssue]
            keys = torch.arange(-pad, size + pad, device=x.device)  # pyright: ignore[reportOperatorIssue]
            found.append((keys - queries[:, None]).to(x.dtype))
        return found


def convolution_as_attention(conv: nn.Module, precision: float = 50.0) -> ShiftAttention:
    """Return the attention layer that computes what a convolution does: the paper's theorem,
    executed.

    One head for each place of the kernel attends to that shift by a Gaussian of `precision`
    (the paper's alpha: from 40 on the rest is rounding in float64) and carries that slice of the
    kernel. Borders are exact, since the padded zeros are keys. Strides leave out queries,
    dilation spreads the centres, groups are a dense map with zeros. The layer maps (B, C, H, W).
    Raises ValueError for what is not a Conv2d and for padding that is not a number of zeros.
    """
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(
            f"the layer is a {type(conv).__name__}; heads become the places of a kernel that "
            "moves over a map: give an nn.Conv2d"
        )
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError(
            f"padding is {conv.padding!r} of mode {conv.padding_mode!r}: expected numbers of "
            "zeros; pad the input by itself and give a convolution with padding 0"
        )
    return ShiftAttention(conv, precision)
