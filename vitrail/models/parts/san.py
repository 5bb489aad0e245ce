"""The trunk of SAN, a host of other papers: pre-activated bottlenecks of attention, no 3x3.

Zhao, Jia, Koltun, "Exploring Self-attention for Image Recognition", CVPR 2020, arXiv 2004.13621.
Its patchwise attention draws the weights of a neighbourhood, one set for `SHARE` channels, from
all that is there at once: by two linear layers of the query and every neighbour, no softmax.
Beyond the border a map is mirrored. Odd maps are pooled up, where the authors leave out a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import (
    Affine,
    Conv2d,
    ConvNorm,
    LinearNorm,
    affine,
    channels_first,
    channels_last,
)
from vitrail.layers.init import kaiming_conv
from vitrail.layers.linear import Linear
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import Mean
from vitrail.models.trunk.backbone import Level, Pyramid, Stage, check_image
from vitrail.models.trunk.heads import linear_head

SHARE = 8


@dataclass(frozen=True)
class Config:
    """Sizes of a SAN: widths, blocks and the side of the neighbourhood, 3 in the first stage, and
    the stride of the first stage, `patch`, 1 or 2."""

    dims: tuple[int, ...] = (64, 256, 512, 1024, 2048)
    depths: tuple[int, ...] = (2, 1, 2, 4, 1)
    window: int = 7
    patch: int = 2
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


def mirrored(place: int, length: int) -> int:
    """Return where on an axis a place beyond its ends is found, reflected as often as it takes."""
    period = max(2 * length - 2, 1)
    return min(place % period, period - place % period)


def around(x: Float[Tensor, "b h w c"], reach: int) -> Float[Tensor, "b h2 w2 c"]:
    """Return the map with `reach` mirrored lines on each side, the border's own not repeated."""
    for axis in (1, 2):
        length = x.shape[axis]
        places = [mirrored(i - reach, length) for i in range(length + 2 * reach)]
        x = x.index_select(axis, torch.tensor(places, device=x.device))
    return x


