"""What RangeViT puts before and behind a ViT: its convolutional stem and its decoder.

Ando et al., CVPR 2023, arXiv 2301.10222; blocks of SalsaNext, Cortinhal et al., ISVC 2020,
arXiv 2003.03653. Maps are channels first here, as several convolutions follow each other.
The activation stands between a convolution and its BatchNorm, so the norm cannot go into it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d
from vitrail.layers.linear import Linear

SLOPE = 0.01


class ConvActNorm(nn.Module):
    """Convolution, LeakyReLU, BatchNorm: (B, C, H, W) to (B, C2, H, W)."""

    def __init__(
        self, dim_in: int, dim: int, kernel: int, *, dilation: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv = Conv2d(dim_in, dim, kernel, dilation=dilation, padding=padding)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        return self.norm(F.leaky_relu(self.conv(x), SLOPE))


class Shortcut(nn.Module):
    """1x1 convolution and LeakyReLU: (B, C, H, W) to (B, C2, H, W)."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.conv = Conv2d(dim_in, dim, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        return F.leaky_relu(self.conv(x), SLOPE)


class ContextBlock(nn.Module):
    """A dense and a dilated convolution beside a shortcut: (B, C, H, W) to (B, C2, H, W)."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.shortcut = Shortcut(dim_in, dim)
        self.convs = nn.ModuleList(
            [
                ConvActNorm(dim, dim, 3, padding=1),
                ConvActNorm(dim, dim, 3, dilation=2, padding=2),
            ]
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        out = short = self.shortcut(x)
        for conv in self.convs:
            out = conv(out)
        return short + out


class WideBlock(nn.Module):
    """Three convolutions one behind the other, all read together: (B, C, H, W) to (B, C2, H, W).

    The third is of 2x2 pixels two apart, padded by one on all sides, which keeps the size.
    """

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.shortcut = Shortcut(dim_in, dim)
        self.convs = nn.ModuleList(
            [
                ConvActNorm(dim_in, dim, 3, padding=1),
                ConvActNorm(dim, dim, 3, dilation=2, padding=2),
                ConvActNorm(dim, dim, 2, dilation=2, padding=1),
                ConvActNorm(3 * dim, dim, 1),
            ]
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        *convs, joined = self.convs
        seen, out = [], x
        for conv in convs:
            out = conv(out)
            seen.append(out)
        return self.shortcut(x) + joined(torch.cat(seen, 1))


class ConvTokens(nn.Module):
    """A convolutional stem: (B, channels, H, W) to tokens (B, h, w, D) and its own map
    (B, width, H, W).

    The average over a patch also sees the pixels around it, and zeros of the border count.
    """

    def __init__(
        self, channels: int, dim: int, patch: tuple[int, int], width: int, context: int
    ) -> None:
        super().__init__()
        dims = [channels, *[context] * 3]
        blocks = [ContextBlock(a, b) for a, b in pairwise(dims)]
        self.blocks = nn.ModuleList([*blocks, WideBlock(context, width)])
        high, wide = patch
        self.pool = nn.AvgPool2d((high + 1, wide + 1), patch, (high // 2, wide // 2))
        self.proj = Conv2d(width, dim, 1)

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor | None]:
        x = image
        for block in self.blocks:
            x = block(x)
        return self.proj(self.pool(x)).permute(0, 2, 3, 1), x


class PatchTokens(nn.Module):
    """One convolution over each patch: (B, channels, H, W) to tokens (B, h, w, D), and no map."""

    def __init__(self, channels: int, dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = Conv2d(channels, dim, patch, patch)

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor | None]:
        return self.proj(image).permute(0, 2, 3, 1), None


class UpConv(nn.Module):
    """Tokens (B, h, w, D) and the stem's map to a map (B, H, W, width) of all pixels.

    A token becomes the pixels of its patch; its channels are (width, rows, columns). Of the stem's
    map `skip` channels are read, or none.
    """

    def __init__(self, dim: int, width: int, skip: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.skips = patch, skip > 0
        self.up = Linear(dim, width * patch[0] * patch[1])
        self.join = ConvActNorm(width + skip, width, 3, padding=1)
        self.out = ConvActNorm(width, width, 1)

    def forward(
        self, x: Float[Tensor, "b h w d"], skip: Float[Tensor, "b s h2 w2"] | None
    ) -> Float[Tensor, "b h2 w2 c"]:
        b, h, w, _ = x.shape
        high, wide = self.patch
        x = self.up(x).view(b, h, w, -1, high, wide)
        x = x.permute(0, 3, 1, 4, 2, 5).reshape(b, -1, h * high, w * wide)
        joined = torch.cat([x, skip], 1) if self.skips and skip is not None else x
        return self.out(self.join(joined)).permute(0, 2, 3, 1)


class Tokens(nn.Module):
    """The tokens (B, h, w, D) as they are."""

    def forward(self, x: Float[Tensor, "b h w d"], skip: Tensor | None) -> Float[Tensor, "b h w d"]:
        return x
