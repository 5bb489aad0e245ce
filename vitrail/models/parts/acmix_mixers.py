"""ACmix in the attention of three hosts: Swin's windows, PVT's reduced keys, SAN's patches. See
`acmix`."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend
from vitrail.layers.conv import channels_first, channels_last
from vitrail.layers.linear import Linear
from vitrail.layers.reduction import Grid, ReducedAttention
from vitrail.layers.windows import WindowAttention, reverse
from vitrail.models.parts import san
from vitrail.models.parts.acmix_paths import Gain, Plain, Rates, Shift


class WindowACmix(WindowAttention):
    """ACmix in Swin's windows: a map (B, h, w, C) to the same. The convolution is added behind
    the output projection."""

    def __init__(self, dim: int, heads: int, *, kernel: int = 3, **sizes: Any) -> None:
        super().__init__(dim, heads, **sizes)
        self.path = Shift(3 * heads, dim // heads, heads, kernel=kernel, stride=1, bias=True)
        self.rates: nn.Module = Rates()

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        _, h, w, c = x.shape
        x, shift = self._shifted(x)
        grid, qkv = (x.shape[1], x.shape[2]), self.qkv(x)
        q, k, v = self._windows(qkv)
        bias = self.bias(grid, shift)
        bias = bias if len(bias) == 1 else bias.repeat(len(x), 1, 1, 1)
        attended = attend(q, k, v, bias=bias).transpose(1, 2).reshape(-1, self.window**2, c)
        attended = reverse(self.proj(attended), self.window, grid)
        out = self.rates(attended, channels_last(self.path(qkv)))
        if any(shift):
            out = out.roll(shift, (1, 2))
        return out if grid == (h, w) else out[:, :h, :w]

    def deployed(self) -> nn.Module:
        """Give both paths their rates."""
        return _rated(self)

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels of a deployed module, for good."""
        self.proj = self.proj.scaled(scale)
        self.path.absorb(scale)

    def _windows(self, qkv: Tensor) -> Float[Tensor, "3 bn heads t d"]:
        size, (h, w) = self.window, qkv.shape[1:3]
        cut = (h // size, size, w // size, size, 3, self.heads, -1)
        cut = qkv.reshape(len(qkv), *cut).permute(5, 0, 1, 3, 6, 2, 4, 7)
        return cut.flatten(5, 6).flatten(1, 3)


class ReducedACmix(ReducedAttention):
    """ACmix in PVT: tokens (B, prefix + h w, C) of a grid (h, w) to the same."""

    def __init__(self, dim: int, heads: int, ratio: int, *, kernel: int = 3) -> None:
        super().__init__(dim, heads, ratio)
        self.path = Shift(3 * heads, dim // heads, heads, kernel=kernel, stride=1, bias=True)
        self.rates: nn.Module = Rates()

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c"]:
        q, k, v = self._heads(x, grid)
        attended = self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        convolved = channels_last(self.path(self._map(q, k, v, grid))).flatten(1, 2)
        prefix = x.shape[1] - convolved.shape[1]
        return self.rates(attended, nn.functional.pad(convolved, (0, 0, prefix, 0)))

    def deployed(self) -> nn.Module:
        """Give both paths their rates."""
        return _rated(self)

    def _map(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid) -> Float[Tensor, "b h w c"]:
        """Return q and what stands for k and v at every position, (B, h, w, 3 C)."""
        ratio = 1 if self.reduce is None else self.reduce.ratio
        reduced = tuple(max(1, side // ratio) for side in grid)
        found = [q[:, :, q.shape[2] - grid[0] * grid[1] :].unflatten(2, grid)]
        for part in (k, v):
            part = part[:, :, part.shape[2] - reduced[0] * reduced[1] :].unflatten(2, reduced)
            for axis in (2, 3) if ratio > 1 else ():
                at = torch.arange(grid[axis - 2], device=part.device) // ratio
                part = part.index_select(axis, at.clamp(max=reduced[axis - 2] - 1))
            found.append(part)
        return torch.stack(found, 1).permute(0, 3, 4, 1, 2, 5).flatten(3)


def _rated(mixer: Any) -> nn.Module:
    """Return a mixer whose projection and convolution have their rates."""
    width, rates = mixer.proj.out_features, mixer.rates
    mixer.proj = mixer.proj.scaled(rates.attention.expand(width))
    mixer.path.absorb(rates.convolution.expand(width))
    mixer.rates = Plain()
    return mixer


class PatchwiseACmix(nn.Module):
    """ACmix in SAN: (B, C, h, w) views to a quarter of the channels. One of a query's numbers,
    one of a key's and four of a value's make four of the convolution's output."""

    def __init__(self, dim: int, *, window: int, kernel: int = 3) -> None:
        super().__init__()
        if dim % (4 * san.SHARE):
            raise ValueError(f"dim is {dim}: a san needs multiples of {4 * san.SHARE}")
        self.rel, self.window = dim // 16, window
        self.qkv = Linear(dim, 6 * self.rel)
        self.draw = san.Patchwise(self.rel, dim // 4 // san.SHARE, window)
        self.path = Shift(6, self.rel, 4, kernel=kernel, stride=1, bias=False)
        self.rates: nn.Module = Rates()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        qkv = self.qkv(channels_last(x))
        q, k, v = qkv.split((self.rel, self.rel, 4 * self.rel), 3)
        attended = san.gathered(self.draw(q, k), v, self.window)
        return channels_first(self.rates(attended, channels_last(self.path(qkv))))

    def deployed(self) -> nn.Module:
        """Give the convolution its rate."""
        assert isinstance(self.rates, Rates)
        self.path.absorb(self.rates.convolution.expand(4 * self.rel))
        self.rates = Gain(self.rates.attention)
        return self

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels and add to them, as ACmix's does."""
        assert isinstance(self.rates, Gain)
        self.path.absorb(scale, shift)
        self.rates = Gain(self.rates.gain * scale)
