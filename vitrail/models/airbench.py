"""AirBench: a few wide convolutions that learn small images in seconds.

Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, arXiv 2404.00498.

A convolution of 2x2 pixels without padding, then stages of 3x3 convolutions: the first of each
is followed by a max pool, so that most of the work is done on small maps. Two things make it
quick. The first convolution whitens: its filters are the eigenvectors of 2x2 patches and their
negatives, divided by the square root of the eigenvalue. And every 3x3 convolution begins as the
identity in the channels that it can copy, so gradients reach the image from the first step on.

The authors take the eigenvectors from the training images and freeze them. Ours are those of
pixels whose neighbours correlate by 0.95 and whose channels do by 0.9, as in photographs; they
need no images and learn with the rest, as does the bias, which theirs does for three epochs.
BatchNorm has no scale, so that a max pool in front of it may as well stand behind; its eps is
torch's 1e-5, where the authors have 1e-12. They scale the logits by 1/9; here the pooled
features are. airbench96 adds a third convolution to a stage, and what entered the second to its
output, with the last GELU behind the sum as in the authors' script since June 2024. Their
recipe (flips in turns, Nesterov momentum, lookahead) is not here. There is neither a golden nor
a peer: the authors publish scripts and no weights, so a test holds the network against the same
layers written out one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d, channels_first, channels_last, folded
from vitrail.layers.residual import DropPath, rising
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head

# How alike neighbouring pixels and the channels of one pixel are in photographs.
PIXELS, CHANNELS, NOISE = 0.95, 0.9, 5e-4
EPS = 1e-5


@dataclass(frozen=True)
class Config:
    """Sizes of an AirBench: channels and 3x3 convolutions of each stage.

    `filters` are those of the 2x2 convolution; the first of them whiten, at most twice its inputs
    (24 of three channels). `scale` multiplies the pooled features; `drop_path` drops branches of
    stages that have one, those of three convolutions or more.
    """

    filters: int = 24
    dims: tuple[int, ...] = (64, 256, 256)
    depths: tuple[int, ...] = (2, 2, 2)
    scale: float = 1 / 9
    drop_path: float = 0.0
    image: tuple[int, int] = (32, 32)
    channels: int = 3
    classes: int = 10


VARIANTS = {
    "airbench94": Variant(Config(), params_m=1.97),
    "airbench95": Variant(Config(dims=(128, 384, 384))),
    "airbench96": Variant(Config(dims=(128, 512, 512), depths=(3, 3, 3))),
}

SPACE = Small(
    Config(),
    {
        ("filters", "dims"): (
            (8, (16, 32, 64)),
            (12, (24, 48, 96)),
            (16, (32, 64, 128)),
            (24, (32, 96, 128)),
            (24, (48, 96, 192)),
            (24, (64, 128, 256)),
            (24, (32, 128, 256)),
            (24, (64, 256, 256)),
            (16, (32, 64, 128, 128)),
        ),
        "depths": ((2, 2, 2), (3, 3, 3)),
    },
)

NAMES: dict[str, list] = {}
UNPADDED = (2, 4, 8, 16)  # strides whose maps lack a position, which the first convolution takes


def whitening(filters: int, channels: int) -> Float[Tensor, "filters channels 2 2"]:
    """Return filters that whiten 2x2 patches of photographs, the most common pattern first, then
    the same of opposite sign; what is left over is drawn as torch draws it."""
    near = torch.tensor([[1.0, PIXELS], [PIXELS, 1.0]])
    alike = torch.full((channels, channels), CHANNELS).fill_diagonal_(1.0)
    values, vectors = torch.linalg.eigh(torch.kron(alike, torch.kron(near, near)).double())
    found = (vectors / (values + NOISE).sqrt()).T.flip(0).float().view(-1, channels, 2, 2)
    kept = min(filters // 2, len(found))
    drawn = torch.empty(filters - 2 * kept, channels, 2, 2)
    if len(drawn):
        nn.init.kaiming_uniform_(drawn, math.sqrt(5))
    return torch.cat([found[:kept], -found[:kept], drawn])


class Stem(nn.Module):
    """The whitening convolution and GELU: image (B, channels, H, W) to (B, H - 1, W - 1, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.conv = Conv2d(config.channels, config.filters, 2)
        self.act = nn.GELU()
        with torch.no_grad():
            self.conv.weight.copy_(whitening(config.filters, config.channels))
            self.conv.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "airbench")
        x = image.contiguous(memory_format=torch.channels_last)
        return channels_last(self.conv.then(x, self.act))


class Unit(nn.Module):
    """3x3 convolution, max pool, BatchNorm without scale: (B, C, h, w) to (B, C', h', w').

    `pool` is the side of the pool's windows; 1 is none. The convolution begins as the identity in
    the first of its channels.
    """

    def __init__(self, dim_in: int, dim: int, pool: int = 1) -> None:
        super().__init__()
        self.conv = Conv2d(dim_in, dim, 3, padding=1, bias=False)
        nn.init.dirac_(self.conv.weight[:dim_in])
        self.pool = nn.MaxPool2d(pool) if pool > 1 else nn.Identity()
        self.norm = nn.BatchNorm2d(dim, EPS)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.norm(self.pool(self.conv(x)))

    def deployed(self) -> nn.Module:
        """Fold the BatchNorm into the convolution: without a scale it keeps a maximum."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = folded(self.conv, self.norm), nn.Identity()
        return self


class Lead(Unit):
    """A unit that halves the map, and GELU: (B, h, w, C) to (B, h // 2, w // 2, C')."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__(dim_in, dim, pool=2)
        self.act = nn.GELU()

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        return channels_last(self.act(super().forward(channels_first(x))))


class Block(nn.Module):
    """Units at one resolution, GELU after each: (B, h, w, C) to the same; with two or more what
    enters is added before the last GELU."""

    def __init__(self, dim: int, depth: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.units = nn.ModuleList(Unit(dim, dim) for _ in range(depth))
        self.drop_path = DropPath(drop_path)
        self.act = nn.GELU()

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        start = x = channels_first(x)
        for i, unit in enumerate(self.units):
            x = self.act(x) if i else x
            x = unit(x)
        return channels_last(self.act(self.drop_path(x) + start if len(self.units) > 1 else x))


class ScaledMax(nn.Module):
    """The maximum over all positions, scaled: (B, h, w, C) to (B, C)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c"]:
        return x.amax((1, 2)) * self.scale


class AirBench(Pyramid):
    """Whitening convolution, stages of a pooling and some plain convolutions, maximum, head."""

    def __init__(self, config: Config) -> None:
        c = config
        if min(c.image) <= 2 ** len(c.dims):
            raise ValueError(
                f"image is {c.image[0]}x{c.image[1]}; {len(c.dims)} stages that halve it need "
                f"more than {2 ** len(c.dims)} pixels a side: give a larger image or fewer stages"
            )
        widths, rates = [c.filters, *c.dims], rising(c.drop_path, len(c.dims))
        stages = [
            Stage(Lead(*pair), [Block(pair[1], depth - 1, rate)] if depth > 1 else [])
            for pair, depth, rate in zip(pairwise(widths), c.depths, rates, strict=True)
        ]
        super().__init__(
            config,
            stem=Stem(c),
            stages=stages,
            norm=nn.Identity(),
            pool=ScaledMax(c.scale),
            head=linear_head(c.dims[-1], c.classes, lambda a, b: nn.Linear(a, b, bias=False)),
            levels=[Level(2 ** (i + 1), dim) for i, dim in enumerate(c.dims)],
        )


ATTENDS = False  # no part of it has weights that sum to one
MODEL = AirBench
