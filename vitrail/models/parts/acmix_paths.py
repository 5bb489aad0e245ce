"""The two paths of ACmix, and how they are summed: see `acmix`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.conv import Conv2d, channels_first, rescaled
from vitrail.layers.linear import Linear, frozen
from vitrail.layers.position import Derived
from vitrail.layers.reduction import Grid
from vitrail.models.parts.san import mirrored

TILE = 8


class Shift(nn.Module):
    """The convolution path: a map (B, h, w, numbers * groups) of q, k and v, channels last in
    each, to (B, groups * out, h', w').

    `fc` mixes the numbers that one channel has in all heads to kernel^2, from which a grouped
    convolution, first of shifts, makes the output of each head.
    """

    def __init__(
        self, numbers: int, groups: int, out: int, *, kernel: int, stride: int, bias: bool
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: expected an odd number, it has a centre")
        self.numbers, self.groups = numbers, groups
        self.fc = Linear(numbers, kernel**2, bias=bias)
        sizes = (groups * kernel**2, groups * out, kernel, stride, kernel // 2)
        self.conv: nn.Conv2d = Conv2d(*sizes, groups=groups, bias=False)
        self.reset()

    def reset(self) -> None:
        """Shift each of the kernel^2 inputs of a group by its own offset."""
        kernel = self.conv.kernel_size[0]
        self.fc.reset_parameters()
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(kernel**2).view(-1, kernel, kernel))

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c2 h2 w2"]:
        mixed = self.fc(x.unflatten(3, (self.numbers, self.groups)).mT.contiguous())
        return self.conv(channels_first(mixed.flatten(3)))

    def absorb(self, scale: Tensor, shift: Tensor | None = None) -> None:
        """Multiply the output's channels, and add to them, for good."""
        self.conv = rescaled(self.conv, scale, shift)

    def deployed(self) -> nn.Module:
        """Return `fc` and shifts as one convolution, where that takes no more multiply-adds."""
        kernel = self.conv.kernel_size[0] ** 2
        out = self.conv.out_channels // self.groups
        separate, joined = kernel * (self.numbers + kernel * out), kernel * self.numbers * out
        return JoinedShift(self) if joined <= separate else self


class JoinedShift(nn.Module):
    """What a `Shift` computes without gradients, by one convolution. What the bias of `fc` adds
    depends on the border alone, and is kept for the last size of map."""

    def __init__(self, whole: Shift) -> None:
        super().__init__()
        self.numbers, self.groups, old = whole.numbers, whole.groups, whole.conv
        weight = old.weight.unflatten(0, (self.groups, -1))
        joined = torch.einsum("gosyx,sj->gojyx", weight, whole.fc.weight).flatten(0, 1)
        self.conv = copy.copy(old)  # its geometry
        self.conv._parameters = dict(old._parameters)
        self.conv.in_channels = self.numbers * self.groups
        self.conv.weight = frozen(joined.contiguous(memory_format=torch.channels_last))
        self.border = None if whole.fc.bias is None else Border(old, whole.fc.bias)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c2 h2 w2"]:
        y = x.unflatten(3, (self.numbers, self.groups)).transpose(3, 4).flatten(3)
        y = self.conv(channels_first(y))
        return y if self.border is None else y + self.border((x.shape[1], x.shape[2]))

    def absorb(self, scale: Tensor, shift: Tensor | None = None) -> None:
        """Take in a scale and a shift as `Shift.absorb` does."""
        self.conv = rescaled(self.conv, scale, shift)
        if self.border is not None:
            self.border.weight = frozen(self.border.weight * scale.view(-1, 1, 1, 1))


class Border(Derived):
    """A constant sent through a convolution, whose padding it does not reach: (1, C, h, w)."""

    def __init__(self, conv: nn.Conv2d, constant: Float[Tensor, "k2"]) -> None:
        super().__init__()
        kernel = torch.einsum("csyx,s->cyx", conv.weight, constant)
        self.weight, self.stride, self.padding = frozen(kernel[:, None]), conv.stride, conv.padding

    def forward(self, grid: Grid) -> Float[Tensor, "1 c h w"]:
        return self._kept_or(lambda: self._made(grid), grid)

    def _made(self, grid: Grid) -> Tensor:
        ones = self.weight.new_ones(1, 1, *grid)
        made = nn.functional.conv2d(ones, self.weight, None, self.stride, self.padding)
        return made.contiguous(memory_format=torch.channels_last)


class Rates(nn.Module):
    """The weighted sum of both paths' maps."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.convolution = (nn.Parameter(torch.full((1,), 0.5)) for _ in range(2))

    def forward(
        self, attended: Float[Tensor, "*s"], convolved: Float[Tensor, "*s"]
    ) -> Float[Tensor, "*s"]:
        return attended * self.attention + convolved * self.convolution


class Gain(nn.Module):
    """The sum once the convolution has its rate: the attention's is one of each channel."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.gain = frozen(gain)

    def forward(
        self, attended: Float[Tensor, "b h w c"], convolved: Float[Tensor, "b h w c"]
    ) -> Float[Tensor, "b h w c"]:
        return torch.addcmul(convolved, attended, self.gain)


