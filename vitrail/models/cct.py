"""CCT: convolutional tokens and sequence pooling let a small transformer learn from few images.

Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers", 2021, arXiv
2104.05704. Three models in one file: ViT-Lite (small patches, class token), CVT (a weighted
mean of all tokens instead; not CvT, which is another paper's) and CCT (convolutional tokens).

The encoder layer is neither pre- nor post-norm: the branch of attention is normed on its way
in, and after it the residual stream itself. q, k and v have no bias; attention weights drop
out at 0.1 also where nothing else does. Sinusoids run over the flat index of the token. The
authors' factories forget the kind of position, so that their `_sine` models start with
learned ones; ours are what the names say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.conv import Conv2d
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.position import bilinear_grid, sine_1d
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken, SequencePool
from vitrail.models.names import cct as names
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table


@dataclass(frozen=True)
class Config:
    """Sizes of a compact transformer. The tokenizer has `convs` convolutions of `kernel`, all
    but the last of `inner` channels; with `convs` 0 it cuts patches of `kernel` pixels. `pool`
    is "sequence" or "token" (class token), `position` "learned", "sine" or "none"."""

    dim: int = 128
    depth: int = 2
    heads: int = 2
    hidden: int = 128
    kernel: int = 3
    convs: int = 2
    inner: int = 64
    pool: str = "sequence"
    position: str = "learned"
    attention_dropout: float = 0.1
    drop_path: float = 0.1
    image: tuple[int, int] = (32, 32)
    channels: int = 3
    classes: int = 10


_SMALL, _LARGE = Config(), Config(dim=256, heads=4, hidden=512)
_FLOWERS = replace(_LARGE, kernel=7, image=(224, 224), classes=102)
_IMAGENET = replace(_FLOWERS, dim=384, heads=6, hidden=1152, classes=1000)
_CVT, _LITE = {"kernel": 4, "convs": 0}, {"kernel": 4, "convs": 0, "pool": "token"}
_ATTENTION = "the published operations leave out a part of attention"
_ROUNDED = "published are two digits of a figure some 0.3 % above the matrix products"

VARIANTS = {
    name: Variant(
        replace(base, depth=depth, **changes),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        note=note,
    )
    for name, base, depth, changes, params_m, flops_g, top1, note in [
        ("cct_2_3x2_32", _SMALL, 2, {}, 0.28, 0.04, None, ""),
        ("cct_4_3x2_32", _SMALL, 4, {}, 0.48, 0.05, None, ""),
        ("cct_6_3x1_32", _LARGE, 6, {"convs": 1}, 3.23, 1.02, None, ""),
        ("cct_6_3x2_32", _LARGE, 6, {}, 3.33, 0.25, None, ""),
        ("cct_7_3x1_32", _LARGE, 7, {"convs": 1}, 3.76, 1.19, None, ""),
        ("cct_7_3x2_32", _LARGE, 7, {}, 3.85, 0.29, None, ""),
        ("cct_7_7x2_224", _FLOWERS, 7, {}, None, None, None, ""),
        ("cct_14_7x2_224", _IMAGENET, 14, {}, 22.36, 5.11, 80.67, _ATTENTION),
        ("cct_14_7x2_384", _IMAGENET, 14, {"image": (384, 384)}, 22.51, 15.02, 82.71, _ATTENTION),
        *[(f"cct_vit_lite_{n}_4_32", _SMALL, n, _LITE, None, None, None, "") for n in (2, 4)],
        ("cct_vit_lite_6_4_32", _LARGE, 6, _LITE, 3.19, 0.22, None, ""),
        ("cct_vit_lite_7_4_32", _LARGE, 7, _LITE, 3.72, 0.26, None, _ROUNDED),
        *[(f"cct_cvt_{n}_4_32", _SMALL, n, _CVT, None, None, None, "") for n in (2, 4)],
        ("cct_cvt_6_4_32", _LARGE, 6, _CVT, 3.19, 0.22, None, _ROUNDED),
        ("cct_cvt_7_4_32", _LARGE, 7, _CVT, 3.72, 0.25, None, ""),
        ("cct_cvt_8_4_32", _LARGE, 8, _CVT, None, None, None, ""),
    ]
}
VARIANTS |= {
    f"{name}_sine": Variant(replace(variant.config, position="sine"))
    for name, variant in VARIANTS.items()
    if variant.top1 is None
}

SPACE = Small(
    Config(attention_dropout=0.0, drop_path=0.0),
    {
        ("kernel", "convs", "inner"): ((3, 2, 64), (3, 1, 64), (3, 3, 32), (7, 2, 32)),
        ("dim", "heads", "hidden"): ((64, 1, 128), (128, 2, 256)),
        "depth": (2, 5),
    },
)

NAMES = names.TABLES


def _positions(config: Config) -> tuple[Table, ...]:
    """Return the table of positions: a learned one moves half-pixel bilinearly, a sinusoid is made
    anew; neither moves the class token's row.
    """
    prefix = int(config.pool == "token")

    def anew(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
        return sine_1d(prefix + math.prod(new), config.dim)[:, prefix:].to(table)

    def places(c: Config) -> tuple[int, int]:
        return math.ceil(c.image[0] / stride(c)), math.ceil(c.image[1] / stride(c))

    zoom = anew if config.position == "sine" else bilinear_grid
    return (Table("embed.position", places, zoom, prefix=prefix),)


POSITIONS = _positions
SILENT = {"position"}  # the table is in the weights, whatever made it


def stride(config: Config) -> int:
    """Return the pixels of the image per token, down and across."""
    step = 2 * max(1, config.kernel // 2 - 1)
    return step**config.convs if config.convs else config.kernel


def resized(table: Tensor, config: Config, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Turn a table for one grid of tokens into one for another; the class token's row is kept."""
    if old == new:
        return table
    prefix = table.shape[1] - math.prod(old)
    if config.position == "sine":
        return sine_1d(prefix + math.prod(new), config.dim).to(table)
    return torch.cat([table[:, :prefix], bilinear_grid(table[:, prefix:], old, new)], 1)