class Patchwise(nn.Module):
    """Weights from a whole neighbourhood: q and k (B, h, w, c) to (B, h, w, n, kernel^2)."""

    def __init__(self, rel: int, shared: int, kernel: int) -> None:
        super().__init__()
        self.kernel, self.act = kernel, nn.ReLU()
        self.norm: nn.Module = nn.BatchNorm2d(rel * (kernel**2 + 1))
        self.enter = LinearNorm(rel * (kernel**2 + 1), shared)
        self.leave = Linear(shared, kernel**2 * shared)

    def forward(
        self, q: Float[Tensor, "b h w c"], k: Float[Tensor, "b h w c"]
    ) -> Float[Tensor, "b h w n k2"]:
        # As in the authors' code: the query's channels, then each channel's kernel^2 neighbours.
        near = around(k, self.kernel // 2).unfold(1, self.kernel, 1).unfold(2, self.kernel, 1)
        both = torch.cat([q, near.flatten(3)], 3)
        y = self.act(channels_last(self.norm(channels_first(both))))
        y = self.leave(self.enter.then(y, self.act))
        return y.unflatten(3, (-1, self.kernel**2))

    def deployed(self) -> nn.Module:
        """Turn the first BatchNorm into scale and shift."""
        self.norm = Affine(self.norm)  # pyright: ignore[reportArgumentType]
        return self


def gathered(
    weights: Float[Tensor, "b h w n k2"], v: Float[Tensor, "b h w c"], kernel: int
) -> Float[Tensor, "b h w c"]:
    """Sum the neighbours by weights that n groups of neighbouring channels have."""
    h, w = v.shape[1:3]
    padded = around(v, kernel // 2).unflatten(3, (weights.shape[3], -1))
    weights = weights.movedim(-1, 0).unsqueeze(-1).contiguous()  # read one offset after another
    total = padded[:, :h, :w] * weights[0]
    for u in range(1, kernel**2):
        y, x = divmod(u, kernel)
        total = total.addcmul_(padded[:, y : y + h, x : x + w], weights[u])
    return total.flatten(3)


class SANBlock(nn.Module):
    """x + 1x1 of the mixer of x, both behind BatchNorm and ReLU: (B, h, w, C) to the same. The
    mixer makes (B, `inner`, h, w) of (B, C, h, w)."""

    def __init__(self, dim: int, inner: int, mixer: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1: nn.Module = nn.BatchNorm2d(dim)
        self.norm2: nn.Module = nn.BatchNorm2d(inner)
        self.mixer = mixer
        self.conv, self.act = Conv2d(inner, dim, 1), nn.ReLU()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        y = self.mixer(self.act(self.norm1(channels_first(x))))
        return x + self.drop_path(channels_last(self.conv(self.act(self.norm2(y)))))

    def deployed(self) -> nn.Module:
        """Turn BatchNorms into scale and shift, the second within the mixer."""
        self.norm1 = Affine(self.norm1)  # pyright: ignore[reportArgumentType]
        self.mixer.absorb_norm(*affine(self.norm2))  # pyright: ignore
        self.norm2 = nn.Identity()
        return self


class SANStage(Stage):
    """2x2 max pool, 1x1 convolution, blocks, BatchNorm and ReLU: a map to one half as large, or
    as large if not `halved`."""

    def __init__(self, dim_in: int, dim: int, blocks: list[nn.Module], *, halved: bool) -> None:
        pool = nn.MaxPool2d(2, 2, ceil_mode=True) if halved else nn.Identity()
        super().__init__(nn.Sequential(pool, Conv2d(dim_in, dim, 1, bias=False)), blocks)
        self.norm: nn.Module = nn.BatchNorm2d(dim)
        self.act = nn.ReLU()

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = self.blocks(channels_last(self.down(channels_first(x))))
        return channels_last(self.act(self.norm(channels_first(x))))

    def deployed(self) -> nn.Module:
        """Turn the BatchNorm into scale and shift."""
        self.norm = Affine(self.norm)  # pyright: ignore[reportArgumentType]
        return self


class SANStem(nn.Module):
    """1x1 convolution, BatchNorm, ReLU: (B, channels, H, W) to (B, H, W, C)."""

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        self.config, self.act = config, nn.ReLU()
        self.conv = ConvNorm(config.channels, dim, 1)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h w c"]:
        check_image(image, self.config, "san")
        x = image.contiguous(memory_format=torch.channels_last)
        return channels_last(self.conv.then(x, self.act))


class SAN(Pyramid):
    """Stem, stages of bottlenecks, mean, linear head.

    `mixer(i, j)` makes a quarter of the stage's width of (B, C, h, w) views.
    """

    def __init__(self, config: Config, mixer: Callable[[int, int], nn.Module]) -> None:
        c, stages, before = config, [], config.dims[0]
        if len(c.dims) != len(c.depths):
            raise ValueError(
                f"dims {c.dims} and depths {c.depths} differ in length: one each a stage"
            )
        if c.patch not in (1, 2):
            raise ValueError(f"patch is {c.patch}; the first stage of a san has one of 1 or 2")
        rates = iter(rising(c.drop_path, sum(c.depths)))
        for i, (dim, depth) in enumerate(zip(c.dims, c.depths, strict=True)):
            blocks: list[nn.Module] = [
                SANBlock(dim, dim // 4, mixer(i, j), next(rates)) for j in range(depth)
            ]
            stages.append(SANStage(before, dim, blocks, halved=i > 0 or c.patch == 2))
            before = dim
        super().__init__(
            config,
            stem=SANStem(config, config.dims[0]),
            stages=stages,
            norm=nn.Identity(),
            pool=Mean(),
            head=linear_head(before, c.classes),
            levels=[Level(c.patch * 2**i, dim) for i, dim in enumerate(c.dims)],
        )
        kaiming_conv(self)