class Plain(nn.Module):
    """The sum once both paths have their rates."""

    def forward(
        self, attended: Float[Tensor, "*s"], convolved: Float[Tensor, "*s"]
    ) -> Float[Tensor, "*s"]:
        return attended + convolved


class Coordinates(Derived):
    """A linear map of a position's x and y, each from -1 to 1: (h, w) to (h, w, 1, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(dim, 2)), nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.weight, std=(2 / dim) ** 0.5)

    def forward(self, grid: Grid) -> Float[Tensor, "h w 1 c"]:
        return self._kept_or(lambda: self._made(grid), grid)

    def _made(self, grid: Grid) -> Tensor:
        like = {"dtype": self.weight.dtype, "device": self.weight.device}
        y, x = (torch.linspace(-1, 1, side, **like)[:, None] for side in grid)
        rows, columns = y * self.weight[:, 1], x * self.weight[:, 0] + self.bias
        return (rows[:, None] + columns)[:, :, None]


class Tiles(NamedTuple):
    """How an axis is cut: `outputs` queries, in `number` tiles of `size`, each with `reach` keys,
    and the places of all queries and of all keys, one tile after another."""

    outputs: int
    number: int
    size: int
    reach: int
    queries: list[int]
    keys: list[int]


@lru_cache(maxsize=256)
def tiles(length: int, kernel: int, stride: int) -> Tiles:
    """Return the tiles of every `stride`-th position of an axis."""
    count = -(-length // stride)
    number = -(-count // TILE)
    size = -(-count // number)
    reach, step = (size - 1) * stride + kernel, size * stride
    # What is left over in the last tile asks again for the last position.
    queries = [min(i, count - 1) * stride for i in range(number * size)]
    first = [t * step - kernel // 2 for t in range(number)]
    keys = [mirrored(start + j, length) for start in first for j in range(reach)]
    return Tiles(count, number, size, reach, queries, keys)


@dataclass(frozen=True)
class Mirrored:
    """Attention of every `stride`-th position to the `kernel` x `kernel` ones around it, the map
    mirrored beyond its border. Queries of a tile share the union of their keys, as in
    layers/neighborhood.py, but all tiles look alike."""

    kernel: int
    stride: int = 1

    def attend(
        self, q: Float[Tensor, "b h w n d"], k: Float[Tensor, "b h w n d"], v: Tensor
    ) -> Float[Tensor, "b h2 w2 n d"]:
        """Return softmax(d**-0.5 q k') v."""
        rows, columns = self._axes(q)
        out = attend(*self._cut(q, k, v), bias=self._seen(q))
        out = out.unflatten(2, (rows.size, columns.size))
        out = out.unflatten(0, (-1, rows.number, columns.number))
        out = out.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
        return out[:, : rows.outputs, : columns.outputs]

    def weights(
        self, q: Float[Tensor, "b h w n d"], k: Float[Tensor, "b h w n d"]
    ) -> Float[Tensor, "bt n t s"]:
        """Return the attention of every tile and head, rows are queries."""
        bias = self._seen(q)
        q, k, _ = self._cut(q, k, k)
        return attention_weights(q, k, bias=bias)

    def _axes(self, x: Tensor) -> tuple[Tiles, Tiles]:
        return (
            tiles(x.shape[1], self.kernel, self.stride),
            tiles(x.shape[2], self.kernel, self.stride),
        )

    def _seen(self, x: Tensor) -> Float[Tensor, "1 1 t s"]:
        """Return 0 where a query of a tile sees a key, else -inf."""
        sides = []
        for axis in self._axes(x):
            query = torch.arange(axis.size, device=x.device)[:, None] * self.stride
            offset = torch.arange(axis.reach, device=x.device) - query
            sides.append((offset >= 0) & (offset < self.kernel))
        rows, columns = sides
        seen = (rows[:, None, :, None] & columns[None, :, None]).flatten(2).flatten(0, 1)
        bias = torch.zeros(1, 1, *seen.shape, dtype=x.dtype, device=x.device)
        return bias.masked_fill(~seen, float("-inf"))

    def _cut(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut queries (B tiles, n, t, d), keys and values (B tiles, n, s, d) into tiles."""
        rows, columns = self._axes(q)
        return (
            _tiled(q, rows.queries, columns.queries, rows.number, columns.number),
            _tiled(k, rows.keys, columns.keys, rows.number, columns.number),
            _tiled(v, rows.keys, columns.keys, rows.number, columns.number),
        )


def _tiled(
    x: Tensor, rows: list[int], columns: list[int], down: int, across: int
) -> Float[Tensor, "bt n s d"]:
    """Cut (B, H, W, n, d) into (B down across, n, places, d)."""
    for axis, places in ((1, rows), (2, columns)):
        if places != list(range(x.shape[axis])):
            x = x.index_select(axis, torch.tensor(places, device=x.device))
    x = x.unflatten(2, (across, -1)).unflatten(1, (down, -1))
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(0, 2)