class ConvPool(Conv2d):
    """Convolution, 3x3 max pool of stride 2, ReLU: (B, C, h, w) to (B, C', h', w'); the
    authors' ReLU comes before the pool, which gives the same from four times the values."""

    def __init__(self, dim_in: int, dim: int, kernel: int) -> None:
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: a convolutional tokenizer needs 3, 5, 7, ...")
        super().__init__(dim_in, dim, kernel, max(1, kernel // 2 - 1), kernel // 2, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.after(super().forward(x))

    @staticmethod
    def after(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Return what follows the convolution."""
        return F.max_pool2d(x, 3, 2, 1).relu_()


class Embed(nn.Module):
    """Tokenizer, class token, positions: (B, channels, H, W) to (B, token + h w, C); at another
    image size than the config's the positions are resampled on the way."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        convs: list[nn.Conv2d] = [Conv2d(c.channels, c.dim, c.kernel, c.kernel)]
        if c.convs:
            dims = [c.channels, *[c.inner] * (c.convs - 1), c.dim]
            convs = [ConvPool(*pair, c.kernel) for pair in pairwise(dims)]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight)
        self.tokenizer = nn.Sequential(*convs)
        self.token = nn.Parameter(torch.zeros(1, 1, c.dim)) if c.pool == "token" else None
        rows = math.prod(self.grid(*c.image)) + (c.pool == "token")
        if c.position == "learned":
            self.position = nn.Parameter(torch.empty(1, rows, c.dim))
            nn.init.trunc_normal_(self.position, std=0.2)
        else:
            self.register_buffer("position", sine_1d(rows, c.dim) if c.position == "sine" else None)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return tokens down and across an image of h x w pixels; ValueError unless patches fit."""
        step = stride(self.config)
        if self.config.convs == 0 and (h % step or w % step):
            raise ValueError(
                f"image is {h}x{w}; cct without convolutions needs multiples of its patch {step}: "
                "choose another patch, a convolutional tokenizer, or resize"
            )
        return math.ceil(h / step), math.ceil(w / step)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n d"]:
        check_image(image, self.config, "cct")
        old, new = self.grid(*self.config.image), self.grid(*image.shape[-2:])
        x = self.tokenizer(image).flatten(2).mT
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return x if self.position is None else x + resized(self.position, self.config, old, new)


class StreamNormBlock(Block):
    """x + mixer(norm1(x)), whose sum itself is normed, then x + ffn(x): (B, N, C) to the same."""

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        x = self.norm2(x + self.drop_path(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.ffn(x))


class CCT(Isotropic):
    """Tokenizer, transformer blocks, sequence pooling or class token, linear head."""

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        c = config
        if c.pool not in ("sequence", "token"):
            raise ValueError(f"pool is {c.pool!r}: expected sequence or token")
        if c.position not in ("learned", "sine", "none"):
            raise ValueError(f"position is {c.position!r}: expected learned, sine or none")
        blocks = [
            StreamNormBlock(
                c.dim,
                Attention(c.dim, c.heads, qkv_bias=False, dropout=c.attention_dropout),
                Mlp(c.dim, c.hidden),
                drop_path=rate,
            )
            for rate in rising(c.drop_path, c.depth)
        ]
        super().__init__(
            config,
            embed=Embed(config),
            blocks=blocks,
            norm=nn.LayerNorm(c.dim),
            pool=FirstToken() if c.pool == "token" else SequencePool(c.dim),
            head=linear_head(c.dim, c.classes),
            levels=[Level(stride(c), c.dim)],
        )
        trunc_normal_linear(self)


def idle(config: Config) -> tuple[str, ...]:
    """Return parts of names of parameters without gradients but by rounding: the score's bias is
    added to all logits of a softmax alike.
    """
    return ("score.bias",)


MODEL = CCT
