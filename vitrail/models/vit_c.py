"""ViT_C: a short stack of 3x3 convolutions where ViT cuts patches, and one block fewer.

Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021, arXiv 2106.14881.
ViT_P is its twin with the patch stem, in the same sizes: the pair of the paper's study.

The blocks are ViT's with the exact GELU and, unlike the library's default, LayerNorm of eps
1e-6. All convolutions of a stem are 3x3 with BatchNorm and ReLU, the last is 1x1 with a bias
and neither. The authors ask for multiples of 16 pixels; a convolution of stride 2 rounds up,
so that ViT_C takes images of any size and only ViT_P does not. They never move positions to
another size; ours are resampled as ViT's. The class token has no row in the position table: a
row of a checkpoint that is added to it is folded into the token. torchvision's `vit_b_16` is
ViT_P-18GF, and its `conv_stem_configs` make ViT_C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.conv import Conv2d, ConvNorm
from vitrail.layers.ffn import Mlp
from vitrail.layers.position import zoom_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken, Mean
from vitrail.models.names import vit_c as names
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table


@dataclass(frozen=True)
class Config:
    """Sizes of a ViT_C: channels and strides of the 3x3 convolutions, then a convolution of
    `patch` x `patch` and that stride; with no `stem` it is a ViT_P. `pool` is "token" or "mean".
    """

    dim: int = 192
    depth: int = 11
    heads: int = 3
    hidden: int = 576
    stem: tuple[int, ...] = (24, 48, 96, 192)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    patch: int = 1
    pool: str = "token"
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_PATCH = {"stem": (), "strides": (), "patch": 16}
_1GF = Config()
_4GF = Config(dim=384, heads=6, hidden=1152, stem=(48, 96, 192, 384))
_LONG = Config(stem=(64, 128, 128, 256, 256, 512), strides=(2, 2, 1, 2, 1, 2))
_LONGER = Config(stem=(64, 128, 128, 256, 256, 256, 512, 512), strides=(2, 2, 1, 2, 1, 1, 2, 1))
_18GF = replace(_LONG, dim=768, heads=12, hidden=3072)
_36GF = replace(_LONG, dim=1024, heads=16, hidden=4096)
_72GF = replace(_LONGER, dim=1152, heads=18, hidden=4608)
# Accuracy after 400 epochs; that of the largest pair, which is published without other figures,
# with pre-training on ImageNet-21k. vit_c_72gf has the 21 blocks of the authors' config, where
# the paper's text says 22.
VARIANTS = {
    name: Variant(
        replace(base, depth=depth, **(_PATCH if "_p_" in name else {})),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
    )
    for name, base, depth, params_m, flops_g, top1 in [
        ("vit_p_1gf", _1GF, 12, 4.8, 1.1, 72.3),
        ("vit_p_4gf", _4GF, 12, 18.5, 3.9, 80.4),
        ("vit_p_18gf", _18GF, 12, 86.6, 17.5, 82.1),
        ("vit_p_36gf", _36GF, 14, 178.4, 35.9, 81.8),
        ("vit_p_72gf", _72GF, 22, None, None, 85.8),
        ("vit_c_1gf", _1GF, 11, 4.6, 1.1, 75.3),
        ("vit_c_4gf", _4GF, 11, 17.8, 4.0, 81.4),
        ("vit_c_18gf", _18GF, 11, 81.6, 17.7, 83.0),
        ("vit_c_36gf", _36GF, 13, 167.8, 35.0, 83.2),
        ("vit_c_72gf", _72GF, 21, None, None, 86.4),
    ]
}

SPACE = Small(
    Config(pool="mean"),
    {
        ("dim", "heads", "hidden"): ((64, 2, 192), (96, 3, 288), (128, 4, 384)),
        "depth": (3, 6),
        ("stem", "strides"): (
            ((32, 64), (2, 2)),
            ((24, 48, 96), (2, 2, 2)),
            ((16, 32, 64, 128), (2, 2, 2, 2)),
        ),
    },
)


NAMES = names.TABLES
POSITIONS = (
    Table(
        "embed.position",
        lambda c: tuple(math.ceil(side / math.prod(c.strides)) // c.patch for side in c.image),
        zoom_grid,
    ),
)


def stride(config: Config) -> int:
    """Return the pixels of the image per token, down and across."""
    return math.prod(config.strides) * config.patch


def grid(config: Config, h: int, w: int) -> tuple[int, int]:
    """Return the tokens down and across an image of h x w pixels; ValueError unless patches fit."""
    down, across = (math.ceil(side / math.prod(config.strides)) for side in (h, w))
    if down % config.patch or across % config.patch:
        raise ValueError(
            f"image is {h}x{w}; vit_c needs multiples of its patch {stride(config)}: choose "
            "another patch, a stem of convolutions, or resize"
        )
    return down // config.patch, across // config.patch


class Embed(nn.Module):
    """Stem, class token, positions: (B, channels, H, W) to (B, token + h w, C); at another
    image size than the config's the positions are resampled on the way."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        if len(c.stem) != len(c.strides):
            raise ValueError(
                f"stem {c.stem} and strides {c.strides} differ in length: one each a convolution"
            )
        dims = [c.channels, *c.stem]
        self.convs = nn.ModuleList(
            ConvNorm(*pair, 3, stride=s) for pair, s in zip(pairwise(dims), c.strides, strict=True)
        )
        self.proj = Conv2d(dims[-1], c.dim, c.patch, c.patch)
        self.token = nn.Parameter(torch.zeros(1, 1, c.dim)) if c.pool == "token" else None
        self.position = nn.Parameter(torch.empty(1, math.prod(self.grid(*c.image)), c.dim))
        nn.init.normal_(self.position, std=0.02)
        for part in self.convs.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=(2 / part.out_channels) ** 0.5)
        if c.stem:
            nn.init.normal_(self.proj.weight, std=c.dim**-0.5)
        else:
            nn.init.trunc_normal_(self.proj.weight, std=(c.channels * c.patch**2) ** -0.5)
        nn.init.zeros_(self.proj.bias)  # pyright: ignore[reportArgumentType]

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return tokens down and across an image of h x w pixels; ValueError unless patches fit."""
        return grid(self.config, h, w)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n d"]:
        check_image(image, self.config, "vit_c")
        old, new = self.grid(*self.config.image), self.grid(*image.shape[-2:])
        x = image
        for conv in self.convs:
            x = conv(x).relu_()
        x = self.proj(x).flatten(2).mT + zoom_grid(self.position, old, new)
        return x if self.token is None else torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


class ViTC(Isotropic):
    """Stem, pre-norm transformer blocks, class token or mean, linear head."""

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        c = config
        if c.pool not in ("token", "mean"):
            raise ValueError(f"pool is {c.pool!r}: expected token or mean")
        norm = partial(nn.LayerNorm, eps=1e-6)
        blocks = [
            Block(c.dim, Attention(c.dim, c.heads), Mlp(c.dim, c.hidden), norm=norm, drop_path=rate)
            for rate in rising(c.drop_path, c.depth)
        ]
        super().__init__(
            config,
            embed=Embed(config),
            blocks=blocks,
            norm=norm(c.dim),
            pool=FirstToken() if c.pool == "token" else Mean(),
            head=linear_head(c.dim, c.classes),
            levels=[Level(stride(c), c.dim)],
        )
        self._init()

    def _init(self) -> None:
        """Initialise q, k, v as one matrix and the ffn by Xavier's rule; the head is zero."""
        for name, p in self.blocks.named_parameters():
            if name.endswith(("qkv.weight", "fc1.weight", "fc2.weight")):
                nn.init.xavier_uniform_(p)
            elif name.endswith((".qkv.bias", ".proj.bias")):
                nn.init.zeros_(p)
            elif name.endswith((".fc1.bias", ".fc2.bias")):
                nn.init.normal_(p, std=1e-6)
        for p in self.head.parameters():
            nn.init.zeros_(p)


MODEL = ViTC
