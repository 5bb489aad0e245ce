"""LocalViT's feed-forward: an inverted residual on the map of tokens. See `localvit`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import ConvNorm, channels_first, channels_last
from vitrail.layers.linear import Linear
from vitrail.layers.reduction import Grid

ACTS = ("relu6", "hs", "hs+se", "hs+eca", "hs+ecah")
# where the depthwise convolution stands among those before the gate
ORDERS = {"between": ("enter", "local"), "first": ("local", "enter"), "none": ("enter",)}


class SqueezeGate(nn.Module):
    """Channels weighted by a small network of their means: (B, C, H, W) to the same."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(dim, inner), Linear(inner, dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        means = self.fc2(self.fc1(x.mean((2, 3))).relu())
        return x * nn.functional.hardsigmoid(means)[:, :, None, None]


class ChannelGate(nn.Module):
    """Channels weighted by a 1-D convolution over their means: (B, C, H, W) to the same."""

    def __init__(self, dim: int, *, hard: bool) -> None:
        super().__init__()
        size = int(abs((math.log2(dim) + 1) / 2))
        kernel = size if size % 2 else size + 1
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.act = nn.Hardsigmoid() if hard else nn.Sigmoid()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        means = self.conv(x.mean((2, 3))[:, None])
        return x * self.act(means)[:, 0, :, None, None]


class LocalFeedForward(nn.Module):
    """x plus 1x1, depthwise 3x3, gate and 1x1 of it: tokens (B, prefix + h w, C) of a grid
    (h, w) to the same; the prefix stays as it is. Without a grid x is a map (B, h, w, C).

    `act` is one of `ACTS`, `local` one of `ORDERS`. Raises ValueError for others, and for a
    depthwise convolution that comes first though `hidden` is not `dim`.
    """

    def __init__(
        self, dim: int, hidden: int, act: str, squeeze: int = 1, local: str = "between"
    ) -> None:
        super().__init__()
        gates: dict[str, Callable[[], nn.Module]] = {
            "relu6": nn.Identity,
            "hs": nn.Identity,
            "hs+se": lambda: SqueezeGate(hidden, max(1, hidden // squeeze)),
            "hs+eca": lambda: ChannelGate(hidden, hard=False),
            "hs+ecah": lambda: ChannelGate(hidden, hard=True),
        }
        if act not in gates:
            raise ValueError(f"act is {act!r}: expected {', '.join(ACTS)}")
        if local not in ORDERS or (local == "first" and hidden != dim):
            raise ValueError(
                f"local is {local!r}, dim {dim}, hidden {hidden}: expected {', '.join(ORDERS)}, "
                "'first' only where hidden is dim"
            )
        self.order = ORDERS[local]
        self.enter = ConvNorm(dim, hidden, 1)
        if "local" in self.order:
            self.local = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.leave, self.gate = ConvNorm(hidden, dim, 1), gates[act]()
        self.act = nn.ReLU6() if act == "relu6" else nn.Hardswish()

    def forward(
        self, x: Float[Tensor, "b *n c"], grid: Grid | None = None
    ) -> Float[Tensor, "b *n c"]:
        if grid is None:
            return self._map(x)
        prefix = x.shape[1] - grid[0] * grid[1]
        y = self._map(x[:, prefix:].unflatten(1, grid)).flatten(1, 2)
        return torch.cat([x[:, :prefix], y], 1) if prefix else y

    def _map(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        y = channels_first(x)
        for part in self.order:
            y = self.act(self.get_submodule(part)(y))
        return x + channels_last(self.leave(self.gate(y)))
