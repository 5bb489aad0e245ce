"""Square windows on a map: cut, put back, shift, and what shifted windows must not see.

Liu et al., "Swin Transformer", ICCV 2021, arXiv 2103.14030.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.checks import head_width
from vitrail.layers.linear import Linear
from vitrail.layers.position import BiasTable, offset_index


def pad(x: Float[Tensor, "b h w c"], multiple: int) -> Float[Tensor, "b h2 w2 c"]:
    """Pad with zeros at the bottom and right, up to multiples of `multiple`."""
    below, right = (-size % multiple for size in x.shape[1:3])
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def partition(x: Shaped[Tensor, "b h w c"], window: int) -> Shaped[Tensor, "bn t c"]:
    """Cut (B, H, W, C) into (B n, window^2, C), windows and their positions row by row."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def reverse(
    windows: Float[Tensor, "bn t c"], window: int, grid: tuple[int, int]
) -> Float[Tensor, "b h w c"]:
    """Return the map of (H, W) = `grid` that `partition` cut."""
    h, w = grid
    x = windows.view(-1, h // window, w // window, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, h, w, windows.shape[-1])


def shift_mask(
    grid: tuple[int, int], window: int, shift: tuple[int, int], device: torch.device | None = None
) -> Float[Tensor, "n t t"]:
    """Return what to add to logits of a map that was rolled by `shift`: 0, or -100 between regions.

    Rolling brings the first rows and columns next to the last ones; these regions of a
    window must not mix. It is -100 and not -inf, as in the authors' code.
    """
    rows, columns = (_regions(size, window, s, device) for size, s in zip(grid, shift, strict=True))
    label = partition((3 * rows[:, None] + columns)[None, :, :, None], window)
    return (label != label.mT) * -100.0


def _regions(size: int, window: int, shift: int, device: torch.device | None) -> Tensor:
    at = torch.arange(size, device=device)
    if shift == 0:
        return torch.zeros_like(at)
    return (at >= size - window).long() + (at >= size - shift).long()


class WindowBias(BiasTable):
    """Bias of a window's pairs, *query minus key*, with the mask where the map is shifted.

    forward gives (1, heads, t, t) without a shift, else (n, heads, t, t) for the n windows
    of a map; both are kept as BiasTable keeps them.
    """

    def __init__(self, window: int, heads: int) -> None:
        super().__init__((2 * window - 1) ** 2, heads, offset_index((window, window)))
        self.window = window
        torch.nn.init.trunc_normal_(self.table, std=0.02)

    def forward(
        self, grid: tuple[int, int] = (0, 0), shift: tuple[int, int] = (0, 0)
    ) -> Float[Tensor, "n heads t t"]:
        if not any(shift):
            return super().forward()
        return self._kept_or(lambda: self._masked(grid, shift), (grid, shift))

    def _masked(self, grid: tuple[int, int], shift: tuple[int, int]) -> Tensor:
        mask = shift_mask(grid, self.window, shift, self.table.device)
        return self._gather() + mask.to(self.table.dtype)[:, None]


class WindowAttention(nn.Module):
    """Attention within windows of a map (B, h, w, C), shifted or not, with a relative bias.

    `grid` is the map at the config's image, which decides on window and shift; `inner`, the
    channels of all heads, is C unless given.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int,
        shifted: bool,
        grid: tuple[int, int],
        inner: int | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        inner = dim if inner is None else inner
        self.width = head_width(inner, heads)
        self.heads, self.window = heads, min(window, *grid)
        self.shift = self.window // 2 if shifted else 0
        self.unshifted = grid if self.window == min(grid) else None
        self.qkv = Linear(dim, 3 * inner, bias=qkv_bias)
        self.bias = WindowBias(self.window, heads)
        self.proj = Linear(inner, dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        _, h, w, _ = x.shape
        x, shift = self._shifted(x)
        grid = (x.shape[1], x.shape[2])
        q, k, v, bias = self._heads(x, shift)
        out = attend(q, k, v, bias=bias).transpose(1, 2).flatten(2)
        out = reverse(self.proj(out), self.window, grid)
        if any(shift):
            out = out.roll(shift, (1, 2))
        return out if grid == (h, w) else out[:, :h, :w]

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "bn heads t t"]:
        """Return the attention of every head in every window, rows are queries."""
        q, k, _, bias = self._heads(*self._shifted(x))
        return attention_weights(q, k, bias=bias)

    def _shifted(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the map padded to whole windows and rolled, and by how much."""
        shift = self.shifts((x.shape[1], x.shape[2]))
        x = pad(x, self.window)
        return (x.roll([-s for s in shift], (1, 2)) if any(shift) else x), shift

    def shifts(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return by how much a map of (H, W) = `size` is rolled along its rows and columns."""
        h, w = (self.shift if s > self.window and size != self.unshifted else 0 for s in size)
        return h, w

    def _heads(self, x: Tensor, shift: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        b, h, w, _ = x.shape
        qkv = self.qkv(partition(x, self.window))
        qkv = qkv.view(-1, self.window**2, 3, self.heads, self.width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.bias((h, w), shift)
        return q, k, v, bias if len(bias) == 1 else bias.repeat(b, 1, 1, 1)
